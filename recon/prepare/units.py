"""The unit of images of Cartesian scans: the standard deviation of the noise in a voxel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding
from recon.prepare.finish import voxel_ratios

#: A voxel larger than that which was encoded by less than this, relative, is the same one: headers are rounded.
_SAME = 1e-4


def averages(acquired: NDArray[np.int32]) -> float:
    """How often the rows (kz, ky) of a frame were measured: the median of those that were, 1 where none was."""
    there = acquired[acquired > 0]
    return float(np.median(there)) if len(there) else 1.0


def gain(encoding: Encoding, n: float) -> float:
    """What images are multiplied by, so that noise has σ = 1 per part where all of k-space was measured.

        g = √(n · Π_d max(1, Δ_d, image / Δ_d, encoded))

    Unitary transforms of whitened samples give that σ but for n averages, whose mean has 1/√n of it, and for an image
    of coarser voxels than were encoded, which leaves out the edge of k-space. Interpolation keeps values and their
    noise. All frames of a series have one n, the `averages` of that which was whole first, so that it is known, and
    the same, while others are still being acquired.
    """
    coarser = math.prod(r for r in voxel_ratios(encoding) if r > 1 + _SAME)
    return math.sqrt(n * coarser)
