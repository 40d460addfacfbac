"""Detection and removal of a constant that the receiver adds to all samples: a bright dot, with aliases, in the middle
of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.masks import central_block
from recon.prepare.hybrid import Slab
from recon.prepare.readout import to_hybrid

#: Power of the dot, relative to everything around it after removal, above which it may be an offset.
ABOVE = 2.0
#: Voxels along ky on either side with which the dot is compared.
AROUND = 12
#: In order: largest deviation between a part of the outer lines and all of them, as a share of the offset's power,
#: beyond BY_NOISE times the expected noise; and largest similarity (squared correlation) to the channel weights of the
#: tissue at the same place. Fine detail of the tissue has the tissue's weights, an offset has others. They count as
#: different if the remainder also exceeds BY_NOISE times the noise.
APART, BY_NOISE, ALIKE = 0.03, 4.0, 0.97
#: Fewest lines, and fewest of their samples, that allow a decision; and the most lines that are examined.
LEAST, MOST = 16, 1024


@dataclass(frozen=True, eq=False)
class Offset:
    """The constant of each coil (coil,), and its profile along the readout (x,): F⁻¹ of the acquired samples."""

    constant: Tensor
    profile: Tensor

    @property
    def size(self) -> float:
        """Root mean square over the coils of whitened lines, in units of the noise per real and imaginary part."""
        return float(self.constant.abs().square().mean().sqrt() / 2**0.5)


def offset(slab: Slab) -> Offset | None:
    """The constant c (coil,) that all samples of a slab (coil, kz, ky, x) share; None if none is found.

        c = mean over the outer lines of y(x₀) / p(x₀),
        p = F⁻¹ of the readout's samples that were acquired

    The outer lines are the half farthest from the centre of k-space, where signal is weakest: in the middle voxel they
    contain only fine detail of the object. A constant counts as an offset if all of the following hold. It adds up to a
    dot with at least twice the power of the detail that remains around it without it (edges of a tube lie on either
    side of its middle). It is the same in all quarters of these lines, whereas fine detail fades outwards, and on both
    sides of the centre. Its channel weights differ from those of the tissue beneath, taken from the contiguous lines
    around the centre. Weaker offsets remain; they are at most twice the detail or noise of a voxel.
    """
    coils, nz, ny, nx = slab.y.shape
    kz, ky = (slab.counts > 0).nonzero(as_tuple=True)
    if len(ky) < LEAST or nx < LEAST:
        return None
    x0, p = nx // 2, to_hybrid(slab.columns.to(torch.complex64), nx)
    order = (((ky - ny // 2) / ny).square() + ((kz - nz // 2) / nz).square()).argsort(stable=True)
    outer = order[len(order) // 2 :]
    some = outer[:: -(-len(outer) // MOST)]
    y = slab.y[:, kz[some], ky[some]]
    if not _dot(y, ky[some] - ny // 2, ny, p):
        return None
    middle = slab.y[..., x0].to("cpu", torch.complex128) / complex(p[x0])
    told = middle[:, kz[outer], ky[outer]]
    c = told.mean(1)
    # The column that holds least, since columns of air hold only noise; the median of the lines, since sparks affect
    # few.
    noise = float(y.abs().square().sum(0).median(0).values.min()) / abs(complex(p[x0])) ** 2
    if not _even(told, ky[outer] - ny // 2, c):
        return None
    if coils > 1 and not _differs(middle, slab.counts > 0, c, noise, len(outer)):
        return None
    return Offset(c.to(slab.y.dtype), p)


def subtract(slab: Slab, found: Offset) -> None:
    """Subtract an offset from the measured samples of a slab, in place, because memory may not hold a copy."""
    there = (slab.counts > 0).to(slab.y.device)
    for x in (found.profile.abs() > 1e-6 * found.profile.abs().max()).nonzero()[:, 0].tolist():
        constant = (found.constant * found.profile[x]).to(slab.y.device)
        slab.y[..., x] -= constant[:, None, None] * there


def _dot(y: Tensor, ky: Tensor, ny: int, p: Tensor) -> bool:
    """Whether the outer lines (coil, line, x) add up in the middle to ABOVE times the power of everything around it."""
    turns = torch.arange(-AROUND, AROUND + 1)[:, None] * ky / ny
    waves = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(y.device)
    middle = y.shape[-1] // 2
    c = y[..., middle].mean(1) / p[middle].to(y.device)
    dot = (c * p[middle].to(y.device)).abs().square().sum() * len(ky) ** 2
    left = torch.matmul(waves, y - c[:, None, None] * p.to(y.device)).abs().square().sum(0)  # (2 AROUND + 1, x)
    return bool(dot > ABOVE * left.max())


def _even(told: Tensor, ky: Tensor, c: Tensor) -> bool:
    """Whether halves and quarters of the lines (coil, line), in order of distance, and both sides agree on c."""
    n, low = told.shape[1], ky < 0
    parts = [*told.tensor_split(2, dim=1), *told.tensor_split(4, dim=1)]
    if min(int(low.sum()), int((~low).sum())) >= LEAST // 4:
        parts += [told[:, low], told[:, ~low]]
    most = APART * float(c.abs().square().sum())
    spread = float((told - c[:, None]).abs().square().mean(1).sum())
    return all(
        float((part.mean(1) - c).abs().square().sum()) < most + BY_NOISE * spread * (1 / part.shape[1] - 1 / n)
        for part in parts
    )


def _differs(middle: Tensor, mask: Tensor, c: Tensor, noise: float, outer: int) -> bool:
    """Whether tissue in the middle (coil, kz, ky), from contiguous lines, has other channel weights than c."""
    block = central_block(mask.numpy())
    if block is None:
        return False
    lines = middle[:, slice(*block[1]), slice(*block[0])].flatten(1)
    tissue = lines.mean(1) - c
    power = float(tissue.abs().square().sum())
    alike = float(torch.vdot(tissue, c).abs() ** 2) / max(float(c.abs().square().sum()), 1e-300)
    return power - alike > (1 - ALIKE) * power + BY_NOISE * noise * (1 / lines.shape[1] + 1 / outer)
