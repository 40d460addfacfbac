"""A volume as slices for a network: every column of its fully sampled readout is a slice (kz, ky)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon.data import Measurement, ReconError
from recon.nets import unrolled
from recon.nets.unrolled import Unrolled
from recon.operators.sense import Sense


def reconstruct(
    network: Unrolled,
    m: Measurement,
    start: Tensor,
    *,
    denoise: float = 0.0,
    ndim: int = 3,
    most: float = 1.0,
) -> Tensor:
    """The network's volume (..., [set,] z, y, x) of k-space (..., coil, kz, ky, x) in hybrid space, complex64.

    `start` is the classical image of the whole volume, from which every column starts: it includes the neighbours of
    a column, which the network does not see. Columns whose noise is above `most` of their signal, as beyond the ends
    of the object, keep it. On a CPU columns are processed one by one, so results do not depend on the batch. Raises
    ReconError for k-space whose readout is not in image space, and for lines that differ from column to column.
    """
    A = m.A
    if not isinstance(A, Sense) or -1 in A.axes:
        raise ReconError("for a volume, the network needs hybrid space, with the readout transformed; see hybrid.slab")
    if A.mask.ndim < 4 or A.mask.shape[-1] > 1:
        raise ReconError("the sampled lines of the volume differ between columns of the readout; use --method cs")
    mask = _turned(A.mask, 4)
    step = 1 if m.y.device.type == "cpu" else 4 * unrolled.PLANES
    wide = (..., *(None,) * ndim)
    out = start.clone()
    for first in range(0, start.shape[-1], step):
        some = slice(first, first + step)
        x0 = _turned(start[..., some], ndim)
        faint = math.sqrt(2) * m.sigma / unrolled.size(x0, ndim) > most
        if bool(faint.all()):
            continue
        maps = _turned(A.maps[..., some], ndim + 1)
        y = _turned(m.y[..., some], 4)
        part = Measurement(y, Sense(maps, mask, (-2, -1), A.sets), m.sigma)
        x = unrolled.reconstruct(network, part, denoise=denoise, ndim=ndim, start=x0)
        x = torch.where(faint[wide], x0, x)
        out[..., some] = x.squeeze(-3).movedim(-ndim, -1)
    return out


def _turned(t: Tensor, axes: int) -> Tensor:
    """(..., …, z, y, x) of `axes` axes each as (..., x, …, 1, z, y)."""
    return t.movedim(-1, -axes).unsqueeze(-3).contiguous()
