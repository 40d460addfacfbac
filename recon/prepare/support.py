"""The measured part of k-space, if the scanner stored zeros around it to interpolate the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding, RawScan
from recon.prepare.noise import Whitening
from recon.prepare.sampling import sampling
from recon.prepare.sort import Frame, Kinds, centre_samples, is_reversed, row_index

#: Power at the edge of the measured part over everything outside, and the largest power outside as a share of the
#: noise: filling by the scanner is zero or rounding, also behind a filter (a Hamming window's ends are at 22 dB).
STEP, EMPTY = 100.0, 0.1
#: Number of distances inside an edge whose median power represents it, so that a spark does not.
EDGE = 4
#: Smallest share of an axis that must be empty at either end, and smallest radius of the measured part.
MARGIN, LEAST = 0.02, 1 / 8
#: No scanner interpolates by more than this along an axis: such a header is wrong.
MOST = 5
#: How far the measured shares of two axes may differ for one to confirm the other.
ALIKE = 0.1
#: Lines examined at a time, and frames of a scan that are examined.
_BLOCK, _FRAMES = 32, 3
_NAMES = ("readout samples", "phase encodes", "partitions")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Support:
    """A scan without the empty edges of its k-space, which keeps its field of view, and notes."""

    scan: RawScan
    encoding: Encoding
    notes: tuple[str, ...] = ()


def measured(scan: RawScan, kinds: Kinds, encoding: Encoding, frames: Sequence[Frame], whitening: Whitening) -> Support:
    """The scan with its encoded matrix cropped to the measured part, with the same centre; unchanged if none is empty.

    Along each axis, offsets d from the centre of k-space count as measured up to ±h. The lines or samples there exceed
    the power further out by STEP. Beyond, at both ends of the axis, there are no lines or less than noise: partial
    Fourier leaves one end, and a spectrum that falls steeply ends in noise.

    Lines at distance R from each other leave up to R − 1 rows empty at an end by chance, so an end counts as empty only
    if it could hold another line. Random patterns whose density falls outwards may end anywhere. With these, an axis
    counts as empty only if lines of zeros were stored there, the header says so, or another axis is equally empty.

    The new matrix has index N // 2 at the same place of k-space, so there is no phase ramp or shift. The image is still
    interpolated to the requested grid.
    """
    lines = scan.lines
    if encoding.trajectory not in ("cartesian", "epi") or not frames:
        return Support(scan, encoding)
    old = encoding.encoded_matrix
    few = [frames[i] for i in sorted({int(i) for i in np.linspace(0, len(frames) - 1, _FRAMES)})]
    looks = [_looked(scan, frame, encoding, whitening) for frame in few]
    most = EMPTY if whitening.source in ("noise scan", "estimate") else math.inf
    every = np.concatenate([f.rows for f in frames])
    ky, kz, valid = row_index(lines[every], encoding)
    if not valid.any() or not all(len(look.columns[0]) for look in looks):
        return Support(scan, encoding)
    new = list(old)
    ends = [_ends(look.columns, most) for look in looks]
    new[0] = _size(old[0], min(e[0] for e in ends), max(e[1] for e in ends), 1)
    even = sampling(_counts(ky, kz, valid, encoding)).regular
    for axis, steps in ((1, ky[valid] - old[1] // 2), (2, kz[valid] - old[2] // 2)):
        ends = [_ends(look.rows[axis - 1], most) for look in looks]
        first, last, edge = min(e[0] for e in ends), max(e[1] for e in ends), any(e[2] for e in ends)
        # Frames that were not examined may hold other rows of the same part.
        kept = np.unique(steps[(steps >= first) & (steps <= last)] if edge else steps)
        gap = int(np.diff(kept).max()) if len(kept) > 1 else 1
        first, last, named = _announced(kept, gap, encoding, axis)
        found = _size(old[axis], first, last, gap)
        alike = any(n < o and abs(n / o - found / old[axis]) < ALIKE for n, o in zip(new[:axis], old))
        new[axis] = found if even or edge or named or alike else old[axis]
    if tuple(new) == tuple(old):
        return Support(scan, encoding)
    said = [f"the middle {n} of {o} {name}" for n, o, name in zip(new, old, _NAMES) if n < o]
    note = (
        f"k-space was zero-filled by the scanner outside {' and '.join(said)}; the image is reconstructed from "
        'the measured part and interpolated to the same grid (prepare.empty_edges = "keep" treats the zeros '
        "as samples)"
    )
    rows = np.concatenate([kinds.imaging, kinds.calibration])
    rows = rows[lines["encoding_space_ref"][rows] == lines["encoding_space_ref"][every[0]]]
    cut = replace(scan, lines=_cut(lines, np.unique(rows), old[0], new[0]))
    smaller = replace(encoding, encoded_matrix=(new[0], new[1], new[2]))
    return Support(cut, smaller, (note,))


@dataclass(frozen=True)
class _Looked:
    """Offsets from the centre, and mean power there, of some lines of a frame: along ky, kz and the readout."""

    rows: tuple[tuple[NDArray[np.intp], Floats], tuple[NDArray[np.intp], Floats]]
    columns: tuple[NDArray[np.intp], Floats]


def _looked(scan: RawScan, frame: Frame, encoding: Encoding, whitening: Whitening) -> _Looked:
    """One line of each ky, the one nearest to kz = 0, and one of each kz."""
    nx, ny, nz = encoding.encoded_matrix
    ky, kz, valid = row_index(scan.lines[frame.rows], encoding)
    rows, dy, dz = frame.rows[valid], ky[valid] - ny // 2, kz[valid] - nz // 2
    first = [_nearest(dy, dz), _nearest(dz, dy)]
    chosen = np.unique(np.concatenate(first))
    of: dict[int, float] = {}
    across, count = np.zeros(nx), np.zeros(nx)
    for at in np.split(chosen, range(_BLOCK, len(chosen), _BLOCK)):
        power, there = _power(scan, rows[at], nx, whitening.matrix.numpy())
        of |= zip(at.tolist(), (power.sum(1) / np.maximum(there.sum(1), 1)).tolist())
        across, count = across + power.sum(0), count + there.sum(0)
    along = [(d[f], np.array([of[int(n)] for n in f])) for d, f in zip((dy, dz), first)]
    held = count > 0
    return _Looked((along[0], along[1]), ((np.arange(nx) - nx // 2)[held], across[held] / count[held]))


def _nearest(d: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Positions of one line for each value of d: the one with the smallest |other|."""
    order = np.lexsort((np.abs(other), d))
    return order[np.unique(d[order], return_index=True)[1]]


def _power(scan: RawScan, rows: NDArray[np.intp], nx: int, matrix: NDArray[np.complex64]) -> tuple[Floats, Floats]:
    """Power of samples on the columns of the grid (line, nx), 1 for noise, and which of them a line acquired."""
    lines, live = scan.lines[rows], matrix.any(0)
    power, there = np.zeros((len(rows), nx)), np.zeros((len(rows), nx))
    for n in np.unique(lines["number_of_samples"]):
        at = np.nonzero(lines["number_of_samples"] == n)[0]
        with np.errstate(invalid="ignore"):  # NaN is ignored here and refused later
            white = matrix[:, live] @ scan.samples.read(rows[at])[:, live]
        square = np.nan_to_num((white.real**2 + white.imag**2).mean(1, dtype=np.float64) / 2, nan=0.0, posinf=0.0)
        for i, line, one in zip(at, lines[at], square):
            column = _columns(line, nx)
            inside = (column >= 0) & (column < nx)
            inside[: int(line["discard_pre"])] = False
            inside[len(inside) - int(line["discard_post"]) :] = False
            power[i, column[inside]] = one[inside]
            there[i, column[inside]] = 1
    return power, there


def _columns(line: np.void, nx: int) -> NDArray[np.intp]:
    """The column of the grid of every sample of a line."""
    one = np.asarray([line])
    offset = np.arange(int(line["number_of_samples"])) - int(centre_samples(one, nx)[0])
    return nx // 2 + (-offset if is_reversed(one)[0] else offset)


def _ends(profile: tuple[NDArray[np.intp], Floats], most: float) -> tuple[int, int, bool]:
    """The first and last measured offset, one of which may reach further, and whether more was stored."""
    offset, power = profile
    radius, level = _radius(profile, most)
    kept = offset[(np.abs(offset) < radius) & (power > STEP * level)]
    kept = kept if len(kept) else offset
    return int(kept.min()), int(kept.max()), bool((np.abs(offset) >= radius).any())


def _radius(profile: tuple[NDArray[np.intp], Floats], most: float) -> tuple[int, float]:
    """The h with all measured samples within |d| < h, and the largest power outside."""
    d, side = np.unique(np.abs(profile[0]), return_inverse=True)
    power = np.zeros(len(d))
    np.maximum.at(power, side, profile[1])
    outside = 0.0
    for i in range(len(d) - 1, EDGE, -1):
        if d[i] < LEAST * d[-1] or outside > most:
            break
        if i + 1 < len(d) and min(power[i], np.median(power[i - EDGE + 1 : i + 1])) > STEP * outside:
            return int(d[i]) + 1, outside
        outside = max(outside, power[i])
    return int(d[-1]) + 1, 0.0


def _announced(kept: NDArray[np.intp], gap: int, encoding: Encoding, axis: int) -> tuple[int, int, bool]:
    """The first and last row, or those in the header if no line could lie between them; and which of the two."""
    first, last = int(kept.min()), int(kept.max())
    limit = encoding.limits.get(f"kspace_encoding_step_{axis}")
    if limit is not None:
        low, high = limit.minimum - limit.center, limit.maximum - limit.center
        if 0 <= first - low < gap and 0 <= high - last < gap:
            return low, high, True
    return first, last, False


def _counts(
    ky: NDArray[np.intp], kz: NDArray[np.intp], valid: NDArray[np.bool_], encoding: Encoding
) -> NDArray[np.intp]:
    _, ny, nz = encoding.encoded_matrix
    return np.bincount(kz[valid] * ny + ky[valid], minlength=nz * ny).reshape(nz, ny)


def _size(n: int, first: int, last: int, gap: int) -> int:
    """Matrix size of an axis of n samples whose ends beyond first and last, counted from N // 2, are empty."""
    low, high = first + n // 2, n - 1 - n // 2 - last
    if min(low, high) < max(gap, 2, math.ceil(MARGIN * n)):
        return n
    # Even, for faster transforms.
    found = 2 * max(-first, last + 1)
    return found if n / MOST < found < n else n


def _cut(lines: NDArray[np.void], rows: NDArray[np.intp], old: int, new: int) -> NDArray[np.void]:
    """The table of lines with the samples of `rows` outside the middle `new` of `old` columns discarded."""
    out: NDArray[np.void] = lines.copy()
    if new == old:
        return out
    some = out[rows]
    centre, ns = centre_samples(some, old), some["number_of_samples"].astype(np.int64)
    low, high = new // 2, new - new // 2  # columns before the centre, and from it on
    backwards = is_reversed(some)
    first = np.where(backwards, centre - (high - 1), centre - low)
    end = np.where(backwards, centre + low + 1, centre + high)
    some["center_sample"] = centre
    some["discard_pre"] = np.maximum(some["discard_pre"], np.maximum(first, 0))
    some["discard_post"] = np.maximum(some["discard_post"], np.maximum(ns - end, 0))
    out[rows] = some
    return out
