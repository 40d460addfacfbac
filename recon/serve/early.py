"""Frames of a scan (one slice in one state of the counters) by themselves, while later ones are still being sent.

A frame goes out early where nothing that comes later can change its pixels: Cartesian 2D scans with noise lines, whose
calibration is the frame's own.
"""

from __future__ import annotations

import numpy as np

from recon.data import Flag, RawScan, ReconError, flagged, imaging
from recon.recipe import Recipe
from recon.serve import store
from recon.serve.counting import announced, whole_frame
from recon.serve.session import Inbox, Key


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


def images(scan: RawScan) -> int:
    """Number of frames that the header announces for the encoding of a frame."""
    encoding = scan.encodings[int(scan.lines["encoding_space_ref"][imaging(scan.lines)][0])]
    return announced(encoding, "slice", "contrast", "phase", "repetition", "set")


def may_go(scan: RawScan, recipe: Recipe) -> bool:
    """Whether a frame is whole, and its pixels are those that it will have within the whole scan."""
    try:
        return _settled(scan, recipe) and whole_frame(scan)
    except ReconError:
        return False  # whatever is wrong is said of the whole scan


def _settled(scan: RawScan, recipe: Recipe) -> bool:
    image = imaging(scan.lines)
    used = np.unique(scan.lines["encoding_space_ref"][image])
    if len(used) != 1 or used[0] >= len(scan.encodings):
        return False
    encoding = scan.encodings[int(used[0])]
    alone = flagged(scan.lines, Flag.CALIBRATION) & ~image
    noise = flagged(scan.lines, Flag.NOISE).any() or recipe.prepare.noise == "none"
    return bool(
        noise
        and recipe.prepare.noise != "estimate"
        and not alone.any()
        and encoding.trajectory == "cartesian"
        and encoding.encoded_matrix[2] == 1
        and announced(encoding, "average") == 1
        and {f"kspace_encoding_step_{i}" for i in (1, 2)} <= set(encoding.limits)
    )
