"""Tests with the ACS lines whether every second line has another phase or another start of its readout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import Measurement
from recon.kernels.steady import alone
from recon.operators.fourier import fft, ifft
from recon.solve.rows import block, encoded

#: Fewest lines of the block, and samples around the centre of the readout that are used.
LEAST, WIDTH = 10, 64
#: Samples along the readout that predict a line, on either neighbour, and the regularisation of the kernel as a share
#: of the samples' power: the better a kernel fits, the more of a fault it absorbs.
TAPS, RIDGE = 3, 1e-3
#: Range in samples within which the start of the readout is searched, and the step.
FARTHEST, STEPS = 2.0, 16

#: How much of the phase scatter between lines may come from the object, with one channel and with several.
SCATTER_ALONE, SCATTER = 2.0, 1.2


@dataclass(frozen=True)
class Alternating:
    """Difference between odd and even lines of the ACS block.

    `degrees` is the phase in the middle of the image, −180 to 180, and `samples` how much later the readout starts;
    which parity comes first decides the sign. Several coils absorb part of either: the true values are at least
    these. `scatter` is the phase in degrees that may come from the object, estimated from how well lines are
    predicted.
    """

    degrees: float
    samples: float
    scatter: float

    def beyond(self, degrees: float, samples: float) -> bool:
        """Whether the shift is larger than that, or the phase larger than what may come from the object."""
        return abs(self.degrees) > max(degrees, self.scatter) or abs(self.samples) > samples


def compared(m: Measurement) -> list[Alternating | None]:
    """Compare odd and even lines of the ACS block; one result for each slice or volume.

    The lines of a slice are predicted from their two neighbours by one kernel w for all lines, as in GRAPPA,

        p_n = w ∗ (k_{n−1}, k_{n+1}),
        C(x) = Σ_{n odd} p̄_n k_n + conj Σ_{n even} p̄_n k_n,

    summed over coils and partitions. If odd lines have a phase φ(x) relative to even ones, the first sum has φ and
    the second −φ, so C has the phase φ. Phase changes from line to line that come from the object or its coils are in
    the kernel or cancel. φ = degrees + 2π·samples·x/N is the phase that maximises the coherent sum of C.

    Predicted lines with a relative error ε agree with the measured ones by 1 − ε²/2, with a random phase error of ε.
    Good scans of one channel had up to 1.4 times that phase. Good scans of several channels had up to 1.1 times where
    the phase was large (two channels), and far less otherwise. Faults of several channels had 1.2 times and more,
    because a fault also scatters. `scatter` is 2 times that phase for one channel, and 1.2 times for several.

    None for a block of too few lines and for several sets of maps. (Griswold et al., Magn Reson Med 47:1202, 2002;
    Bruder et al., Magn Reson Med 23:311, 1992.)
    """
    items, masks = m.y.shape[:-4].numel(), encoded(m)
    if masks is None:
        return [None] * items
    shape = m.y.shape[-4:]
    found: list[Alternating | None] = []
    for y, mask in zip(m.y.reshape(items, *shape), masks.expand(items, shape[1], shape[2])):
        z, rows = block(mask)
        inner = y[:, z][:, :, rows]
        found.append(_of(inner, m.sigma) if inner.shape[-2] >= LEAST and inner.shape[-1] > 4 * TAPS else None)
    return found


def _of(y: Tensor, sigma: float) -> Alternating | None:
    """The result for one block (coil, kz, ky, x)."""
    k = fft(y, (-1,))
    nx = k.shape[-1]
    width = min(WIDTH, nx)
    k = k[..., nx // 2 - width // 2 : nx // 2 - width // 2 + width]
    # (coil, neighbour and tap, kz, ky, kx): a line is predicted from nearby samples on either side.
    near = k.unfold(-1, TAPS, 1).movedim(-1, 1)
    sources = torch.cat([near[..., :-2, :], near[..., 2:, :]], 1).flatten(0, 1)
    targets = k[..., 1:-1, TAPS // 2 : width - (TAPS - 1) // 2]
    S, T = sources.flatten(1).mT, targets.flatten(1).mT
    gram = S.mH @ S
    ridge = 2 * sigma**2 * len(S) + RIDGE * float(gram.diagonal().real.mean())
    w = alone(torch.linalg.solve, gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), S.mH @ T)
    told = (S @ w).mT.reshape(targets.shape)
    c = (ifft(told, (-1,)).conj() * ifft(targets, (-1,))).sum((0, 1))
    odd, even = c[0::2].sum(0), c[1::2].sum(0)
    common = (odd + even.conj()).to(torch.complex128)
    total = float((odd.abs() + even.abs()).sum())
    n = len(common)
    shifts = torch.linspace(-FARTHEST, FARTHEST, 2 * STEPS + 1, dtype=torch.float64, device=c.device)
    at = (torch.arange(n, dtype=torch.float64, device=c.device) - n // 2) / n
    sums = torch.exp(-2j * math.pi * shifts[:, None] * at) @ common
    best = int(sums.abs().argmax())
    here = complex(sums[best])
    if not (math.isfinite(total) and total > 0 and abs(here) > 0):
        return None
    apart = math.degrees(math.sqrt(2 * max(0.0, 1 - abs(here) / total)))
    scatter = (SCATTER_ALONE if len(y) == 1 else SCATTER) * apart
    return Alternating(math.degrees(math.atan2(here.imag, here.real)), float(shifts[best]), scatter)
