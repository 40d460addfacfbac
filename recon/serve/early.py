"""Frames of a scan (one slice or volume in one state of the counters) by themselves, while later ones are being sent.

A frame goes out early where nothing that comes later can change its pixels: its noise is told by noise lines or by the
lines of the frames that are whole first, and it holds its calibration itself, or has calibration lines and navigators
of its own.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding, Flag, RawScan, ReconError, flagged, imaging
from recon.prepare import epi, hybrid, scan_noise, sort
from recon.prepare.announced import announced, encodes
from recon.prepare.noise import Whitening
from recon.recipe import Recipe
from recon.serve import store
from recon.serve.counting import COUNTERS, Key, whole_frame
from recon.serve.session import Inbox

#: Looks for the noise of a scan, one for each frame that is whole, before they become rare.
_LOOKS = 32


def frame(inbox: Inbox, key: Key) -> RawScan | None:
    """The scan of a frame that was named: its imaging lines, and all lines so far that belong to no image.

    None where more of its lines came since: what named it was not its last line, and what is missing nobody knows.
    """
    with inbox.changed:
        if len(inbox.frames[key]) != inbox.named[key]:
            return None
        rows = np.array(sorted([*inbox.others, *inbox.frames[key]]), np.intp)
        parsed = inbox.parsed
    assert parsed is not None
    return store.scan(inbox.lines, parsed, inbox.waveforms, rows)


class Noise:
    """The noise of a scan that is still being sent: `whitening` once its first lines tell it, which then stays."""

    def __init__(self) -> None:
        self.whitening: Whitening | None = None
        self._settled: scan_noise.Settled | None = None
        self._looks = self._looked = 0

    def look(self, inbox: Inbox, recipe: Recipe) -> bool:
        """Whether the noise is known, by all lines so far; after _LOOKS at them a quarter more must have come."""
        if self._settled is None and (self._looks < _LOOKS or len(inbox.lines) >= 1.25 * self._looked):
            self._looks, self._looked = self._looks + 1, len(inbox.lines)
            assert inbox.parsed is not None
            with contextlib.suppress(ReconError):  # whatever is wrong is said of the whole scan
                so_far = store.scan(inbox.lines, inbox.parsed, inbox.waveforms, np.arange(self._looked))
                self._settled = scan_noise.settled(*_sorted(so_far), recipe.prepare.noise)
                self.whitening = self._settled.whitening if self._settled else None
        return self._settled is not None

    def holds(self, scan: RawScan, recipe: Recipe) -> bool:
        """Whether the same lines tell the noise of the whole scan."""
        if self._settled is None:
            return True
        here = scan_noise.tellers(*_sorted(scan), recipe.prepare.noise)
        tried = self._settled.tried
        return len(here) >= len(tried) and all(np.array_equal(a, b) for a, b in zip(tried, here))


def _sorted(scan: RawScan) -> tuple[RawScan, sort.Kinds, Encoding]:
    """A scan as its reconstruction sees it when it looks for the noise."""
    scan = epi.straighten(scan)
    return scan, sort.kinds(scan), scan.encodings[sort.choose_encoding(scan)]


def images(scan: RawScan) -> int:
    """Number of frames that the header announces for the encoding of a frame."""
    encoding = scan.encodings[int(scan.lines["encoding_space_ref"][imaging(scan.lines)][0])]
    return announced(encoding, "slice", "contrast", "phase", "repetition", "set")


def may_go(scan: RawScan) -> bool:
    """Whether a frame is whole and, its noise aside, its pixels are those that it will have within the whole scan."""
    try:
        return _settled(scan) and whole_frame(scan)
    except ReconError:
        return False  # whatever is wrong is said of the whole scan


def beside(lines: NDArray[np.void], key: Key) -> int:
    """Number of lines that calibrate this frame and belong to no image: with its counters, ACS lines or navigators."""
    own = flagged(lines, Flag.CALIBRATION, Flag.PHASECORR) & ~imaging(lines)
    for name, value in zip(COUNTERS, key):
        own &= lines[name] == value
    return int(own.sum())


def _settled(scan: RawScan) -> bool:
    image = imaging(scan.lines)
    used = np.unique(scan.lines["encoding_space_ref"][image])
    if len(used) != 1 or used[0] >= len(scan.encodings):
        return False
    encoding = scan.encodings[int(used[0])]
    return bool(
        {f"kspace_encoding_step_{i}" for i in (1, 2)} <= set(encoding.limits)
        and (encoding.encoded_matrix[2] == 1 or _full(scan, image, encoding))
        and _calibrated(scan, image, encoding)
    )


def _full(scan: RawScan, image: NDArray[np.bool_], encoding: Encoding) -> bool:
    """Whether every phase encode has come: how many a volume may leave out is known at its end alone."""
    lines = scan.lines[image]
    steps = lines["kspace_encode_step_2"].astype(np.int64) << 16 | lines["kspace_encode_step_1"]
    return len(np.unique(steps)) >= math.prod(encodes(encoding))


def _calibrated(scan: RawScan, image: NDArray[np.bool_], encoding: Encoding) -> bool:
    """Whether a frame needs no lines of other frames to be calibrated, nor freed of its ghost."""
    first = scan.lines[image][0]
    key: Key = tuple(int(first[name]) for name in COUNTERS)  # type: ignore[assignment]
    own = beside(scan.lines, key)
    if encoding.trajectory == "epi" and not own:
        return False
    alone = flagged(scan.lines, Flag.CALIBRATION) & ~image
    if alone.any():
        return own > 0 and _enough(scan, alone & (scan.lines["slice"] == first["slice"]), encoding)
    return not encoding.on_grid or _enough(scan, image, encoding)


def _enough(scan: RawScan, lines: NDArray[np.bool_], encoding: Encoding) -> bool:
    return hybrid.enough(hybrid.counts(scan, np.nonzero(lines)[0], encoding) > 0)
