"""Where the error of denoised CT slices is: in which tissue, how much of it is noise, and what could be gained.

    python bench/ct_errors.py ct-base --doses 0.25 0.1
    python bench/ct_errors.py --table                      # from what was measured

Validation slices at a share of their own dose, with several draws of the noise. By region of the reference (bone, soft
tissue, lung and fat; near edges or not): the error of the input and of the output. The error of the output is divided
into two parts. The noise that remains is what differs from draw to draw. The other part is common to all draws:
smoothed edges, and removed noise of the reference itself, which counts against a denoiser.

In addition, the best possible result against references with noise of their own (`recon.accuracy.ct_bound`), and the
gain from weights for the removed part that are fitted to the reference itself: one, one per octave, one per region, and
both. Statistics are over slices: every number belongs to a slice, its pixels taken together. Intervals are over slices
of one scan and say nothing about other scans.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import Record, store, stored
from scipy import ndimage
from spread import said

from recon.accuracy import ct
from recon.accuracy.ct_bound import bound
from recon.accuracy.ct_measures import RANGE
from recon.ct import strength
from recon.io.read import read
from recon.nets import denoiser, weights
from recon.nets.unrolled import Unrolled
from recon.prepare import image_noise
from recon.recipe import CT

#: Standard deviations in pixels of the Gaussians that separate octaves, and values of `ct.coarse` that are tried.
WIDTHS, COARSE = (1.0, 2.0, 3.0, 5.0, 9.0), (0.0, 2.0, 3.0, 5.0)
FEW = 200
OUT = Path(__file__).parent / "results/ct-errors.json"
CASE = ("weights", "scan", "dose", "slice", "region")
HEAD, NAMES = "invesalius_head_ct", {"invesalius_head_ct": "head", "totalseg_heart_cta_1p5mm": "heart"}
#: Gains that a page shows besides the input.
GAINS = ("written_dB", "noiseless_dB", "bound_dB", "one weight", "by octave", "by region", "by both")


def regions(r: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of slices (z, y, x) that divide the body; the edges are its steepest seventh and the pixels next to it."""
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
    """Sum of squares of an error after subtracting the best-weighted parts, the same for all draws (n, z, y, x)."""
    a, b = np.stack([p[:, where].ravel() for p in parts], 1).astype(np.float64), -error[:, where].ravel()
    return float(np.square(b - a @ np.linalg.lstsq(a.T @ a, a.T @ b, rcond=None)[0]).sum() / len(error))


def one(network: Unrolled, r: np.ndarray, noisy: np.ndarray) -> list[dict[str, Any]]:
    """A slice (y, x) at a dose with several draws (n, y, x): one record of the whole, one of each region."""
    flat = torch.from_numpy(noisy)
    noise = image_noise.measured(flat)
    shown = torch.cat(
        [denoiser.denoised(network, v[None], noise.level[k : k + 1], noise.texture[k : k + 1])
         for k, v in enumerate(flat)]
    )  # fmt: skip

    def written(setting: CT) -> np.ndarray:
        several = [strength.written(*v, setting, float(s)) for *v, s in zip(flat, shown, noise.level)]
        return torch.stack(several).numpy()

    body, added, x = r > -900, noisy - r, written(CT())
    error, taken = x - r, shown.numpy() - noisy
    inside = lambda e, where=body: float(np.square(e[:, where]).mean())  # noqa: E731
    limit = bound(noisy[:1], r[None])
    masks = {n: m[0] for n, m in regions(r[None]).items()}
    out = []
    for name, where in masks.items():
        left, differs = inside(error, where), float(x[:, where].var(0, ddof=1).mean())
        share = float(where.sum() / body.sum())
        out.append({
            "region": name, "share": share, "error_share": left * share / inside(error),
            "came_HU": inside(added, where) ** 0.5, "written_HU": left**0.5, "noise_HU": differs**0.5,
            "common_HU": max(0.0, left - differs) ** 0.5,
        })  # fmt: skip
    parts, count = octaves(taken), int(body.sum())
    gains = {
        "one weight": fitted([taken], added, body),
        "by octave": fitted(parts, added, body),
        "by region": sum(fitted([taken], added, m) for m in masks.values()),
        "by both": sum(fitted(parts, added, m) for m in masks.values()),
    }
    whole = {
        "region": "all", "came_dB": psnr(inside(added)), "written_dB": psnr(inside(error)),
        "noiseless_dB": limit and limit.noiseless, "bound_dB": limit and limit.best, "own": limit and limit.own,
        "estimate_HU": float(noise.level.median()), **{n: psnr(v / count) for n, v in gains.items()},
        **{f"coarse {c:g}": psnr(inside(written(CT(coarse=c)) - r)) for c in COARSE},
    }  # fmt: skip
    return [whole, *out]


def psnr(square: float) -> float:
    return 20 * math.log10(RANGE) - 10 * math.log10(square)


def page(records: Sequence[Record]) -> list[str]:
    """Table rows of the documentation: regions of the head at a quarter of its dose, then every scan and dose."""
    rows = []
    for name in dict.fromkeys(r["region"] for r in records if r["region"] != "all"):
        mine = [r for r in records if (r["scan"], r["dose"], r["region"]) == (HEAD, 0.25, name)]
        if mine:
            shares = [f"{100 * float(np.mean([r[k] for r in mine])):.0f}" for k in ("share", "error_share")]
            hu = [said([r[k] for r in mine], 1) for k in ("came_HU", "written_HU", "noise_HU", "common_HU")]
            rows.append("| " + " | ".join([name, str(len(mine)), *shares, *hu]) + " |")
    for scan, dose in dict.fromkeys((r["scan"], r["dose"]) for r in records):
        mine = [r for r in records if (r["scan"], r["dose"], r["region"]) == (scan, dose, "all")]
        cells = [said([r["came_dB"] for r in mine])]
        cells += [said([r[k] - r["came_dB"] for r in mine], sign=True) for k in GAINS]
        rows.append("| " + " | ".join([f"{NAMES.get(scan, scan)}, {dose:g}", str(len(mine)), *cells]) + " |")
    return rows


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-base")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--doses", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--slices", type=int, default=4, help="of each scan")
    parser.add_argument("--draws", type=int, default=4, help="of the noise")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    network = weights.load(options.network).network
    head = {"date": str(date.today()), "simulated": True, "draws": options.draws}
    for path in [] if options.table else sorted((options.data / "validation").glob("*ct*.nii.gz")):
        scan, (slices, voxel) = path.name.split(".")[0], ct.chosen(read(path), options.slices)  # type: ignore[arg-type]
        photons = ct.own_dose(slices, voxel, "parallel")
        for dose in options.doses:
            draws = [ct.low_dose(slices, voxel, dose, k, photons=photons) for k in range(options.draws)]
            for k, r in enumerate(slices):
                about = {"weights": options.network, "scan": scan, "dose": dose, "slice": k}
                made = [{**about, **v} for v in one(network, r, np.stack([d[k] for d in draws]))]
                store(options.json, made, CASE, head)
            print(f"{scan} at {dose:g}", flush=True)
    print("\n".join(page([r for r in stored(options.json) if r["weights"] == options.network])))


if __name__ == "__main__":
    main()
