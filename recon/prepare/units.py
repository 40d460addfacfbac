"""The unit of images of Cartesian scans: the standard deviation of the noise in a voxel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding
from recon.prepare.finish import voxel_ratios

#: Voxel sizes that differ by less than this, relative, are equal: headers are rounded.
_SAME = 1e-4


def averages(acquired: NDArray[np.int32]) -> float:
    """How often the rows (kz, ky) of a frame were measured: the median over measured rows, 1 if there are none."""
    there = acquired[acquired > 0]
    return float(np.median(there)) if len(there) else 1.0


def gain(encoding: Encoding, n: float) -> float:
    """The factor that gives images noise of σ = 1 per part, if all of k-space was measured.

        g = √(n · Π_d max(1, Δ_d, image / Δ_d, encoded))

    Unitary transforms of whitened samples give this σ with two exceptions: the mean of n averages has 1/√n of it, and
    an image with coarser voxels than encoded leaves out the edge of k-space. Interpolation keeps values and noise. All
    frames of a series share one n, the `averages` of the frame that is complete first. It is therefore known, and does
    not change, while others are still being acquired.
    """
    coarser = math.prod(r for r in voxel_ratios(encoding) if r > 1 + _SAME)
    return math.sqrt(n * coarser)
