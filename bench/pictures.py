"""The pictures and the table of the README, from the real scans in `public_test`.

    python bench/pictures.py --data ../shared/data --out docs/pictures

The 4-coil T2 brain is fully sampled: it is undersampled retrospectively (equispaced, 24 ACS lines) and compared, inside
the body, with its own full reconstruction; PSNR with the body's maximum as data range. Recipes are the defaults.
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from regularisation import scan_of

from recon import masks, pipeline
from recon import recipe as recipes
from recon.io.read import read
from recon.metrics import nmse, psnr, ssim


def magnitude(scan: object, method: str) -> NDArray[np.float64]:
    """|x| of the first slice by a method with its default recipe."""
    image = pipeline.reconstruct(scan, recipes.parse({"solve": {"method": method}}))  # type: ignore[arg-type]
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


def main() -> None:
    """Reconstruct, compare, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    brain = np.load(options.data / "public_test/gpunufft_brain_t2_4ch.npz")["kspace"]
    full = magnitude(scan_of(brain, np.ones(256, bool)), "combine")
    body = full > 0.1 * np.percentile(full, 99)
    top, span = float(np.percentile(full, 99.5)), float(full[body].max())
    shown, records = [grey(full, top)], []
    for acceleration in (2, 4):
        mask = np.asarray(masks.equispaced((256,), acceleration, 24)).reshape(-1)
        for method in ("combine", "grappa", "sense", "tv", "cs"):
            x = magnitude(scan_of(brain, mask), method)
            x *= (x * full)[body].sum() / (x * x)[body].sum()
            scores = {
                "psnr": round(psnr(x, full, data_range=span, mask=body), 2),
                "ssim": round(ssim(x, full, data_range=span, mask=body), 4),
                "nmse": round(nmse(x, full, mask=body), 5),
            }
            effective = round(float(masks.effective(mask)), 2)
            records.append({"method": method, "acceleration": acceleration, "effective": effective, **scores})
            print(records[-1], flush=True)
            if acceleration == 4 and method in ("combine", "sense", "cs"):
                shown.append(grey(x, top))
    masked = read(options.data / "public_test/sigpy_brain_8ch_prospectively_masked.npz", axes=("coil", "y", "x"))
    x = magnitude(masked, "auto")
    shown.append(grey(x, float(np.percentile(x, 99))))
    row(shown, options.out / "real.png")
    sagittal = magnitude(read(options.data / "public_test/larson_brain_sag_t1_1ch.npz"), "auto")
    gre, epi = (magnitude(read(options.data / f"formats/siemens_twix_{n}_phantom.dat"), "auto") for n in ("gre", "epi"))
    row([grey(p, float(np.percentile(p, 99.5))) for p in (sagittal, gre, epi)], options.out / "more.png")
    if options.json:
        options.json.write_text(json.dumps({"date": str(date.today()), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
