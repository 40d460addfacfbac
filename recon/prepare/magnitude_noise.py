"""Noise level of an MRI magnitude image and the measured part of its k-space, both estimated from the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Median of |x| of a Gaussian of unit standard deviation.
_MEDIAN = 0.6745
#: Standard deviation of the magnitude of pure noise: √(2 − π/2).
_RAYLEIGH = math.sqrt(2 - math.pi / 2)
#: Pixels with signal that are needed to measure the noise.
_ENOUGH = 400
#: Local mean, in σ, above which the noise of a magnitude is taken to be Gaussian.
_SIGNAL = 4.0
#: Drop in power at the edge of the measured part, and the smallest share of an axis that may have been measured.
_FALL, _LEAST = 4.0, 0.35


def level(image: Tensor) -> Tensor:
    """Standard deviation σ (z,) of the noise of a complex image's real part, from magnitudes (z, y, x); 0 if unknown.

        σ = median |d| / (6 · 0.6745),   d = m ∗ (1, −2, 1)ᵀ(1, −2, 1)

    over pixels whose mean is above 4σ: there the noise of a magnitude is Gaussian with the same σ. If there are almost
    no such pixels, all are used as noise without signal, whose deviation is smaller by √(2 − π/2). Pixels that are 0
    were masked by the scanner and are ignored. (J. Immerkær, Comput. Vis. Image Underst. 64 (1996) 300.)
    """
    return torch.tensor([_level(x) for x in image.double()])


def _level(x: Tensor) -> float:
    if min(x.shape) < 3:
        return 0.0
    parts = x.unfold(0, 3, 1).unfold(1, 3, 1)
    second = torch.tensor([1.0, -2.0, 1.0], dtype=x.dtype)
    detail, mean = (parts @ second @ second).abs() / 6, parts.mean((-2, -1))
    least = parts.amin((-2, -1))
    shown = least > 0
    if int(shown.sum()) < _ENOUGH:
        return 0.0
    sigma = float(detail[shown].median()) / _MEDIAN / _RAYLEIGH
    for _ in range(4):
        bright = (mean > _SIGNAL * sigma) & (least > _SIGNAL / 2 * sigma)  # edges to air are not noise
        if int(bright.sum()) < _ENOUGH:
            break
        sigma = float(detail[bright].median()) / _MEDIAN
    return sigma


def filled(image: Tensor) -> tuple[float, float]:
    """The share of k-space along y and x that was measured in images (z, y, x); the rest was filled with zeros.

    Along each axis the largest drop of the median power is searched for; a drop by less than a factor of 4 does not
    count. Taking magnitudes spreads a little power into the empty part, mostly where there is no signal. The share is 1
    if everything was measured.
    """
    power = torch.fft.fft2(image.double()).abs().square().mean(0)
    # Only across the middle of the other axis, since the ends of that axis may be empty themselves.
    return _share(_inner(power, 1).median(1).values), _share(_inner(power, 0).median(0).values)


def _inner(power: Tensor, axis: int) -> Tensor:
    n = power.shape[axis]
    part = max(1, int(n * _LEAST) // 2)
    if n < 4:
        return power
    return torch.cat([power.narrow(axis, 1, part), power.narrow(axis, n - part, part)], axis)


def _share(spectrum: Tensor) -> float:
    n = len(spectrum)
    half = torch.minimum(spectrum[: n // 2 + 1], torch.cat([spectrum[:1], spectrum.flip(0)[: n // 2]]))
    logs = half.clamp_min(max(float(half.max()) * 1e-14, 1e-300)).log()
    width = max(3, len(logs) // 24)
    best, place = math.log(_FALL), len(logs)
    for edge in range(int(_LEAST * len(logs)) + width, len(logs) - width):
        fall = float(logs[edge - width : edge].median() - logs[edge : edge + width].median())
        if fall > best:
            best, place = fall, edge
    return place / len(logs)


def measured(shape: Sequence[int], share: tuple[float, float]) -> list[int]:
    """Sizes along y and x of the grid that holds the given share of an image's k-space."""
    # Odd sizes have no unpaired highest frequency, so the image stays real.
    return [n if s >= 1 else max(1, int(n * s) // 2 * 2 - 1) for n, s in zip(shape[-2:], share)]


def resized(image: Tensor, sizes: Sequence[int]) -> Tensor:
    """The real image (z, y, x) on a coarser or finer grid, by cropping or zero-filling its k-space; values are kept.

    If the coarser grid has odd sizes, the two directions are inverses of each other for what that grid can represent.
    """
    if tuple(sizes) == tuple(image.shape[-2:]):
        return image
    spectrum = torch.fft.fft2(image)
    for axis, n in zip((-2, -1), sizes):
        old = spectrum.shape[axis]
        low, high = (min(n, old) + 1) // 2, min(n, old) // 2
        shape = list(spectrum.shape)
        shape[axis] = n - low - high
        ends = spectrum.narrow(axis, 0, low), spectrum.narrow(axis, old - high, high)
        spectrum = torch.cat([ends[0], spectrum.new_zeros(shape), ends[1]], axis)
    scale = sizes[0] * sizes[1] / (image.shape[-2] * image.shape[-1])
    out: Tensor = torch.fft.ifft2(spectrum).real * scale
    return out
