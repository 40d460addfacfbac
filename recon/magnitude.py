"""Denoising of MRI magnitude images: A = I, noise estimated from each image, the same solver as for other scans."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.data import DataError, Measurement
from recon.job import provenance
from recon.operators import Identity
from recon.prepare import magnitude_noise
from recon.recipe import Recipe
from recon.solve import pdhg

#: Weight of total variation in units of the recipe's `solve.tv`: chosen on three contrasts of the validation data, at
#: signal-to-noise ratios from 10 to 40.
TV_WEIGHT = 1.2
TV_ITERATIONS = 80


@dataclass(frozen=True, eq=False)
class Cleaned:
    """Magnitude images (z, y, x) with less noise, and a record of the processing.

    `sigma` is the noise of each slice before, `filled` the share of k-space along y and x that was measured.
    """

    data: NDArray[np.float32]
    sigma: tuple[float, ...]
    filled: tuple[float, float]
    record: dict[str, Any]


def denoise(images: NDArray[Any], recipe: Recipe) -> Cleaned:
    """(1 − s)·y + s·x̂, x̂ = argmin ½‖x − y‖² + λσ TV(x), for each slice of magnitudes y (z, y, x).

    s is the recipe's `images.denoise`, λ = TV_WEIGHT · `solve.tv`, and σ is the noise of the slice in places with
    signal. An image that its scanner zero-filled in k-space is denoised on the measured grid, where its noise is white;
    finer frequencies are unchanged.

    The noise of a magnitude is Rician: where there is little signal, its mean is above the signal. Means are kept, as
    in averaging of magnitude images: a correction would need to know how many coils were combined, and how, which an
    image does not state (H. Gudbjartsson and S. Patz, Magn. Reson. Med. 34 (1995) 910). Raises DataError for values
    that cannot be magnitudes, and if no noise can be measured.
    """
    started = datetime.now(timezone.utc)
    full = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    if not bool(torch.isfinite(full).all()) or bool((full < 0).any()):
        raise DataError(
            "the image holds negative, NaN or infinite values, so it is not a magnitude image; send magnitude images"
        )
    filled = magnitude_noise.filled(full)
    small = magnitude_noise.resized(full, magnitude_noise.measured(full.shape, filled))
    sigma = magnitude_noise.level(small).tolist()
    if not any(sigma):
        raise DataError(
            "no noise can be measured in the image: it is too small, masked or noise-free; set images.denoise = 0"
        )
    change = torch.zeros_like(small)
    for k, s in enumerate(sigma):
        if s > 0:
            m = Measurement(small[k] / s, Identity(), 1.0)
            lam = TV_WEIGHT * recipe.solve.tv
            x = pdhg.tv(m, lam=lam, iterations=TV_ITERATIONS, axes=(-2, -1), balance=1.0, ndim=2).x
            change[k] = x * s - small[k]
    out = (full + recipe.images.denoise * magnitude_noise.resized(change, full.shape[-2:])).clamp_min(0)
    how = {
        **provenance(recipe, torch.device("cpu"), started),
        "method": "tv",
        "why": "tv: the scanner's image, denoised",
        "strength": recipe.images.denoise,
        "noise": [round(s, 4) for s in sigma],
        "measured_share": [round(f, 3) for f in filled],
    }
    return Cleaned(out.numpy(), tuple(sigma), filled, how)
