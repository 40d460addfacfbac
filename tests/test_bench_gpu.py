"""The GPU benchmark on the CPU, with tiny problems: the way from data to a record. No time is tested."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"
CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def measured(bench: Any, folder: Path, name: str, deadline: float = 1e9) -> dict[str, Any]:
    gpu = bench("gpu")
    ((case, label), *_) = gpu.jobs([name], dry=True)
    assert gpu.prepare(folder, 0, 1, [name], True) == ""
    made = gpu.measured(case, label, folder / f"{case.name}_{label}", CPU, time.monotonic() + deadline, None)
    assert gpu.line(made)
    return dict(made)


def test_a_result_is_compared_with_one_in_double_precision(bench, tmp_path, monkeypatch) -> None:
    made = measured(bench, tmp_path, "sense_normal", deadline=-1)
    assert made["ours_error"] < 1e-5
    assert made["ours_s"] > 0
    assert all("time of this run was over" in p["why_not"] for p in made["peers"].values())

    def halved(data: Any, settings: Any) -> Any:
        run = ours(data, settings)
        return lambda: run() / 2

    module = bench("cases.sense_normal")
    ours = module.ours
    monkeypatch.setattr(module, "ours", halved)
    assert measured(bench, tmp_path, "sense_normal", deadline=-1)["ours_error"] == pytest.approx(0.5, rel=1e-3)


def test_a_case_that_fails_says_why(bench, tmp_path, monkeypatch) -> None:
    def broken(data: Any, settings: Any) -> Any:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(bench("cases.projection"), "ours_projection", broken)
    made = measured(bench, tmp_path, "projection")
    assert made["ours_s"] is None
    assert made["why_not"] == "RuntimeError: no kernel image"


def test_the_least_traffic_counts_maps_and_two_images_once(bench, tmp_path) -> None:
    measured(bench, tmp_path, "sense_normal", deadline=-1)
    made = bench("gpu").traffic("8x256x256", tmp_path / "sense_normal_8x256x256", CPU, 1e9)
    assert made["least_bytes"] == 8 * (4 + 2) * 32 * 32
    assert made["over_floor"] == pytest.approx(made["graph_s"] / made["floor_s"], rel=0.01)


def test_overlapping_intervals_count_once(bench) -> None:
    assert bench("device")._covered([(0, 10), (5, 20), (30, 40), (32, 33)]) == pytest.approx(30e-9)


def test_the_iterations_that_peers_get_are_those_of_plain_conjugate_gradients(bench) -> None:
    cartesian, cg_sense = bench("cases.cartesian"), bench("cases.cg_sense")
    made = cartesian.problem({"coils": 4, "shape": (1, 32, 32), "slices": 2})
    (count,) = cg_sense.needed(made, 4)
    normal, b = cartesian.normal(made["maps"], made["mask"]), cartesian.adjoint(made["maps"], made["kspace"])
    x, r = np.zeros_like(b), b.copy()
    p, done = r.copy(), 0
    while np.linalg.norm(r) > cg_sense.RESIDUAL * np.linalg.norm(b):
        q = normal(p) + cg_sense.LAMBDA * p
        rr = np.vdot(r, r).real
        step = rr / np.vdot(p, q).real
        x, r, done = x + step * p, r - step * q, done + 1
        p = r + np.vdot(r, r).real / rr * p
    assert abs(count - done) <= 1
