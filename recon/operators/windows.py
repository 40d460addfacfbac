"""Means and extremes over square windows of pixels; the cost grows with the logarithm of the width."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.operators.derivatives import linear_map

Join = Callable[[Tensor, Tensor], Tensor]


def box(x: Tensor, width: int, *, inside: bool = False) -> Tensor:
    """Mean over `width` × `width` pixels (odd) around each of real images (..., y, x), differentiable.

        x̄(r) = Σ x(r + s) / width²,   |s_y|, |s_x| ≤ width // 2

    with zeros beyond the borders; with `inside` the mean is over the pixels inside the image. NaN and infinity spread
    over the windows that contain them.
    """
    total = _sum(x, width)
    if not inside:
        return total / width**2
    ny, nx = x.shape[-2:]
    return total / (_count(ny, width).to(x)[:, None] * _count(nx, width).to(x))


def highest(x: Tensor, width: int) -> Tensor:
    """Largest value within `width` × `width` pixels (odd) around each of real images (..., y, x)."""
    return _joined(_joined(x, width, -1, torch.maximum, -torch.inf), width, -2, torch.maximum, -torch.inf)


def _sum(x: Tensor, width: int) -> Tensor:
    """Sums over windows with zeros beyond the borders, a map that is its own transpose."""

    def total(v: Tensor) -> Tensor:
        return _joined(_joined(v, width, -1, torch.add, 0), width, -2, torch.add, 0)

    return linear_map(total, total, x)


def _joined(x: Tensor, width: int, axis: int, join: Join, outside: float) -> Tensor:
    """Values within ±width//2 along an axis combined in pairs: spans of 1, 2, 4 … values that add up to `width`."""
    n, half = x.shape[axis], width // 2
    part = F.pad(x, (half, half) if axis == -1 else (0, 0, half, half), value=outside)
    found: Tensor | None = None
    start, span = 0, 1
    while True:
        if width & span:
            piece = part.narrow(axis, start, n)
            found = piece if found is None else join(found, piece)
            start += span
        if 2 * span > width:
            assert found is not None
            return found
        shorter = part.shape[axis] - span
        part = join(part.narrow(axis, 0, shorter), part.narrow(axis, span, shorter))
        span *= 2


def _count(n: int, width: int) -> Tensor:
    """How many of n values in a row are within ±width//2 of each."""
    at, half = torch.arange(n), width // 2
    return (at + half).clamp_max(n - 1) - (at - half).clamp_min(0) + 1
