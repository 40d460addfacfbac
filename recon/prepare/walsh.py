"""Adaptive combination: coil sensitivity maps from fully sampled coil images alone."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from recon.data import DataError
from recon.kernels import eigen
from recon.prepare.sensitivities import SensitivityMaps, dominant, first_coil

#: Entries of all matrices of a tile, on the CPU and on a GPU: a few arrays of this size are held at a time.
_ENTRIES = {False: 1 << 20, True: 1 << 26}


def walsh(
    coil_images: Tensor, *, window: int = 5, chunk: int | None = None, reference: Tensor | None = None
) -> SensitivityMaps:
    """Coil sensitivity maps as the dominant eigenvector of the coils' local correlation.

        R_cc'(r) = mean of x_c x_c'* over a window around r,   R S = λ S

    `coil_images` is complex (..., coil, z, y, x) with white noise, `window` an odd number of pixels per axis (1 along
    an axis of length 1). Maps (..., coil, z, y, x) have unit root-sum-of-squares; their phase makes the first principal
    coil, or `reference` (coil), real and positive. They are zero where the images are. `eigenvalues` is λ / tr R, from
    1/coils in noise to 1 where one map explains all. Without kernels the work is done on tiles of about `chunk` pixels.

    Raises DataError for an even or non-positive window, and for images with NaN or infinity. Source: Walsh, Gmitro and
    Marcellin, Magn Reson Med 43:682, 2000.
    """
    if window < 1 or window % 2 == 0:
        raise DataError(f"the window of the adaptive combination is {window} pixels: choose an odd number such as 5")
    batch, (coils, nz, ny, nx) = coil_images.shape[:-4], coil_images.shape[-4:]
    depth, rows = _tile(nz, ny, nx, chunk or _ENTRIES[coil_images.is_cuda] // coils**2)
    maps = torch.zeros_like(coil_images, memory_format=torch.contiguous_format).reshape(-1, coils, nz, ny, nx)
    values = torch.zeros(math.prod(batch), nz, ny, nx, dtype=torch.float32, device=coil_images.device)
    compiled = eigen.serves_windows(coil_images)
    size = [min(window, n - 1 + n % 2) for n in (nz, ny, nx)]
    for images, m, v in zip(coil_images.reshape(-1, coils, nz, ny, nx), maps, values):
        peak = images.abs().max()
        if not bool(torch.isfinite(peak)):
            raise DataError("the coil images hold NaN or infinite values: leave out the lines or channels that do")
        if float(peak) == 0:
            continue
        scaled = images / peak
        towards = first_coil(scaled) if reference is None else reference
        if compiled:
            eigen.local_maps(scaled, towards.to(scaled.dtype), size, m, v, tolerance=1e-4)
            continue
        for z, y in product(range(0, nz, depth), range(0, ny, rows)):
            zs, ys = slice(z, min(nz, z + depth)), slice(y, min(ny, y + rows))
            r = _correlation(scaled, zs, ys, size)
            inside = r.shape[2:]
            flat = r.reshape(coils, coils, -1).permute(2, 0, 1)
            value, vector = dominant(flat)
            vector = vector * torch.polar(torch.ones_like(value), -(vector @ towards.conj()).angle())[:, None]
            trace = flat.diagonal(dim1=1, dim2=2).real.sum(1)
            m[:, zs, ys] = vector.T.reshape(coils, *inside)
            v[zs, ys] = (value / trace.clamp_min(torch.finfo(value.dtype).tiny)).reshape(inside)
    return SensitivityMaps(maps.reshape(coil_images.shape), values.reshape(*batch, nz, ny, nx))


def _tile(nz: int, ny: int, nx: int, pixels: int) -> tuple[int, int]:
    """Partitions and rows of a tile of about `chunk` pixels, as wide as the image and about as deep as high."""
    lines = max(1, pixels // nx)
    depth = min(nz, max(1, math.isqrt(lines), lines // ny))
    return depth, min(ny, max(1, lines // depth))


def _correlation(images: Tensor, zs: slice, ys: slice, size: list[int]) -> Tensor:
    """Local means of x_c x_c'* in a tile, (c, c, z, y, x), over the part of the window inside the image."""
    (z0, z1), (y0, y1) = (_reach(part, n, of) for part, n, of in zip((zs, ys), size, images.shape[1:]))
    around = images[:, z0:z1, y0:y1]
    pairs = around[:, None] * around[None].conj()
    planes = torch.view_as_real(pairs).movedim(-1, 0).flatten(0, 2)[:, None]
    mean = avg_pool3d(planes, size, stride=1, padding=[s // 2 for s in size], count_include_pad=False)
    mean = mean.reshape(2, *pairs.shape)[..., zs.start - z0 : zs.stop - z0, ys.start - y0 : ys.stop - y0, :]
    return torch.complex(mean[0], mean[1])


def _reach(part: slice, window: int, length: int) -> tuple[int, int]:
    """The range that the windows of a part cover, at least as long as one window."""
    low = max(0, min(part.start - window // 2, length - window))
    return low, min(length, max(part.stop + window // 2, low + window))
