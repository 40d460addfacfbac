r"""What adapting a network to one scan gains, on simulated scans of the validation volumes, in decibels.

    python bench/adapt.py --minutes 1 --accel 4 8 --seeds 2 --noise-factor 1 0.2 5
    python bench/adapt.py --minutes 3 --scan ../shared/data/public_test/gpunufft_brain_t2_4ch.npz --axes coil,y,x
    python bench/adapt.py --minutes 1.2 --weights mri-small --accel 2 3 --mask random --axes slice,y,x \
        --scan ../shared/data/validation/bispmri_ulf055_flair_nocage.npz

Scans are drawn as those of training are, from magnitudes that no network was trained on, equispaced lines with ACS:
phase, coils and noise are synthetic. `--noise-factor` is what the network is told of the noise over what it is: 1 for
a scan like those of its training, other factors for one that is unlike them. `--scan` is a fully sampled raw scan,
whose lines are left out instead. PSNR of magnitudes inside the body against the full scan.
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

from recon import pipeline
from recon.accuracy import undersample
from recon.data import Measurement
from recon.io.read import read_raw
from recon.learn import adapt, synth, volumes
from recon.mri import cartesian
from recon.nets import unrolled, weights
from recon.operators import ifft
from recon.operators.sense import Sense
from recon.prepare.sensitivities import combine
from recon.recipe import Recipe

FOLDER = Path(os.environ.get("RECON_DATA", "../shared/data"))
SEED = 900_000_000


def psnr(network: unrolled.Unrolled, m: Measurement, full: torch.Tensor) -> float:
    """PSNR of the network's magnitude inside the body."""
    x, t = unrolled.reconstruct(network, m).abs(), full.abs()
    t = t * (
        (x * t).sum() / t.square().sum()
    )  # whitened by another estimate of the noise, a raw scan has another scale
    error = (x - t)[t > 0.1 * t.max()].square().mean()
    return float(10 * torch.log10(t.max() ** 2 / error))


def measured(path: Path, axes: str, R: float, kind: str) -> tuple[Measurement, torch.Tensor]:
    """The middle slice of a raw scan with lines left out, and the image of all of its lines with the same maps."""
    scan = read_raw(path, axes=tuple(axes.split(",")) if axes else None)
    mask = undersample.mask_of(kind, (1, scan.encodings[0].encoded_matrix[1]), R, 24 if R <= 4 else 16, 0)
    whole, m = (
        cartesian.measurements(pipeline.prepare(s, Recipe(), torch.device("cpu"), None, 0), 1)[0]
        for s in (scan, undersample.undersample(scan, mask).scan)
    )
    assert isinstance(m.A, Sense)
    full = combine(ifft(whole.y, (-3, -2)), m.A.maps)
    # Whitened by another estimate of the noise it has another scale.
    x, t = unrolled.classical(m, 60).abs(), full.abs()
    return m, full * ((x * t).sum() / t.square().sum())


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
    return {"acceleration": R, "seed": SEED + seed, "noise_factor": factor, **adapted(loaded, m, e.full, plan)}


def adapted(loaded: weights.Loaded, m: Measurement, full: torch.Tensor, plan: adapt.Plan) -> dict[str, Any]:
    """What an adaptation to one slice did to held-out χ² and to PSNR."""
    made = adapt.adapt(loaded.network, [m], plan)
    return {
        "weights": loaded.name, "minutes": plan.minutes, "steps": made.steps, "held_before": made.before,
        "held_after": made.after, "kept": made.kept, "psnr_before": psnr(loaded.network, m, full),
        "psnr_after": psnr(made.network, m, full),
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
    parser.add_argument("--scan", type=Path, help="a fully sampled raw scan instead of simulated ones")
    parser.add_argument("--axes", default="", help="of its array")
    parser.add_argument("--mask", choices=("equispaced", "random", "variable-density"), default="equispaced")
    parser.add_argument("--least", type=float, help="instead of the plan's own; 0 keeps every gain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = adapt.Plan(minutes=options.minutes)
    plan = plan if options.least is None else replace(plan, least=options.least)
    loaded = weights.load(options.weights)
    if options.scan:
        for R in options.accel:
            r = adapted(loaded, *measured(options.scan, options.axes, R, options.mask), plan)
            print(json.dumps({"scan": options.scan.stem, "acceleration": R, **r}), flush=True)
        return
    sources, found = volumes.read(options.data / "validation"), []
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
