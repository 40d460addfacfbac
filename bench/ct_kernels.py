"""Denoised CT slices of reconstructions that the networks were not trained on: sharp and very smooth kernels, thin
slices, iterative texture, coarse blotches, larger matrices, padding.

    python bench/ct_kernels.py ct-small --slices 1

A slice with the noise of a quarter of its dose (filtered backprojection, Hann), and what other reconstructions would
make of that noise: Hann's window undone, slices half as thick, a Gaussian low-pass, total variation blended in by 60
and 90 %, the same interpolated to finer pixels, and padded outside a circle; and blotches of 3 pixels that no filtered
backprojection makes. Printed are the added noise and the estimate (which includes the scan's own); PSNR before, after,
and denoised at the full share regardless of the evidence (`trust.fallback = false`); the evidence, with the smallest
share that was denoised; and unchanged slices. Nothing is chosen here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from recon.accuracy import ct, ct_measures
from recon.ct.denoise import denoise_images, total_variation
from recon.io.read import read
from recon.progress import silent
from recon.recipe import CT, Recipe

CPU = torch.device("cpu")


def filtered(x: np.ndarray, response) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Slices (z, y, x) whose spectrum is multiplied by a function of frequency in cycles per pixel."""
    f = np.hypot(np.fft.fftfreq(x.shape[-2])[:, None], np.fft.rfftfreq(x.shape[-1]))
    return np.fft.irfft2(np.fft.rfft2(x) * response(f), s=x.shape[-2:]).astype(np.float32)


def kinds(r: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, reference and noisy slices of each reconstruction."""
    added, plan = y - r, Recipe()
    yield "standard (Hann)", r, y
    undone = lambda f: 1 / np.maximum(0.5 + 0.5 * np.cos(2 * np.pi * np.minimum(f, 0.5)), 0.25)  # noqa: E731
    yield "sharp (Hann undone)", r, r + filtered(added, undone)
    yield "half as thick", r, r + np.float32(2**0.5) * added
    yield "half as thick, sharp", r, r + np.float32(2**0.5) * filtered(added, undone)
    yield "very smooth", r, r + 1.5 * filtered(added, lambda f: np.exp(-((f / 0.12) ** 2)))
    whole = replace(plan, solve=replace(plan.solve, tv=0.35), ct=CT(strength=1.0, coarse=0.0))
    smoothed = total_variation(y, whole, CPU, silent, "").data
    for share in (0.6, 0.9):
        yield f"iterative, {share:g} of TV", r, (1 - share) * y + np.float32(share) * smoothed
    blotches = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(r.shape), (0, 3, 3))
    yield "blotches of 3 pixels", r, (r + 20 * blotches / blotches.std()).astype(np.float32)
    at = [np.arange(n) - (n - 1) / 2 for n in r.shape[1:]]
    inside = np.hypot(at[0][:, None], at[1]) < min(r.shape[1:]) / 2
    yield "−1000 outside of a circle", *(np.where(inside, v, np.float32(-1000)) for v in (r, y))
    for size in (768, 1024):
        zoom = (1, size / r.shape[-2], size / r.shape[-1])
        fine = ndimage.zoom(r, zoom, order=1).astype(np.float32)
        yield f"matrix of {size}²", fine, fine + ndimage.zoom(added, zoom, order=3).astype(np.float32)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=1)
    options = parser.parse_args()
    base = Recipe()
    plan = replace(base, solve=replace(base.solve, method="unrolled", weights=options.network))
    anyhow = replace(plan, trust=replace(base.trust, fallback=False))
    (path,) = (options.data / "public_test").glob("itkelastix_chest_ct*.nii.gz")
    r, voxel = ct.chosen(read(path), options.slices)  # type: ignore[arg-type]
    y = ct.low_dose(r, voxel, 0.25, 0, photons=ct.own_dose(r, voxel, "parallel"))
    heads = "reconstruction | added, HU | estimated | PSNR before | after | whole | blur | share | patch | as they came"
    print(f"| {heads} |\n{'|---' * 10}|")
    for name, reference, noisy in kinds(r, y):
        soft = (reference > -100) & (reference < 150)
        added = 1.4826 * float(np.median(np.abs((noisy - reference)[soft])))
        found, whole = (denoise_images(noisy, p, CPU, silent) for p in (plan, anyhow))
        psnr = [ct_measures.errors(v, reference)["psnr"] for v in (noisy, found.data, whole.data)]
        level = float(np.mean(found.provenance["noise_HU"]))
        told = found.trust
        row = (f"{added:.1f}", f"{level:.1f}", *(f"{v:.2f}" for v in (*psnr, told["blur"], told["share"])))
        print(f"| {name} | {' | '.join(row)} | {told['patch']:.1f} | {told['fallbacks']} |", flush=True)


if __name__ == "__main__":
    main()
