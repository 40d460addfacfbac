"""The sweep of sizes: points, peers that take too long, pictures and the page. No time is tested."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def point(at: int, s: float, axis: str = "side", **more: Any) -> dict[str, Any]:
    size = {"name": f"{axis} {at}", "axis": axis, "at": at, "coils": 1, "shape": (1, at, at)}
    record = {"case": "espirit", "size": size, "ours_s": s, "peers": {}, "ratio": None, "date": "2026-01-01"}
    return record | {"machine": "some", "threads": 2, "repeats": 3} | more


def test_the_sweep_sees_a_cliff(bench: Any) -> None:
    sweep = bench("sweep")
    even = [point(n, n * n * 1e-9) for n in (10, 20, 30, 40)]
    assert sweep.worst(even) == pytest.approx(1)
    for at, factor, seen in ((2, 5, 5), (3, 5, 5), (0, 40, 10)):
        steep = [dict(p) for p in even]
        steep[at]["ours_s"] *= factor
        assert sweep.worst(steep[::-1]) == pytest.approx(seen)


def test_ct_times_are_per_pixel_and_view(bench: Any) -> None:
    sweep = bench("sweep")
    sizes = [{"n": 100, "angles_count": k, "axis": "views", "at": k} for k in (90, 180, 360)]
    assert sweep.worst([{"size": size, "ours_s": size["at"] * 1e-3} for size in sizes]) == pytest.approx(1)


def test_every_case_of_the_sweep_grows_along_both_axes_and_has_strided_data(bench: Any) -> None:
    sweep = bench("sweep")
    for swept in sweep.SWEPT.values():
        made = sweep.points(swept)
        axes = {size["axis"] for size in made.values()}
        assert axes == {"side", swept.axis, "strided"}
        assert [label for label, size in made.items() if size.get("strided")] == ["strided"]
        # Growing sizes: who is late at one is not asked at the next.
        for axis in axes:
            at = [size["at"] for size in made.values() if size["axis"] == axis]
            assert at == sorted(at)


def test_a_point_on_both_axes_is_measured_once_and_late_peers_are_not_asked_again(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = bench("sweep")
    asked: list[tuple[str, bool]] = []

    def measure(case: Any, label: str, **how: Any) -> dict[str, Any]:
        late = (label, "bart") in case.slow
        asked.append((label, late))
        peers = {
            "bart": {"why_not": case.slow[label, "bart"]}
            if late
            else {"more_than_s": 9.0, "why_not": "not done after 9 s"}
        }
        return {"case": case.name, "size": {"name": label, **case.sizes[label]}, "ours_s": 1.0, "peers": peers}

    monkeypatch.setattr(sweep, "measure", measure)
    sizes = sweep.points(sweep.SWEPT["espirit"], (64, 256, 512), (8, 16))
    made = list(sweep.swept_records("espirit", sizes, peers=("bart",), limit=9))
    assert asked == [
        ("side 64", False),
        ("side 256", True),
        ("side 512", True),
        ("coils 16", True),
        ("strided", False),
    ]
    assert [r["size"]["name"] for r in made] == list(sizes)
    assert made[4]["peers"]["bart"]["why_not"] == "not done after 9 s at side 64"
    assert (made[3]["size"]["axis"], made[3]["size"]["at"]) == ("coils", 8)


def test_a_peer_that_was_ended_is_drawn_as_such(bench: Any, tmp_path: Path) -> None:
    sweep = bench("sweep")
    slow = {"bart": {"more_than_s": 9.0, "why_not": "ended"}}
    records = [point(10, 1.0, peers={"bart": {"s": 2.0}}), point(20, 3.0, peers=slow), point(30, 5.0)]
    assert sweep.series(records[::-1]) == {
        "recon": [(10, 1.0, False), (20, 3.0, False), (30, 5.0, False)],
        "bart": [(10, 2.0, False), (20, 9.0, True)],
    }
    pytest.importorskip("matplotlib")
    sweep.pictures(records, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.png"]


def test_the_page_shows_how_time_grows(bench: Any) -> None:
    records = [point(10, 1.0, ratio=5.0), point(20, 4.0, ratio=3.0), point(30, 27.0, ratio=4.0, ratio_is_at_least=True)]
    records.append(point(20, 6.0, "strided"))
    said = "\n".join(bench("page").growth_section(records))
    assert "| ESPIRiT maps | bart, espirit | 4 | 3.0 | side 20 | 5.0 | side 10 | 1.5 | 3.0 |" in said
    assert "(pictures/sweep.png)" in said
    assert "sweep-ct" not in said
    assert bench("page").growth_section([]) == []
