"""Sorting of lines: which of them make the image, which frame each belongs to, and where on the grid it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recon.data import FRAME_COUNTERS, NOT_IMAGE, DataError, Encoding, Flag, RawScan, flagged, imaging

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
    """Rows of a scan by purpose.

    A line with flag 21 is in both `imaging` and `calibration`. `ignored` says how many lines serve no purpose, and why;
    `notes` are sentences on lines that had to be left out.
    """

    imaging: NDArray[np.intp]
    calibration: NDArray[np.intp]
    noise: NDArray[np.intp]
    phasecorr: NDArray[np.intp]
    ignored: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """The imaging lines of one slice (or 3D slab) for one combination of counters.

    `complete` is False if other frames of the scan have phase encodes that this one lacks. This is decided by counting
    lines, because flags such as LAST_IN_SLICE may be missing; `ended` says whether the last line has that flag.
    `encodes` is the number of different phase encodes.
    """

    contrast: int
    phase: int
    repetition: int
    set: int
    slice: int
    rows: NDArray[np.intp]
    complete: bool = True
    encodes: int = 0
    ended: bool = False


def kinds(scan: RawScan) -> Kinds:
    """Rows of imaging, calibration, noise and phase correction lines, classified by flags alone.

    Noise has flag 19, calibration 20 or 21, phase correction 24; imaging lines have none of 19, 20 (without 21), 23, 24
    and 26 to 31. The number of channels and the encoding that most imaging lines have decide; lines with others are
    left out with a note, since one grid makes one image. Raises DataError if no imaging line is left.
    """
    lines, channels = scan.lines, scan.lines["active_channels"]
    noise, image = flagged(lines, Flag.NOISE), imaging(lines)
    phasecorr = flagged(lines, Flag.PHASECORR) & ~flagged(lines, Flag.NOISE, *_IGNORED.values())
    calibration = flagged(lines, Flag.CALIBRATION, Flag.CALIBRATION_AND_IMAGING) & ~flagged(lines, *NOT_IMAGE)
    if not image.any():
        raise DataError(
            f"none of the {len(lines)} lines is an imaging line ({int(noise.sum())} are noise, "
            f"{int(calibration.sum())} calibration alone); give the file of the imaging scan, or correct the flags"
        )
    ignored = {name: int((~noise & flagged(lines, flag)).sum()) for name, flag in _IGNORED.items()}
    most = int(np.bincount(channels[image]).argmax())
    notes = []
    for name, where in (
        ("imaging", image), ("calibration", calibration & ~image), ("noise", noise), ("phase correction", phasecorr)
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
    encoding = lines["encoding_space_ref"]
    used = int(np.bincount(encoding[image & same]).argmax())
    other = image & same & (encoding != used)
    if other.any():
        notes.append(
            f"{int(other.sum())} of {int(image.sum())} imaging lines belong to another encoding than encoding[{used}], "
            "which most have: they are left out; write them into a file of their own for an image of them"
        )
        ignored["imaging lines of another encoding"] = int(other.sum())
    a, b, c, d = (np.nonzero(where & same)[0] for where in (image & ~other, calibration, noise, phasecorr))
    return Kinds(a, b, c, d, {name: n for name, n in ignored.items() if n}, tuple(notes))


def flagged_for(lines: NDArray[np.void], rows: NDArray[np.intp], line: int) -> NDArray[np.intp]:
    """Those of the `rows` flagged for calibration that are nearest to the frame of a line, all in its slice."""
    rows = rows[lines["slice"][rows] == lines["slice"][line]]
    for counter in ("encoding_space_ref", "contrast", "set", "phase", "repetition"):
        same = rows[lines[counter][rows] == lines[counter][line]]
        rows = same if len(same) else rows
    return rows


def choose_encoding(scan: RawScan) -> int:
    """Number of the encoding that most imaging lines use. Raises DataError if it is not in the header."""
    e = int(scan.lines["encoding_space_ref"][kinds(scan).imaging[0]])
    if e >= len(scan.encodings):
        raise DataError(
            f"the imaging lines use encoding {e}, but the header describes {len(scan.encodings)}; correct their "
            "encoding_space_ref or add the encoding"
        )
    return e


def centre_samples(lines: NDArray[np.void], nx: int) -> NDArray[np.int64]:
    """Index of the sample at the centre of k-space for each line, in order of acquisition.

    It is the header's center_sample, with two exceptions. A centre of 0 at the start of a full readout of nx samples
    means that it was not set: nx // 2 is used, counted in the forward direction. N // 2 in a full reversed readout of
    even N was counted after the flip and would put one sample beyond the edge.
    """
    ns, centre = lines["number_of_samples"].astype(np.int64), lines["center_sample"].astype(np.int64)
    reverse = is_reversed(lines)
    full = ns == nx
    centre = np.where(full & (centre == 0), np.where(reverse, ns - 1 - nx // 2, nx // 2), centre)
    return np.where(full & reverse & (centre == nx // 2) & (nx % 2 == 0), centre - 1, centre)


def row_index(
    lines: NDArray[np.void], encoding: Encoding
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Row (ky, kz) of each line on the encoded grid, and whether it lies on the grid.

        ky = kspace_encode_step_1 + Ey // 2 − c₁,
        kz = kspace_encode_step_2 + Ez // 2 − c₂

    with E the encoded matrix and c the centre of the encoding limits. A missing limit is replaced by E // 2 if the
    lines take each value 0 … E − 1; otherwise DataError is raised.
    """
    ky, valid_y = _rows(lines, encoding, 1)
    kz, valid_z = _rows(lines, encoding, 2)
    return ky, kz, valid_y & valid_z


def _rows(lines: NDArray[np.void], encoding: Encoding, axis: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    size, name = encoding.encoded_matrix[axis], f"kspace_encoding_step_{axis}"
    step, limit = lines[f"kspace_encode_step_{axis}"].astype(np.intp), encoding.limits.get(name)
    if limit is None and (there := len(np.unique(step[step < size]))) < size:
        raise DataError(
            f"the header has no encodingLimits/{name} and only {there} of {size} phase encodes were "
            "acquired, so that the centre of k-space is unknown; write its minimum, maximum and center into the header"
        )
    row = step + size // 2 - (limit.center if limit else size // 2)
    return row, (row >= 0) & (row < size)


def finite(columns: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """Lines (line,) of (line, coil, sample) without NaN and infinity."""
    parts = columns.view(columns.real.dtype) if columns.flags.c_contiguous else columns
    return (
        np.asarray(np.isfinite(parts.reshape(len(columns), -1)).all(axis=1)) if len(columns) else np.ones(0, np.bool_)
    )


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
    ended = flagged(scan.lines[rows], Flag.LAST_IN_SLICE)
    return [
        Frame(c, p, r, e, s, rows[part], done, count, bool(ended[part[-1]]))
        for (c, p, r, e, s), part, (done, count) in zip(distinct.tolist(), parts, whole, strict=True)
    ]


def _complete(frames: list[NDArray[np.void]]) -> list[tuple[bool, int]]:
    """Whether each frame has the phase encodes of the fullest one, and how many it has.

    Frames that lack only the ACS lines of the fullest (flag 21) are complete, too. So are those with as many phase
    encodes as most frames, because sampling may change from frame to frame.
    """
    encodes = [_encodes(lines) for lines in frames]
    sizes = np.array([len(e) for e in encodes])
    fullest = int(sizes.argmax())
    acs = flagged(frames[fullest], Flag.CALIBRATION_AND_IMAGING)
    needed = _encodes(frames[fullest][~acs])
    values, times = np.unique(sizes, return_counts=True)
    usual = int(values[times.argmax()]) if times.max() * 2 > len(sizes) else int(sizes.max())
    return [(bool(len(e) >= usual or (needed.size and np.isin(needed, e).all())), len(e)) for e in encodes]


def _encodes(lines: NDArray[np.void]) -> NDArray[np.int64]:
    return np.unique(lines["kspace_encode_step_2"].astype(np.int64) << 16 | lines["kspace_encode_step_1"])


def is_reversed(lines: NDArray[np.void]) -> NDArray[np.bool_]:
    """Lines (line,) that were read out from right to left."""
    return flagged(lines, Flag.REVERSE)
