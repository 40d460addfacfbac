"""Choose the strength of the CT denoisers on validation scans: PSNR, noise and detectability over the strength.

    python bench/ct.py ct-base ct-small
    python bench/ct.py FOLDER --slices 4 --doses 0.25 0.1

Noise is simulated in projections. The slices are references with noise of their own, which a network takes away and is
charged for; at a strength below 1 more of it stays. Nothing here looks at public_test.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from recon.accuracy import ct, ct_measures, ct_methods
from recon.io.read import read

STRENGTHS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="names of networks that ship, or folders")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--doses", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--slices", type=int, default=4, help="of each scan")
    parser.add_argument("--discs", action="store_true", help="detectability of discs of 15 HU too, which takes longer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = sorted((options.data / "validation").glob("*ct*.nii.gz"))
    nets = ct_methods.networks(options.networks, 1.0, torch.device("cpu"))
    print(f"{'network':10} {'scan':28} {'dose':>5}  " + "  ".join(f"{s:7g}" for s in STRENGTHS) + "   (strength)")
    total: dict[str, list[np.ndarray]] = {name: [] for name in nets}
    for path in paths:
        reference, voxel = ct.chosen(read(path), options.slices)  # type: ignore[arg-type]
        photons = ct.own_dose(reference, voxel, "parallel")
        own = ct_measures.uniform(reference, 15)
        for dose in (1.0, *options.doses):
            # The slice as it came, whose noise must fall, then lower doses, whose error must.
            noisy = reference if dose == 1 else ct.low_dose(reference, voxel, dose, options.seed, photons=photons)
            for name, run in nets.items():
                made = run(noisy)
                blends = [noisy + np.float32(s) * (made.data - noisy) for s in STRENGTHS]
                if dose == 1:
                    found = [ct_measures.noise_in(b, own, 15) for b in blends]
                    what = "noise, HU, of the scan itself"
                else:
                    found = [ct_measures.errors(b, reference)["psnr"] for b in blends]
                    total[name].append(np.array(found))
                    what = f"PSNR, {made.seconds:.2f} s a slice"
                line(name, path.name.split(".")[0], dose, found, f"{what}, {made.fallbacks} as they came")
    for name, rows in total.items():
        mean = np.mean(rows, 0)
        line(name, "mean", 0, mean, f"PSNR; best at {STRENGTHS[int(mean.argmax())]:g}")
    if options.discs:
        discs(nets, options.doses)


def discs(nets: dict, doses: list[float]) -> None:
    """Detectability over the strength, on the analytic phantom."""
    absent, present, places, _ = ct_measures.phantom(15.0)
    for dose in doses:
        kinds = [
            np.concatenate([ct.low_dose(image, 1.0, dose, 1000 * n + k, absent) for k in range(ct.REALISATIONS)])
            for n, image in enumerate((absent, present))
        ]
        for name, run in nets.items():
            made = [run(v).data for v in kinds]
            found = []
            for s in STRENGTHS:
                a, p = (v + np.float32(s) * (m - v) for v, m in zip(kinds, made))
                found.append(ct_measures.detectability(a, p, places))
            line(name, "phantom, discs of 15 HU", dose, found, "d'")


def line(name: str, scan: str, dose: float, values: object, what: str) -> None:
    shown = "  ".join(f"{v:7.2f}" for v in values)  # type: ignore[attr-defined]
    print(f"{name:10} {scan:28} {dose or '':>5}  {shown}   {what}", flush=True)


if __name__ == "__main__":
    main()
