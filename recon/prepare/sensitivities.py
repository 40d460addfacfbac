"""Coil sensitivity maps: the type, the eigenvectors they are made of, and the combination of coil images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.operators import COIL


@dataclass(frozen=True)
class SensitivityMaps:
    """Coil sensitivity maps with unit root-sum-of-squares over coils inside their support and zero outside.

    `maps` is complex64 (..., [set,] coil, z, y, x). `eigenvalues` is float32 (..., [set,] z, y, x): how well a pixel
    agrees with the calibration, 1 for full agreement. `sets` says whether the set axis is present, as in `Coils`.
    """

    maps: Tensor
    eigenvalues: Tensor
    sets: bool = False


def dominant(matrices: Tensor, tolerance: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue and its unit eigenvector of each Hermitian, positive semi-definite matrix.

        P ← P² / tr P² until ‖G v − λ v‖ ≤ tolerance · λ,
        v = the largest column of P,   λ = vᴴ G v

    Shapes: (n, c, c) → (n,) and (n, c). The phase of v makes its largest component real and positive. Repeated squaring
    needs only matrix products, which for small matrices is many times faster than a library's eigenvalue routine.
    """
    count, coils = matrices.shape[:2]
    values = matrices.new_zeros(count, dtype=matrices.real.dtype)
    vectors = matrices.new_zeros(count, coils)
    active: Tensor | None = None
    # A matrix that is zero except for rounding is not Hermitian, and entries may be larger than its trace.
    power = (matrices + matrices.mH) / 2
    scale = _trace(matrices).maximum(torch.view_as_real(matrices).abs().amax((1, 2, 3)))
    for squarings in (3, 2, 2, 2, 2, 2):
        # With unit trace the largest eigenvalue is at least 1/c, so three squarings do not underflow.
        power = power / scale.clamp_min(torch.finfo(values.dtype).tiny)[:, None, None]
        for _ in range(squarings):
            power = power @ power
        original = matrices if active is None else matrices[active]
        column = power.diagonal(dim1=1, dim2=2).real.argmax(1)
        v = power.gather(2, column[:, None, None].expand(-1, coils, 1))
        v = v / _square(v).sqrt().clamp_min(torch.finfo(values.dtype).tiny)[:, None, None]
        moved = original @ v
        value = (v.mH @ moved).real[:, 0, 0]
        wrong = _square(moved - value[:, None, None] * v) > (tolerance * value).square()
        if active is None:
            values, vectors = value, v[..., 0]
        else:
            values[active], vectors[active] = value, v[..., 0]
        if not bool(wrong.any()):
            break
        active = wrong.nonzero()[:, 0] if active is None else active[wrong]
        power = power[wrong]
        scale = _trace(power)
    return values, vectors


def first_coil(data: Tensor) -> Tensor:
    """Weights (coil) of the first principal coil of images or k-space (coil, ...); its largest is real and positive."""
    flat = data.flatten(1)
    return dominant((flat @ flat.mH)[None])[1][0]


def _square(vectors: Tensor) -> Tensor:
    return (vectors.mH @ vectors).real[:, 0, 0]


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).real.sum(1)


def rss(coil_images: Tensor) -> Tensor:
    """Root-sum-of-squares of coil images: (..., coil, z, y, x) → real (..., z, y, x), sqrt(Σ_c |x_c|²)."""
    image: Tensor = torch.linalg.vector_norm(coil_images, dim=COIL)
    return image


def combine(coil_images: Tensor, maps: Tensor) -> Tensor:
    """Optimal combination of fully sampled coil images with white noise: x = Σ_c S_c* x_c / Σ_c |S_c|².

    Both (..., coil, z, y, x) → (..., z, y, x); zero where the maps are.
    Source: Roemer et al., Magn Reson Med 16:192, 1990.
    """
    weight = (maps.real.square() + maps.imag.square()).sum(COIL)
    image = (maps.conj() * coil_images).sum(COIL)
    return torch.where(weight > 0, image / weight.clamp_min(torch.finfo(weight.dtype).tiny), torch.zeros_like(image))
