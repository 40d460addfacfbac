"""How far the logarithm of few photons biases soft tissue, beside the share of rays that are lost in noise.

    python bench/ct_starved.py [--folder public_test]

Slices of CT scans and a simulated pelvis on about 256² pixels are projected in a curved fan with six numbers of
photons. The bias is what remains of a mean over repeated scans after filtered backprojection (Hann) and a Gaussian of 4
pixels: it would look like anatomy. `lost` is the share of one scan's rays below `recon.prepare.ct.LOST` standard
deviations; `lines` is the same, estimated from the noise of its line integrals if counts are not known; `aniso` is the
power of steps along y over that along x in the noise of one image, which is all that the image shows.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from recon.accuracy import ct
from recon.hounsfield import WATER, attenuation
from recon.io.read import read
from recon.operators.xray import Xray
from recon.prepare.ct import FLOOR, LOST, MANY_LOST, drowned
from recon.simulation import ct as physics
from recon.simulation.ct_scan import Scan, rays
from recon.solve.fbp import fbp

ELECTRONIC, REPEATS, WRONG = 5.0, 12, 10.0


def pelvis(n: int = 256, voxel: float = 1.9) -> np.ndarray:
    """A wide body with two hips in HU."""
    y, x = ((np.mgrid[:n, :n] - (n - 1) / 2) * voxel).astype(np.float32)
    hu = np.full((n, n), -1000, np.float32)
    hu[(x / 200) ** 2 + (y / 115) ** 2 < 1] = -80
    hu[(x / 185) ** 2 + (y / 100) ** 2 < 1] = 50
    for side in (-110, 110):
        hu[(x - side) ** 2 + y**2 < 26**2] = 1100
        hu[(x - side) ** 2 + y**2 < 16**2] = 300
    return hu


def objects(folder: Path, count: int) -> Iterator[tuple[str, np.ndarray, float]]:
    """Names, slices in HU and pixel sizes in mm."""
    yield "drawn pelvis", pelvis(), 1.9
    for path in sorted(folder.glob("*_ct*.nii.gz")):
        x, voxel = ct.chosen(read(path), count)  # type: ignore[arg-type]
        q = max(1, round(max(x.shape[1:]) / 256))
        for k, y in enumerate(np.maximum(x, -1000)):
            ny, nx = (s // q for s in y.shape)
            yield f"{path.name.split('.')[0]} {k}", y[: ny * q, : nx * q].reshape(ny, q, nx, q).mean((1, 3)), voxel * q


def measured(hu: np.ndarray, voxel: float, photons: float) -> dict[str, float]:
    """Share of lost rays, noise and bias in HU, and anisotropy of one slice at one number of photons."""
    n = max(hu.shape)
    square = np.full((n, n), -1000, np.float32)
    square[: hu.shape[0], : hu.shape[1]] = hu
    A = Xray(rays(Scan(beam="curved", views=360, fineness=1.0), math.ceil(1.42 * n), voxel), (n, n), voxel)
    p = A(attenuation(torch.from_numpy(square))[None])
    air = physics.air(physics.Beam(photons, ELECTRONIC, 0.5, 0.35 * n * voxel), A.geometry.distances)
    generator = torch.Generator().manual_seed(1)
    scans = [physics.measured(p, air, ELECTRONIC, generator) for _ in range(REPEATS)]
    counts = scans[0].clamp_min(FLOOR)
    errors = [physics.line_integrals(c, air) - p for c in scans]
    image = lambda q: (fbp(q, A, "hann")[0] * (1000 / WATER)).numpy()  # noqa: E731
    bias = ndimage.gaussian_filter(image(sum(errors) / REPEATS), 4)
    body = ndimage.binary_erosion(square > -300, iterations=4)
    noise = image(errors[0])
    along_y, along_x = np.gradient(noise)
    return {
        "lost": float((counts / (counts + ELECTRONIC**2).sqrt() < LOST).float().mean()),
        "lines": drowned(physics.line_integrals(scans[0], air)),
        "noise": float(noise[body].std()),
        "bias": float(np.quantile(np.abs(bias[body]), 0.99)),
        "aniso": float((along_y[body] ** 2).mean() / (along_x[body] ** 2).mean()),
    }


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--folder", default="validation")
    parser.add_argument("--slices", type=int, default=2, help="of each scan")
    options = parser.parse_args()
    told: list[tuple[bool, bool, bool]] = []
    print(f"{'':30} photons    lost   lines  noise / HU  bias / HU  aniso")
    for name, hu, voxel in objects(options.data / options.folder, options.slices):
        for photons in (1e3, 3e3, 1e4, 3e4, 1e5, 3e5):
            m = measured(hu, voxel, photons)
            told.append((m["lost"] > MANY_LOST, m["lines"] > MANY_LOST, m["bias"] > WRONG))
            shown = f"{m['lost']:7.4f} {m['lines']:7.4f}  {m['noise']:10.1f}  {m['bias']:9.1f}  {m['aniso']:5.2f}"
            print(f"{name:30} {photons:7.0f} {shown}", flush=True)
    wrong = sum(t[2] for t in told)
    for k, what in enumerate(("counts", "line integrals")):
        missed, alarms = sum(t[2] and not t[k] for t in told), sum(t[k] and not t[2] for t in told)
        print(f"{what}: bias above {WRONG:g} HU {wrong} of {len(told)}, not told {missed}; told of the others {alarms}")


if __name__ == "__main__":
    main()
