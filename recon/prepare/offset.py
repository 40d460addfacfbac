"""A constant that a receiver adds to all of its samples: a bright dot, and its aliases, in the middle of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.prepare.hybrid import Slab
from recon.prepare.readout import to_hybrid

#: Power of the dot over that of all else around it, from which on it may be an offset.
ABOVE = 2.0
#: Voxels along ky on either side of the dot that it is compared with, at every column but its own.
AROUND = 12
#: Most that two halves of the outer lines may tell apart, as a share of the offset's power, beyond this many times what
#: noise does; and most that its channels may have in common with those of the tissue beneath, which detail of it has.
APART, BY_NOISE, ALIKE = 0.1, 4.0, 0.95
#: Lines, and samples of them, from which on there is something to tell it by; lines that are looked at, at most.
LEAST, MOST = 16, 1024


@dataclass(frozen=True, eq=False)
class Offset:
    """The constant of each coil (coil,), and what it is in the readouts of a slab (x,): F⁻¹ of the samples acquired."""

    constant: Tensor
    profile: Tensor

    @property
    def size(self) -> float:
        """Root mean square over the coils, of whitened lines in units of the noise per real and imaginary part."""
        return float(self.constant.abs().square().mean().sqrt() / 2**0.5)


def offset(slab: Slab) -> Offset | None:
    """The constant c (coil,) that all samples of a slab (coil, kz, ky, x) have in common; None where none stands out.

        c = mean over the outer lines of y(x₀) / p(x₀),   p = F⁻¹ of the readout's samples that were acquired

    The outer lines are the half farthest from the centre of k-space, where signal is weakest. All that they hold of the
    object in the middle voxel is its fine detail. An offset is what adds up to a dot there, of twice the power of the
    detail around it, is the same in both halves of these lines (fine detail fades outwards) and on either side of the
    centre, and has other weights in the channels than the tissue beneath. What is weaker stays: it is no more than
    twice the detail or noise of a voxel.
    """
    coils, nz, ny, nx = slab.y.shape
    kz, ky = (slab.counts > 0).nonzero(as_tuple=True)
    if len(ky) < LEAST or nx < LEAST:
        return None
    x0, p = nx // 2, to_hybrid(slab.columns.to(torch.complex64), nx)
    order = (((ky - ny // 2) / ny).square() + ((kz - nz // 2) / nz).square()).argsort(stable=True)
    inner, outer = order[: len(order) // 2], order[len(order) // 2 :]
    some = outer[:: -(-len(outer) // MOST)]
    if not _dot(slab.y[:, kz[some], ky[some]], ky[some] - ny // 2, ny, p):
        return None
    middle = slab.y[..., x0].to("cpu", torch.complex128)
    told = middle[:, kz[outer], ky[outer]] / complex(p[x0])
    c = told.mean(1)
    if not _even(told, ky[outer] - ny // 2, c):
        return None
    tissue = middle[:, kz[inner], ky[inner]].sum(1) - len(inner) * complex(p[x0]) * c
    if coils > 1 and _alike(tissue, c) > ALIKE:
        return None
    return Offset(c.to(slab.y.dtype), p)


def subtract(slab: Slab, found: Offset) -> None:
    """Take an offset from the samples of a slab that were measured, in place: a volume has no room for a copy."""
    there = (slab.counts > 0).to(slab.y.device)
    for x in (found.profile.abs() > 1e-6 * found.profile.abs().max()).nonzero()[:, 0].tolist():
        constant = (found.constant * found.profile[x]).to(slab.y.device)
        slab.y[..., x] -= constant[:, None, None] * there


def _dot(y: Tensor, ky: Tensor, ny: int, p: Tensor) -> bool:
    """Whether the outer lines (coil, line, x) add up to ABOVE times as much in the middle as elsewhere around it."""
    turns = torch.arange(-AROUND, AROUND + 1)[:, None] * ky / ny
    waves = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(y.device)
    power = torch.matmul(waves, y).abs().square().sum(0)  # (2 AROUND + 1, x)
    middle = y.shape[-1] // 2
    beside = (p.abs() < 0.2 * p[middle].abs()).to(y.device)
    return bool(beside.any()) and bool(power[AROUND, middle] > ABOVE * power[:, beside].max())


def _even(told: Tensor, ky: Tensor, c: Tensor) -> bool:
    """Whether halves of the lines (coil, line), which are in order of their distance, tell the same constant."""
    n, low = told.shape[1] // 2, ky < 0
    pairs = [(told[:, :n], told[:, n:])]
    if min(int(low.sum()), int((~low).sum())) >= LEAST // 4:
        pairs.append((told[:, low], told[:, ~low]))
    most = APART * float(c.abs().square().sum())

    def noise(t: Tensor) -> float:
        return float((t - t.mean(1, keepdim=True)).abs().square().mean(1).sum()) / t.shape[1]

    return all(
        float((a.mean(1) - b.mean(1)).abs().square().sum()) < most + BY_NOISE * (noise(a) + noise(b)) for a, b in pairs
    )


def _alike(a: Tensor, b: Tensor) -> float:
    """|⟨a, b⟩|² / (‖a‖² ‖b‖²): 1 where the weights of two sources in the channels are the same."""
    return float(torch.vdot(a, b).abs() ** 2 / (a.norm() * b.norm()).square().clamp_min(1e-300))
