"""Samples in memory, presented as the lines of a RawScan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import LINE, DataError, Flag, Samples, flag_bits
from recon.geometry import Geometry

_FIRST_IN_SLICE, _LAST_IN_SLICE = (np.uint64(flag_bits(f)) for f in (Flag.FIRST_IN_SLICE, Flag.LAST_IN_SLICE))


@dataclass(frozen=True, eq=False)
class InMemory:
    """Lines held in arrays of equal shape: row i is `groups[group[i]][index[i]]`.

    Each of `groups` is (line, coil, sample) complex64. `trajectories` holds for each group (line, sample, dimension)
    float32, or None, and may be shorter than `groups`. `read` copies only the requested lines. Raises DataError if
    these differ in shape.
    """

    groups: tuple[NDArray[np.complex64], ...]
    group: NDArray[np.intp]
    index: NDArray[np.intp]
    trajectories: tuple[NDArray[np.float32] | None, ...] = ()

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        if np.size(rows) == 0:
            return np.zeros((0, *self.groups[0].shape[1:]) if self.groups else (0, 0, 0), np.complex64)
        return _gather(rows, self.group, lambda g, at: np.asarray(self.groups[g][self.index[at]], np.complex64))

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        def part(g: int, at: NDArray[np.intp]) -> NDArray[np.float32]:
            stored = self.trajectories[g] if g < len(self.trajectories) else None
            if stored is None:
                return np.zeros((len(at), self.groups[g].shape[2], 0), np.float32)
            return np.asarray(stored[self.index[at]], np.float32)

        if np.size(rows) == 0:
            return np.zeros((0, self.groups[0].shape[2] if self.groups else 0, 0), np.float32)
        return _gather(rows, self.group, part)


@dataclass(frozen=True, eq=False)
class SomeRows:
    """Some lines of a scan: row i is row rows[i] of the `whole`."""

    whole: Samples
    rows: NDArray[np.intp]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        return self.whole.read(self.rows[rows])

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return self.whole.trajectory(self.rows[rows])


@dataclass(frozen=True, eq=False)
class FromArray:
    """Lines taken from a k-space array (slice, coil, kz, ky, kx): row i is `kspace[where[0][i], :, …, where[2][i], :]`.

    The array is never copied as a whole; it may be a numpy.memmap.
    """

    kspace: NDArray[np.complex64]
    where: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        s, z, y = (w[np.asarray(rows, np.intp)] for w in self.where)
        return np.ascontiguousarray(self.kspace.transpose(0, 2, 3, 1, 4)[s, z, y], dtype=np.complex64)

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.zeros((len(rows), self.kspace.shape[4], 0), np.float32)


@dataclass(frozen=True, eq=False)
class Joined:
    """Several sources of samples, one after the other: part p holds rows first[p] … first[p + 1] − 1."""

    parts: tuple[Samples, ...]
    first: NDArray[np.intp]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        if np.size(rows) == 0:
            return self.parts[0].read(np.zeros(0, np.intp))
        return _gather(rows, self._part(), lambda p, at: self.parts[p].read(at - self.first[p]))

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        if np.size(rows) == 0:
            return self.parts[0].trajectory(np.zeros(0, np.intp))
        return _gather(rows, self._part(), lambda p, at: self.parts[p].trajectory(at - self.first[p]))

    def _part(self) -> NDArray[np.intp]:
        return np.repeat(np.arange(len(self.parts)), np.diff(self.first))


def in_memory(*groups: NDArray[np.complex64], trajectories: Sequence[NDArray[np.float32] | None] = ()) -> InMemory:
    """Samples of lines laid out group after group; each group is (line, coil, sample) complex64, not copied.

    `trajectories[g]` is (line, sample, dimension) float32 or None. Raises ValueError for a group with another number of
    axes.
    """
    for g in groups:
        if g.ndim != 3:
            raise ValueError(f"a group of lines is an array (line, coil, sample); got {g.ndim} axes")
    sizes = [len(g) for g in groups]
    group = np.repeat(np.arange(len(groups)), sizes)
    index = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.zeros(0, np.intp)
    return InMemory(tuple(groups), group, index, tuple(trajectories))


def join(*parts: tuple[NDArray[np.void], Samples]) -> tuple[NDArray[np.void], Samples]:
    """Lines and samples of several parts, one after the other, e.g. the contrasts of a series, or a noise scan first.

    Each part is a pair (lines, samples) as returned by `lines_from_array`.
    """
    first = np.cumsum([0, *(len(lines) for lines, _ in parts)])
    return np.concatenate([lines for lines, _ in parts]), Joined(tuple(samples for _, samples in parts), first)


def lines_from_array(
    kspace: NDArray[np.complex64],
    mask: NDArray[np.bool_] | None = None,
    *,
    geometry: Geometry | None = None,
    sample_time_us: float = 0.0,
    counters: Mapping[str, int] | None = None,
    flags: int = 0,
) -> tuple[NDArray[np.void], Samples]:
    """Lines and samples of a k-space array: one line for each (slice, kz, ky) with `mask` set, in that order.

    `kspace` is complex64 (slice, coil, kz, ky, kx) with zero frequency at index N // 2 of kz, ky and kx; `mask` is bool
    (slice, kz, ky), by default all set. kspace_encode_step_1 is the ky index, kspace_encode_step_2 the kz index,
    center_sample is nx // 2, so that the encoding's limits are Limit(0, ny − 1, ny // 2) and Limit(0, nz − 1, nz // 2).
    `geometry` is that of the whole volume: its grid may be finer, coarser or smaller than the k-space, and slice s of a
    2D stack is its plane k = s; without it positions and directions stay zero, which means unknown. `counters` sets
    further counters to one value for all lines, `flags` is or-ed into each line's flags. The array is not copied.
    Raises DataError for more than 65535 of anything.
    """
    if kspace.ndim != 5:
        raise ValueError(f"k-space needs the axes (slice, coil, kz, ky, kx); got {kspace.ndim} axes")
    ns, nc, nz, ny, nx = kspace.shape
    if max(kspace.shape) > 65535:
        raise DataError(
            f"k-space of shape {kspace.shape} has an axis longer than 65535; give the axes in another order"
        )
    where = np.nonzero(np.ones((ns, nz, ny), bool) if mask is None else np.asarray(mask, bool))
    if len(where) != 3:
        raise ValueError(f"the mask needs the axes (slice, kz, ky); got {len(where)} axes")
    s, z, y = where
    lines = np.zeros(len(s), LINE)
    lines["flags"] = flags
    lines["number_of_samples"] = nx
    lines["active_channels"] = nc
    lines["center_sample"] = nx // 2
    lines["sample_time_us"] = sample_time_us
    lines["slice"], lines["kspace_encode_step_2"], lines["kspace_encode_step_1"] = s, z, y
    for name, value in (counters or {}).items():
        lines[name] = value
    if geometry is not None and geometry.known:
        lines["position"] = _slice_centres(geometry, ns, nz)[s]
        lines["read_dir"], lines["phase_dir"], lines["slice_dir"] = (
            geometry.read_dir,
            geometry.phase_dir,
            geometry.slice_dir,
        )
    if len(s):
        new = np.diff(s) > 0
        lines["flags"] |= np.where(np.r_[True, new], _FIRST_IN_SLICE, np.uint64(0))
        lines["flags"] |= np.where(np.r_[new, True], _LAST_IN_SLICE, np.uint64(0))
        lines["flags"][-1] |= np.uint64(flag_bits(Flag.LAST_IN_MEASUREMENT))
    return lines, FromArray(kspace, (s, z, y))


def _slice_centres(g: Geometry, slices: int, nz: int) -> NDArray[np.float64]:
    """Position, as a scanner states it, of each slice (or of the slab): the voxel at index N // 2 in LPS mm."""
    if slices > 1 and (nz > 1 or g.shape[0] != slices):
        raise ValueError(f"geometry of {g.shape[0]} planes does not fit {slices} slices of {nz} partitions")
    r, c, s = (np.asarray(d) * step for d, step in zip((g.read_dir, g.phase_dir, g.slice_dir), g.voxel, strict=True))
    centre = np.asarray(g.position) + (g.shape[2] // 2) * r + (g.shape[1] // 2) * c
    k = np.arange(slices) if slices > 1 else np.array([g.shape[0] // 2])
    return np.asarray(centre + k[:, None] * s)


def _gather(
    rows: NDArray[np.intp], group: NDArray[np.intp], part: Callable[[int, NDArray[np.intp]], NDArray[np.generic]]
) -> NDArray[Any]:
    """Rows collected from the groups that hold them, in the requested order."""
    rows = np.asarray(rows, np.intp)
    of = group[rows]
    if (of == of[0]).all():
        return part(int(of[0]), rows)
    out: NDArray[Any] | None = None
    for g in np.unique(of):
        here = np.nonzero(of == g)[0]
        piece = part(int(g), rows[here])
        if out is None:
            out = np.empty((len(rows), *piece.shape[1:]), piece.dtype)
        if piece.shape[1:] != out.shape[1:]:
            raise DataError(
                f"lines of shape {out.shape[1:]} and {piece.shape[1:]} (coil, sample) cannot be read together; "
                "read each kind of line by itself"
            )
        out[here] = piece
    assert out is not None
    return out
