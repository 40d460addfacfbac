"""Which volumes of a scan are complete: frames by their counters, what is left out, and the axes of the image."""

from __future__ import annotations

import numpy as np

from recon.data import FRAME_COUNTERS, DataError, Encoding
from recon.prepare.sort import Frame
from recon.prepare.stacks import Stack

#: A last repetition that lacks more than this share of the phase encodes makes no image.
MOST_MISSING = 0.05
_REPETITION = FRAME_COUNTERS.index("repetition")


def whole_volumes(
    frames: list[Frame], stack: Stack, encoding: Encoding
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...], dict[tuple[int, int], Frame], list[str]]:
    """Counters that vary, the complete volumes, their frames by (volume, slice), and what was left out.

    A volume that lacks a slice is left out if others are complete. A last repetition is left out if it lacks more than
    MOST_MISSING of the phase encodes of the others and its lines do not mark an end: a cancelled scan ends like this.
    Raises DataError if the counters leave only a line or two for each image.
    """
    by_volume: dict[tuple[int, ...], dict[int, Frame]] = {}
    for f in frames:
        by_volume.setdefault(tuple(getattr(f, c) for c in FRAME_COUNTERS), {})[f.slice] = f
    whole = {v: s for v, s in by_volume.items() if all(n in s for n in stack.slices)}
    notes = []
    sizes = [f.encodes for f in frames]
    if encoding.trajectory == "cartesian" and max(sizes) <= 2 and sum(sizes) >= 16 <= max(encoding.encoded_matrix[1:]):
        raise DataError(
            f"the counters {', '.join(FRAME_COUNTERS)} of the lines make {len(frames)} images of at most "
            f"{max(sizes)} phase encodes each, so they seem to count echoes or shots of one image; set such "
            "counters to 0 in the file"
        )
    if not whole:
        best = max(by_volume.values(), key=len)
        raise DataError(
            f"no volume has all of its {len(stack.slices)} slices (the fullest has {len(best)}); the scan is incomplete"
        )
    if len(whole) < len(by_volume):
        notes.append(f"{len(by_volume) - len(whole)} of {len(by_volume)} volumes lack slices and were left out")
    most: dict[int, int] = {}
    for f in frames:
        most[f.slice] = max(f.encodes, most.get(f.slice, 0))
    last = max(v[_REPETITION] for v in whole)
    cut = {
        v
        for v, s in whole.items()
        if v[_REPETITION] == last
        and any(not (f.complete or f.ended) and f.encodes < (1 - MOST_MISSING) * most[f.slice] for f in s.values())
    }
    if cut and any(v[_REPETITION] != last for v in whole):
        whole = {v: s for v, s in whole.items() if v[_REPETITION] != last}
        notes.append(f"repetition {last + 1} lacks more than {MOST_MISSING:.0%} of its phase encodes and was left out")
    values = [sorted({v[i] for v in whole}) for i in range(len(FRAME_COUNTERS))]
    axes = tuple(c for c, v in zip(FRAME_COUNTERS, values) if len(v) > 1)
    grid = list(np.ndindex(*(len(v) for v in values)))
    order = [tuple(values[i][j] for i, j in enumerate(index)) for index in grid]
    missing = [v for v in order if v not in whole]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(order)} combinations of {', '.join(axes)} were not acquired; the counters of the "
            "file do not span a regular series"
        )
    complete = {(n, k): whole[v][s] for n, v in enumerate(order) for k, s in enumerate(stack.slices)}
    return axes, tuple(order), complete, notes
