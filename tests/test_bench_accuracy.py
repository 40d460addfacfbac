"""The bench of acceleration factors: opponents that are tuned on the reference, scans, margins."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon import simulation
from recon.accuracy.compare import Answer, Plan, compare, reference, score
from recon.accuracy.undersample import mask_of, undersample
from recon.data import RawScan
from tests.tools import need

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


@pytest.fixture(scope="module")
def full() -> RawScan:
    return simulation.simulate(simulation.preset(coils=4, matrix=64, slices=2, noise=0.05))


def test_another_program_is_scored_like_a_method(full: RawScan) -> None:
    seen = []

    def other(scan: RawScan, stack: int, ref: Any) -> Answer:
        seen.append(len(scan.lines))
        return Answer(3.0 * ref.magnitude + 0.1 * ref.data_range * ~ref.body, 1.5, "weight 3")

    plan = Plan(accelerations=(2, 4), methods=("zero-filled",), acs=8)
    found = compare(full, "a", plan, others={"other": other})
    names = [(t.record["acceleration"], t.record["method"]) for t in found.trials]
    assert names == [(2, "zero-filled"), (2, "other"), (4, "zero-filled"), (4, "other")]
    record = found.trials[1].record
    assert (record["seconds"], record["settings"]) == (1.5, "weight 3")
    assert record["scale"] == pytest.approx(1 / 3)
    assert record["nmse"] == pytest.approx(0, abs=1e-20)
    assert record["nmse_whole"] > 0
    assert set(record) == set(found.trials[0].record)
    assert seen[0] > seen[1]


@pytest.mark.parametrize("name", ["bart wavelet, tuned", "bart CG-SENSE, tuned"])
def test_the_tuned_opponent_is_the_best_of_its_weights(
    bench: Any, full: RawScan, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bart")
    opponents = bench("opponents")
    monkeypatch.setattr(opponents, "WEIGHTS", tuple(10.0**e for e in np.linspace(-4.5, -0.5, 9)))
    ref = reference(full, Plan())
    fewer = undersample(full, mask_of("equispaced", (1, 64), 3, 16, 0)).scan
    answer = opponents.OTHERS[name](fewer, 0, ref)
    best = score(answer.magnitude, ref)
    assert best["psnr"] > 26
    # Scanner and program agree on the scale, so that nothing but the regularisation shrinks the image.
    assert best["scale"] == pytest.approx(1, abs=0.05)
    made = opponents.Scan(fewer, 0, tmp_path)
    template = opponents.WAVELET if "wavelet" in name else opponents.CG_SENSE
    for weight in opponents.WEIGHTS:
        x, _ = made.solve(template.format(flags=3, weight=weight))
        # Where the weight hardly matters, rounding makes ripples of a thousandth of a decibel.
        assert score(x, ref)["psnr"] <= best["psnr"] + 0.005


def test_the_search_finds_the_maximum_anywhere_in_few_tries(bench: Any) -> None:
    search = bench("opponents").top
    for count in (1, 2, 5, 9, 33):
        for peak in range(count):
            tried = set()

            def quality(n: int, peak: int = peak, tried: set[int] = tried) -> float:
                assert 0 <= n < 33
                tried.add(n)
                return -abs(n - peak) - (3.0 if n > peak else 0.0)

            assert search(quality, count) == peak
            assert peak in tried or count == 1
            assert len(tried) <= 8
    # Weights too small to matter give equal images; those too large give none.
    assert search(lambda n: 20.0 if n < 20 else 30.0 - n / 10 if n < 28 else -np.inf, 33) == 20


def test_margins_are_means_over_the_scans_that_both_have(bench: Any) -> None:
    accuracy = bench("accuracy")
    other = next(iter(accuracy.OTHERS))

    def record(scan: str, method: str, psnr: float | None) -> dict[str, Any]:
        return {"scan": scan, "method": method, "acceleration": 4, "psnr": psnr, "ssim": psnr and psnr / 40}

    records = [
        record("a", "unrolled", 34.0), record("a", other, 32.0), record("b", "unrolled", 30.0),
        record("b", other, 31.0), record("c", "unrolled", None), record("c", other, 20.0),
    ]  # fmt: skip
    assert accuracy.margins(records) == [
        f"unrolled over {other}, R = 4: +0.50 dB, SSIM +0.0125 on average of 2; at worst -1.00 dB (b)"
    ]


def test_the_analytic_set_is_frozen(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = bench("accuracy")
    monkeypatch.setattr(accuracy, "ANALYTIC", {"small": (3, 32, 1, 0.05, 7)})
    one, two = (accuracy.analytic_scans()["small"][0]() for _ in range(2))
    rows = np.arange(len(one.lines))[-4:]
    assert np.array_equal(one.samples.read(rows), two.samples.read(rows))
    truth = simulation.simulate(simulation.preset(coils=3, matrix=32, noise=0.05, seed=7))
    assert np.array_equal(one.samples.read(rows), truth.samples.read(rows))


def test_a_simulated_scan_is_judged_by_the_truth(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = bench("accuracy")
    monkeypatch.setattr(accuracy, "ANALYTIC", {"clean": (4, 48, 1, 1e-4, 7), "noisy": (4, 48, 1, 0.1, 7)})
    monkeypatch.setattr(accuracy, "SIMULATED", replace(accuracy.SIMULATED, acs=46))
    arguments = ["--only", "simulated", "--out", tmp_path / "out", "--json", tmp_path / "all.json", "--no-bart"]
    arguments += ["--accel", 2, "--methods", "zero-filled"]
    monkeypatch.setattr("sys.argv", ["accuracy.py", *map(str, arguments)])
    accuracy.main()
    clean, noisy = (r["psnr"] for r in json.loads((tmp_path / "all.json").read_text())["records"])
    # Nearly all lines are kept: what is left of the error is the noise, which the full scan has as well.
    assert clean > 35
    assert noisy < 30


def test_measured_and_simulated_scans_get_folders_of_their_own(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy = bench("accuracy")
    monkeypatch.setattr(accuracy, "ANALYTIC", {"small": (3, 32, 1, 0.05, 7)})
    monkeypatch.setattr(accuracy, "SIMULATED", replace(accuracy.SIMULATED, acs=12))
    k = np.random.default_rng(0).standard_normal((32, 32, 2)) @ [1, 1j] * np.hanning(32)[:, None] ** 4
    (tmp_path / "public_test").mkdir()
    np.savez(tmp_path / "public_test" / "larson_brain_sag_t1_1ch.npz", kspace=k.astype(np.complex64))
    arguments = ["--data", tmp_path, "--out", tmp_path / "out", "--json", tmp_path / "all.json", "--no-bart"]
    arguments += ["--accel", 2, "--methods", "zero-filled"]
    monkeypatch.setattr("sys.argv", ["accuracy.py", *map(str, arguments)])
    accuracy.main()
    found = json.loads((tmp_path / "all.json").read_text())["records"]
    assert [(r["data"], r["scan"]) for r in found] == [("raw", "larson_brain_sag_t1_1ch"), ("simulated", "small")]
    for data, scan in (("raw", "larson_brain_sag_t1_1ch"), ("simulated", "small")):
        assert {r["scan"] for r in json.loads((tmp_path / "out" / data / "results.json").read_text())} == {scan}


def test_other_weights_and_factors_enter_every_plan(bench: Any) -> None:
    accuracy = bench("accuracy")
    options = argparse.Namespace(accel=[3], methods=["cs"], seed=5, device="cpu")
    plan = accuracy.adapted(accuracy.SINGLE, options, "there")
    assert (plan.accelerations, plan.methods, plan.seed) == ((3,), ("cs",), 5)
    assert plan.mask == "random"
    assert plan.recipe.solve.weights == "there"


def test_runs_join_in_one_record_case_by_case(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks, each asked for two pictures: nothing is there twice, and what was not measured again stays."""
    accuracy = bench("accuracy")
    monkeypatch.setattr(accuracy, "ANALYTIC", {"small": (4, 48, 1, 0.02, 7)})
    monkeypatch.setattr(accuracy, "SIMULATED", replace(accuracy.SIMULATED, acs=12))
    path = tmp_path / "all.json"
    shared = ["accuracy.py", "--only", "simulated", "--no-bart", "--accel", "2", "--json", str(path)]
    shared += ["--methods", "cs", "unrolled", "--weights"]
    monkeypatch.setattr("sys.argv", [*shared, "mri-base", "mri-small", "--out", str(tmp_path / "one")])
    accuracy.main()
    first = json.loads(path.read_text())["records"]
    assert [(r["method"], r["weights"], r.get("denoise", 0)) for r in first] == [
        ("cs", None, 0), ("unrolled", "mri-base", 0), ("unrolled", "mri-small", 0),
        ("unrolled", "mri-base", 1), ("unrolled", "mri-small", 1),
    ]  # fmt: skip
    assert len({r["psnr"] for r in first}) == 5
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps({"records": [{**first[2], "psnr": 1.0}, {**first[0], "scan": "another"}]}))
    monkeypatch.setattr("sys.argv", ["accuracy.py", "--merge", str(path), "--json", str(kept)])
    accuracy.main()
    joined = json.loads(kept.read_text())["records"]
    assert joined == [first[2], {**first[0], "scan": "another"}, *first[:2], *first[3:]]


def test_the_page_of_accuracy_holds_every_network_and_says_what_is_simulated(bench: Any) -> None:
    page = bench("accuracy_page").page

    def record(data: str, method: str, weights: str | None, psnr: float, acceleration: int = 4) -> dict[str, Any]:
        return {
            "data": data, "scan": "a", "method": method, "weights": weights, "acceleration": acceleration,
            "effective_acceleration": 3.1, "mask": "equispaced", "acs": 24, "psnr": psnr, "ssim": psnr / 40,
            "fallbacks": 1 if weights == "mri-small" else 0, "slices": 2, "failed": "", "date": "2026-01-02",
        }  # fmt: skip

    made = page(
        [
            record("raw", "unrolled", "mri-base", 34.0), record("raw", "unrolled", "mri-small", 31.0),
            record("raw", "bart wavelet, tuned", None, 30.0), record("raw", "cs", None, 29.0),
            record("raw", "cs", None, 25.0, 8), record("simulated", "cs", None, 40.0),
            record("simulated", "unrolled", "mri-base", 36.0),
            record("simulated", "unrolled", "mri-base", 38.0) | {"denoise": 1.0},
            record("simulated", "bart wavelet, tuned", None, 35.0),
        ]
    )  # fmt: skip
    raw, simulated = made.split("## Simulated scans")
    assert "| `unrolled` (`mri-base`) | 34.0 / .850 |  |" in raw
    assert "| `unrolled` (`mri-small`) | 31.0 / .775 (1 of 2 classical) |  |" in raw
    assert "| `mri-base` | BART L1-wavelet, tuned | 4 | 1 | +4.00 dB | +0.1000 | +4.00 dB (a) |" in raw
    assert "`cs` | `unrolled` (`mri-base`) | `unrolled` (`mri-base`, denoise = 1) |" in simulated
    assert "| a | 35.0 / .875 | 40.0 / 1.000 | 36.0 / .900 | 38.0 / .950 |" in simulated
    assert "| `mri-base` | BART L1-wavelet, tuned | 4 | 1 | +1.00 dB | +0.0250 | +1.00 dB (a) |" in simulated
    assert (
        "| `mri-base`, denoise = 1 | BART L1-wavelet, tuned | 4 | 1 | +3.00 dB | +0.0750 | +3.00 dB (a) |" in simulated
    )
    assert "SIMULATED" in simulated


def test_the_published_page_of_accuracy_is_made_of_the_published_records(bench: Any) -> None:
    made = bench("accuracy_page").page(bench("records").stored(BENCH / "results" / "accuracy.json"))
    assert (BENCH.parent / "docs" / "accuracy.md").read_text(encoding="utf-8") == made
