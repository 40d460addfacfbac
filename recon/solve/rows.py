"""Tests with the sparsity of the image whether the lines outside the ACS block are in their correct rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recon.data import Measurement
from recon.kernels.steady import total
from recon.masks import central_block
from recon.operators.sense import Sense
from recon.solve.fista import l1_wavelet

#: Columns of the readout that are used, iterations for each image, and levels of its wavelets. They are few enough that
#: both sides of most matrices halve evenly, since a quick image is enough.
WIDTH, ITERATIONS, LEVELS = 64, 20, 3
#: Fewest rows of the ACS block, and fewest measured rows beside it, for a test.
LEAST_ACS, LEAST_BESIDE = 8, 10


def acs(measured: Tensor) -> Tensor:
    """The run of measured rows around the centre of k-space, as a mask with the shape of `measured`, (ky,)."""
    centre = measured.numel() // 2
    holes = torch.nonzero(~measured).flatten()
    low = int(holes[holes < centre].max()) + 1 if bool((holes < centre).any()) else 0
    high = int(holes[holes >= centre].min()) if bool((holes >= centre).any()) else measured.numel()
    out = torch.zeros_like(measured)
    out[low:high] = True
    return out


def block(mask: Tensor) -> tuple[slice, slice]:
    """The largest fully measured rectangle around the centre of a mask (kz, ky), as partitions and rows."""
    (y0, y1), (z0, z1) = central_block(mask.cpu().numpy()) or ((0, 0), (0, 0))
    return slice(z0, z1), slice(y0, y1)


def encoded(m: Measurement) -> Tensor | None:
    """Which lines (item, kz, ky) of k-space were measured; None if the test does not apply.

    It does not apply to several sets of maps, to non-Cartesian scans, if ky is not encoded, and if samples are
    missing within a line.
    """
    A = m.A
    if not isinstance(A, Sense) or A.sets or -2 not in A.axes or A.mask.shape[-1] > 1:
        return None
    lead = m.y.shape[:-4]
    return A.mask.expand(*lead, *A.mask.shape[-4:]).reshape(lead.numel(), -1, *A.mask.shape[-3:-1])[:, 0] > 0


def moved(m: Measurement, rows: int) -> Measurement:
    """Slices (..., coil, 1, ky, x) with the lines outside the ACS block shifted by `rows` rows; some leave the grid."""
    A = m.A
    assert isinstance(A, Sense)
    mask = A.mask.expand(*m.y.shape[:-4], *A.mask.shape[-4:]) if m.y.ndim > 4 else A.mask
    lines = mask.reshape(-1, m.y.shape[-2])
    inner = torch.stack([acs(one > 0) for one in lines]).reshape(mask.shape)
    index = torch.arange(m.y.shape[-2], device=m.y.device) - rows
    there = ((index >= 0) & (index < len(index)))[:, None].to(mask.dtype)

    def shifted(t: Tensor) -> Tensor:
        outer = torch.roll(t * ~inner, rows, -2) * there
        return torch.where(inner, t, outer)

    return replace(m, y=shifted(m.y), A=Sense(A.maps, shifted(mask), A.axes))


def sparser(
    m: Measurement, wanted: Sequence[bool] = (), shifts: tuple[int, ...] = (-1, 1)
) -> list[tuple[int, float] | None]:
    """The shift of the lines outside the ACS block in rows, and how much sparser an image is with them moved back.

        1 − TV(x₋ₛ) / TV(x₀),   TV(x) = Σ √(|∂y x|² + |∂x x|²)

    for the best s; negative if no s makes it sparser. x is a quick L1-wavelet image of some columns, with the lines
    outside the ACS block moved by −s rows. A counter that is off by s gives fine structure a phase that turns s times
    across the field of view relative to coarse structure. The residual does not show this: an image explains it, but
    not a sparse one.

    One pair for each slice of y (..., coil, 1, ky, x). None for a slice with too few lines inside or outside the ACS
    block, for volumes, for several sets of maps, and for one channel: there, aliases of good raw scans at 0.055 T
    were up to 1.9 % sparser with the lines moved, and those of faulty ones not always. Also None for items that are
    not `wanted` (default: all are).
    """
    items, lines = m.y.shape[:-4].numel(), encoded(m)
    if lines is None or m.y.shape[-3] > 1 or m.y.shape[-4] == 1:
        return [None] * items
    lines = lines[:, 0]
    cores = torch.stack([acs(one) for one in lines])
    told = (cores.sum(1) >= LEAST_ACS) & ((lines & ~cores).sum(1) >= LEAST_BESIDE)
    if wanted:
        told &= torch.tensor(list(wanted), device=told.device)
    if not bool(told.any()):
        return [None] * items
    part = _trimmed(_columns(_picked(m, told)))
    every = _variation([part, *(moved(part, -s) for s in shifts)])
    best = 1 - every[1:] / every[0]
    gain, which = best.max(0)
    found = iter([(shifts[w], g) for w, g in zip(which.tolist(), gain.tolist())])
    return [next(found) if t else None for t in told.tolist()]


def _picked(m: Measurement, keep: Tensor) -> Measurement:
    """The selected slices of a batch (..., coil, 1, ky, x), as one axis of slices."""
    if m.y.ndim == 4 or bool(keep.all()):
        return m
    A, lead = m.A, m.y.shape[:-4]
    assert isinstance(A, Sense)

    def some(t: Tensor) -> Tensor:
        return t.expand(*lead, *t.shape[-4:]).flatten(0, len(lead) - 1)[keep] if t.ndim > 4 else t

    return replace(m, y=some(m.y), A=Sense(some(A.maps), some(A.mask), A.axes))


def _trimmed(m: Measurement) -> Measurement:
    """Without the first and last row of the ACS block: either may be a line from outside that was moved there."""
    A = m.A
    assert isinstance(A, Sense)
    lines = A.mask.reshape(-1, m.y.shape[-2])
    cores = torch.stack([acs(one > 0) for one in lines])
    edges = cores & ~(torch.roll(cores, 1, -1) & torch.roll(cores, -1, -1))
    keep = (~edges).reshape(A.mask.shape)
    return replace(m, y=m.y * keep, A=Sense(A.maps, A.mask * keep, A.axes))


def _columns(m: Measurement) -> Measurement:
    """The adjacent columns with the most energy."""
    nx = m.y.shape[-1]
    if nx <= WIDTH:
        return m
    energy = m.y.abs().square().flatten(0, -2).sum(0).cumsum(0)
    first = int((energy[WIDTH - 1 :] - torch.cat([energy[:1] * 0, energy[: nx - WIDTH]])).argmax())
    A = m.A
    assert isinstance(A, Sense)
    at = slice(first, first + WIDTH)
    return replace(m, y=m.y[..., at].contiguous(), A=Sense(A.maps[..., at].contiguous(), A.mask, A.axes))


def _variation(every: Sequence[Measurement]) -> Tensor:
    """TV of the image of each slice, for measurements that differ only in their lines, (measurement, slice)."""
    A = every[0].A
    assert isinstance(A, Sense)
    lead = every[0].y.shape[:-4]
    masks = [m.A.mask.expand(*lead, *m.A.mask.shape[-4:]) for m in every if isinstance(m.A, Sense)]
    y = torch.stack([m.y for m in every])
    together = Measurement(y, Sense(A.maps, torch.stack(masks), A.axes), every[0].sigma)
    x = l1_wavelet(together, lam=1.0, iterations=ITERATIONS, wavelet="db1", levels=LEVELS, continuation=15.0).x
    dy, dx = (x - torch.roll(x, 1, axis) for axis in (-2, -1))
    found: Tensor = total((dy.abs().square() + dx.abs().square()).sqrt(), 3).reshape(len(every), -1)
    return found.clamp_min(torch.finfo(found.dtype).tiny)
