"""Sorting lines: which of them make the image, which frame each belongs to, and where on the grid it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recon.data import FRAME_COUNTERS, DataError, Encoding, Flag, RawScan, flag_bits

_IGNORED = {
    "navigation": Flag.NAVIGATION,
    "feedback (HPFEEDBACK)": Flag.HPFEEDBACK,
    "dummy": Flag.DUMMY,
    "feedback (RTFEEDBACK)": Flag.RTFEEDBACK,
    "surface coil correction": Flag.SURFACE_COIL_CORRECTION,
    "phase stabilization reference": Flag.PHASE_STABILIZATION_REFERENCE,
    "phase stabilization": Flag.PHASE_STABILIZATION,
}


@dataclass(frozen=True)
class Kinds:
    """Rows of a scan by what they are for.

    A line with flag 21 is in `imaging` and in `calibration`. `ignored` says how many lines serve none of these, and
    why; `notes` are sentences on lines that had to be left out.
    """

    imaging: NDArray[np.intp]
    calibration: NDArray[np.intp]
    noise: NDArray[np.intp]
    phasecorr: NDArray[np.intp]
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """The imaging lines of one slice (or 3D slab) in one state of the counters.

    `complete` is False where other frames of the scan have phase encodes that this one lacks; it is decided by counting
    lines, since flags such as LAST_IN_SLICE may be missing.
    """

    contrast: int
    phase: int
    repetition: int
    set: int
    slice: int
    rows: NDArray[np.intp]
    complete: bool = True


def kinds(scan: RawScan) -> Kinds:
    """Rows of imaging, calibration, noise and phase correction lines, told apart by their flags alone.

    Noise has flag 19, calibration 20 or 21, phase correction 24; imaging lines have none of 19, 20 (without 21), 23, 24
    and 26 to 31. The number of channels that most imaging lines have decides: lines of another one are left out with a
    note. Raises DataError where no imaging line is left.
    """
    flags, channels = scan.lines["flags"], scan.lines["active_channels"]

    def has(*of: Flag) -> NDArray[np.bool_]:
        return np.asarray((flags & np.uint64(flag_bits(*of))) != 0)

    noise = has(Flag.NOISE)
    free = ~noise & ~has(*_IGNORED.values())
    phasecorr = free & has(Flag.PHASECORR)
    free &= ~phasecorr
    both = has(Flag.CALIBRATION_AND_IMAGING)
    calibration = free & (both | has(Flag.CALIBRATION))
    imaging = free & (both | ~has(Flag.CALIBRATION))
    if not imaging.any():
        raise DataError(
            f"none of the {len(flags)} lines is an imaging line ({int(noise.sum())} are noise, "
            f"{int(calibration.sum())} calibration alone); give the file of the imaging scan, or correct the flags"
        )
    ignored = {name: int((~noise & has(flag)).sum()) for name, flag in _IGNORED.items()}
    most = int(np.bincount(channels[imaging]).argmax())
    notes = []
    for name, where in (
        ("imaging", imaging), ("calibration", calibration & ~imaging), ("noise", noise), ("phase correction", phasecorr)
    ):  # fmt: skip
        other = where & (channels != most)
        if other.any():
            counts = ", ".join(str(n) for n in np.unique(channels[other]))
            notes.append(
                f"{int(other.sum())} of {int(where.sum())} {name} lines have {counts} channels where the image has "
                f"{most}; they are left out"
            )
            ignored[f"{name} with another number of channels"] = int(other.sum())
    same = channels == most
    a, b, c, d = (np.nonzero(where & same)[0] for where in (imaging, calibration, noise, phasecorr))
    return Kinds(a, b, c, d, {name: n for name, n in ignored.items() if n}, tuple(notes))


def choose_encoding(scan: RawScan) -> int:
    """Number of the encoding that most imaging lines use. Raises DataError where it is not in the header."""
    e = int(np.bincount(scan.lines["encoding_space_ref"][kinds(scan).imaging]).argmax())
    if e >= len(scan.encodings):
        raise DataError(
            f"the imaging lines use encoding {e}, but the header describes {len(scan.encodings)}; correct their "
            "encoding_space_ref or add the encoding"
        )
    return e


def centre_samples(lines: NDArray[np.void], nx: int) -> NDArray[np.int64]:
    """Index of the sample at the centre of k-space for each line, in the order of acquisition.

    It is the header's center_sample, but for two habits of files: 0 where a full readout of nx samples begins, which
    means that nobody set it (nx // 2 is taken, as if never reversed), and N // 2 counted after the flip in a full
    reversed readout of even N, which would put one sample beyond the edge.
    """
    ns, centre = lines["number_of_samples"].astype(np.int64), lines["center_sample"].astype(np.int64)
    reverse = _reversed(lines)
    full = ns == nx
    centre = np.where(full & (centre == 0), np.where(reverse, ns - 1 - nx // 2, nx // 2), centre)
    return np.where(full & reverse & (centre == nx // 2) & (nx % 2 == 0), centre - 1, centre)


def place_readout(
    samples: NDArray[np.complex64], lines: NDArray[np.void], nx: int
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """Readouts on the encoded grid, columns (line, coil, nx), and which columns (nx,) any of them acquired.

    Sample n of [discard_pre, ns − discard_post) goes to column n − c + nx//2, and to c − n + nx//2 in a reversed line,
    with c from `centre_samples`; the rest is zero. `samples` is (line, coil, sample) and is returned itself where all
    of it stays in place. Raises DataError where a sample would fall beside the grid.
    """
    n, coils, ns = samples.shape
    pre, post = lines["discard_pre"].astype(np.int64), lines["discard_post"].astype(np.int64)
    key = np.stack([centre_samples(lines, nx), pre, ns - post, _reversed(lines)], axis=1)
    sampled = np.zeros(nx, np.bool_)
    if not n:
        return np.zeros((0, coils, nx), samples.dtype), sampled
    # Almost always there is one group, or two (forth and back).
    distinct, of = (
        (key[:1], np.zeros(n, np.intp)) if (key == key[0]).all() else np.unique(key, axis=0, return_inverse=True)
    )
    columns: NDArray[np.complex64] | None = None
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
            return (np.ascontiguousarray(samples[:, :, ::-1]) if reverse else samples), sampled
        if columns is None:
            columns = np.zeros((n, coils, nx), samples.dtype)
        taken = slice(None) if len(distinct) == 1 else np.nonzero(of.reshape(-1) == g)[0]
        part = samples[taken, :, first:end]
        columns[taken, :, start:stop] = part[:, :, ::-1] if reverse else part
    assert columns is not None
    return columns, sampled


def row_index(
    lines: NDArray[np.void], encoding: Encoding
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Row (ky, kz) of each line on the encoded grid, and whether it lies on it.

        ky = kspace_encode_step_1 + Ey // 2 − c₁,   kz = kspace_encode_step_2 + Ez // 2 − c₂

    with E the encoded matrix and c the centre of the encoding limits. A missing limit is replaced by E // 2 where the
    lines take each value 0 … E − 1. Raises DataError where it is missing and they do not.
    """
    ky, valid_y = _rows(lines, encoding, 1)
    kz, valid_z = _rows(lines, encoding, 2)
    return ky, kz, valid_y & valid_z


def _rows(lines: NDArray[np.void], encoding: Encoding, axis: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    size, name = encoding.encoded_matrix[axis], f"kspace_encoding_step_{axis}"
    step, limit = lines[f"kspace_encode_step_{axis}"].astype(np.intp), encoding.limits.get(name)
    if limit is None and len(np.unique(step[step < size])) < size:
        raise DataError(
            f"the header has no encodingLimits/{name} and only {len(np.unique(step))} of {size} phase encodes were "
            "acquired, so that the centre of k-space is unknown; write its minimum, maximum and center into the header"
        )
    row = step + size // 2 - (limit.center if limit else size // 2)
    return row, (row >= 0) & (row < size)


def finite(columns: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """Lines (line,) without NaN and infinity, of (line, coil, sample)."""
    parts = columns.view(columns.real.dtype) if columns.flags.c_contiguous else columns
    return (
        np.asarray(np.isfinite(parts.reshape(len(columns), -1)).all(axis=1)) if len(columns) else np.ones(0, np.bool_)
    )


def grid(
    columns: NDArray[np.complex64], ky: NDArray[np.intp], kz: NDArray[np.intp], shape: tuple[int, int]
) -> tuple[NDArray[np.complex64], NDArray[np.uint16]]:
    """Lines (line, coil, column) on the grid: data (coil, nz, ny, column) and counts (nz, ny), with shape (nz, ny).

    Lines of the same row are averaged: their sum divided by their count. Rows without lines are zero. Raises DataError
    for NaN or infinite samples (`finite` finds their lines) and for rows outside the grid.
    """
    nz, ny = shape
    n, coils, nx = columns.shape
    if n and (ky.min() < 0 or kz.min() < 0 or ky.max() >= ny or kz.max() >= nz):
        raise DataError(f"lines lie outside the grid of {ny}×{nz} rows; leave out those that row_index calls invalid")
    data = np.zeros((coils, nz * ny, nx), columns.dtype)
    flat = np.asarray(kz, np.intp) * ny + np.asarray(ky, np.intp)
    counts = np.bincount(flat, minlength=nz * ny)
    turns = _turns(flat, counts)
    for coil in range(coils):
        for i, at in enumerate(turns):
            part = columns[:, coil] if len(turns) == 1 else columns[at, coil]
            if i == 0:
                data[coil, flat[at]] = part
            else:
                data[coil, flat[at]] += part
    if len(turns) > 1:
        data /= np.maximum(counts, 1).astype(data.real.dtype)[:, None]
    # The sum of all samples is NaN or infinite when one is, and is had in one pass.
    if not np.isfinite(data.sum(dtype=np.complex128)):
        good = finite(columns)
        if good.all():
            raise DataError("the averages of some lines overflow; scale the samples down")
        channels = np.nonzero(~np.isfinite(columns).all(axis=(0, 2)))[0]
        raise DataError(
            f"{int((~good).sum())} of {n} lines hold NaN or infinite samples, in channels {_short(channels)}; leave "
            "out these lines or channels, or convert the scan anew"
        )
    return data.reshape(coils, nz, ny, nx), np.minimum(counts, 65535).astype(np.uint16).reshape(nz, ny)


def _turns(flat: NDArray[np.intp], counts: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Lines in turns, no row twice in one: the first line of each row, the second, and so on."""
    if counts.max(initial=0) <= 1:
        return [np.arange(len(flat))]
    order = np.argsort(flat, kind="stable")
    rank = np.empty(len(flat), np.intp)
    rank[order] = np.arange(len(flat)) - (np.cumsum(counts) - counts)[flat[order]]
    return [np.nonzero(rank == r)[0] for r in range(int(rank.max()) + 1)]


def frames(scan: RawScan, rows: NDArray[np.intp]) -> list[Frame]:
    """The frames among the given rows: one for each contrast, phase, repetition, set and slice that occurs, in order.

    Averages and segments are joined. Rows keep the order of acquisition within their frame.
    """
    if not len(rows):
        return []
    names = (*FRAME_COUNTERS, "slice")
    keys = np.stack([scan.lines[name][rows] for name in names], axis=1)
    distinct, of = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(of.reshape(-1), kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(of.reshape(-1)))[:-1])
    whole = _complete([scan.lines[rows[part]] for part in parts])
    return [
        Frame(int(key[0]), int(key[1]), int(key[2]), int(key[3]), int(key[4]), rows[part], done)
        for key, part, done in zip(distinct, parts, whole, strict=True)
    ]


def _complete(frames: list[NDArray[np.void]]) -> list[bool]:
    """Whether each frame has the phase encodes of the fullest one.

    Frames without the ACS lines of the fullest (flag 21) are whole too, and so are those with as many phase encodes as
    most frames have: sampling may change from frame to frame.
    """
    encodes = [_encodes(lines) for lines in frames]
    sizes = np.array([len(e) for e in encodes])
    fullest = int(sizes.argmax())
    acs = (frames[fullest]["flags"] & np.uint64(flag_bits(Flag.CALIBRATION_AND_IMAGING))) != 0
    needed = _encodes(frames[fullest][~acs])
    values, times = np.unique(sizes, return_counts=True)
    usual = int(values[times.argmax()]) if times.max() * 2 > len(sizes) else int(sizes.max())
    return [bool(len(e) >= usual or (needed.size and np.isin(needed, e).all())) for e in encodes]


def _encodes(lines: NDArray[np.void]) -> NDArray[np.int64]:
    return np.unique(lines["kspace_encode_step_2"].astype(np.int64) << 16 | lines["kspace_encode_step_1"])


def _reversed(lines: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.asarray((lines["flags"] & np.uint64(flag_bits(Flag.REVERSE))) != 0)


def _short(numbers: NDArray[np.intp]) -> str:
    return ", ".join(map(str, numbers[:6].tolist())) + (", …" if len(numbers) > 6 else "")
