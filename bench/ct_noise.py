"""How well the noise estimated from a CT image agrees with the noise that was added to it.

    python bench/ct_noise.py

Noise of projections at known doses and with known spectra is added to the analytic phantom, which has none, and to
validation slices, whose own noise is included by its share (the estimate of the original slice, in quadrature). The
truth is the robust standard deviation of the added noise over soft tissue. Printed is estimate / truth: 1 is right.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from recon.accuracy import ct
from recon.io.read import read
from recon.prepare import image_noise
from recon.simulation import ct_phantom

#: Spectra of noise |f|^a · exp(−(f/c)²): name, a, c in cycles per pixel.
SPECTRA = (("white", 0.0, 9.0), ("sharp", 0.5, 0.6), ("standard", 0.5, 0.3), ("smooth", 0.5, 0.18))
LEVELS = (5.0, 20.0, 60.0, 150.0, 250.0)


def coloured(shape: tuple[int, ...], power: float, cut: float, seed: int) -> np.ndarray:
    """Stationary noise (..., y, x) of unit standard deviation."""
    white = np.random.default_rng(seed).standard_normal(shape)
    f = np.hypot(np.fft.fftfreq(shape[-2])[:, None], np.fft.rfftfreq(shape[-1]))
    noise = np.fft.irfft2(np.fft.rfft2(white) * f**power * np.exp(-((f / cut) ** 2)), s=shape[-2:])
    return (noise / noise.std()).astype(np.float32)


def subjects(data: Path, count: int) -> Iterator[tuple[str, np.ndarray, float, bool]]:
    """Name, slices in HU, pixel size in mm, and whether they have noise of their own."""
    yield "phantom", ct_phantom.picture(ct_phantom.BODY, 320, 380 / 320).float().numpy()[None], 380 / 320, False
    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        x, voxel = ct.chosen(read(path), count)  # type: ignore[arg-type]
        yield path.name.split(".")[0], x, voxel, True


def measured(name: str, x: np.ndarray, added: np.ndarray, own: np.ndarray, what: str, by: dict[str, Callable]) -> None:
    """Print how each estimate compares with the truth."""
    soft = (x > -200) & (x < 250)
    truth = [np.hypot(1.4826 * np.median(np.abs(a[s])), o) for a, s, o in zip(added, soft, own)]
    for label, found in by.items():
        ratio = found(torch.from_numpy((x + added).astype(np.float32))).numpy() / np.array(truth)
        shown = " ".join(f"{r:5.2f}" for r in ratio)
        print(f"{name:26} {what:22} {np.mean(truth):6.1f} HU  {label:10} {shown}", flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=3, help="of each scan")
    options = parser.parse_args()
    by: dict[str, Callable] = {"measured": lambda v: image_noise.measured(v).level}
    for name, x, voxel, noisy in subjects(options.data, options.slices):
        own = image_noise.measured(torch.from_numpy(x)).level.numpy() if noisy else np.zeros(len(x))
        for n, (kind, power, cut) in enumerate(SPECTRA):
            for level in LEVELS:
                measured(name, x, level * coloured(x.shape, power, cut, n), own, f"{kind} {level:g}", by)
        for dose in (0.25, 0.1, 0.05):
            made = ct.low_dose(x, voxel, dose, 0, photons=ct.own_dose(x, voxel, "parallel") if noisy else 0.0)
            measured(name, x, made - x, own, f"projections {dose:g}", by)


if __name__ == "__main__":
    main()
