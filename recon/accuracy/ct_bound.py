"""How close to a reference any method can come, because the reference has noise of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from recon.accuracy.ct_measures import RANGE, Slices
from recon.operators.windows import box
from recon.prepare.image_noise import octaves

#: In order: mean HU of homogeneous soft tissue; share of the body that counts as edges; window in which noise is
#: measured there; share of such windows that are assumed to show noise alone.
SOFT, STEEP, WINDOW, LOWEST = (-200.0, 250.0), 0.15, 7, 0.1
#: Fewest pixels of homogeneous soft tissue for an answer.
FEW = 200
#: Own over added noise below which a reference counts as noise-free.
NONE = 0.01


@dataclass(frozen=True)
class Bound:
    """PSNR in dB of the best image against a noisy reference, of one without any noise, and own over added noise."""

    best: float
    noiseless: float
    own: float


def bound(noisy: Slices, reference: Slices) -> Bound | None:
    """The result for a perfect image of the slices (z, y, x) in HU; None if no noise can be measured.

        ‖E(r | t, y) − r‖² = Σ_b σ_b² ρ_b² / (1 + ρ_b²),   ‖t − r‖² = Σ_b σ_b² ρ_b²

    with r = t + own noise, y = r + added noise of power σ_b² in octave b, and ρ_b the ratio of own to added noise,
    measured in homogeneous soft tissue and assumed equal in all of the body. No denoiser can do better on average. PSNR
    is over the body, as in `ct_measures.errors`.
    """
    body, soft = reference > -900, even(reference)
    if soft.sum() < FEW:
        return None
    added = noisy - reference
    own, new = (octaves(torch.from_numpy(np.ascontiguousarray(v, np.float32))) for v in (reference, added))
    # Octaves overlap; their covariances with the whole add up to its variance.
    power = np.array([np.mean((b.numpy() * added)[body], dtype=np.float64) for b in new])
    ratio = np.array([_lowest(r, soft) / max(_lowest(n, soft), 1e-6) for r, n in zip(own, new)])
    if ratio[0] < NONE:
        return None
    # The last one contains everything coarser, where a reference shows anatomy and no noise could be measured.
    ratio[-1] = ratio[-2]
    share = power / power.sum()
    came = float(np.square(added[body]).mean(dtype=np.float64))
    best, noiseless = (float((share * v).sum()) for v in (ratio**2 / (1 + ratio**2), ratio**2))
    return Bound(_psnr(came * best), _psnr(came * noiseless), math.sqrt(noiseless))


def even(reference: Slices) -> np.ndarray:
    """Soft tissue of slices (z, y, x) away from the steepest places of the body."""
    body = reference > -900
    smooth = np.stack([ndimage.gaussian_filter(x, 1.0) for x in reference])
    slope = np.stack([np.hypot(*np.gradient(x)) for x in smooth])
    steep = (slope > np.quantile(slope[body], 1 - STEEP)) if body.any() else body
    near = np.stack([ndimage.binary_dilation(x) for x in steep & body])
    return np.asarray(body & ~near & (smooth > SOFT[0]) & (smooth <= SOFT[1]))


def _lowest(x: torch.Tensor, where: np.ndarray) -> float:
    """What all but the LOWEST share of local deviations of slices (z, y, x) exceed: noise, in homogeneous tissue."""
    local = box((x - box(x, WINDOW, inside=True)).square(), WINDOW, inside=True).sqrt().numpy()
    return float(np.quantile(local[where], LOWEST))


def _psnr(square: float) -> float:
    return 20 * math.log10(RANGE) - 10 * math.log10(max(square, 1e-12))
