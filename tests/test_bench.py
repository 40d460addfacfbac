"""The benchmark's machinery: records, ratios, absent peers, judges. No time is tested."""

from __future__ import annotations

import ast
import importlib
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
FIELDS = {
    *("case", "size", "ours_s", "peer", "peer_s", "ratio", "ours_error", "peer_error", "threads", "versions", "peers"),
    *("ours_MiB", "target", "date", "machine", "repeats", "device", "error_is"),
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def rows(**peers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"ours": {"s": 1.0, "error": 0.1, "MiB": 10, "runs": 5}, **peers}


def peer(s: float, error: float) -> dict[str, Any]:
    return {"s": s, "error": error, "MiB": 20, "runs": 5}


def recorded(bench: Any, **peers: dict[str, Any]) -> dict[str, Any]:
    case = bench("speed").CASES["l1_wavelet"]
    made: dict[str, Any] = bench("case").record(case, "8x256x256", {}, rows(**peers), {})
    return made


def test_the_ratio_is_the_fastest_equally_accurate_peers_time_over_ours(bench: Any) -> None:
    made = recorded(bench, slow=peer(4.0, 0.1), fast=peer(3.0, 0.12), wrong=peer(0.5, 0.2), loop=peer(0.8, 0.1))
    assert (made["peer"], made["peer_s"], made["peer_error"], made["ratio"]) == ("fast", 3.0, 0.12, 3.0)
    assert made["peers"]["wrong"]["why_not_counted"] == "error 0.2 above 0.125"
    assert made["ratio_loop"] == 0.8


def test_recon_is_reported_as_less_accurate_where_it_is(bench: Any) -> None:
    assert recorded(bench, better=peer(3.0, 0.05))["as_accurate"] is False
    assert recorded(bench, equal=peer(3.0, 0.1))["as_accurate"] is True


def test_without_peers_there_is_no_ratio(bench: Any) -> None:
    made = recorded(bench, gone={"why_not": "not there"})
    assert made["peer"] is None
    assert made["ratio"] is None
    assert made["peers"]["gone"]["why_not"] == "not there"


def test_a_record_lacks_peers_that_nothing_is_known_of(bench: Any) -> None:
    case = replace(bench("speed").CASES["l1_wavelet"], peers=("here", "slow", "failed", "absent", "new"))
    case = replace(case, slow={("8x256x256", "slow"): "takes hours"})
    said = {"failed": {"why_not": "ValueError: no"}, "absent": {"why_not": "ModuleNotFoundError: No module"}}
    made = recorded(bench, here=peer(3.0, 0.1), **said) | {"size": {"name": "8x256x256"}}
    assert bench("speed").lacking(case, "8x256x256", [made]) == ["absent", "new"]
    assert bench("speed").lacking(case, "16x320x320", [made]) == ["here", "slow", "failed", "absent", "new"]


def ended(s: float) -> dict[str, Any]:
    return {"more_than_s": s, "why_not": f"not done after {s:.0f} s"}


def test_a_peer_that_was_ended_bounds_the_ratio_from_below(bench: Any) -> None:
    made = recorded(bench, slow=peer(9.0, 0.1), ended=ended(5.0))
    assert (made["ratio"], made["ratio_is_at_least"], made["peer"]) == (5.0, True, "slow")
    alone = recorded(bench, ended=ended(5.0), loop=ended(2.0))
    assert (alone["ratio"], alone["ratio_is_at_least"], alone["peer"]) == (5.0, True, None)
    assert "at least 5.00×" in bench("speed").row(alone)
    page = bench("page").page([alone | {"threads": 2, "repeats": 5}])
    assert "**> 5.00**" in page
    assert "ended: not done after 5 s" in page


def test_a_peer_that_was_ended_later_than_another_was_done_changes_no_ratio(bench: Any) -> None:
    made = recorded(bench, fast=peer(3.0, 0.1), ended=ended(5.0))
    assert (made["ratio"], made["peer"]) == (3.0, "fast")
    assert "ratio_is_at_least" not in made


def test_who_takes_too_long_is_ended_with_all_that_it_started(bench: Any, tmp_path: Path) -> None:
    started, alive = tmp_path / "started", tmp_path / "alive"
    script = f"(while true; do date +%N > {alive}; sleep 0.05; done) & touch {started}; wait"
    said = bench("case").bounded(["bash", "-c", script], started, 0.6)
    assert 0.6 <= said["more_than_s"] < 30
    before = alive.read_text()
    time.sleep(0.4)
    assert alive.read_text() == before


@pytest.mark.parametrize(("limit", "runs", "warm"), [("inf", 5, True), ("0", 1, False)])
def test_no_run_is_begun_that_ends_after_the_limit(limit: str, runs: int, warm: bool, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import time\ndef go(data, settings):\n    return lambda: time.sleep(0.01)\n")
    (tmp_path / "settings.json").write_text("{}")
    command = [sys.executable, BENCH / "harness.py", "task", "go", tmp_path, tmp_path / "out", "3", "1", "inf", "calm"]
    subprocess.run([*command, limit], check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    said = json.loads((tmp_path / "out.json").read_text())
    assert (len(said["seconds"]), said["warmed_up"]) == (runs, warm)


def test_a_tiny_case_runs_with_peers_absent(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = bench("case")
    monkeypatch.setattr(module, "PEERS_PYTHON", tmp_path / "nothing")
    tiny = {"tiny": {"coils": 3, "shape": (1, 24, 20), "slices": 2}}
    case = replace(bench("speed").CASES["sense_normal"], sizes=tiny, peers=("nobody", "loop"))
    made = module.measure(case, "tiny", repeats=1, threads=1)
    assert made.keys() >= FIELDS
    json.dumps(made)
    assert made["ours_s"] > 0
    assert made["ours_error"] < 1e-5
    assert made["peers"]["nobody"]["why_not"].startswith("ModuleNotFoundError")
    assert made["peers"]["loop"]["error"] < 1e-5
    assert made["threads"] == 1
    assert "torch" in made["versions"]
    assert "not measured" in bench("page").page([made])


def test_the_list_names_every_case() -> None:
    done = subprocess.run([sys.executable, BENCH / "speed.py", "--list"], capture_output=True, text=True, check=True)
    wanted = ("sense_normal", "espirit", "cg_sense", "l1_wavelet", "grappa", "radial", "projection", "backprojection")
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {*wanted, "help", "cold_run", "run_to_dicom"}


def test_every_peer_of_a_case_has_the_function_of_its_task(bench: Any) -> None:
    for case in bench("speed").CASES.values():
        for name in case.peers:
            source = (BENCH / "peers" / f"{name}.py").read_text(encoding="utf-8")
            assert f"\ndef {case.task}(" in source, (case.name, name)


def test_no_peer_imports_recon() -> None:
    for path in (BENCH / "peers").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import recon" not in text, path
        assert "from recon" not in text, path


def test_line_integrals_hold_the_mass_of_the_ellipses(bench: Any) -> None:
    phantom = bench("phantom")
    mass = sum(v * math.pi * rx * ry * (1 - (cz / rz) ** 2) for v, _, _, cz, rx, ry, rz, _ in phantom.ELLIPSOIDS)
    offsets = np.linspace(-1.2, 1.2, 6001)
    lines = phantom.line_integrals(np.array([0.0, 0.4, 1.9]), offsets, 1.0)
    np.testing.assert_allclose(lines.sum(1) * (offsets[1] - offsets[0]), mass, rtol=1e-4)


def test_a_line_through_the_middle_crosses_the_ellipses_by_their_chords(bench: Any) -> None:
    phantom = bench("phantom")
    density = phantom.density((1, 2001, 2001))[0]
    # Along y at x = 0 (θ = 0, s = 0), and along x at y = 0.
    found = phantom.line_integrals(np.array([0.0, np.pi / 2]), np.array([0.0]), 1.0)[:, 0]
    np.testing.assert_allclose(found, [density[:, 1000].mean() * 2, density[1000].mean() * 2], atol=3e-3)


def test_the_judge_of_maps_ignores_phase_and_sees_everything_else(bench: Any) -> None:
    cases = bench("cases.espirit")
    data, settings = cases.data({"coils": 4, "shape": (1, 32, 30)}, Path())
    turned = data["maps"] * np.exp(1j * np.linspace(0, 3, 30)).astype(np.complex64)
    assert cases.error(data, settings, turned, None) < 1e-3
    turned[0] *= 1.1
    assert cases.error(data, settings, turned, None) > 0.01
    assert cases.error(data, settings, 0 * turned, None) == pytest.approx(1, abs=1e-5)


def test_conjugate_gradients_are_given_the_iterations_that_they_need(bench: Any) -> None:
    cases, cartesian = bench("cases.cg_sense"), bench("cases.cartesian")
    data, settings = cases.data({"coils": 4, "shape": (1, 32, 30), "slices": 1}, Path())
    normal, b = cartesian.normal(data["maps"], data["mask"]), cartesian.adjoint(data["maps"], data["kspace"])
    x, r = np.zeros_like(b), b
    p = r
    for _ in range(settings["iterations"]):
        assert cases.error(data, settings, x, None) > settings["residual"]
        q = normal(p) + settings["lam"] * p
        step = np.vdot(r, r) / np.vdot(p, q)
        x, new = x + step * p, r - step * q
        p, r = new + np.vdot(new, new) / np.vdot(r, r) * p, new
    assert cases.error(data, settings, x, None) <= settings["residual"] * 1.01


def test_each_record_has_its_own_line_so_that_a_new_one_changes_one_line(bench: Any, tmp_path: Path) -> None:
    records, path = bench("records"), tmp_path / "a.json"
    assert records.stored(path) == []
    records.store(path, [], ["case"], {"machine": "x"})
    assert json.loads(path.read_text()) == {"machine": "x", "records": []}
    records.store(
        path, [{"case": n, "why": "a\nb", "deep": {"n": [1, 2]}} for n in range(3)], ["case"], {"machine": "x"}
    )
    before = path.read_text().splitlines()
    records.store(path, [{"case": 1, "why": "new"}], ["case"], {"machine": "x"})
    after = path.read_text().splitlines()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]
    assert [r["case"] for r in records.stored(path)] == [0, 1, 2]
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.store(path, [{"case": 1, "psnr": float("nan")}], ["case"], {})
    assert path.read_text().splitlines() == after


def test_new_records_take_the_place_of_old_ones_and_others_stay(bench: Any, tmp_path: Path) -> None:
    def one(case: str, name: str, s: float) -> dict[str, Any]:
        return {"case": case, "size": {"name": name}, "ours_s": s}

    path, store = tmp_path / "speed.json", bench("speed").store
    store(path, [one("espirit", "a", 1), one("espirit", "b", 2)])
    store(path, [one("sense_normal", "a", 3), one("espirit", "b", 4)])
    said = [(r["case"], r["size"]["name"], r["ours_s"]) for r in json.loads(path.read_text())]
    assert said == [("sense_normal", "a", 3), ("espirit", "a", 1), ("espirit", "b", 4)]


def test_every_part_of_a_slice_that_is_timed_is_there(bench: Any) -> None:
    parts = bench("slice").PARTS
    assert all(callable(getattr(module, name)) for module, name, _ in parts)
    assert len({called for _, _, called in parts}) == len(parts)


def _defined(tree: ast.Module) -> set[str]:
    """Names that a module has at its top level."""
    names = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    names |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    names |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return names | {
        a.asname or a.name for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names
    }


def test_every_bench_finds_in_the_others_what_it_imports() -> None:
    trees = {path.stem: ast.parse(path.read_text()) for path in BENCH.glob("*.py")}
    missing = [
        f"{name}: {node.module}.{alias.name}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in trees
        for alias in node.names
        if alias.name not in _defined(trees[node.module])
    ]
    assert not missing
