r"""What adapting a network to one scan gains, on simulated scans of the validation volumes, in decibels.

    python bench/adapt.py --minutes 1 --accel 4 8 --seeds 2 --noise-factor 1 0.2 5
    python bench/adapt.py --minutes 3 --scan ../shared/data/public_test/gpunufft_brain_t2_4ch.npz --axes coil,y,x
    V=../shared/data/validation/bispmri_ulf055_
    python bench/adapt.py --minutes 1.2 --weights mri-small --accel 2.5 --acs 16 --mask random --axes slice,y,x \
        --scan ${V}flair_nocage.npz ${V}flair_rfcage.npz ${V}patient4.npz:GRE ${V}patient4.npz:FSE \
        --json bench/results/adapt.json

Scans are simulated like those of the training, from magnitudes that no network was trained on, with equispaced lines
and ACS; phase, coils and noise are synthetic. `--noise-factor` is the noise level given to the network over the true
one: 1 for a scan like those of its training, other factors for one that differs. `--scan` names fully sampled raw scans
that are undersampled instead, with a colon before the array of a file that holds several; `--slices` of each, evenly
spaced, are adapted to together, as in `recon adapt`. PSNR is that of magnitudes inside the body against the full scan,
for several slices the mean.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import records
import torch
from torch import Tensor

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
#: What distinguishes records; scans are raw, and seeds are those of SIMULATED ones.
CASE = ("scan", "weights", "acceleration", "mask", "acs", "seed", "noise_factor", "minutes", "slices")


def psnr(network: unrolled.Unrolled, m: Measurement, full: Tensor) -> float:
    """PSNR of the network's magnitude inside the body."""
    x, t = unrolled.reconstruct(network, m).abs(), full.abs()
    # With another estimate of the noise, whitening gives all lines of a raw scan another scale.
    t = t * ((x * t).sum() / t.square().sum())
    error = (x - t)[t > 0.1 * t.max()].square().mean()
    return float(10 * torch.log10(t.max() ** 2 / error))


def measured(name: str, axes: str, R: float, kind: str, acs: int, slices: int) -> list[tuple[Measurement, Tensor]]:
    """Slices of a raw scan with lines left out, and the images of all of their lines with the same maps."""
    path, _, key = name.partition(":")
    scan = read_raw(path, axes=tuple(axes.split(",")) if axes else None, key=key or None)
    mask = undersample.mask_of(kind, (1, scan.encodings[0].encoded_matrix[1]), R, acs, 0)
    whole, rest = (
        cartesian.measurements(pipeline.prepare(s, Recipe(), torch.device("cpu"), None, 0), slices)
        for s in (scan, undersample.undersample(scan, mask).scan)
    )
    found = []
    for w, m in zip(whole, rest, strict=True):
        assert isinstance(m.A, Sense)
        found.append((m, combine(ifft(w.y, (-3, -2)), m.A.maps)))
    return found


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
    return {"acceleration": R, "seed": SEED + seed, "noise_factor": factor, **adapted(loaded, [(m, e.full)], plan)}


def adapted(loaded: weights.Loaded, slices: Sequence[tuple[Measurement, Tensor]], plan: adapt.Plan) -> dict[str, Any]:
    """Effect of an adaptation to slices, each with its full image, on held-out χ² and on their mean PSNR."""
    made = adapt.adapt(loaded.network, [m for m, _ in slices], plan)
    before, after = (statistics.mean(psnr(n, m, full) for m, full in slices) for n in (loaded.network, made.network))
    return {
        "weights": loaded.name, "minutes": plan.minutes, "slices": len(slices), "steps": made.steps,
        "held_before": made.before, "held_after": made.after, "kept": made.kept, "psnr_before": before,
        "psnr_after": after, "date": str(date.today()),
    }  # fmt: skip


def said(r: Mapping[str, Any]) -> str:
    """A record as text."""
    of = f"told {r['noise_factor']:g} of the noise, seed {r['seed']}" if "seed" in r else f"{r['scan']}, {r['mask']}"
    return (
        f"{r['weights']}, {of}, R = {r['acceleration']:g}: held-out χ² {r['held_before']:.3f} → {r['held_after']:.3f}, "
        f"PSNR {r['psnr_before']:.2f} → {r['psnr_after']:.2f} dB in {r['steps']} steps"
        f"{'' if r['kept'] else ', start kept'}"
    )


def main() -> None:
    """Adapt, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--accel", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--noise-factor", type=float, nargs="+", default=[1.0, 0.2, 5.0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--scan", nargs="+", default=[], help="fully sampled raw scans instead of simulated ones")
    parser.add_argument("--axes", default="", help="of their arrays")
    parser.add_argument("--slices", type=int, default=4, help="of each, adapted to together")
    parser.add_argument("--acs", type=int, default=0, help="lines of each; 0: 24, and 16 beyond R = 4")
    parser.add_argument("--mask", choices=("equispaced", "random", "variable-density"), default="equispaced")
    parser.add_argument("--least", type=float, help="instead of the plan's own; 0 keeps every gain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = adapt.Plan(minutes=options.minutes)
    plan = plan if options.least is None else replace(plan, least=options.least)
    loaded, head = weights.load(options.weights), {"machine": f"{platform.machine()}, {options.threads} threads"}
    for name, R in itertools.product(options.scan, options.accel):
        acs = options.acs or (24 if R <= 4 else 16)
        slices = measured(name, options.axes, R, options.mask, acs, options.slices)
        about = {"scan": Path(name).name, "acceleration": R, "mask": options.mask, "acs": acs}
        _keep(options.json, {**about, **adapted(loaded, slices, plan)}, head)
    if options.scan:
        return
    sources = volumes.read(options.data / "validation")
    for factor, R, seed in itertools.product(options.noise_factor, options.accel, range(options.seeds)):
        _keep(options.json, record(sources, loaded, R, seed, factor, plan), head)


def _keep(path: Path | None, r: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    print(said(r), flush=True)
    if path:
        records.store(path, [r], CASE, head)


if __name__ == "__main__":
    main()
