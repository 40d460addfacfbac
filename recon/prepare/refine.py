"""Sensitivity maps estimated again from k-space that a first image completed: for scans with few calibration lines."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recon.data import DataError, Measurement
from recon.operators import fft
from recon.operators.sense import Sense
from recon.prepare.espirit import espirit

#: Lines and samples around the centre of the completed k-space from which the maps are made.
WIDTH = 32


def refined(m: Measurement, x: Tensor, *, kernel: int = 6, threshold: float = 0.02, crop: float = 0.8) -> Measurement:
    """The measurement of slices with ESPIRiT maps from k-space that was completed by their image x (..., 1, y, x).

        k = y / w where measured,   F S x elsewhere;
        maps of the central 32 × 32 samples

    y (..., coil, 1, ky, x) is in hybrid space; `kernel`, `threshold` and `crop` are those of `espirit`. If no maps can
    be made, the measurement is returned unchanged.
    """
    A = m.A
    if not isinstance(A, Sense) or A.sets or -1 in A.axes or m.y.shape[-4] == 1:
        return m
    model = fft(A.maps * x.unsqueeze(-4), A.axes)
    complete = torch.where(A.mask > 0, m.y / A.mask.clamp_min(1e-12), model)
    k = fft(complete, (-1,))
    shape = (1, int(k.shape[-2]), int(k.shape[-1]))
    ny, nx = min(WIDTH, shape[1]), min(WIDTH, shape[2])
    y, x0 = shape[1] // 2 - ny // 2, shape[2] // 2 - nx // 2
    block = k[..., y : y + ny, x0 : x0 + nx].contiguous()
    try:
        maps = espirit(block, shape, kernel=kernel, threshold=threshold, crop=crop, width=None).maps
    except DataError:
        return m
    return replace(m, A=replace(A, maps=maps))
