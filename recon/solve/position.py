"""Tests whether separate calibration lines show the coils at the same position as the image's lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.data import Measurement
from recon.operators.fourier import fft, ifft
from recon.operators.sense import Sense
from recon.solve.fista import l1_wavelet

#: Fewest lines that both must have, and the search range of the shift, in voxels.
LEAST, FARTHEST = 3, 16
#: Smaller shifts are not examined.
NEAR = 1.5
#: Iterations of the images that are compared.
ITERATIONS = 60
#: Smallest share of the residual that shifted maps must save to count (bench/motion.py).
SAVED = 0.02


@dataclass(frozen=True)
class Position:
    """By how many voxels maps must be moved to fit the image's lines, and what that saves.

    `saved` is the saved share of the residual, negative if the maps fit better unmoved, 0 if not tested.
    """

    rows: float
    columns: float
    saved: float

    @property
    def elsewhere(self) -> float:
        """The distance in voxels, 0 if shifted maps do not explain the lines better."""
        return math.hypot(self.rows, self.columns) if self.saved > SAVED else 0.0


def compared(m: Measurement, blocks: Sequence[Tensor | None]) -> list[Position | None]:
    """Compare slices y (item, coil, 1, ky, x) with the separate calibration blocks (coil, 1, cy, cx) of their maps.

        s = argmax |Σ_k Σ_c y_c(k) conj(b_c(k)) / |·|^½ exp(2πi k·s)|,
        saved = 1 − ‖A(s) x(s) − y‖² / ‖A x − y‖²

    over the samples that both have, with x the wavelet image with the maps, and x(s) with the maps moved by s. An
    object that is shifted by s has a phase ramp over k-space. Another contrast, or a patient who moved under coils
    that stayed, also gives an s, but then moved maps fit worse, not better.

    None without a block, for volumes, one channel and several sets of maps, and if fewer than LEAST lines are in both.
    """
    A = m.A
    if not isinstance(A, Sense) or A.sets or m.y.shape[-3] > 1 or m.y.shape[-4] == 1 or m.y.ndim != 5:
        return [None] * len(blocks)
    return [None if b is None else _of(_item(m, i), b.to(m.y.device)) for i, b in enumerate(blocks)]


def _item(m: Measurement, i: int) -> Measurement:
    A = m.A
    assert isinstance(A, Sense)
    maps, mask = (t[i if len(t) > 1 else 0] for t in (A.maps, A.mask))
    return replace(m, y=m.y[i], A=Sense(maps, mask, A.axes))


def _of(m: Measurement, block: Tensor) -> Position | None:
    A = m.A
    assert isinstance(A, Sense)
    k, b = fft(m.y, (-1,))[:, 0], block[:, 0]
    ny, nx = k.shape[-2:]
    y, x = (slice(n // 2 - c // 2, n // 2 - c // 2 + c) for n, c in zip((ny, nx), b.shape[-2:]))
    lines = A.mask.reshape(-1)[y] > 0
    if int(lines.sum()) < LEAST:
        return None
    cross = (k[:, y, x] * b.conj()).sum(0) * lines[:, None]
    wide = cross.new_zeros(ny, nx)
    wide[y, x] = cross * cross.abs().clamp_min(torch.finfo(cross.real.dtype).tiny).rsqrt()
    # With lines at distance R, a shift by a share of the field of view looks like no shift.
    apart = int(torch.nonzero(lines).flatten().diff().max())
    ry, rx = min(FARTHEST, ny // (2 * apart) - 1), min(FARTHEST, nx // 2 - 1)
    c = ifft(wide, (-2, -1)).abs()[ny // 2 - ry : ny // 2 + ry + 1, nx // 2 - rx : nx // 2 + rx + 1]
    at = int(c.argmax())
    rows, columns = at // c.shape[1] - ry, at % c.shape[1] - rx
    if math.hypot(rows, columns) < NEAR:
        return Position(rows, columns, 0.0)
    moved = replace(m, A=Sense(torch.roll(A.maps, (rows, columns), (-2, -1)), A.mask, A.axes))
    return Position(rows, columns, 1 - _residual(moved) / max(_residual(m), 1e-30))


def _residual(m: Measurement) -> float:
    x = l1_wavelet(m, lam=1.0, iterations=ITERATIONS, wavelet="db1", continuation=15.0).x
    return float(((m.A(x) - m.y) * (m.y != 0)).abs().square().sum())
