"""Adaptive combination: coil sensitivity maps from fully sampled coil images alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from recon.data import DataError
from recon.prepare.sensitivities import SensitivityMaps, dominant, first_coil


def walsh(
    coil_images: Tensor, *, window: int = 5, chunk: int | None = None, reference: Tensor | None = None
) -> SensitivityMaps:
    """Coil sensitivity maps as the dominant eigenvector of the coils' local correlation.

        R_cc'(r) = mean of x_c x_c'* over a window around r,   R S = λ S

    `coil_images` is complex (..., coil, z, y, x) with white noise, `window` an odd number of pixels per axis (1 along
    an axis of length 1). Maps (..., coil, z, y, x) have unit root-sum-of-squares and the phase that makes the first
    principal coil, or `reference` (coil), real and positive; they are zero where the images are. `eigenvalues` is
    λ / tr R, from 1/coils in noise to 1 where one map explains all. The work is done on slabs of about `chunk` pixels.

    Raises DataError for an even or non-positive window.
    Source: Walsh, Gmitro and Marcellin, Magn Reson Med 43:682, 2000.
    """
    if window < 1 or window % 2 == 0:
        raise DataError(f"the window of the adaptive combination is {window} pixels: choose an odd number such as 5")
    batch, (coils, nz, ny, nx) = coil_images.shape[:-4], coil_images.shape[-4:]
    rows = max(1, (chunk or (1 << 20 if coil_images.is_cuda else 1 << 16)) // (nz * nx))
    maps = torch.zeros_like(coil_images, memory_format=torch.contiguous_format).reshape(-1, coils, nz, ny, nx)
    values = torch.zeros(math.prod(batch), nz, ny, nx, dtype=torch.float32, device=coil_images.device)
    for images, m, v in zip(coil_images.reshape(-1, coils, nz, ny, nx), maps, values):
        peak = images.abs().max()
        if float(peak) == 0:
            continue
        scaled = images / peak
        towards = first_coil(scaled) if reference is None else reference
        for y in range(0, ny, rows):
            low, high = max(0, min(y, ny - rows) - window), min(ny, y + rows + window)
            r = _correlation(scaled[:, :, low:high], window)[:, :, :, y - low : y - low + rows]
            inside = r.shape[2:]
            flat = r.reshape(coils, coils, -1).permute(2, 0, 1)
            value, vector = dominant(flat)
            vector = vector * torch.polar(torch.ones_like(value), -(vector @ towards.conj()).angle())[:, None]
            trace = flat.diagonal(dim1=1, dim2=2).real.sum(1)
            m[:, :, y : y + rows] = vector.T.reshape(coils, *inside)
            v[:, y : y + rows] = (value / trace.clamp_min(torch.finfo(value.dtype).tiny)).reshape(inside)
    return SensitivityMaps(maps.reshape(coil_images.shape), values.reshape(*batch, nz, ny, nx))


def _correlation(images: Tensor, window: int) -> Tensor:
    """Local means of x_c x_c'*, (c, c, z, y, x), over the part of the window that lies inside."""
    pairs = images[:, None] * images[None].conj()
    planes = torch.view_as_real(pairs).movedim(-1, 0).flatten(0, 2)[:, None]
    size = [min(window, n - 1 + n % 2) for n in images.shape[1:]]
    mean = avg_pool3d(planes, size, stride=1, padding=[s // 2 for s in size], count_include_pad=False)
    real, imaginary = mean.reshape(2, *pairs.shape)
    return torch.complex(real, imaginary)
