"""The largest eigenvalue of a normal operator: derived from its parts, or found by power iteration."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from recon.kernels.steady import alone
from recon.kernels.vectors import dot
from recon.operators import Chain, Coils, Fourier, Identity, Linear, Sample, Scale, Weight
from recon.operators.sense import Sense
from recon.solve import replay
from recon.solve.cg import rss

#: How far the square of maps of unit root sum of squares may differ from 1 by rounding.
_ROUNDING = 1e-5


def largest_eigenvalue(
    normal: Linear, like: Tensor, *, iterations: int = 30, tolerance: float = 1e-3, ndim: int = 3, seed: int = 0
) -> Tensor:
    """Largest eigenvalue of the self-adjoint, positive operator `normal`, one per problem of the batch.

    Power iteration v ← Nv / ‖Nv‖ from seeded noise, the same for every problem, with the Rayleigh quotient vᴴNv / vᴴv,
    which approaches the eigenvalue from below. `like` has the shape, dtype and device of an image, and its last `ndim`
    axes are one problem. Stops when the relative change of every eigenvalue is at most `tolerance`.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = like.shape[like.ndim - ndim :]
    v = torch.randn(shape, dtype=like.dtype, generator=generator).to(like.device).expand(like.shape).contiguous()
    value = torch.zeros_like(dot(v, v, ndim))
    tiny, wide = torch.finfo(v.real.dtype).tiny, (..., *(None,) * ndim)

    def step(v: Tensor, value: Tensor, done: Tensor) -> replay.State:
        u = normal(v)
        quotient = dot(v, u, ndim) / dot(v, v, ndim).clamp_min(tiny)
        near = ((quotient - value).abs() <= tolerance * quotient).all()
        return u / dot(u, u, ndim).sqrt().clamp_min(tiny)[wide], torch.where(done, value, quotient), done | near

    start = v, value, torch.zeros((), dtype=torch.bool, device=v.device)
    for k, state in enumerate(replay.states(step, start, iterations)):
        _, value, done = state
        if replay.due(k, v.device) and bool(done):
            break
    return value


def squared_norm_bound(A: Linear) -> float | None:
    """An upper bound of ‖A‖² derived from the parts of A, or None if the bound of a part is not known.

    Fourier is unitary; a diagonal operator has max |w|²; coil maps have their largest root sum of squares, squared
    (several sets: the largest eigenvalue of the sets' Gram matrix); and ‖AB‖ ≤ ‖A‖‖B‖. With maps of unit root sum of
    squares and a mask of ones the bound is exactly 1, whatever other problems are in the batch.
    """
    if isinstance(A, Fourier | Identity):
        return 1.0
    if isinstance(A, Scale):
        return float(abs(cast(complex, A.a))) ** 2
    if isinstance(A, Sample | Weight):
        w = A.mask if isinstance(A, Sample) else A.w
        return float(w.detach().abs().max()) ** 2
    if isinstance(A, Coils):
        return _maps_bound(A.maps, A.sets)
    if isinstance(A, Sense):
        return float(A.mask.detach().abs().max()) ** 2 * _maps_bound(A.maps, A.sets)
    if isinstance(A, Chain):
        product = 1.0
        for part in A.ops:
            bound = squared_norm_bound(part)
            if bound is None:
                return None
            product *= bound
        return product
    return None


def _maps_bound(maps: Tensor, sets: bool) -> float:
    bound = _gram_bound(maps.detach(), sets)
    return 1.0 if abs(bound - 1) < _ROUNDING else bound


def _gram_bound(maps: Tensor, sets: bool) -> float:
    if not sets:
        return float(rss(maps, -4).max()) ** 2
    s = maps.movedim((-5, -4), (-1, -2))
    gram = s.mH @ s
    if gram.shape[-1] != 2:
        return float(alone(torch.linalg.eigvalsh, gram)[..., -1].max())
    a, d, b = gram[..., 0, 0].real, gram[..., 1, 1].real, gram[..., 0, 1].abs()
    return float(((a + d) / 2 + torch.hypot((a - d) / 2, b)).max())
