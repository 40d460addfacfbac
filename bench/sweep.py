"""How time grows over size and coils, ours and the peers': JSON and a picture. Takes under ten minutes.

    python bench/sweep.py --json bench/results/sweep.json --picture docs/pictures/sweep.png

Sizes are even, odd and prime; coils 1 to 64; the points "strided" have their arrays in reversed order in memory.
Nothing may fall off a cliff: `worst` is the largest time per sample of ours over that of its neighbours.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from case import Settings, measure
from speed import CASES, store

#: Cases of the sweep and, of their peers, the fastest.
SWEPT = {"sense_normal": ("mrpro", "sigpy"), "cg_sense": ("bart", "deepinv"), "espirit": ("espirit", "bart")}
SIDES = (64, 127, 128, 192, 251, 256, 320, 383, 384, 509, 512)
COILS = (1, 2, 4, 8, 13, 16, 31, 32, 64)
SIDE, COIL = 256, 8
#: Left out, since they take a minute and more.
SLOW = {(f"coils {c}", peer): "takes minutes" for c in (31, 32, 64) for peer in ("espirit", "bart")}


def points(sides: Sequence[int], coils: Sequence[int]) -> dict[str, Settings]:
    """Sizes by name: every side with 8 coils, every number of coils at 256², and strided data."""
    made: dict[str, Settings] = {}
    for n in sides:
        made[f"side {n}"] = {"coils": COIL, "shape": (1, n, n), "slices": 1, "axis": "side", "at": n}
    for c in coils:
        made[f"coils {c}"] = {"coils": c, "shape": (1, SIDE, SIDE), "slices": 1, "axis": "coils", "at": c}
    side = SIDE if SIDE in sides else sides[-1]
    shape = (1, side, side)
    made["strided"] = {"coils": COIL, "shape": shape, "slices": 1, "axis": "strided", "at": side, "strided": True}
    return made


def per_sample(record: Mapping[str, Any]) -> float:
    """Nanoseconds for each coil and pixel."""
    size = record["size"]
    return float(1e9 * record["ours_s"] / (size["coils"] * math.prod(size["shape"])))


def worst(records: Sequence[Mapping[str, Any]]) -> float:
    """Largest time per sample of ours relative to the mean of the neighbours along an axis of the sweep.

    The largest has one neighbour. Of the smallest, whose time is mostly what a call costs however little it has to do,
    the whole time counts, which must not be longer than its neighbour's.
    """
    ratios = [0.0]
    for axis in ("side", "coils"):
        some = sorted((r for r in records if r["size"]["axis"] == axis and r["ours_s"]), key=lambda r: r["size"]["at"])
        times = [per_sample(r) for r in some]
        ratios += [2 * b / (a + c) for a, b, c in zip(times, times[1:], times[2:])]
        if len(some) > 1:
            ratios += [times[-1] / times[-2], some[0]["ours_s"] / some[1]["ours_s"]]
    return max(ratios)


def picture(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time over side and over coils, one row a case, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(r["case"] for r in records))
    figure, grid = plt.subplots(len(names), 2, figsize=(10, 3.2 * len(names)), squeeze=False, layout="constrained")
    for row, name in zip(grid, names):
        for axes, axis, label in zip(row, ("side", "coils"), (f"N of N×N, {COIL} coils", f"coils at {SIDE}×{SIDE}")):
            some = [r for r in records if r["case"] == name and r["size"]["axis"] == axis]
            series: dict[str, list[tuple[float, float]]] = {}
            for r in some:
                if r["ours_s"]:
                    series.setdefault("recon", []).append((r["size"]["at"], r["ours_s"]))
                for peer, p in r["peers"].items():
                    if "s" in p:
                        series.setdefault(peer, []).append((r["size"]["at"], p["s"]))
            for who, line in series.items():
                axes.loglog(*zip(*sorted(line)), marker="o", ms=3, lw=2 if who == "recon" else 1, label=who)
            axes.set(title=name, xlabel=label, ylabel="seconds")
            axes.grid(True, which="both", lw=0.3)
            axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, draw; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the records here, beside those of other cases and sizes")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--case", choices=SWEPT, action="append")
    parser.add_argument("--side", type=int, action="append")
    parser.add_argument("--coils", type=int, action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sizes = points(options.side or SIDES, options.coils or COILS)
    records: list[dict[str, Any]] = []
    for name in options.case or SWEPT:
        case = replace(CASES[name], sizes=sizes, slow=SLOW if name == "espirit" else {})
        for label in sizes:
            more = {"repeats": options.repeats, "threads": options.threads, "peers": SWEPT[name], "hurry": True}
            record = measure(case, label, **more)
            records.append(record)
            if options.json:
                store(options.json, records)
            ours = f"{record['ours_s']:.4f} s" if record["ours_s"] else record["why_not"]
            peers = ", ".join(f"{n} {p['s']:.4f}" if "s" in p else f"{n} failed" for n, p in record["peers"].items())
            print(f"{name:13} {label:10} ours {ours}, error {record['ours_error']}; {peers}", flush=True)
        print(f"{name:13} worst {worst([r for r in records if r['case'] == name]):.2f}", flush=True)
    if options.json:
        records = json.loads(options.json.read_text())
    if options.picture:
        picture(records, options.picture)


if __name__ == "__main__":
    main()
