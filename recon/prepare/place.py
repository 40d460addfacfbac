"""Placement of samples: readouts on encoded columns, lines on the grid of phase encodes, on any device.

What follows from the table of lines alone (rows, counts, columns) is computed on the CPU before samples are read.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError
from recon.prepare.sort import centre_samples, is_reversed


def upload(samples: NDArray[np.complex64], device: torch.device) -> Tensor:
    """Samples on a device: unchanged on the CPU, otherwise one asynchronous copy to the GPU."""
    return _fetched(torch.from_numpy(samples), device)


def readouts(samples: Tensor, lines: NDArray[np.void], nx: int) -> tuple[Tensor, NDArray[np.bool_]]:
    """Readouts on the encoded grid, columns (line, coil, nx), and which columns (nx,) any of them acquired.

    Sample n of [discard_pre, ns − discard_post) goes to column n − c + nx//2, and to c − n + nx//2 in a reversed line,
    with c from `centre_samples`; the rest is zero. `samples` is (line, coil, sample); it is returned without a copy if
    every sample is already in place. Raises DataError if a sample would lie outside the grid.
    """
    n, coils, ns = samples.shape
    pre, post = lines["discard_pre"].astype(np.int64), lines["discard_post"].astype(np.int64)
    key = np.stack([centre_samples(lines, nx), pre, ns - post, is_reversed(lines)], axis=1)
    sampled = np.zeros(nx, np.bool_)
    if not n:
        return samples.new_zeros(0, coils, nx), sampled
    # Almost always there is one group, or two (forward and backward).
    distinct, of = (
        (key[:1], np.zeros(n, np.intp)) if (key == key[0]).all() else np.unique(key, axis=0, return_inverse=True)
    )
    columns: Tensor | None = None
    for g, (centre, first, end, reverse) in enumerate(distinct.tolist()):
        start = centre - (end - 1) + nx // 2 if reverse else first - centre + nx // 2
        stop = start + end - first
        if end <= first or start < 0 or stop > nx:
            raise DataError(
                f"readouts of samples {first} to {end - 1} of {ns} with center_sample {centre} reach columns {start} "
                f"to {stop - 1} of a grid of {nx}; correct center_sample, or encodedSpace/matrixSize/x in the header"
            )
        sampled[start:stop] = True
        if len(distinct) == 1 and (start, stop, first, end) == (0, nx, 0, ns):
            return (samples.flip(-1) if reverse else samples), sampled
        if columns is None:
            columns = samples.new_zeros(n, coils, nx)
        part = samples[..., first:end]
        if len(distinct) == 1:
            columns[..., start:stop] = part.flip(-1) if reverse else part
        else:
            at = _indices(np.nonzero(of.reshape(-1) == g)[0], samples.device)
            part = part.index_select(0, at)
            columns[at, :, start:stop] = part.flip(-1) if reverse else part
    assert columns is not None
    return columns, sampled


def grid(
    blocks: Iterable[tuple[NDArray[np.intp], Tensor]],
    ky: NDArray[np.intp],
    kz: NDArray[np.intp],
    shape: tuple[int, int],
) -> tuple[Tensor, NDArray[np.int32]]:
    """Lines on the grid: data (coil, nz, ny, column) and counts (nz, ny), with `shape` (nz, ny).

    `blocks` yields numbers of lines (indices into `ky` and `kz`) and their values (line, coil, column). Lines of the
    same row are averaged: their sum divided by their count. Rows without lines are zero; a NaN or infinite sample makes
    its whole row NaN or infinite. Raises DataError for rows outside the grid, and if no line is given.
    """
    nz, ny = shape
    if len(ky) and (ky.min() < 0 or kz.min() < 0 or ky.max() >= ny or kz.max() >= nz):
        raise DataError(
            f"lines lie outside the grid of {ny}×{nz} rows; leave out those that row_index marks as invalid"
        )
    flat = np.asarray(kz, np.intp) * ny + np.asarray(ky, np.intp)
    counts = np.bincount(flat, minlength=nz * ny)
    again = int(counts.max(initial=0)) > 1
    data: Tensor | None = None
    for at, columns in blocks:
        if data is None:
            data = columns.new_zeros(columns.shape[1], nz * ny, columns.shape[2])
        for turn in _rounds(flat[at]) if again else [np.arange(len(at))]:
            rows = _indices(flat[at][turn], columns.device)
            part = columns if len(turn) == len(columns) else columns.index_select(0, _indices(turn, columns.device))
            part = part.movedim(0, 1)
            data.index_add_(1, rows, part) if again else data.index_copy_(1, rows, part)
    if data is None:
        raise DataError("no lines are left for an image; `recon info` shows which were ignored and why")
    if again:
        data /= torch.from_numpy(np.maximum(counts, 1).astype(np.float32)).to(data.device)[:, None]
    return data.reshape(len(data), nz, ny, -1), counts.reshape(nz, ny).astype(np.int32)


def finite(data: Tensor) -> bool:
    """Whether no value is NaN or infinite: their sum is then finite, which takes one pass."""
    return bool(torch.isfinite(torch.view_as_real(data.sum(dtype=torch.complex128))).all())


def together(parts: list[Tensor]) -> Tensor:
    """Tensors of one shape stacked along a new first axis; a single one, which may be a large volume, is not copied."""
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _indices(numbers: NDArray[np.intp], device: torch.device) -> Tensor:
    return _fetched(torch.from_numpy(np.ascontiguousarray(numbers, np.int64)), device)


def _fetched(host: Tensor, device: torch.device) -> Tensor:
    pinned = device.type == "cuda" and torch.cuda.is_available()
    return (host.pin_memory() if pinned else host).to(device, non_blocking=True)


def _rounds(flat: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Lines in rounds without repeated rows: the first line of each row, then the second, and so on."""
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat)
    rank = np.empty(len(flat), np.intp)
    rank[order] = np.arange(len(flat)) - (np.cumsum(counts) - counts)[flat[order]]
    return [np.nonzero(rank == r)[0] for r in range(int(rank.max()) + 1)]
