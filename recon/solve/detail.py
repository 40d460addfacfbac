"""Tests with the phase of fine detail whether the lines outside the ACS block agree with those inside."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import Measurement
from recon.kernels.steady import total
from recon.operators.fourier import fft, ifft
from recon.solve.rows import LEAST_BESIDE, block, encoded

#: Fewest rows of the ACS block: an image of eight rows is too coarse to know the phase of detail on it.
LEAST_ACS = 10
#: Search range of the shift, in rows and in samples of the readout, and the steps.
FARTHEST, STEPS = 1.25, 10
#: Pixels below this share of the bright ones contain noise.
BODY = 0.1
#: If less of the detail agrees than this, lines may be one row off: with such a fault at most 0.43 did (bench/rows.py).
DOUBT = 0.5
#: Gains below this are rounding errors.
NO_GAIN = 1.001
#: An axis of (z, y, x) and the two others.
ALONG = ((0, (1, 2)), (1, (0, 2)), (2, (0, 1)))


@dataclass(frozen=True)
class Detail:
    """How the detail from lines outside the ACS block fits the image from the lines inside.

    `rows`, `samples` or `partitions` is the shift of these lines from their correct place, along ky, the readout, or
    kz of a volume: the axis with the largest gain; the others are 0. `gain` is how many times as much of the detail
    agrees in phase when they are moved back, 1 if nothing is gained. `turned` is their phase in degrees, −90 to 90,
    and `coherent` the share of the detail that agrees without moving.
    """

    rows: float
    samples: float
    gain: float
    turned: float
    coherent: float
    partitions: float = 0.0


def compared(m: Measurement, x: Tensor) -> list[Detail | None]:
    """Test the lines outside the ACS block with the fine detail of images x (..., z, y, x); one result per item.

        u = (d p̄)² / |d|,   p = l / |l|,   l = the ACS block of x,   d = x − l
        C(r, s, t) = |Σ u exp(−4πi (r z / N_z + s y / N_y + t x / N_x))|,
        gain = max C / C(0),   turned = arg(Σ u) / 2

    An edge and the tissue that it bounds have the same phase or opposite ones, and the square removes the sign. So u
    is positive except for noise, whose square has mean zero. Lines that are off by r partitions, s rows or t samples
    give u a phase that turns 2r, 2s and 2t times across the field of view; lines of another phase turn it by twice
    that phase. The residual does not show either fault, because an image explains such data. r, s and t are searched
    along each axis separately, up to 1.25.

    None for too few lines inside or outside the block, and for several sets of maps.
    """
    # Items of y, because the image has one more axis with several sets of maps.
    items, masks = m.y.shape[:-4].numel(), encoded(m)
    if masks is None:
        return [None] * items
    found: list[Detail | None] = []
    for image, measured in zip(x.reshape(items, *x.shape[-3:]), masks):
        z, y = block(measured)
        core = torch.zeros_like(measured)
        core[z, y] = True
        thick = len(measured) == 1 or z.stop - z.start >= LEAST_ACS
        enough = thick and y.stop - y.start >= LEAST_ACS and int((measured & ~core).sum()) >= LEAST_BESIDE
        found.append(_of(image, core) if enough else None)
    return found


def doubtful(d: Detail | None) -> bool:
    """Whether `recon.solve.rows` should be used, too: it takes three more images, a tenth of a reconstruction."""
    return d is not None and (d.coherent < DOUBT or d.gain > NO_GAIN)


def _of(x: Tensor, core: Tensor) -> Detail | None:
    """The result for one image (z, y, x) with the ACS block `core` (kz, ky)."""
    axes = (-3, -2) if len(core) > 1 else (-2,)
    low = ifft(fft(x, axes) * core[..., None], axes)
    v, level = (x - low) * low.conj(), low.abs()
    bright = level.flatten().kthvalue(max(1, int(0.99 * level.numel()))).values
    # |l| > 0 there, and dividing by |v| leaves |d| once.
    u = torch.where(level > BODY * bright, v * v / (v.abs() * level).clamp_min(torch.finfo(level.dtype).tiny), 0)
    size, here = float(total(u.abs(), 3)), complex(total(u, 3))
    if not (math.isfinite(size) and size > 0 and abs(here) > 0):
        return None
    moves = [_best_shift(u.sum(others), abs(here)) if u.shape[axis] > 1 else (0.0, 1.0) for axis, others in ALONG]
    gain = max(g for _, g in moves)
    # Gains along the other axes follow from the largest one, because bodies are not symmetric.
    r, s, t = (by if g == gain else 0.0 for by, g in moves)
    turned = math.degrees(math.atan2(here.imag, here.real)) / 2
    return Detail(s, t, gain, turned, abs(here) / size, r)


def _best_shift(line: Tensor, here: float) -> tuple[float, float]:
    """The shift that aligns most of a line (n,), and the gain over no shift."""
    n = len(line)
    shifts = torch.linspace(-FARTHEST, FARTHEST, 2 * STEPS + 1, dtype=torch.float64, device=line.device)
    at = (torch.arange(n, dtype=torch.float64, device=line.device) - n // 2) / n
    sums = (torch.exp(-4j * math.pi * shifts[:, None] * at) @ line.to(torch.complex128)).abs()
    best = int(sums.argmax())
    return float(shifts[best]), float(sums[best]) / here
