"""SIRT: simultaneous iterative reconstruction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recon.data import Measurement
from recon.kernels.vectors import dot
from recon.solve.cg import Solution


def sirt(
    measurement: Measurement,
    *,
    x0: Tensor | None = None,
    iterations: int = 100,
    nonnegative: bool = True,
    relaxation: float = 1.0,
    ndim: int = 3,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """x⁺ = P(x + ω C Aᵀ R (y − Ax)),   R = 1 / (A 1),  C = 1 / (Aᵀ 1),   P onto x ≥ 0.

    For operators with non-negative entries. It minimises (y − Ax)ᵀ R (y − Ax), starting from `x0` (zero), for 0 < ω <
    2. Its iterates go from smooth to sharp, so `iterations` regularises. Weights in A weight the rays. Pixels that no
    ray crosses keep their value. Solution.residual is ‖R^½ (y − Ax)‖ / ‖R^½ y‖ before the last step. (P. Gilbert, J
    Theor Biol 36:105, 1972; A. H. Andersen and A. C. Kak, Ultrason Imaging 6:81, 1984.)
    """
    A, y = measurement.A, measurement.y
    b = A.adjoint(y)
    one = torch.ones_like(b)
    rows, columns = A(one), A.adjoint(torch.ones_like(y))
    R, C = _inverse(rows), relaxation * _inverse(columns)
    x = torch.zeros_like(b) if x0 is None else x0.expand(b.shape).clone()
    keep = y.ndim - (b.ndim - ndim)
    scale = dot(y, R * y, keep).clamp_min(torch.finfo(y.dtype).tiny)
    residual = torch.ones_like(scale)
    for k in range(iterations):
        r = y - A(x)
        residual = (dot(r, R * r, keep) / scale).clamp_min(0).sqrt()
        x = x + C * A.adjoint(R * r)
        x = x.clamp_min(0) if nonnegative else x
        if callback is not None:
            callback(k, x)
    return Solution(x, torch.full(residual.shape, iterations, device=x.device), residual)


def _inverse(t: Tensor) -> Tensor:
    """1 / t, and 0 for almost zero: rays that graze a corner, pixels that are hardly seen."""
    small = 1e-4 * float(t.max()) + torch.finfo(t.dtype).tiny
    return torch.where(t > small, 1 / t.clamp_min(small), torch.zeros_like(t))
