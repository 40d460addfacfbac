"""K-space of a body whose noise is known: exact ellipses, white noise, and what a whitening matrix makes of it."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy.special import j1
from torch import Tensor


def white(*shape: int) -> Tensor:
    """Complex noise with σ = 1 per real and imaginary part."""
    return torch.view_as_complex(torch.randn(*shape, 2))


def mixing(coils: int) -> Tensor:
    """A matrix that correlates the noise of coils and gives them different levels."""
    return torch.diag(torch.linspace(0.5, 3, coils)).to(torch.complex64) + 0.3 * white(coils, coils)


@cache
def _ellipses(ny: int, nx: int, coils: int, span: float) -> Tensor:
    """Exact k-space (ky, coil, kx) of a few ellipses under smooth coils; the field of view along x is 1 / span."""
    rng = np.random.default_rng(0)
    ky, kx = np.meshgrid(np.arange(ny) - ny // 2, (np.arange(nx) - nx // 2) * span, indexing="ij")
    shapes = [(0, 0, 0.42, 0.3, 1.0), (0, 0, 0.39, 0.27, -0.6)]
    shapes += [
        (*rng.uniform(-0.2, 0.2, 1), *rng.uniform(-0.15, 0.15, 1), *rng.uniform(0.02, 0.1, 2), rng.uniform(0.2, 0.6))
        for _ in range(8)
    ]
    out = np.zeros((coils, ny, nx), complex)
    for c in range(coils):
        waves = [
            (0, 0, 1),
            (0.5, 0, 0.3 * np.exp(1j * c)),
            (0, 0.5, 0.3 * np.exp(2j * c)),
            (0, -0.5, 0.2 * np.exp(-1j * c)),
        ]
        for dy, dx, amplitude in waves:
            for y, x, ry, rx, value in shapes:
                r = 2 * np.pi * np.hypot((ky - dy) * ry, (kx - dx) * rx)
                disc = np.where(r < 1e-9, 0.5, j1(r) / np.maximum(r, 1e-9)) * 2 * np.pi * ry * rx
                out[c] += amplitude * value * disc * np.exp(-2j * np.pi * ((ky - dy) * y + (kx - dx) * x))
    return torch.as_tensor(out * np.sqrt(ny * nx * span)).to(torch.complex64).transpose(0, 1).contiguous()


def ellipses(ny: int, nx: int, coils: int, span: float = 1.0) -> Tensor:
    return _ellipses(ny, nx, coils, span).clone()


def levels(matrix: Tensor) -> Tensor:
    """Noise σ per real and imaginary part of each coil that a whitening matrix believes in."""
    inverse = torch.linalg.inv(matrix)
    return (inverse @ inverse.mH).diagonal().real.sqrt()
