"""Noise of the slices of a CT series: each slice's own, and what its neighbours show of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.operators.windows import highest
from recon.prepare.image_noise import (
    BELIEVED,
    FLAT,
    STRUCTURED,
    WINDOW,
    ImageNoise,
    deviations,
    from_deviations,
    in_windows,
    mean_in_windows,
    measured,
    soft,
    squared_slopes,
    unmeasured,
)

#: Number of measured slices whose median a slice without a place to measure is compared with, and how far above it may
#: be.
NEAR, ABOVE = 5, 1.3

#: The regression that separates noise from structure in a difference of slices. STEPS: number of iterations. BEYOND:
#: how far above the line, as a share of it, a window has half the weight. EVENLY: relative variance of the slopes below
#: which they carry little information. LEAST: smallest accepted noise, relative to the windows' 10th percentile.
STEPS, BEYOND, EVENLY, LEAST = 8, 0.5, 0.05, 0.5

#: Noise that neighbouring slices share. If less than SAME of the finest band's noise is left in their difference, the
#: slices are copies, or interpolated. If neighbours share noise, about as much is left of the second band; if the slice
#: has structure, far less. Between the ratios AGREE of the two, the correction fades in. EVENEST: share of the windows,
#: those with the smallest slopes relative to their noise, that give the first value.
#: All of these were chosen on slices of `train` and `validation` with added noise (bench/ct_kinds.py).
SAME, AGREE, EVENEST = 0.1, (0.6, 0.85), 0.1


def of_volume(volume: NDArray[np.float32], device: torch.device) -> tuple[list[ImageNoise], tuple[str, ...]]:
    """Noise of the slices (z, y, x) in HU of a series, by `with_neighbours` and `of_series`, and notes."""
    limited = []
    for k in range(len(volume)):
        first = max(0, min(k - 1, len(volume) - 3))
        near = torch.from_numpy(volume[first : first + 3]).to(device)
        image = near[k - first : k - first + 1]
        limited.append(with_neighbours(image, near, measured(image)))
    found, taken = of_series(limited)
    if not taken:
        return found, ()
    return found, (
        f"{taken} of {len(found)} slices have no soft tissue or lung in which noise can be measured, and use "
        "the noise of their neighbours",
    )


def of_series(slices: Sequence[ImageNoise]) -> tuple[list[ImageNoise], int]:
    """Noise of the slices of one series, each (1,), and how many were given that of their neighbours.

    A skull without brain, an arm, or a table has no place where noise could be distinguished from edges, which are ten
    to a hundred times as strong. If such a slice seems noisier by ABOVE than the median of the NEAR sure slices next to
    it, it takes level and texture of the one with the median level.
    """
    sure = [k for k, s in enumerate(slices) if bool(s.sure.all())]
    out, taken = list(slices), 0
    for k, own in enumerate(slices):
        near = sorted(sure, key=lambda i: abs(i - k))[:NEAR]
        if bool(own.sure.all()) or not near:
            continue
        middle = slices[sorted(near, key=lambda i: float(slices[i].level))[len(near) // 2]]
        if float(own.level) > ABOVE * float(middle.level):
            out[k], taken = middle, taken + 1
    return out, taken


def with_neighbours(image: Tensor, near: Tensor, own: ImageNoise) -> ImageNoise:
    """Noise of a slice (1, y, x), from its estimate `own` and from the neighbours `near` (n, y, x), n ≤ 3.

        (x₁ − 2x₂ + x₃) / √6,   of two slices (x₁ − x₂) / √2

    If the noise of the slices is independent, this difference has the noise of one slice. Of the anatomy it contains
    only the curvature from slice to slice, which is largest where the image is steep. In a window its variance is
    modelled as σ² + β·S (`without_slopes`), with S the squared slopes of the slices' mean without those of the noise.

    Noise that neighbours share (overlapping or interpolated slices) cancels in the difference, so the level is divided
    by the share that is left of the finest band. The slice keeps `own` if it has no neighbour, if fewer than FLAT
    windows count, if the slices are copies, or if the result is not below BELIEVED of it.
    """
    if len(near) < 2:
        return own
    x, weights = image.float()[:, None], near.new_tensor([1.0, -2.0, 1.0] if len(near) == 3 else [1.0, -1.0])
    apart = (near.float() * weights[:, None, None] / weights.norm()).sum(0)[None, None]
    # Windows that contain the edge of a padded region or of clipped air show that edge instead of noise.
    whole = highest(unmeasured(image)[0].float(), WINDOW)[4:-4:2, 4:-4:2] == 0
    windows = soft(mean_in_windows(x)[0, 0]) & whole
    if int(windows.sum()) < FLAT:
        return own
    alone, differ = (in_windows(windows, deviations(v)) for v in (x, apart))
    steep, noise = in_windows(windows, [squared_slopes(near.float().mean(0)[None, None]), squared_slopes(apart)])
    # Noise varies over the body, as slopes do. So the share of the noise that is left in the difference is read first
    # from the windows with the smallest slopes relative to their noise; then from all windows, with slopes corrected
    # for the noise that was found first.
    least = steep / differ[0].square().clamp_min(1e-12)
    left = _left((differ / alone.clamp_min(1e-6))[:, least <= least.quantile(EVENEST)].quantile(0.5, dim=1))
    if left > 0:
        anatomy = steep - noise * _in_mean(left**2, len(near))
        left = _left(without_slopes(differ, anatomy) / without_slopes(alone, anatomy).clamp_min(1e-6))
    if left == 0:
        return own
    flat, most = without_slopes(differ, steep - noise * _in_mean(left**2, len(near))), BELIEVED * float(own.level)
    found = from_deviations(flat[None], own.level.shape)
    if float(found.level) >= left * most:
        return own
    return ImageNoise(found.level / left, found.texture, own.sure)


def _left(ratios: Tensor) -> float:
    """Share of one slice's noise that is left in the difference, from the ratios (1 + BANDS,); 0 for copies."""
    _, fine, coarser, _ = ratios.tolist()
    agree = min(1.0, max(0.0, (coarser / max(fine, 1e-6) - AGREE[0]) / (AGREE[1] - AGREE[0])))
    return float(min(1.0, fine**agree)) if fine >= SAME else 0.0


def _in_mean(apart: float, slices: int) -> float:
    """Noise variance of the mean of neighbouring slices, relative to that of their difference.

    `apart` is the variance of the difference relative to one slice. The correlation r of neighbours is assumed to fall
    linearly with distance: for three slices the difference has 1 − 4r/3 and the mean (3 + 4r)/9 up to r = ½, and
    (2 − 2r)/3 and (1 + 8r)/9 beyond.
    """
    if slices == 2:
        return (1 - apart / 2) / apart
    return ((2 - apart) / 3 if apart > 1 / 3 else 1 - 4 * apart / 3) / apart


def without_slopes(found: Tensor, slopes: Tensor) -> Tensor:
    """Low quantile of each deviation `found` (1 + BANDS, window) at zero slope: the σ² of its square σ² + β·S.

    Robust regression with relative errors over the windows with the smallest slopes; windows far above the line have
    less weight.
    """
    plain = slopes <= slopes.quantile(1 - STRUCTURED)
    square, steep = found[:, plain].square(), slopes[plain].clamp_min(0)
    steep = steep / steep.mean().clamp_min(1e-12)
    lowest = square.quantile(0.1, dim=1, keepdim=True) * LEAST**2
    level, slope = square.quantile(1 - STRUCTURED, dim=1, keepdim=True), torch.zeros_like(lowest)
    for _ in range(STEPS):
        line = (level + slope * steep).clamp_min(1e-9)
        weight = line**-2 / (1 + ((square / line - 1).clamp_min(0) / BEYOND).square())
        weight = weight / weight.sum(1, keepdim=True)
        mean, middle = ((weight * v).sum(1, keepdim=True) for v in (square, steep))
        spread = (weight * (steep - middle).square()).sum(1, keepdim=True) + EVENLY * middle.square() + 1e-12
        slope = ((weight * (steep - middle) * square).sum(1, keepdim=True) / spread).clamp_min(0)
        level = mean - slope * middle
        through = (weight * steep * (square - lowest)).sum(1, keepdim=True) / (weight * steep.square()).sum(1, True)
        slope, level = torch.where(level < lowest, through, slope), torch.maximum(level, lowest)
    share = level / (level + slope * steep).clamp_min(1e-9)
    return (square * share).quantile(1 - STRUCTURED, dim=1).sqrt()
