"""What adapting a network to one scan gains, on simulated scans of the validation volumes, in decibels.

    python bench/adapt.py --minutes 1 --accel 4 8 --seeds 2 --noise-factor 1 0.2 5

Scans are drawn as those of training are, from magnitudes that no network was trained on, equispaced lines with ACS:
phase, coils and noise are synthetic. `--noise-factor` is what the network is told of the noise over what it is: 1 for
a scan like those of its training, other factors for one that is unlike them. PSNR of magnitudes inside the body against
the full scan.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from recon.data import Measurement
from recon.learn import adapt, synth, volumes
from recon.nets import unrolled, weights
from recon.operators.sense import Sense

FOLDER = Path(os.environ.get("RECON_DATA", "../shared/data"))
SEED = 900_000_000


def psnr(network: unrolled.Unrolled, m: Measurement, full: torch.Tensor) -> float:
    """PSNR of the network's magnitude inside the body."""
    x, t = unrolled.reconstruct(network, m).abs(), full.abs()
    error = (x - t)[t > 0.1 * t.max()].square().mean()
    return float(10 * torch.log10(t.max() ** 2 / error))


def record(
    sources: volumes.Sources, loaded: weights.Loaded, R: float, seed: int, factor: float, plan: adapt.Plan
) -> dict[str, Any]:
    """One scan: held-out χ² and PSNR before and after."""
    acs = 24 if R <= 4 else 16
    drawn = synth.Settings(
        sizes=(256,), coils=(8,), real=1.0, raw=0.0, acceleration=(R, R), acs=(acs, acs), planar=0.0, partial=0.0,
        kinds=(1.0, 0.0, 0.0, 0.0), estimated_maps=1.0, noise=(0.003, 0.03),
    )  # fmt: skip
    e = synth.example(SEED + seed, sources, drawn)
    A = e.measurement.A
    assert isinstance(A, Sense)
    m = Measurement(e.measurement.y, Sense(A.maps, A.mask[None, None], A.axes), factor * e.measurement.sigma)
    made = adapt.adapt(loaded.network, [m], plan)
    before = psnr(loaded.network, m, e.full)
    return {
        "weights": loaded.name, "acceleration": R, "seed": SEED + seed, "noise_factor": factor,
        "minutes": plan.minutes, "steps": made.steps, "held_before": made.before, "held_after": made.after,
        "kept": made.kept, "psnr_before": before, "psnr_after": psnr(made.network, m, e.full),
    }  # fmt: skip


def main() -> None:
    """Adapt, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--accel", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--noise-factor", type=float, nargs="+", default=[1.0, 0.2, 5.0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--least", type=float, help="instead of the plan's own; 0 keeps every gain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = adapt.Plan(minutes=options.minutes)
    plan = plan if options.least is None else replace(plan, least=options.least)
    sources, loaded = volumes.read(options.data / "validation"), weights.load(options.weights)
    found = []
    for factor in options.noise_factor:
        for R in options.accel:
            for seed in range(options.seeds):
                r = record(sources, loaded, R, seed, factor, plan)
                found.append(r)
                print(
                    f"told {factor:g} of the noise, R = {R:g}, seed {r['seed']}: held-out χ² {r['held_before']:.3f} → "
                    f"{r['held_after']:.3f}, PSNR {r['psnr_before']:.2f} → {r['psnr_after']:.2f} dB in {r['steps']} "
                    f"steps{'' if r['kept'] else ', start kept'}",
                    flush=True,
                )
    if options.json:
        head = {"date": str(date.today()), "machine": f"{platform.machine()}, {options.threads} threads, simulated"}
        options.json.write_text(json.dumps({**head, "records": found}, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
