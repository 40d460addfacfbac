"""Single frames of a scan (one slice or volume for one combination of counters) while later ones are being sent.

A frame is sent early if nothing that comes later can change its pixels. Its noise must be known, from noise lines or
from the lines of the frames that are complete first. And it must contain its calibration, or have its own calibration
lines and navigators.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Encoding, Flag, RawScan, ReconError, flagged, imaging
from recon.io.mrd_lines import HEAD
from recon.io.samples import SomeRows
from recon.mri.choice import choose, offered
from recon.prepare import epi, hybrid, sampling, scan_noise, sort, units
from recon.prepare.announced import announced, encodes
from recon.prepare.noise import Whitening
from recon.prepare.sampling import Sampling
from recon.prepare.volumes import MOST_MISSING
from recon.recipe import Method, Recipe
from recon.serve import store
from recon.serve.counting import COUNTERS, Key, fewest, whole_frame
from recon.serve.session import Group, Inbox, group_of, reverse
from recon.serve.wire import Acquisition

#: Attempts to estimate the noise of a scan, one per complete frame, before they become rare.
_LOOKS = 32


def frame(inbox: Inbox, key: Key) -> RawScan | None:
    """The scan of a named frame: its imaging lines, and all lines so far that belong to no image.

    Of the navigators it contains only those that correct its ghost and that of its calibration: in a long echo-planar
    series, each of them would otherwise be processed with every image.

    None if more of its lines arrived since: then its last line was not the last, and it is unknown what is missing.
    """
    with inbox.changed:
        if len(inbox.frames[key]) != inbox.named[key]:
            return None
        rows = np.array(sorted([*inbox.others, *_navigators(inbox, key), *inbox.frames[key]]), np.intp)
        parsed = inbox.parsed
    assert parsed is not None
    return store.scan(inbox.lines, parsed, inbox.waveforms, rows)


def _navigators(inbox: Inbox, key: Key) -> list[int]:
    """Rows of the navigators that determine the samples of a frame; see `_freeing`."""
    here = inbox.navigators.get(key[0], {})
    images = {group_of(inbox.lines[inbox.frames[key][0]]), *inbox.calibrating.get(key[0], ())}
    chosen = _freeing(here, key, images, lambda group: len({reverse(inbox.lines[row]) for row in here[group]}) == 2)
    return [row for group in chosen for row in here[group]]


def _freeing(here: Collection[Group], key: Key, images: Collection[Group], both: Callable[[Group], bool]) -> set[Group]:
    """Which of a slice's navigators, by group, give the same phases for a frame and its calibration as all do.

    These are the ones with the encoding and counters of the lines of `images` if they contain `both` directions,
    otherwise any of the slice.
    """
    chosen = {group for group in here if group[1] == key}
    for group in images:
        chosen |= {group} if group in here and both(group) else {other for other in here if other[0] == group[0]}
    return chosen


def alone(scan: RawScan, key: Key) -> RawScan:
    """The part of a whole scan that is one frame, with the lines that `frame` gives it."""
    lines = scan.lines
    image, apart = imaging(lines) & _of(lines, key), ~imaging(lines)
    navigator = flagged(lines, Flag.PHASECORR) & ~flagged(lines, Flag.NOISE)
    beside = apart & flagged(lines, Flag.CALIBRATION) & ~navigator
    groups = lines[["encoding_space_ref", *COUNTERS]]
    near = navigator & (lines["slice"] == key[0])
    turned = flagged(lines, Flag.REVERSE)

    def of(rows: NDArray[np.bool_]) -> set[Group]:
        return {(int(g[0]), tuple(int(n) for n in list(g)[1:])) for g in np.unique(groups[rows])}  # type: ignore[misc]

    def where(group: Group) -> NDArray[np.bool_]:
        return np.asarray(near & (lines["encoding_space_ref"] == group[0]) & _of(lines, group[1]))

    images = of(image) | of(beside & (lines["slice"] == key[0]))
    chosen = _freeing(of(near), key, images, lambda group: len(np.unique(turned[where(group)])) == 2)
    rows = np.nonzero(np.logical_or.reduce([image, apart & ~navigator, *(where(group) for group in chosen)]))[0]
    return replace(scan, lines=lines[rows], samples=SomeRows(scan.samples, rows))


class Noise:
    """The noise of a scan that is still being sent: `whitening` once its first lines determine it; it then stays.

    `doubts` are sentences on contradictions between noise lines and imaging lines. They are computed once the scan is
    complete, because each early image would have to wait for it.
    """

    def __init__(self) -> None:
        self.whitening: Whitening | None = None
        self.doubts: tuple[str, ...] = ()
        self._settled: scan_noise.Settled | None = None
        self._looks = self._looked = 0

    def look(self, inbox: Inbox, recipe: Recipe) -> bool:
        """Try whether the noise is known from all lines so far; after _LOOKS tries, only with a quarter more lines."""
        if self._settled is None and (self._looks < _LOOKS or len(inbox.lines) >= 1.25 * self._looked):
            self._looks, self._looked = self._looks + 1, len(inbox.lines)
            assert inbox.parsed is not None
            with contextlib.suppress(ReconError):  # errors are reported for the whole scan
                so_far = store.scan(inbox.lines, inbox.parsed, inbox.waveforms, np.arange(self._looked))
                self._settled = scan_noise.settled(*_sorted(so_far), recipe.prepare.noise)
                self.whitening = self._settled.whitening if self._settled else None
        return self._settled is not None

    def end(self, scan: RawScan, recipe: Recipe) -> None:
        """Determine the noise of a whole scan, and doubts about it; raises DataError if this is impossible."""
        here = _sorted(scan)
        self.whitening = self.whitening or scan_noise.whitening(*here, recipe.prepare.noise)
        self.doubts = scan_noise.contradicted(*here, self.whitening)

    def holds(self, scan: RawScan, recipe: Recipe) -> bool:
        """Whether the same lines determine the noise of the whole scan."""
        if self._settled is None:
            return True
        here = scan_noise.candidates(*_sorted(scan), recipe.prepare.noise)
        tried = self._settled.tried
        return len(here) >= len(tried) and all(np.array_equal(a, b) for a, b in zip(tried, here))


def _sorted(scan: RawScan) -> tuple[RawScan, sort.Kinds, Encoding]:
    """A scan in the form in which its reconstruction estimates the noise."""
    scan = epi.straighten(scan)
    return scan, sort.kinds(scan), scan.encodings[sort.choose_encoding(scan)]


def averages(inbox: Inbox, key: Key) -> float:
    """The `recon.prepare.units.averages` of a frame's series: those of its first complete frame.

    That is `key`, which is complete, or one whose last line came earlier; once the scan has ended, all frames are
    complete. Raises DataError if this is not known yet: an earlier frame is marked as ended with fewer averages than
    announced.
    """
    with inbox.changed:
        ended, last, parsed = inbox.ended, inbox.frames[key][-1], inbox.parsed
        rows = {k: list(r) for k, r in inbox.frames.items() if k == key or (r[-1] < last and len(r) >= inbox.least)}
    assert parsed is not None
    here = directions(inbox.lines[rows[key][0]])
    for one in sorted(rows, key=lambda k: rows[k][-1]):
        scan = store.scan(inbox.lines, parsed, rows=np.array(rows[one], np.intp))
        if one == key:
            break
        if parallel(here, directions(inbox.lines[rows[one][0]])):
            if ended or whole_frame(scan):
                break
            if flagged(scan.lines[-1:], Flag.LAST_IN_SLICE).any():
                raise DataError("an earlier image may have fewer averages, which would change the scale of all")
    encoding = scan.encodings[sort.choose_encoding(scan)]
    if not encoding.on_grid:
        return 1.0
    return units.averages(hybrid.counts(scan, sort.kinds(scan).imaging, encoding))


def decisive(scan: RawScan, slices: Collection[int]) -> Sampling | None:
    """The sampling of the frame of these slices that decides the method for all, as in `recon.prepare.sampling`."""
    encoding = scan.encodings[sort.choose_encoding(scan)]
    if not encoding.on_grid:
        return None
    frames = [f for f in sort.frames(scan, sort.kinds(scan).imaging) if f.slice in slices]
    return sampling.sampling(sampling.decisive(hybrid.counts(scan, f.rows, encoding) for f in frames) > 0)


def chosen(sampled: Sampling, whitening: Whitening, recipe: Recipe) -> Method:
    """The recipe's method for a sampling, as for a whole scan."""
    network = offered(recipe, whitening.source)
    return choose(recipe.solve.method, sampled, whitening.matrix.shape[0], network=network).method


def agreed(scan: RawScan, whitening: Whitening, recipe: Recipe) -> Method | None:
    """The method of a whole scan, decided from one frame; None if later frames may choose another.

    Irregular patterns have different numbers of lines in different frames. The deciding frame has at least as many as
    any frame must have, and this one lacks at most MOST_MISSING of its lines; otherwise it would decide itself.
    """
    kinds, encoding = sort.kinds(scan), scan.encodings[sort.choose_encoding(scan)]
    if recipe.solve.method != "auto" or not encoding.on_grid:
        return recipe.solve.method
    own = sampling.sampling(hybrid.counts(scan, kinds.imaging, encoding) > 0)
    grid = math.prod(own.shape)
    bounds = (fewest(encoding), math.ceil(own.rows / (1 - MOST_MISSING))) if not own.regular else ()
    each = [own, *(replace(own, rows=n, effective=grid / n) for n in bounds if 0 < n < grid)]
    found = {chosen(one, whitening, recipe) for one in each}
    return found.pop() if len(found) == 1 else None


def directions(line: Acquisition) -> NDArray[np.float32]:
    """The read and phase directions of a line (6,)."""
    head = np.frombuffer(line.head, HEAD)[0]
    return np.concatenate([head["read_dir"], head["phase_dir"]])


def parallel(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether lines with these directions belong to one series."""
    return np.allclose(a, b, atol=1e-3, equal_nan=True)


def images(scan: RawScan) -> int:
    """Number of frames that the header announces for the encoding of a frame."""
    encoding = scan.encodings[int(scan.lines["encoding_space_ref"][imaging(scan.lines)][0])]
    return announced(encoding, "slice", "contrast", "phase", "repetition", "set")


def may_go(scan: RawScan, *, once: bool = False) -> bool:
    """Whether a frame is complete and, apart from noise, its pixels are final.

    `once` says whether its slice was calibrated before any of its imaging lines, so that this serves all of them.
    """
    try:
        return _settled(scan, once) and whole_frame(scan)
    except ReconError:
        return False  # errors are reported for the whole scan


def calibration_lines(lines: NDArray[np.void], key: Key) -> int:
    """Number of lines that calibrate this frame but belong to no image: with its counters, ACS lines or navigators.

    If there are none, the ACS lines of its slice, which then calibrate it, as a negative number.
    """
    apart = ~imaging(lines)
    own = apart & flagged(lines, Flag.CALIBRATION, Flag.PHASECORR) & _of(lines, key)
    return int(own.sum()) or -int((apart & flagged(lines, Flag.CALIBRATION) & (lines["slice"] == key[0])).sum())


def _of(lines: NDArray[np.void], key: Key) -> NDArray[np.bool_]:
    """Lines with the counters of a frame."""
    return np.asarray(np.logical_and.reduce([lines[name] == value for name, value in zip(COUNTERS, key)]))


def _settled(scan: RawScan, once: bool) -> bool:
    image = imaging(scan.lines)
    used = np.unique(scan.lines["encoding_space_ref"][image])
    if len(used) != 1 or used[0] >= len(scan.encodings):
        return False
    encoding = scan.encodings[int(used[0])]
    return bool(
        {f"kspace_encoding_step_{i}" for i in (1, 2)} <= set(encoding.limits)
        and _within(scan.lines[image], encoding)
        and _as_announced(scan, image, encoding)
        and _calibrated(scan, image, encoding, once)
    )


def _within(lines: NDArray[np.void], encoding: Encoding) -> bool:
    """Whether no counter of a frame is beyond its limit: whether such lines count is decided by the whole scan.

    See `recon.io.line_rules.check`, which accepts some of them.
    """
    limits = ((name, encoding.limits.get(name)) for name in ("average", *COUNTERS))
    return not any(limit and (lines[name] > limit.maximum).any() for name, limit in limits)


def _as_announced(scan: RawScan, image: NDArray[np.bool_], encoding: Encoding) -> bool:
    """Whether a frame is a complete volume with every phase encode, because only its end shows how many it may lack.

    In a scan that announces missing phase encodes, a frame with all of them is followed by others without, and those
    decide the method for all.
    """
    lines = scan.lines[image]
    steps = lines["kspace_encode_step_2"].astype(np.int64) << 16 | lines["kspace_encode_step_1"]
    if len(np.unique(steps)) < math.prod(encodes(encoding)):
        return encoding.encoded_matrix[2] == 1
    return encoding.acceleration == (1, 1) or not encoding.on_grid


def _calibrated(scan: RawScan, image: NDArray[np.bool_], encoding: Encoding, once: bool) -> bool:
    """Whether a frame needs no later lines for its calibration or its ghost correction."""
    lines, first = scan.lines, int(np.argmax(image))
    own = _of(lines, tuple(int(lines[name][first]) for name in COUNTERS))  # type: ignore[arg-type]
    if encoding.trajectory == "epi" and not (own & flagged(lines, Flag.PHASECORR)).any():
        return False
    apart = flagged(lines, Flag.CALIBRATION) & ~image
    if apart.any():
        here = once and (apart & (lines["slice"] == lines["slice"][first])).any()
        rows = sort.flagged_for(lines, sort.kinds(scan).calibration, first)
        return bool(here or (own & apart).any()) and _enough(scan, rows, encoding)
    return not encoding.on_grid or _enough(scan, np.nonzero(image)[0], encoding)


def _enough(scan: RawScan, rows: NDArray[np.intp], encoding: Encoding) -> bool:
    return hybrid.enough(hybrid.counts(scan, rows, encoding) > 0)
