"""What the slices next to a CT slice can add to its denoised image: error, detectability and transfer along z.

    python bench/ct_neighbours.py ct-small

No network is trained: what one makes of three slices is put together in several ways, each at its strength H.

    mean       denoised slices, weighted by how far they agree: w_j = exp(−⟨x̂_j − x̂⟩² / 2 (H s)²), ⟨⟩ over 5 × 5
               pixels, s the robust deviation of such means over the slice
    residual   what all three residuals y − x̂ have in common is given back: ⟨r⟩_z · max(0, 1 − H² σ² / 3 ⟨⟨r⟩_z²⟩)
    before     the slices as they came are put together with the weights of "mean", and the network sees the sum

Validation volumes with slices 1.5 mm apart, at ¼ and ⅒ of their dose with noise of projections that is independent
from slice to slice, as a scanner's nearly is. Printed: PSNR of the middle slice as it is written; d′ of discs of 15 HU
that are one slice thick, in a phantom that goes on along z; how much of a disc stays in its slice, and how much of it
appears in the next.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon.accuracy import ct, ct_measures
from recon.ct import strength
from recon.nets import denoiser, weights
from recon.nets.unrolled import Unrolled
from recon.operators.windows import box
from recon.prepare import image_noise
from recon.recipe import CT

HEIGHTS = {"mean": (0.2, 0.5, 1.0), "residual": (1.0,), "before": (0.5,)}
DISC, REALISATIONS = 15.0, 4
Way = tuple[str, float]


def written(network: Unrolled, y: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """Slices (z, y, x) as the network shows them, as they are written, and their noise."""
    shown, out, levels = [], [], []
    for one in y:
        noise = image_noise.measured(one[None])
        x = denoiser.denoised(network, one[None], noise.level, noise.texture)
        levels.append(float(noise.level))
        shown.append(x[0])
        out.append(strength.written(one, x[0], CT(), levels[-1]))
    return torch.stack(shown), torch.stack(out), levels


def agreement(x: Tensor, k: int, height: float) -> Tensor:
    """Weights (z, y, x) of slices for slice k, adding up to 1."""
    d = box((x - x[k])[:, None], 5, inside=True)[:, 0]
    inside = x[k] > -900
    s = torch.stack([1.4826 * v[inside].abs().median() for v in d]).clamp_min(1e-3)
    w = (-((d / (height * s[:, None, None])) ** 2) / 2).exp()
    w[k] = 1.0
    return w / w.sum(0)


def middles(network: Unrolled, y: np.ndarray, ways: list[Way]) -> list[np.ndarray]:
    """The middle one of slices (z, y, x) with what its neighbours add, in each way."""
    noisy = torch.from_numpy(y)
    by_itself = written(network, noisy)
    return [middle(network, noisy, *by_itself, *way).numpy() for way in ways]


def middle(
    network: Unrolled, y: Tensor, shown: Tensor, out: Tensor, levels: list[float], how: str, height: float
) -> Tensor:
    """The middle one of slices (z, y, x) with what its neighbours add in one way."""
    k = len(y) // 2
    if how == "alone":
        return out[k]
    if how == "mean":
        return strength.written(y[k], (agreement(shown, k, height) * shown).sum(0), CT(), levels[k])
    if how == "residual":
        r = (y - shown).mean(0)
        power = box((r * r)[None, None], 9, inside=True)[0, 0].clamp_min(1e-6)
        kept = (1 - height**2 * levels[k] ** 2 / len(y) / power).clamp_min(0)
        return strength.written(y[k], shown[k] + kept * r, CT(), levels[k])
    merged = (agreement(shown, k, height) * y).sum(0)
    noise = image_noise.measured(merged[None])
    x = denoiser.denoised(network, merged[None], noise.level, noise.texture)[0]
    # Of the slice's own noise as much is left in as without neighbours.
    return strength.written(y[k], x, CT(), levels[k])


def scans(network: Unrolled, data: Path, ways: list[Way], count: int) -> None:
    """PSNR of the middle slices of validation volumes."""
    import nibabel as nib

    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        file = nib.load(path)
        volume = np.maximum(np.moveaxis(np.asarray(file.dataobj, np.float32), 2, 0), -1000)  # type: ignore[attr-defined]
        voxel, apart = float(file.header.get_zooms()[0]), float(file.header.get_zooms()[2])  # type: ignore[attr-defined]
        places = [round(len(volume) * (i + 1) / (count + 1)) for i in range(count)]
        for dose in (0.25, 0.1):
            found: dict[Way, list[float]] = {}
            for k in places:
                three = np.ascontiguousarray(volume[k - 1 : k + 2])
                photons = ct.own_dose(three, voxel, "parallel")
                noisy = ct.low_dose(three, voxel, dose, k, photons=photons)
                for way, x in zip(ways, middles(network, noisy, ways), strict=True):
                    found.setdefault(way, []).append(ct_measures.errors(x[None], three[1:2])["psnr"])
            show(f"{path.name.split('.')[0]}, {apart:g} mm, dose {dose:g}: dB", found, lambda v: f"{np.mean(v):.2f}")


def observed(network: Unrolled, ways: list[Way]) -> None:
    """d′ of discs one slice thick, and what of them stays in their slice and appears in the next."""
    absent, present, places, _ = ct_measures.phantom(DISC)
    where = present[0] - absent[0] > 0.5 * DISC
    stack = {
        "absent": np.concatenate([absent] * 3),
        "here": np.concatenate([absent, present, absent]),
        "next": np.concatenate([absent, absent, present]),
    }
    for dose in (0.25, 0.1):
        images: dict[str, list[list[np.ndarray]]] = {kind: [] for kind in (*stack, "other")}
        for seed in range(REALISATIONS):
            noise, other = (
                ct.low_dose(stack["absent"], 1.0, dose, first + seed) - stack["absent"] for first in (7000, 8000)
            )
            # The observer's pairs have noise of their own; what stays and what appears is told by the same noise.
            for kind, scan in (*((k, v + noise) for k, v in stack.items()), ("other", stack["here"] + other)):
                images[kind].append(middles(network, scan, ways))
        found = {}
        for i, way in enumerate(ways):
            a, h, o, n = (np.stack([m[i] for m in images[k]]) for k in ("absent", "here", "other", "next"))
            seen = ct_measures.detectability(a, o, places)
            stays, leaks = (float((v - a)[:, where].mean() / DISC) for v in (h, n))
            found[way] = [seen, stays, leaks, float((a - absent)[:, 100:220, 100:220].std())]
        show(f"phantom, dose {dose:g}: d′, stays, appears next, noise in HU", found,
             lambda v: f"{v[0]:.2f} {v[1]:.2f} {v[2]:+.2f} {v[3]:.1f}")  # fmt: skip


def show(what: str, found: dict[Way, list[float]], text: Callable[[list[float]], str]) -> None:
    print(what)
    for (how, height), values in found.items():
        print(f"    {how + (f', H = {height:g}' if height else ''):20} {text(values)}", flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=3, help="of each scan")
    options = parser.parse_args()
    network = weights.load(options.network).network
    ways = [("alone", 0.0), *((how, h) for how, heights in HEIGHTS.items() for h in heights)]
    scans(network, options.data, ways, options.slices)
    observed(network, ways)


if __name__ == "__main__":
    main()
