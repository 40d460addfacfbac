"""Whether the lines beside the ACS block agree with it, told by the phase of fine detail in an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import Measurement
from recon.operators.fourier import fft, ifft
from recon.operators.sense import Sense
from recon.solve.rows import LEAST_BESIDE, acs

#: Fewest rows of the ACS block: the picture of eight is too coarse to know the phase of what lies upon it.
LEAST_ACS = 10
#: How far lines are looked for, in rows and in samples of the readout, and how finely.
FARTHEST, STEPS = 1.25, 10
#: Pixels below this share of the bright ones show noise.
BODY = 0.1
#: Where less of the detail agrees than this, lines may be one row off: with them so, at most 0.43 did (bench/rows.py).
DOUBT = 0.5
#: Gains below this are those of rounding.
NO_GAIN = 1.001


@dataclass(frozen=True)
class Detail:
    """How the detail from lines beside the ACS block lies upon the picture from within it.

    `rows` and `samples` are how far these lines seem to lie from where they belong, along the phase encode and along
    the readout; `gain` is how many times as much of the detail agrees in phase when they are moved back, 1 where
    nothing is gained. `turned` is their phase in degrees, −90 to 90, and `coherent` the share of the detail that agrees
    as it is.
    """

    rows: float
    samples: float
    gain: float
    turned: float
    coherent: float


def compared(m: Measurement, x: Tensor) -> list[Detail | None]:
    """What fine detail of images x (..., 1, y, x) says of the lines beside the ACS block, one answer for each slice.

        u = (d p̄)² / |d|,   p = l / |l|,   l = the rows of the ACS block of x,   d = x − l
        C(s, t) = |Σ u exp(−4πi (s y / N_y + t x / N_x))|,   gain = max C / C(0, 0),   turned = arg(Σ u) / 2

    An edge and the tissue that it bounds have one phase, or opposite ones, which the square forgets: so all of u is
    positive but for noise, whose square has mean zero. Lines s rows or t samples away give it a phase that turns
    2s and 2t times across the field of view; lines of another phase turn it twice as far. No residual sees either: an
    image explains such data. s and t are sought along either axis alone, up to 1.25.

    None for slices with too few lines inside or beside the block, for volumes and for several sets of maps.
    """
    A = m.A
    items = x.shape[:-3].numel()
    if not isinstance(A, Sense) or A.sets or -2 not in A.axes or A.mask.shape[-1] > 1 or x.shape[-3] > 1:
        return [None] * items
    lines = A.mask.expand(*m.y.shape[:-4], *A.mask.shape[-4:]).reshape(items, -1) > 0
    found: list[Detail | None] = []
    for image, measured in zip(x.reshape(items, *x.shape[-2:]), lines):
        core = acs(measured)
        enough = int(core.sum()) >= LEAST_ACS and int((measured & ~core).sum()) >= LEAST_BESIDE
        found.append(_of(image, core) if enough else None)
    return found


def doubtful(d: Detail | None) -> bool:
    """Whether `recon.solve.rows` should look too: three more pictures, a tenth of a reconstruction."""
    return d is not None and (d.coherent < DOUBT or d.gain > NO_GAIN)


def _of(x: Tensor, core: Tensor) -> Detail | None:
    """The detail of one image (y, x)."""
    low = ifft(fft(x, (-2,)) * core[:, None], (-2,))
    v, size = (x - low) * low.conj(), low.abs()
    bright = size.flatten().kthvalue(max(1, int(0.99 * size.numel()))).values
    # |l| > 0 there, and dividing by |v| leaves |d| once.
    u = torch.where(size > BODY * bright, v * v / (v.abs() * size).clamp_min(torch.finfo(size.dtype).tiny), 0)
    total, here = float(u.abs().sum()), complex(u.sum())
    if not (math.isfinite(total) and total > 0 and abs(here) > 0):
        return None
    (s, along), (t, across) = (_farther(u.sum(axis), abs(here)) for axis in (1, 0))
    return Detail(s, t, max(along, across), math.degrees(math.atan2(here.imag, here.real)) / 2, abs(here) / total)


def _farther(line: Tensor, here: float) -> tuple[float, float]:
    """The shift by which most of a line (n,) comes together, and how many times as much that is as without one."""
    n = len(line)
    shifts = torch.linspace(-FARTHEST, FARTHEST, 2 * STEPS + 1, dtype=torch.float64, device=line.device)
    at = (torch.arange(n, dtype=torch.float64, device=line.device) - n // 2) / n
    sums = (torch.exp(-4j * math.pi * shifts[:, None] * at) @ line.to(torch.complex128)).abs()
    best = int(sums.argmax())
    return float(shifts[best]), float(sums[best]) / here
