"""How time grows with size and coils or views, case by case, for recon and the fastest peers: JSON and two pictures.

    python bench/sweep.py --json bench/results/sweep.json --pictures docs/pictures    # twelve minutes
    python bench/sweep.py --list
    python bench/sweep.py --json bench/results/sweep.json --pictures docs/pictures --draw    # measures nothing

Sizes are even, odd and prime; coils 1 to 64; in the points "strided" the arrays have reversed axes in memory, for recon
only. Time must not jump: `worst` is the largest time per sample of recon over that of its neighbours. A peer that is
not finished within `--limit` seconds is left out at larger points, and drawn as a triangle where it was ended.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from case import Settings, measure
from page import TITLES
from speed import CASES, store

SIDES = (64, 127, 128, 251, 256, 509, 512)
COILS = (1, 4, 8, 13, 16, 64)
VIEWS = (90, 360, 720, 1440)
#: Points at which only recon is measured, which takes a third of the time.
ALONE = {"side": (127, 128, 509), "coils": (13,), "views": (360,)}
#: While one grows, the other is constant.
SIDE, COIL, VIEW = 256, 8, 720

#: Start of the reason for a peer that was ended, or that was ended at a smaller point.
LATE = "not done after"


def cartesian(n: int, coils: int) -> Settings:
    """A slice of n×n."""
    return {"coils": coils, "shape": (1, n, n), "slices": 1}


def equispaced(n: int, coils: int) -> Settings:
    """Every third line of it."""
    return {**cartesian(n, coils), "acceleration": 3}


def radial(n: int, coils: int) -> Settings:
    """As many spokes per side as the case has, nearly the number that Nyquist requires."""
    return {**cartesian(n, coils), "spokes": 25 * n // 16, "samples": 2 * n}


def views(n: int, count: int) -> Settings:
    """A slice and its angles over half a turn."""
    return {"n": n, "angles_count": count}


@dataclass(frozen=True)
class Swept:
    """The peers that are fastest at some size of a case, the settings of a size, and its second axis."""

    peers: tuple[str, ...]
    settings: Callable[[int, int], Settings] = cartesian
    axis: str = "coils"


SWEPT: dict[str, Swept] = {
    "sense_normal": Swept(("mrpro", "sigpy")),
    "espirit": Swept(("bart", "espirit")),
    "cg_sense": Swept(("bart", "deepinv")),
    "l1_wavelet": Swept(("bart",)),
    "grappa": Swept(("pygrappa",), equispaced),
    "radial": Swept(("mrpro",), radial),
    "projection": Swept(("astra",), views, "views"),
    "backprojection": Swept(("astra",), views, "views"),
    "fbp": Swept(("astra",), views, "views"),
}
USUAL = {"coils": COIL, "views": VIEW}


def points(
    swept: Swept, sides: Sequence[int] = SIDES, coils: Sequence[int] = COILS, angles: Sequence[int] = VIEWS
) -> dict[str, Settings]:
    """Sizes by name: every side with 8 coils or 720 views, every number of these at 256², and strided data."""
    usual, others = USUAL[swept.axis], coils if swept.axis == "coils" else angles
    made = {f"side {n}": {**swept.settings(n, usual), "axis": "side", "at": n} for n in sides}
    made |= {f"{swept.axis} {c}": {**swept.settings(SIDE, c), "axis": swept.axis, "at": c} for c in others}
    side = SIDE if SIDE in sides or not sides else sides[-1]
    return made | {"strided": {**swept.settings(side, usual), "axis": "strided", "at": side, "strided": True}}


def per_sample(record: Mapping[str, Any]) -> float:
    """Nanoseconds for each coil and pixel, or for each view and pixel."""
    size = record["size"]
    if "n" in size:
        return float(1e9 * record["ours_s"] / (size["n"] ** 2 * size["angles_count"]))
    return float(1e9 * record["ours_s"] / (size["coils"] * math.prod(size["shape"])))


def worst(records: Sequence[Mapping[str, Any]]) -> float:
    """Largest time per sample of recon relative to the mean of the neighbours along an axis of the sweep.

    The largest has one neighbour. The time of the smallest is mostly the overhead of a call, so its whole time counts,
    which must not be longer than its neighbour's.
    """
    ratios = [0.0]
    for axis in ("side", *USUAL):
        some = sorted((r for r in records if r["size"]["axis"] == axis and r["ours_s"]), key=lambda r: r["size"]["at"])
        times = [per_sample(r) for r in some]
        ratios += [2 * b / (a + c) for a, b, c in zip(times, times[1:], times[2:])]
        if len(some) > 1:
            ratios += [times[-1] / times[-2], some[0]["ours_s"] / some[1]["ours_s"]]
    return max(ratios)


def swept_records(name: str, sizes: Mapping[str, Settings], **how: Any) -> Iterator[dict[str, Any]]:
    """A record of each point, in the order in which an axis grows; a point on both axes is measured once."""
    peers: tuple[str, ...] = how.pop("peers")
    done: list[dict[str, Any]] = []
    for label, size in sizes.items():
        place = {k: size[k] for k in ("axis", "at")}
        twin = next((r for r in done if {**sizes[r["size"]["name"]], **place} == size), None)
        if twin is not None:
            done.append({**twin, "size": {**twin["size"], **place, "name": label}})
        else:
            late = {
                (label, peer): p["why_not"] if " at " in p["why_not"] else f"{p['why_not']} at {r['size']['name']}"
                for r in reversed(done)
                for peer, p in r["peers"].items()
                if p.get("why_not", "").startswith(LATE) and r["size"]["axis"] == size["axis"]
            }
            case = replace(CASES[name], sizes=sizes, slow=late)
            beside = () if size["at"] in ALONE.get(size["axis"], (size["at"],)) else peers
            done.append(measure(case, label, peers=beside, hurry=True, **how))
        yield done[-1]


def series(records: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, bool]]]:
    """Points (at, seconds, whether that is only when it was ended) of recon and each peer along one axis."""
    made: dict[str, list[tuple[float, float, bool]]] = {}
    for r in sorted(records, key=lambda r: r["size"]["at"]):
        for who, row in {"recon": {"s": r["ours_s"]}, **r["peers"]}.items():
            if row.get("s") or "more_than_s" in row:
                ended = not row.get("s")
                made.setdefault(who, []).append((r["size"]["at"], row["more_than_s"] if ended else row["s"], ended))
    return made


def picture(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time over side and over coils or views, two cases a row, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(r["case"] for r in records))
    rows = -(-len(names) // 2)
    figure, grid = plt.subplots(rows, 4, figsize=(15, 3.1 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[2 * len(names) :]:
        axes.axis("off")
    for k, name in enumerate(names):
        second = SWEPT[name].axis
        said = {"side": f"N of N×N, {USUAL[second]} {second}", second: f"{second} at {SIDE}×{SIDE}"}
        for axes, (axis, label) in zip(grid.flat[2 * k : 2 * k + 2], said.items()):
            for who, line in series([r for r in records if (r["case"], r["size"]["axis"]) == (name, axis)]).items():
                done = [p[:2] for p in line if not p[2]]
                drawn = axes.loglog(
                    *(zip(*done) if done else ((), ())), marker="o", ms=3, lw=2 if who == "recon" else 1
                )
                axes.plot([], [], color=drawn[0].get_color(), lw=2, label=who)
                for at, s, _ in (p for p in line if p[2]):
                    axes.plot(at, s, marker="^", mfc="none", color=drawn[0].get_color())
            at = sorted({r["size"]["at"] for r in records if (r["case"], r["size"]["axis"]) == (name, axis)})
            shown = [a for a, b in zip(at, [*at[1:], math.inf]) if b / a > 1.25]
            axes.set_xticks(shown, [str(a) for a in shown])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(TITLES[name], fontsize=10)
            axes.set(xlabel=label, ylabel="seconds")
            axes.grid(True, which="both", lw=0.3)
            if at:
                axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def pictures(records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """One of the cases with coils, one of those with views."""
    for name, axis in (("sweep.png", "coils"), ("sweep-ct.png", "views")):
        some = [r for r in records if SWEPT[r["case"]].axis == axis]
        if some:
            picture(some, folder / name)


def main() -> None:
    """Measure, print, draw; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the records here, in place of those of the same cases")
    parser.add_argument("--pictures", type=Path, help="folder for sweep.png and sweep-ct.png")
    parser.add_argument("--case", choices=SWEPT, action="append", help="this case alone; may be given again")
    parser.add_argument("--side", type=int, action="append", help="this side alone; may be given again")
    parser.add_argument("--coils", type=int, action="append", help="this number alone; may be given again")
    parser.add_argument("--views", type=int, action="append", help="this number alone; may be given again")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=15, help="seconds for the runs of one program at one point")
    parser.add_argument("--list", action="store_true", help="name cases, peers and points")
    parser.add_argument("--draw", action="store_true", help="draw what the --json file holds, and measure nothing")
    options = parser.parse_args()
    # When ended by a signal, it ends the running peer, too, and deletes its data.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    records: list[dict[str, Any]] = []
    for name in () if options.draw else options.case or SWEPT:
        swept = SWEPT[name]
        sizes = points(swept, options.side or SIDES, options.coils or COILS, options.views or VIEWS)
        if options.list:
            print(f"{name:15} {', '.join(swept.peers):16} {', '.join(sizes)}")
            continue
        how = {"repeats": options.repeats, "threads": options.threads, "limit": options.limit}
        begun = len(records)
        for record in swept_records(name, sizes, peers=swept.peers, **how):
            records.append(record)
            ours = f"{record['ours_s']:.4f} s" if record["ours_s"] else record["why_not"]
            peers = ", ".join(f"{n} {p['s']:.4f}" if "s" in p else f"{n} failed" for n, p in record["peers"].items())
            print(
                f"{name:13} {record['size']['name']:10} ours {ours}, error {record['ours_error']}; {peers}", flush=True
            )
        print(f"{name:13} worst {worst(records[begun:]):.2f}", flush=True)
        if options.json:
            kept = json.loads(options.json.read_text()) if options.json.exists() else []
            # A case is swept as a whole: points of another day are removed.
            options.json.write_text(json.dumps([r for r in kept if r["case"] != name]))
            store(options.json, records)
    if options.json and options.json.exists() and not options.list:
        records = json.loads(options.json.read_text())
    if options.pictures and records:
        pictures(records, options.pictures)


if __name__ == "__main__":
    main()
