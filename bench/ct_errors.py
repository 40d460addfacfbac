"""Where the error of denoised CT slices is: in which tissue, how much of it is noise, and what could be gained.

    python bench/ct_errors.py ct-small --doses 0.25 0.1

Validation slices at a share of their own dose, several draws of the noise each. By region of the reference (bone, soft
tissue, lung and fat; near edges or not): the error of what came in and of what is written, the latter as the noise of
the dose that is still in it (what differs from draw to draw) and as what all draws have in common (edges that were
smoothed, and noise of the reference's own that was taken away, for which a denoiser is charged).

Two bounds: the error of the slice without any noise against this reference is the reference's own noise σᵣ; and of an
input r + n the best that anybody could write who knew that slice, (1/σᵣ² + 1/σₙ²)^(−1/2), which gives of the own noise
the share back that the input tells of. Last, what weights for what the network takes away would gain if they
were fitted to the reference itself: one, one for each octave, for each region, and both.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from recon.accuracy import ct
from recon.accuracy.ct_measures import RANGE
from recon.ct import strength
from recon.io.read import read
from recon.nets import denoiser, weights
from recon.nets.unrolled import Unrolled
from recon.operators.windows import box
from recon.prepare import image_noise
from recon.recipe import CT

#: Standard deviations in pixels of the Gaussians between which octaves lie, and settings of `ct.coarse` that are tried.
WIDTHS, COARSE = (1.0, 2.0, 3.0, 5.0, 9.0), (0.0, 2.0, 3.0, 5.0)
FEW = 200


def regions(r: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of slices (z, y, x) that share out the body; the edges are its steepest seventh and what touches them."""
    body = r > -900
    smooth = np.stack([ndimage.gaussian_filter(x, 1.0) for x in r])
    slope = np.stack([np.hypot(*np.gradient(x)) for x in smooth])
    steep = (slope > np.quantile(slope[body], 0.85)) & body
    steep = np.stack([ndimage.binary_dilation(x) for x in steep]) & body
    bone, low = body & (smooth > 250), body & (smooth <= -200)
    kinds = {"bone": bone, "soft tissue": body & ~bone & ~low, "lung, fat": low}
    both = {f"{n}, {how}": m & e for n, m in kinds.items() for how, e in (("even", ~steep), ("edge", steep))}
    return {n: m for n, m in both.items() if m.sum() >= FEW}


def octaves(d: np.ndarray) -> list[np.ndarray]:
    """d (..., y, x) as a sum of bands, the finest first."""
    coarser = [d, *(strength.smoothed(torch.from_numpy(d), w).numpy() for w in WIDTHS)]
    return [*(a - b for a, b in itertools.pairwise(coarser)), coarser[-1]]


def fitted(parts: list[np.ndarray], error: np.ndarray, where: np.ndarray) -> float:
    """Sum of squares left of an error by the best weights of the parts, draws (n, z, y, x) alike."""
    a, b = np.stack([p[:, where].ravel() for p in parts], 1).astype(np.float64), -error[:, where].ravel()
    return float(np.square(b - a @ np.linalg.lstsq(a.T @ a, a.T @ b, rcond=None)[0]).sum() / len(error))


def lowest(x: np.ndarray, where: np.ndarray) -> float:
    """What is exceeded by nine in ten of the deviations within 7 × 7 pixels: noise, where anything is even."""
    t = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    local = box((t - box(t, 7, inside=True)).square(), 7, inside=True).sqrt().numpy()
    return float(np.quantile(local[where], 0.1))


def one(network: Unrolled, r: np.ndarray, voxel: float, dose: float, draws: int) -> None:
    """Print the table of a scan at a dose."""
    photons = ct.own_dose(r, voxel, "parallel")
    y = np.stack([ct.low_dose(r, voxel, dose, k, photons=photons) for k in range(draws)])
    flat = torch.from_numpy(y.reshape(-1, *y.shape[-2:]))
    noise = image_noise.measured(flat)
    shown = torch.cat(
        [denoiser.denoised(network, v[None], noise.level[k : k + 1], noise.texture[k : k + 1])
         for k, v in enumerate(flat)]
    )  # fmt: skip

    def written(setting: CT) -> np.ndarray:
        several = [strength.written(*v, setting, float(s)) for *v, s in zip(flat, shown, noise.level)]
        return torch.stack(several).numpy().reshape(y.shape)

    body, added, x = r > -900, y - r, written(CT())
    error, taken = x - r, shown.numpy().reshape(y.shape) - y
    psnr = lambda square: 20 * math.log10(RANGE) - 10 * math.log10(square)  # noqa: E731
    inside = lambda e, where=body: float(np.square(e[:, where]).mean())  # noqa: E731
    masks = regions(r)
    even = masks["soft tissue, even"]
    # How much stronger the reference's own noise is than what was added; both are of photons, and alike in place.
    own = lowest(r, even) / np.mean([lowest(a, even) for a in added])
    true = inside(added, even) ** 0.5 * math.hypot(1, own)
    print(f"dose {dose:g}, {photons:.0f} photons, own noise over what is added {own:.2f}, noise as it is estimated "
          f"{float(noise.level.median()):.1f} HU, as it is {true:.1f}")  # fmt: skip
    print("| region | pixels, % | error, % | comes in | written | of it noise | of it common | bound |")
    print("|---" * 8 + "|")
    bounds = 0.0
    for name, where in masks.items():
        came, left = inside(added, where), inside(error, where)
        differs = float(x[:, where].var(0, ddof=1).mean())
        common = max(0.0, left - differs)
        bound = came * own**2 / (1 + own**2)
        share = where.sum() / body.sum()
        bounds += bound * share
        row = (100 * share, 100 * left * share / inside(error), *(v**0.5 for v in (came, left, differs, common, bound)))
        print(f"| {name} | " + " | ".join(f"{v:.0f}" if k < 2 else f"{v:.1f}" for k, v in enumerate(row)) + " |")
    parts, count = octaves(taken), int(body.sum())
    gains = {
        "one weight": fitted([taken], added, body),
        "by octave": fitted(parts, added, body),
        "by region": sum(fitted([taken], added, m) for m in masks.values()),
        "by both": sum(fitted(parts, added, m) for m in masks.values()),
    }
    print(f"comes in {psnr(inside(added)):.2f} dB, written {psnr(inside(error)):.2f}; the slice without noise "
          f"{psnr(inside(added) * own**2):.2f}, the bound {psnr(bounds):.2f}")  # fmt: skip
    print("fitted to the reference: " + ", ".join(f"{n} {psnr(v / count):.2f}" for n, v in gains.items()))
    print("ct.coarse: " + ", ".join(f"{c:g} {psnr(inside(written(CT(coarse=c)) - r)):.2f}" for c in COARSE), flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--doses", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--slices", type=int, default=2, help="of each scan")
    parser.add_argument("--draws", type=int, default=4, help="of the noise")
    options = parser.parse_args()
    network = weights.load(options.network).network
    for path in sorted((options.data / "validation").glob("*ct*.nii.gz")):
        r, voxel = ct.chosen(read(path), options.slices)  # type: ignore[arg-type]
        for dose in options.doses:
            print(f"\n{path.name.split('.')[0]}, {options.network}, ", end="")
            one(network, r, voxel, dose, options.draws)


if __name__ == "__main__":
    main()
