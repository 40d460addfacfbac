"""How long one slice takes from samples to image with the networks that ship, and the time of each part.

    python bench/slice.py                     # 256², 8 coils, R = 4, both networks, all threads
    python bench/slice.py --runs 9 --threads 2 --weights mri-small

The scan is SIMULATED and in memory; maps, classical start and evidence are included, loading the weights is not.
Printed are the median and the range of the wall-clock seconds, and the processor seconds of each part in the median
run. `rows.sparser` runs only if the rows of the lines are in doubt: `--doubt` makes it run.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import time
from datetime import date
from typing import Any

import torch

from recon import pipeline, simulation, trust
from recon import recipe as recipes
from recon.mri import cartesian
from recon.nets import rephased, unrolled
from recon.solve import alternating, detail, halves, rows

#: What is timed: module, name, and label.
PARTS: tuple[tuple[Any, str, str], ...] = (
    (cartesian, "calibrated", "maps"),
    (unrolled, "classical", "start"),
    (unrolled, "reconstruct", "network"),
    (detail, "compared", "detail check"),
    (rows, "sparser", "rows check"),
    (alternating, "compared", "parity check"),
    (halves, "compared", "motion check"),
    (rephased, "compared", "phase check"),
    (trust, "examine", "residuals"),
)


def timed(spent: dict[str, float]) -> None:
    """Have every part add its processor seconds to `spent`."""
    for module, name, called in PARTS:
        original = getattr(module, name)

        @functools.wraps(original)
        def run(*args: Any, _original: Any = original, _called: str = called, **more: Any) -> Any:
            begun = time.process_time()
            out = _original(*args, **more)
            spent[_called] = spent.get(_called, 0.0) + time.process_time() - begun
            return out

        setattr(module, name, run)


def main() -> None:
    """Time, print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", default=["mri-small", "mri-base"])
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--matrix", type=int, default=256)
    parser.add_argument("--accel", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--doubt", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.doubt:
        detail.doubtful = lambda d: True
    scan = simulation.simulate(
        simulation.preset(coils=options.coils, matrix=options.matrix, accel=options.accel, slices=1)
    )
    spent: dict[str, float] = {}
    timed(spent)
    print(f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, SIMULATED")
    for name in options.weights:
        recipe = recipes.parse({"solve": {"method": "unrolled", "weights": name}})
        made = []
        for _ in range(options.runs + 1):  # the first loads the weights
            spent.clear()
            wall, processor = time.perf_counter(), time.process_time()
            pipeline.reconstruct(scan, recipe, device="cpu")
            made.append((time.perf_counter() - wall, time.process_time() - processor, dict(spent)))
        made = sorted(made[1:], key=lambda m: m[0])
        _, whole, parts = made[len(made) // 2]
        median = statistics.median(m[0] for m in made)
        print(f"{name}: {median:.2f} s ({made[0][0]:.2f} to {made[-1][0]:.2f}), {whole:.2f} s of the processor")
        for part, took in parts.items():
            print(f"  {part:14} {took:6.3f} s {took / whole:6.1%}")


if __name__ == "__main__":
    main()
