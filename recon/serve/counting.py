"""Whether all lines of a scan have arrived, by counting them against the header rather than by flags."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Encoding, Flag, Limit, RawScan, flagged
from recon.io.samples import SomeRows
from recon.prepare import sort
from recon.prepare.announced import announced, encodes, lines_each
from recon.prepare.sort import Frame

#: Slice, contrast, phase, repetition and set of a frame.
COUNTERS = ("slice", "contrast", "phase", "repetition", "set")
Key = tuple[int, int, int, int, int]

#: In order: share of single lines that lie in steps of R in a regular pattern; how rarely those of another pattern may
#: do so by chance; how many single lines prove that the ACS lines are the only run.
_OF_A_COMB, _CHANCE, _SINGLE = 0.9, 1 / 32, 4
#: Share of N/R lines that a scan with a stated acceleration R must have: 3D scans may leave out the corners of k-space.
_ENOUGH_2D, _ENOUGH_3D = 0.95, 0.75
#: Share of the phase encodes beyond the centre of k-space from which partial Fourier estimates the phase.
_BEYOND = 1 / 16


@dataclass(frozen=True)
class Count:
    """Lines received and lines expected from the header, and the repetitions that are complete.

    `complete` says whether every repetition announced in the header is complete.
    """

    received: int
    expected: int
    whole: tuple[int, ...]
    announced: int

    @property
    def complete(self) -> bool:
        return len(self.whole) >= self.announced


@dataclass(frozen=True)
class Word:
    """What is known about a frame besides the number of its lines.

    `ended` says whether a line is marked as the last of its slice (flag 8) or of the measurement, `finished` only the
    latter (flag 25). `unbroken` says whether the lines are numbered without a gap from the one before the frame to the
    one after it, None if they are not numbered.
    """

    ended: bool
    finished: bool
    unbroken: bool | None

    @property
    def vouched(self) -> bool:
        """Whether nothing that was measured is missing, and nothing was to follow."""
        return self.ended and self.unbroken is True


def key_of(f: Frame) -> Key:
    """The counters of a frame."""
    return f.slice, f.contrast, f.phase, f.repetition, f.set


def unbroken(numbers: NDArray[np.integer], frames: Mapping[Key, Sequence[int]]) -> Mapping[Key, bool] | None:
    """Which frames, given by their rows, are numbered without a gap; None if lines are not numbered.

    `numbers` (line,) are the scan_counter of all lines as received. The line before a frame counts, and the one after.
    """
    steps = np.diff(numbers.astype(np.int64))
    if not steps.any():
        return None
    gaps = np.append(0, np.cumsum(steps != 1))  # number of lines before each line
    return {
        key: (rows[0] > 0 or int(numbers[0]) <= 1)
        and bool(gaps[max(0, rows[0] - 1)] == gaps[min(len(steps), rows[-1] + 1)])
        for key, rows in frames.items()
    }


def count(scan: RawScan, numbered: Mapping[Key, bool] | None = None) -> Count:
    """Count the imaging lines of a scan; `numbered` is the result of `unbroken` for its frames.

    A frame is one slice for one combination of counters.

    Without acceleration it is complete when each of its averages has every phase encode within the limits; with partial
    Fourier, the limits are those of the acquired lines. If the header states an acceleration R > 1, it is complete when
    it has N/R of them, with none missing from a regular pattern, up to both ends.

    Randomly drawn lines may stop short of an end by two of their largest steps, or more if a line is marked as the last
    of its slice (flag 8) or of the measurement (flag 25). A frame with fewer lines than others needs such a line and
    numbers without a gap. Patterns with few lines may be of either kind: with such a line they count as random if they
    have N/R lines, or if they are numbered without a gap.

    Up to 5 % of N/R may be missing if the numbers show that nothing was lost. A 3D scan without the corners of k-space
    is complete only if a line marks the end of the measurement; an undersampled one also if a line marks the end of its
    slab.

    If a line marks the end of the frame, another the end of the measurement, and the numbers show that nothing was
    lost, two more cases are complete. Frames and phase encodes may have fewer averages than announced, as in diffusion.
    Slices without acceleration may lack one end of the k-space within the limits.

    A repetition is complete when all its frames are present and complete.
    """
    rows = sort.kinds(scan).imaging
    encoding = scan.encodings[sort.choose_encoding(scan)]
    finished = bool(flagged(scan.lines[rows], Flag.LAST_IN_MEASUREMENT).any())
    frames = sort.frames(scan, rows)
    per_repetition = announced(encoding, "contrast", "phase", "set", "slice")
    found: dict[int, list[bool]] = {}
    received = 0
    for f in frames:
        lines = scan.lines[f.rows]
        received += len(np.unique(_encode_numbers(lines)))
        said = Word(finished or _last(lines), finished, None if numbered is None else numbered.get(key_of(f), False))
        found.setdefault(f.repetition, []).append((f.complete or said.vouched) and _whole(lines, encoding, said))
    whole = tuple(r for r, states in found.items() if len(states) >= per_repetition and all(states))
    repetitions = announced(encoding, "repetition")
    each = lines_each(encoding) * announced(encoding, "average")
    return Count(received, max(repetitions, len(found)) * per_repetition * each, whole, max(repetitions, len(found)))


def whole_frame(scan: RawScan) -> bool:
    """Whether the only frame of a scan has all its lines, by the rules of `count` and without any surplus line."""
    lines = scan.lines[sort.kinds(scan).imaging]
    return _whole(lines, scan.encodings[sort.choose_encoding(scan)], Word(_last(lines), False, False))


def fewest(encoding: Encoding) -> int:
    """The smallest number of phase encodes with which a frame may be complete."""
    (n1, n2), (r1, r2) = encodes(encoding), encoding.acceleration
    return math.floor((_ENOUGH_3D if n2 > 1 else _ENOUGH_2D) * round(n1 * n2 / (r1 * r2)))


def only_repetitions(scan: RawScan, repetitions: tuple[int, ...]) -> RawScan:
    """The scan without the imaging lines of other repetitions."""
    kinds = sort.kinds(scan)
    lost = kinds.imaging[~np.isin(scan.lines["repetition"][kinds.imaging], repetitions)]
    keep = np.ones(len(scan.lines), np.bool_)
    keep[lost] = False
    return replace(scan, lines=scan.lines[keep], samples=SomeRows(scan.samples, np.nonzero(keep)[0]))


def refuse(found: Count) -> DataError:
    """The error that states how much is missing; with additional ACS lines, more may have arrived than expected."""
    more = " or more" if found.received >= found.expected else ""
    return DataError(
        f"incomplete {found.received}/{found.expected}{more}: lines are missing, so no image is made; let the "
        "scan finish, or correct encodingLimits and accelerationFactor in the header if they announce more "
        "lines than are acquired"
    )


def _encode_numbers(lines: NDArray[np.void]) -> NDArray[np.int64]:
    """A number for each line that distinguishes phase encodes and averages."""
    steps = lines["kspace_encode_step_2"].astype(np.int64) << 16 | lines["kspace_encode_step_1"]
    return np.asarray(steps << 16 | lines["average"], np.int64)


def _last(lines: NDArray[np.void]) -> bool:
    """Whether a line is marked as the last of its slice."""
    return bool(flagged(lines, Flag.LAST_IN_SLICE).any())


def _whole(lines: NDArray[np.void], encoding: Encoding, said: Word) -> bool:
    if said.vouched and said.finished:
        return _whole_average(lines, encoding, said)  # with as many averages as were measured
    averages = range(announced(encoding, "average"))
    first = encoding.limits["average"].minimum if "average" in encoding.limits else 0
    return all(_whole_average(lines[lines["average"] == first + a], encoding, said) for a in averages)


def _whole_average(lines: NDArray[np.void], encoding: Encoding, said: Word) -> bool:
    (n1, n2), (r1, r2) = encodes(encoding), encoding.acceleration
    step1, step2 = lines["kspace_encode_step_1"].astype(np.int64), lines["kspace_encode_step_2"].astype(np.int64)
    places = np.unique(step2 << 16 | step1)
    acquired, wanted = len(places), round(n1 * n2 / (r1 * r2))
    if acquired >= n1 * n2:
        return True
    short, plain = acquired < wanted, (r1, r2) == (1, 1)
    if plain and n2 == 1 and said.vouched and said.finished:
        return _one_sided(places, encoding.limits.get("kspace_encoding_step_1"), n1)
    if acquired < fewest(encoding):
        return False
    if short and n2 > 1 and not said.ended:
        return False
    if said.vouched and not plain:
        return True
    # With fewer lines than announced, only a regular pattern is known to be complete: its offset may cost a line.
    slack = (1 if n2 > 1 else 0) if short else n1 + n2 if said.ended else 2
    # As many lines as random patterns have, which a regular pattern with its ACS lines seldom has, and the scanner's
    # flag.
    drawn = said.ended and n2 == 1 and wanted <= acquired <= wanted + 1
    along = all(
        _reaches(np.unique(step), encoding.limits.get(f"kspace_encoding_step_{i}"), n, r, slack, drawn)
        for i, (step, n, r) in enumerate(((step1, n1, r1), (step2, n2, r2)), start=1)
    )
    if not plain:
        return along
    # Without acceleration only corners of a 3D k-space may be missing, and only if the scanner marks the end.
    holes = (np.diff(places) != 1) & (np.diff(places >> 16) == 0)
    return along and said.finished and n2 > 1 and not bool(holes.any())


def _reaches(values: NDArray[np.int64], limit: Limit | None, n: int, r: int, slack: int, drawn: bool) -> bool:
    """Whether phase encodes cover their limit from end to end in steps no larger than usual.

    Random patterns may stop `slack` of their largest steps short of an end; `drawn` decides for patterns of either
    kind.
    """
    if n == 1 or not len(values):
        return bool(len(values))
    low, high = (limit.minimum, limit.maximum) if limit else (0, n - 1)
    gaps = np.diff(values)
    comb, runs = _comb(values, r, drawn) if r > 1 else (True, 0)
    if comb and ((gaps > r).any() or runs > 1):
        return False
    step = max(int(gaps.max(initial=1)), r) * (1 if comb else slack)
    return int(values[0]) < low + step and int(values[-1]) > high - step


def _one_sided(values: NDArray[np.int64], limit: Limit | None, n: int) -> bool:
    """Whether phase encodes have no gap from one end of their limit to _BEYOND of them beyond the centre."""
    low, centre, high = (limit.minimum, limit.center, limit.maximum) if limit else (0, n // 2, n - 1)
    first, last, beyond = int(values[0]), int(values[-1]), _BEYOND * n
    ends = (first <= low and last + 1 >= centre + beyond) or (last >= high and first <= centre - beyond)
    return ends and last - first + 1 == len(values)


def _comb(values: NDArray[np.int64], r: int, drawn: bool) -> tuple[bool, int]:
    """Whether single lines lie r apart, or multiples if some are missing; and the runs of adjacent lines.

    Too few single lines for a decision are taken as random if `drawn`, otherwise as regular if all gaps except the two
    beside the ACS lines agree. In a regular pattern with enough of them the ACS lines are the only run: further runs
    mean a regular pattern with holes.
    """
    near = np.diff(values) == 1
    single = values[~np.append(near, False) & ~np.append(False, near)]
    alike = int(np.bincount(single % r).max()) >= _OF_A_COMB * len(single) if len(single) else True
    if r ** (1.0 - len(single)) > _CHANCE:
        gaps = np.diff(values)
        alike = alike and not drawn and (not len(single) or int(np.count_nonzero(gaps[gaps > 1] % r)) <= 2)
    runs = int(np.count_nonzero(near & ~np.append(False, near[:-1]))) if len(single) >= _SINGLE else 0
    return alike, runs
