"""Choose the strength of the CT denoisers on validation scans: PSNR, noise and detectability over the strength.

    python bench/ct.py ct-base ct-small
    python bench/ct.py FOLDER --slices 4 --doses 0.25 0.1

Fixed strengths are compared with the rule of `recon.ct.strength`, which depends on the noise; the last lines state
which values of its two numbers have the best mean PSNR. Noise is simulated in projections. The slices are references
with their own noise. A network removes it, which counts as an error; at a strength below 1 more of it stays. Coarse
detail stays at every strength, as `ct.coarse` says. public_test is not used here.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import numpy as np
import torch

from recon.accuracy import ct, ct_measures, ct_methods
from recon.ct import strength
from recon.io.read import read
from recon.recipe import CT

STRENGTHS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: Values of the rule's numbers that are tried: the smallest share, and the noise in HU that may remain.
LEAST, LEFT = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9), (5.0, 7.5, 10.0, 12.5, 15.0, 20.0, 25.0, 30.0, 40.0, math.inf)
#: The rule's numbers are not changed for less than this, in dB: scans differ by more.
TIE = 0.02


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="names of networks that ship, or folders")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--doses", type=float, nargs="+", default=[0.25, 0.1, 0.05])
    parser.add_argument("--slices", type=int, default=4, help="of each scan")
    parser.add_argument("--discs", action="store_true", help="detectability of discs of 15 HU too, which takes longer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    paths = sorted((options.data / "validation").glob("*ct*.nii.gz"))
    nets = ct_methods.networks(options.networks, 1.0, torch.device("cpu"))
    columns = "  ".join(f"{s:7g}" for s in STRENGTHS)
    print(f"{'network':10} {'scan':28} {'dose':>5}  {columns}     rule   (strength)")
    found: dict[str, list[Moments]] = {name: [] for name in nets}
    for path in paths:
        reference, voxel = ct.chosen(read(path), options.slices)  # type: ignore[arg-type]
        photons = ct.own_dose(reference, voxel, "parallel")
        own = ct_measures.uniform(reference, 15)
        for dose in (1.0, *options.doses):
            # The unchanged slice, whose noise must fall, then lower doses, whose error must fall.
            noisy = reference if dose == 1 else ct.low_dose(reference, voxel, dose, options.seed, photons=photons)
            for name, run in nets.items():
                made = run(noisy)
                shares = [strength.share(CT(), level) for level in made.noise]
                about = f"{made.fallbacks} as they came, noise {mean(made.noise):.0f} HU, rule {mean(shares):.2f}"
                if dose == 1:
                    blends = [[s] * len(noisy) for s in STRENGTHS] + [shares]
                    values = [ct_measures.noise_in(mixed(noisy, made.data, s), own, 15) for s in blends]
                    line(name, path.name.split(".")[0], dose, values, f"noise, HU, of the scan itself, {about}")
                    continue
                m = Moments(noisy, made, reference)
                found[name].append(m)
                values = [m.psnr([s] * len(noisy)) for s in STRENGTHS] + [m.psnr(shares)]
                line(name, path.name.split(".")[0], dose, values, f"PSNR, {made.seconds:.2f} s a slice, {about}")
    for name, rows in found.items():
        values = [mean([m.psnr([s] * len(m.noise)) for m in rows]) for s in STRENGTHS]
        line(name, "mean", 0, [*values, mean([m.ruled(strength.LEAST, strength.LEFT) for m in rows])], "PSNR")
    advise(found)
    if options.discs:
        discs(nets, options.doses)


class Moments:
    """The terms of the PSNR of blends: ‖y + s(x − y) − r‖² = a + 2sb + s²c over the body, slice by slice."""

    def __init__(self, noisy: ct_measures.Slices, made: ct_methods.Made, reference: ct_measures.Slices) -> None:
        body = reference > -900
        error, taken = ((v * body).astype(np.float64) for v in (noisy - reference, made.data - noisy))
        self.a, self.b, self.c = ((u * v).sum((-2, -1)) for u, v in ((error, error), (error, taken), (taken, taken)))
        self.count, self.noise = int(body.sum()), made.noise

    def psnr(self, shares: list[float]) -> float:
        """PSNR of all slices together, in dB."""
        s = np.asarray(shares)
        square = float((self.a + 2 * s * self.b + s * s * self.c).sum()) / self.count
        return 20 * math.log10(ct_measures.RANGE) - 10 * math.log10(max(square, 1e-12))

    def ruled(self, least: float, left: float) -> float:
        """PSNR by the rule with these numbers."""
        return self.psnr([strength.share(CT(), level, least, left) for level in self.noise])


def advise(found: dict[str, list[Moments]]) -> None:
    """Print which numbers of the rule are best over all networks, scans and doses with equal weights."""
    rows = [m for several in found.values() for m in several]
    print(f"\n{'rule, mean PSNR':24} " + "  ".join(f"≤{left:4g} HU" for left in LEFT))
    grid = {(least, left): mean([m.ruled(least, left) for m in rows]) for least in LEAST for left in LEFT}
    for least in LEAST:
        print(f"least share {least:<12g} " + "  ".join(f"{grid[least, left]:8.3f}" for left in LEFT))
    top = max(grid.values())
    # Among equals the one that leaves most texture in weak noise, then the least noise: the references' own noise,
    # whose removal counts against a network, favours leaving more in than is best.
    best = min(g for g in grid if grid[g] >= top - TIE)
    now = mean([m.ruled(strength.LEAST, strength.LEFT) for m in rows])
    print(f"now LEAST, LEFT = {strength.LEAST:g}, {strength.LEFT:g}: {now:.3f} dB; the best {top:.3f} dB")
    print(f"set LEAST, LEFT = {best[0]:g}, {best[1]:g} in recon/ct/strength.py: {grid[best]:.3f} dB")


def discs(nets: dict, doses: list[float]) -> None:
    """Detectability over the strength, on the analytic phantom."""
    absent, present, places, _ = ct_measures.phantom(15.0)
    for dose in doses:
        kinds = [
            np.concatenate([ct.low_dose(image, 1.0, dose, 1000 * n + k, absent) for k in range(ct.REALISATIONS)])
            for n, image in enumerate((absent, present))
        ]
        for name, run in nets.items():
            made = [run(v) for v in kinds]
            values = []
            for s in (*STRENGTHS, None):
                shares = [[strength.share(CT(), v) if s is None else s for v in m.noise] for m in made]
                a, p = (mixed(v, m.data, w) for v, m, w in zip(kinds, made, shares))
                values.append(ct_measures.detectability(a, p, places))
            line(name, "phantom, discs of 15 HU", dose, values, "d'")


def mixed(before: ct_measures.Slices, after: ct_measures.Slices, shares: list[float]) -> ct_measures.Slices:
    """Slices (z, y, x) blended with each share of what was removed."""
    return np.asarray(before + np.float32(shares)[:, None, None] * (after - before))


def mean(values: list[float] | tuple[float, ...]) -> float:
    return float(np.mean(values))


def line(name: str, scan: str, dose: float, values: list[float], what: str) -> None:
    shown = "  ".join(f"{v:7.2f}" for v in values)
    print(f"{name:10} {scan:28} {dose or '':>5}  {shown}   {what}", flush=True)


if __name__ == "__main__":
    main()
