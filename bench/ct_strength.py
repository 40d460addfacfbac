"""Gains of denoised CT slices over the share that stays removed, against references with less and less noise of their
own.

    python bench/ct_strength.py ct-base
    python bench/ct_strength.py ct-base --observer

Validation slices and means of their neighbours (`bench/ct_means.py`), to which the same noise of projections was added;
each is the reference for the noisy slice made from it. With `--observer`, d' for discs of 10, 15 and 20 HU, noise and
transfer of the analytic phantom at those strengths instead. Coarse detail is given back at every strength. public_test
is not used here.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ct_means import means

from recon.accuracy import ct, ct_measures
from recon.ct import strength
from recon.io.read import read
from recon.nets import denoiser, weights
from recon.nets.unrolled import Unrolled
from recon.prepare import image_noise
from recon.recipe import CT

STRENGTHS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)
DOSES = (0.5, 0.25, 0.1, 0.05)
#: Slices that are averaged, by scan.
COUNTS = {"invesalius_head_ct": (1, 5, 9), "totalseg_heart_cta_1p5mm": (1, 3, 5)}


def taken(network: Unrolled, noisy: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """What is removed from slices (z, y, x) at full strength, and their noise in HU."""
    out, levels = [], []
    for y in torch.from_numpy(noisy):
        noise = image_noise.measured(y[None])
        how = replace(strength.sampled(CT(), noise), strength=1.0)
        x = denoiser.denoised(network, y[None], noise.level, noise.texture)
        out.append((strength.written(y[None], x, how, float(noise.level)) - y)[0].numpy())
        levels.append(float(noise.level))
    return np.stack(out), levels


def scans(network: Unrolled, data: Path, count: int) -> None:
    """Mean gains in dB of the slices of each scan, dose and number of slices in a mean."""
    for scan, counts in COUNTS.items():
        series = read(data / "validation" / f"{scan}.nii.gz").series[0]  # type: ignore[union-attr]
        volume, voxel = series.voxels.read(0, series.geometry.shape[0]), float(series.geometry.voxel[0])
        places = [round((k + 1) * len(volume) / (count + 1)) for k in range(count)]
        single = means(volume, places, 1)
        photons = ct.own_dose(single, voxel, "parallel")
        for dose in DOSES:
            added = ct.low_dose(single, voxel, dose, 0, photons=photons) - single
            for n in counts:
                reference = means(volume, places, n)
                d, levels = taken(network, reference + added)
                gains = [
                    [10 * np.log10(np.square(e[b]).mean() / np.square((e + s * t)[b]).mean()) for s in STRENGTHS]
                    for e, t, b in zip(added, d, reference > -900, strict=True)
                ]
                shown = " ".join(f"{g:6.2f}" for g in np.mean(gains, 0))
                print(f"{scan:26} {dose:4g} {n}  {min(levels):5.0f}–{max(levels):3.0f} HU  {shown}", flush=True)


def observer(network: Unrolled) -> None:
    """d', noise in HU and transfer of the phantom at every dose."""
    absent, _, places, rods = ct_measures.phantom()
    repeated = [[ct_measures.Rod(k, r.y, r.x, r.radius) for k in range(ct.REALISATIONS)] for r in rods]
    for beam in ("parallel", "curved"):
        for dose in DOSES:
            images = (absent, *(ct_measures.phantom(c)[1] for c in ct.CONTRASTS))
            kinds = [
                np.concatenate(
                    [ct.low_dose(x, 1.0, dose, 1000 * n + k, absent, beam) for k in range(ct.REALISATIONS)]  # type: ignore[arg-type]
                )
                for n, x in enumerate(images)
            ]
            gone = [taken(network, v)[0] for v in kinds]
            for s in (0.0, *STRENGTHS):
                none, *discs = (v + np.float32(s) * d for v, d in zip(kinds, gone, strict=True))
                seen = " / ".join(f"{ct_measures.detectability(none, x, places):.2f}" for x in discs)
                noise = float((none - absent)[:, 130:190, 130:190].std())
                edges = ", ".join(f"{ct_measures.transfer(none, r).mtf50:.3f}" for r in repeated)
                print(f"{beam:8} {dose:4g}  {s:4g}  d' {seen}  noise {noise:.1f} HU  MTF50 {edges}", flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-base")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=6, help="of each scan")
    parser.add_argument("--observer", action="store_true", help="the phantom instead")
    options = parser.parse_args()
    network = weights.load(options.network).network
    if options.observer:
        observer(network)
    else:
        scans(network, options.data, options.slices)


if __name__ == "__main__":
    main()
