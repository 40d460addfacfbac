"""The unit of images of Cartesian scans: the standard deviation of the noise in a voxel."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding
from recon.prepare.finish import voxel_ratios

#: A voxel larger than that which was encoded by less than this, relative, is the same one: headers are rounded.
_SAME = 1e-4


def gain(encoding: Encoding, acquired: Iterable[NDArray[np.int32]]) -> float:
    """What images are multiplied by, so that noise has σ = 1 per part where all of k-space was measured.

        g = √(n · Π_d max(1, Δ_d, image / Δ_d, encoded))

    Unitary transforms of whitened samples give that σ but for n averages, whose mean has 1/√n of it, and for an image
    of coarser voxels than were encoded, which leaves out the edge of k-space. `acquired` holds how often each row (kz,
    ky) of each frame was measured; n is the median of those that were. Interpolation keeps values and their noise.
    """
    counts = np.concatenate([c[c > 0] for c in acquired])
    n = float(np.median(counts)) if len(counts) else 1.0
    coarser = math.prod(r for r in voxel_ratios(encoding) if r > 1 + _SAME)
    return math.sqrt(n * coarser)
