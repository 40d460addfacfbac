"""The benchmarks of the server, with tiny scans: that they measure what they say, not how fast it is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, script, *words], cwd=BENCH, capture_output=True, text=True, timeout=200, check=False
    )


def test_latency_and_ingest_are_measured_and_make_a_page(tmp_path: Path) -> None:
    done = run("latency.py", "--small", "--json", str(tmp_path / "l.json"), "--page", str(tmp_path / "l.md"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "l.json").read_text())
    (late, learned), (taken,) = found["latency"], found["ingest"]
    assert (learned["case"], learned["scans"]) == ("mri-small", 1)
    assert 0 < late["first_scan_s"] <= late["most_s"] + 1e-9
    assert late["messages"] > 32
    assert taken["lines"] % 64 == 0
    assert taken["MB_per_s"] > 0
    page = (tmp_path / "l.md").read_text()
    assert f"| {taken['lines_per_s']} | {taken['MB_per_s']} |" in page
    assert f"load average {found['machine']['load_before']}" in page
    assert found["whole"]
    assert "was stopped" not in page


def test_a_benchmark_that_is_stopped_keeps_what_it_has_measured(tmp_path: Path) -> None:
    words = ["latency.py", "--small", "--json", str(tmp_path / "l.json"), "--page", str(tmp_path / "l.md")]
    with subprocess.Popen([sys.executable, *words], cwd=BENCH, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        while not (tmp_path / "l.md").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
    found = json.loads((tmp_path / "l.json").read_text())
    assert (len(found["ingest"]), found["latency"], found["whole"]) == (1, [], False)
    assert str(found["ingest"][0]["lines"]) in first
    assert "The run was stopped" in (tmp_path / "l.md").read_text()


def test_a_soak_counts_after_every_session(tmp_path: Path) -> None:
    picture = ["--picture", str(tmp_path / "s.png")] if importlib.util.find_spec("matplotlib") else []
    done = run("soak.py", "--sessions", "2", "--matrix", "32", "--json", str(tmp_path / "s.json"), *picture)
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["states"] == {"done": 1, "failed": 1}
    assert set(found["counted"]["processes"]) == {1}
    assert all(len(values) == 2 for values in found["counted"].values())
    assert done.returncode == (0 if found["flat"] else 1)
    assert (tmp_path / "s.png").is_file() == bool(picture)


def test_a_rise_is_seen() -> None:
    code = "import soak; print(soak.rise([100.0] * 100), soak.rise([50 + i for i in range(100)]), soak.MAY_RISE)"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, capture_output=True, text=True, check=True)
    flat, rising, limit = (float(x) for x in done.stdout.split())
    assert abs(flat) < 1e-9
    assert rising == pytest.approx(100 / 124.5)
    assert rising > limit


def test_what_a_session_takes_beyond_its_memory_is_measured(tmp_path: Path) -> None:
    done = run("overshoot.py", "--rates", "0", "--limit", "1024", "--json", str(tmp_path / "o.json"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert row["limit_MiB"] == 1024
    # What it had counted when it was killed: never far below the limit, and long before it would have ended by itself.
    assert 900 < row["held_MiB"] < 5000
    assert row["beyond_MiB"] == row["held_MiB"] - 1024
