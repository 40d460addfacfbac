"""Which side of k-space is missing, and how it is completed."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from recon.prepare.partial_fourier import homodyne, pocs

#: K-space counts as partial if one side reaches farther than the other by this share of the axis and by more than the
#: widest gap between samples.
_SHARE = 0.02


def complete(
    x: Tensor, sampled: Tensor, columns: Tensor, method: Literal["zero-fill", "homodyne", "pocs"]
) -> tuple[Tensor, list[str]]:
    """A coil-combined image (z, y, x), with the missing side of k-space completed by `method`, and notes.

    `sampled` is bool (kz, ky); `columns` is bool (kx,) over the encoded readout, of which x covers the central field of
    view.
    """
    ranges = {
        -3: (_extent(sampled.any(1), x.shape[-3]), _gap(sampled.any(1))),
        -2: (_extent(sampled.any(0), x.shape[-2]), _gap(sampled.any(0))),
        -1: (_extent(columns, x.shape[-1]), 1),
    }
    notes = []
    for axis, ((low, high), gap) in ranges.items():
        n = x.shape[axis]
        reach_low, reach_high = n // 2 - low, high - 1 - n // 2
        if n < 8 or abs(reach_low - reach_high) <= max(gap, _SHARE * n):
            continue
        name = {-3: "partitions", -2: "phase encodes", -1: "readout"}[axis]
        notes.append(f"partial Fourier along the {name}, {(high - low) / n:.0%} of k-space: {method}")
        if method == "homodyne":
            x = homodyne(x, axis, (low, high), keep_phase=True)
        elif method == "pocs":
            x = pocs(x, axis, (low, high))
    return x, notes


def _gap(acquired: Tensor) -> int:
    """Widest distance between neighbouring samples."""
    where = acquired.nonzero()[:, 0]
    return int(where.diff().max()) if len(where) > 1 else 1


def _extent(acquired: Tensor, n: int) -> tuple[int, int]:
    """Range [low, high) of the acquired samples on a centred axis of n samples."""
    where = acquired.nonzero()[:, 0]
    encoded = len(acquired)
    if not len(where):
        return 0, n
    scale = n / encoded
    low = n // 2 + math.ceil((int(where[0]) - encoded // 2) * scale - 1e-6)
    high = n // 2 + math.floor((int(where[-1]) - encoded // 2) * scale + 1e-6) + 1
    return max(0, low), min(n, high)
