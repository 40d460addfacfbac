"""Rules that the lines of a scan must keep to be placed on a grid; those that break them are left out and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recon.data import NOT_IMAGE, DataError, Encoding, Flag, Limit, flagged, imaging

COMPRESSED = (Flag.COMPRESSION1, Flag.COMPRESSION2, Flag.COMPRESSION3, Flag.COMPRESSION4)

#: From this share of the imaging lines on, broken rules are an error and no longer stray lines.
MOST_REJECTED = 0.05

_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


def check(lines: NDArray[np.void], encodings: Sequence[Encoding]) -> tuple[NDArray[np.bool_], tuple[str, ...], int]:
    """Which lines can be used, notes on those that cannot, and how many imaging lines are among these.

    Left out are imaging and calibration lines that name an encoding which the header does not have, lie outside its
    encoded matrix, have no sample or channel, discard all of their samples, or have a counter beyond its limit. Where
    the values beyond a limit follow it without a gap and are as well filled as those within, it is the limit that is
    wrong: such lines stay, with a note. Raises DataError for compressed lines and where a share of MOST_REJECTED or
    more of the imaging lines would be left out.
    """
    compressed = int(np.count_nonzero(flagged(lines, *COMPRESSED)))
    if compressed:
        raise DataError(
            f"{compressed} of {len(lines)} lines hold compressed samples (flags 53 to 56), which are not read; switch "
            "compression off where the file is written"
        )
    image = imaging(lines)
    placed = image | (flagged(lines, Flag.CALIBRATION) & ~flagged(lines, *NOT_IMAGE))
    broken: list[tuple[str, NDArray[np.bool_]]] = []
    notes: list[str] = []

    reference = lines["encoding_space_ref"]
    unknown = placed & (reference >= len(encodings))
    broken.append((f"name an encoding_space_ref beyond the {len(encodings)} encodings of the header", unknown))
    empty = placed & ((lines["number_of_samples"] == 0) | (lines["active_channels"] == 0))
    broken.append(("have no samples or no channels", empty))
    used = lines["discard_pre"].astype(np.int64) + lines["discard_post"] >= lines["number_of_samples"]
    broken.append(("discard all of their samples", placed & used & ~empty))
    for number, encoding in enumerate(encodings):
        mine = placed & (reference == number)
        if not mine.any():
            continue
        if encoding.on_grid:
            for step, axis in (("1", 1), ("2", 2)):
                size, limit = encoding.encoded_matrix[axis], encoding.limits.get(f"kspace_encoding_step_{step}")
                row = lines[f"kspace_encode_step_{step}"].astype(np.int64) + (size // 2 - limit.center if limit else 0)
                outside = mine & ((row < 0) | (row >= size))
                centre = f" with its centre {limit.center}" if limit else ""
                broken.append((f"have a kspace_encode_step_{step} outside the encoded matrix {size}{centre}", outside))
        for name in _COUNTERS:
            beyond, note = _beyond(lines[name], mine, encoding.limits.get(name), name)
            notes += note
            broken.append((f"have a counter {name} beyond its limit", beyond))

    out = np.zeros(len(lines), np.bool_)
    reasons = []
    for reason, where in broken:
        new = int(np.count_nonzero(where & ~out))
        out |= where
        if new:
            reasons.append(f"{new} {reason}")
    rejected, total = int(np.count_nonzero(out & image)), int(np.count_nonzero(image))
    if reasons:
        summary = f"of {len(lines)} lines, {' and '.join(reasons)}"
        if total and rejected >= MOST_REJECTED * total:
            raise DataError(
                f"{summary}: {rejected} of {total} imaging lines cannot be placed; correct encodedSpace and "
                "encodingLimits in the header, or the counters of the lines"
            )
        notes.append(f"{summary}; they are left out")
    return ~out, tuple(notes), rejected


def _beyond(
    values: NDArray[np.uint16], mine: NDArray[np.bool_], limit: Limit | None, name: str
) -> tuple[NDArray[np.bool_], list[str]]:
    """Lines whose counter exceeds its limit; none, and a note, where the limit is plainly wrong."""
    nothing = np.zeros(len(values), np.bool_)
    if limit is None:
        return nothing, []
    beyond = mine & (values > limit.maximum)
    if not beyond.any():
        return nothing, []
    filled = np.bincount(values[mine])
    within, after = filled[: limit.maximum + 1], filled[limit.maximum + 1 :]
    if filled.all() and after.min() * 2 >= np.median(within):
        return nothing, [
            f"the header's limit of {name} is {limit.maximum}, but the lines count up to {len(filled) - 1}; the lines "
            "are believed"
        ]
    return beyond, []


def complete_limits(
    lines: NDArray[np.void], encodings: Sequence[Encoding]
) -> tuple[tuple[Encoding, ...], tuple[str, ...]]:
    """Encodings whose missing limits of the phase encodes are filled in where the lines leave no doubt, and notes.

    An encode without limits whose counter takes each of 0 … N − 1, with N the encoded matrix, has its centre at N // 2.
    Others stay without.
    """
    out, notes = [], []
    image = imaging(lines)
    for number, encoding in enumerate(encodings):
        limits = dict(encoding.limits)
        mine = lines[image & (lines["encoding_space_ref"] == number)]
        for step, axis in (("1", 1), ("2", 2)):
            size, name = encoding.encoded_matrix[axis], f"kspace_encoding_step_{step}"
            if name in limits or not len(mine) or not encoding.on_grid:
                continue
            if len(np.unique(mine[f"kspace_encode_step_{step}"])) == size:
                limits[name] = Limit(0, size - 1, size // 2)
                if size > 1:
                    notes.append(
                        f"encoding[{number}]/encodingLimits/{name} is missing; all {size} lines are there, so that the "
                        f"centre is {size // 2}"
                    )
        out.append(replace(encoding, limits=limits))
    return tuple(out), tuple(notes)
