"""The pictures of the README, from the scans in `public_test`.

    python bench/pictures.py --data ../shared/data --out docs/pictures

The 4-coil T2 brain is fully sampled and is undersampled retrospectively (equispaced, R = 4 with 24 ACS lines, R = 8
with 16). Recipes are the defaults. The numbers for the pictures are measured by `bench/accuracy.py`, for CT by `recon
bench ct`: the noise at a quarter of the dose is simulated in projections.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from recon import pipeline
from recon import recipe as recipes
from recon.accuracy import ct, ct_methods
from recon.accuracy.undersample import mask_of, undersample
from recon.data import RawScan
from recon.io.read import read


def magnitude(scan: RawScan, method: str) -> NDArray[np.float64]:
    """|x| of the first slice by a method with its default recipe."""
    image = pipeline.reconstruct(scan, recipes.parse({"solve": {"method": method}}))
    return np.abs(image.data.reshape(-1, *image.data.shape[-2:])[0]).astype(np.float64)


def grey(x: NDArray[np.float64], top: float, height: int = 256) -> Picture.Image:
    """Picture of values 0 … top."""
    picture = Picture.fromarray((255 * np.clip(x / top, 0, 1)).astype(np.uint8))
    return picture.resize((round(picture.width * height / picture.height), height), Picture.Resampling.LANCZOS)


def row(pictures: list[Picture.Image], path: Path) -> None:
    """Pictures side by side."""
    out = Picture.new("L", (sum(p.width for p in pictures) + 4 * (len(pictures) - 1), pictures[0].height))
    x = 0
    for p in pictures:
        out.paste(p, (x, 0))
        x += p.width + 4
    path.parent.mkdir(parents=True, exist_ok=True)
    out.save(path, optimize=True)


def chest(path: Path, dose: float = 0.25) -> list[Picture.Image]:
    """The middle slice of a CT scan at a share of its dose: unchanged, denoised three ways, and at its own dose."""
    reference, voxel = ct.chosen(read(path), 1)  # type: ignore[arg-type]
    noisy = ct.low_dose(reference, voxel, dose, 0, photons=ct.own_dose(reference, voxel, "parallel"))
    level = float(np.median(np.abs(noisy - reference)[reference > -300]) * 1.4826)
    cpu = torch.device("cpu")
    found = ct_methods.tuned(noisy, reference, level, ("tv", "nlm"), cpu)
    ours = ct_methods.networks(["ct-base"], "auto", cpu)
    made = [*(run(noisy) for _, run in found.values()), *(run(noisy).data for run in ours.values())]
    # The body from −160 to 240 HU, the usual window for soft tissue.
    return [grey(x[0, 50:400, 20:490].astype(np.float64) + 160, 400.0) for x in (noisy, *made, reference)]


def main() -> None:
    """Reconstruct and write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    brain = read(options.data / "public_test/gpunufft_brain_t2_4ch.npz", axes=("coil", "y", "x"))
    full = magnitude(brain, "combine")
    top = float(np.percentile(full, 99.5))
    fewer = undersample(brain, mask_of("equispaced", (1, 256), 4, 24, 0)).scan
    shown = [grey(full, top), *(grey(magnitude(fewer, m), top) for m in ("combine", "sense", "cs", "unrolled"))]
    eighth = undersample(brain, mask_of("equispaced", (1, 256), 8, 16, 0)).scan
    every = {m: magnitude(eighth, m) for m in ("combine", "sense", "cs", "unrolled")}
    row([grey(x, top) for x in every.values()], options.out / "eight.png")
    row([grey(5 * np.abs(x - full), top) for x in every.values()], options.out / "eight_errors.png")
    masked = read(options.data / "public_test/sigpy_brain_8ch_prospectively_masked.npz", axes=("coil", "y", "x"))
    x = magnitude(masked, "auto")
    shown.append(grey(x, float(np.percentile(x, 99))))
    row(shown, options.out / "real.png")
    sagittal = magnitude(read(options.data / "public_test/larson_brain_sag_t1_1ch.npz"), "auto")
    gre, epi = (magnitude(read(options.data / f"formats/siemens_twix_{n}_phantom.dat"), "auto") for n in ("gre", "epi"))
    row([grey(p, float(np.percentile(p, 99.5))) for p in (sagittal, gre, epi)], options.out / "more.png")
    row(chest(options.data / "public_test/itkelastix_chest_ct_every6.nii.gz"), options.out / "chest.png")


if __name__ == "__main__":
    main()
