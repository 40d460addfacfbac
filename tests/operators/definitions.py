"""Linear operators as matrices, entry by entry from their definitions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DOUBLE = torch.complex128


def dft(n: int) -> Tensor:
    k = torch.arange(n, dtype=torch.float64) - n // 2
    angle = -2 * math.pi * torch.outer(k, k) / n
    return torch.polar(torch.full_like(angle, n**-0.5), angle)


def product(*factors: Tensor) -> Tensor:
    out = torch.ones(1, 1, dtype=DOUBLE)
    for f in factors:
        out = torch.kron(out, f.to(DOUBLE).resolve_conj().contiguous())
    return out


def eye(*shape: int) -> Tensor:
    return torch.eye(math.prod(shape), dtype=DOUBLE)


def diagonal(w: Tensor, *shape: int) -> Tensor:
    return torch.diag(w.to(DOUBLE).expand(shape).flatten())


def spread(maps: Tensor) -> Tensor:
    """Maps ([set,] coil, z, y, x): blocks of diagonals, a row for each coil, a column for each set."""
    sets = maps if maps.ndim == 5 else maps[None]
    columns = [torch.cat([torch.diag(coil.flatten()) for coil in one]) for one in sets]
    return torch.cat(columns, 1)


def waves(k: Tensor, grid: tuple[int, ...]) -> Tensor:
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) / n for n in grid]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(grid))
    angle = -2 * math.pi * (k.reshape(-1, len(grid)) @ at.T)
    return torch.polar(torch.full_like(angle, math.prod(grid) ** -0.5), angle)


def difference(n: int) -> Tensor:
    d = torch.diag(torch.ones(n - 1), 1) - torch.eye(n)
    d[-1] = 0
    return d


def haar(n: int) -> Tensor:
    """One level: sums of pairs, then differences of pairs, over √2."""
    pairs = torch.arange(n // 2)
    w = torch.zeros(n, n, dtype=torch.float64)
    w[pairs, 2 * pairs] = w[pairs, 2 * pairs + 1] = w[n // 2 + pairs, 2 * pairs] = 0.5**0.5
    w[n // 2 + pairs, 2 * pairs + 1] = -(0.5**0.5)
    return w
