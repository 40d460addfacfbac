"""From the lines of a Cartesian scan to the measurement of one slice or slab in hybrid space.

Hybrid space is image space along the readout and k-space along the phase encodes. The readout is fully sampled, so its
Fourier transform is inverted once, and every later step works only along the phase encodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError, Encoding, RawScan, counted
from recon.masks import central_block
from recon.operators import fft
from recon.prepare import noise, place, sort
from recon.prepare.noise import Whitening
from recon.prepare.readout import crop, inner_size, to_hybrid

#: Samples transformed at a time; bounds the memory for the raw lines of a 3D scan.
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Slab:
    """One slice or 3D slab: `y` (coil, kz, ky, x) in hybrid space, the mean of all averages, zero where not measured.

    `counts` (kz, ky) is how many lines were averaged, `columns` (kx,) which samples of the readout were acquired. Both
    follow from the table of lines, so they stay on the CPU.
    """

    y: Tensor
    counts: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Lines:
    """How readouts of a scan become hybrid lines: encoding, whitening, coil compression, device."""

    scan: RawScan
    encoding: Encoding
    whitening: Whitening
    nx: int
    compression: Tensor | None = None
    device: torch.device = field(default=torch.device("cpu"))

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Coils (coil,) that the whitening uses: dead ones have a column of zeros."""
        return np.asarray((self.whitening.matrix != 0).any(0))

    @cached_property
    def mixing(self) -> Tensor:
        """Whitening of the live coils, multiplied with the compression if one matrix serves the whole readout."""
        white = self.whitening.matrix[:, torch.from_numpy(self.live)]
        if self.compression is None or self.compression.ndim == 3:
            return white.to(self.device)
        wide = self.compression.to(self.device, torch.complex128) @ white.to(self.device, torch.complex128)
        return wide.to(white.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Encoded grid (nz, ny)."""
        return self.encoding.encoded_matrix[2], self.encoding.encoded_matrix[1]


def inner_columns(encoding: Encoding) -> int:
    """Voxels that are kept along the readout: the requested field of view, or all of the encoded one."""
    return inner_size(encoding.encoded_matrix[0], encoding.encoded_fov[0], encoding.recon_fov[0])


def gridded(
    lines: Lines, rows: NDArray[np.intp], ky: NDArray[np.intp], kz: NDArray[np.intp], shape: tuple[int, int]
) -> tuple[Tensor, NDArray[np.int32], NDArray[np.bool_]]:
    """Readouts of `rows`, whitened, cropped and compressed, on the rows (kz, ky) of a grid of `shape` (nz, ny).

    Returns data (coil, nz, ny, x) on the device of `lines`, counts (nz, ny), and the columns (kx,) that were acquired.
    Works in blocks of rows, so that the raw samples are never all in memory; each is sent to the device once,
    unchanged. Raises DataError for NaN or infinite samples.
    """
    headers, nx = lines.scan.lines[rows], lines.encoding.encoded_matrix[0]
    acquired = np.zeros(nx, np.bool_)

    def blocks() -> Iterator[tuple[NDArray[np.intp], Tensor]]:
        for part in _equal_shapes(headers):
            one = int(headers["active_channels"][part[0]]) * max(int(headers["number_of_samples"][part[0]]), nx) * 8
            step = max(1, _BLOCK_BYTES // one)
            for at in (part[i : i + step] for i in range(0, len(part), step)):
                block, sampled = _columns(lines, rows[at], nx)
                np.logical_or(acquired, sampled, out=acquired)
                yield at, block

    data, counted = place.grid(blocks(), ky, kz, shape)
    if not place.finite(data):
        raise DataError(_damage(lines, rows))
    return data, counted, acquired


def _columns(lines: Lines, rows: NDArray[np.intp], nx: int) -> tuple[Tensor, NDArray[np.bool_]]:
    raw, live = lines.scan.samples.read(rows), lines.live
    # Samples of a dead coil are never read, whatever they hold.
    samples = place.upload(raw if live.all() else np.ascontiguousarray(raw[:, live]), lines.device)
    columns, sampled = place.readouts(noise.mix(lines.mixing, samples), lines.scan.lines[rows], nx)
    hybrid = to_hybrid(columns, lines.nx)
    if lines.compression is not None and lines.compression.ndim == 3:  # geometric: one matrix per x
        hybrid = torch.einsum("xvc,ncx->nvx", lines.compression.to(hybrid.device), hybrid)
    return hybrid, sampled


def _damage(lines: Lines, rows: NDArray[np.intp]) -> str:
    """The error for a grid with values that are not finite; it names the file's lines and channels that hold them."""
    bad, channels = 0, np.zeros(len(lines.live), np.bool_)
    for part in _equal_shapes(lines.scan.lines[rows]):
        for at in np.array_split(part, -(-len(part) // 256)):
            wrong = ~np.isfinite(lines.scan.samples.read(rows[at])).all(axis=2) & lines.live
            bad, channels = bad + int(wrong.any(axis=1).sum()), channels | wrong.any(axis=0)
    if not bad:
        return "the average of some lines overflows; scale the samples down"
    found = np.nonzero(channels)[0].tolist()
    named = ", ".join(map(str, found[:6])) + (", …" if len(found) > 6 else "")
    return (
        f"{bad} of {len(rows)} lines hold NaN or infinite samples, in {counted(len(found), 'channel')} "
        f"({named}); leave out these lines or channels, or convert the scan again"
    )


def slab(lines: Lines, rows: NDArray[np.intp]) -> Slab:
    """The lines of one slice or slab on the encoded grid, averages joined."""
    ky, kz, valid = sort.row_index(lines.scan.lines[rows], lines.encoding)
    y, counted, columns = gridded(lines, rows[valid], ky[valid], kz[valid], lines.shape)
    return Slab(y, torch.from_numpy(counted), torch.from_numpy(columns))


def counts(scan: RawScan, rows: NDArray[np.intp], encoding: Encoding) -> NDArray[np.int32]:
    """How often each row (kz, ky) of the encoded grid was acquired, without reading samples."""
    nz, ny = encoding.encoded_matrix[2], encoding.encoded_matrix[1]
    ky, kz, valid = sort.row_index(scan.lines[rows], encoding)
    flat = np.bincount(kz[valid].astype(np.intp) * ny + ky[valid], minlength=nz * ny)
    return flat.reshape(nz, ny).astype(np.int32)


def calibration(lines: Lines, rows: NDArray[np.intp], size: int) -> Tensor:
    """Fully sampled block (coil, cz, cy, cx) around the centre of k-space, at most `size` along each axis.

    `rows` are lines that together hold the block: separate calibration lines, or the ACS lines of the image. Raises
    DataError if no block of at least four lines is fully sampled.
    """
    sampled = counts(lines.scan, rows, lines.encoding) > 0
    z0, z1, y0, y1 = calibration_block(sampled, size)
    if not enough(sampled):
        raise DataError(
            f"only {y1 - y0}×{z1 - z0} lines around the centre of k-space are fully sampled, too few to calibrate coil "
            "sensitivities; acquire ACS lines, or see the zero-filled image with --method combine"
        )
    ky, kz, valid = sort.row_index(lines.scan.lines[rows], lines.encoding)
    inside = valid & (ky >= y0) & (ky < y1) & (kz >= z0) & (kz < z1)
    block, _, _ = gridded(lines, rows[inside], ky[inside] - y0, kz[inside] - z0, (z1 - z0, y1 - y0))
    k = fft(block, (-1,))
    return crop(k, -1, min(size, k.shape[-1])).contiguous()


def padded(block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The calibration block (coil, cz, cy, cx) in the middle of an empty k-space of `shape` (nz, ny, nx)."""
    out = block.new_zeros(block.shape[0], *shape)
    (z, y, x), (cz, cy, cx) = ((n // 2 for n in s) for s in (shape, block.shape[1:]))
    nz, ny, nx = block.shape[1:]
    out[:, z - cz : z - cz + nz, y - cy : y - cy + ny, x - cx : x - cx + nx] = block
    return out


def enough(sampled: NDArray[np.bool_]) -> bool:
    """Whether the fully sampled block around the centre of (kz, ky) has at least four lines along either axis."""
    z0, z1, y0, y1 = calibration_block(sampled, 4)
    return bool(y1 - y0 >= min(4, sampled.shape[1]) and z1 - z0 >= min(4, sampled.shape[0]))


def calibration_block(sampled: NDArray[np.bool_], size: int) -> tuple[int, int, int, int]:
    """Fully sampled rectangle (z0, z1, y0, y1) around the centre of (kz, ky), at most `size` along each axis."""
    block = central_block(sampled)
    if block is None:
        return 0, 0, 0, 0
    (y0, y1), (z0, z1) = block
    cz, cy = sampled.shape[0] // 2, sampled.shape[1] // 2
    z0, y0 = max(z0, cz - size // 2), max(y0, cy - size // 2)
    return z0, min(z1, z0 + size), y0, min(y1, y0 + size)


def _equal_shapes(headers: NDArray[np.void]) -> list[NDArray[np.intp]]:
    """Positions of lines that have the same number of channels and samples, group by group."""
    key = headers["active_channels"].astype(np.int64) << 32 | headers["number_of_samples"].astype(np.int64)
    return [np.nonzero(key == k)[0] for k in np.unique(key)]
