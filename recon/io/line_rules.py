"""Rules that lines must satisfy to be placed on a grid; lines that break them are left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recon.data import NOT_IMAGE, DataError, Encoding, Flag, Limit, flagged, imaging

COMPRESSED = (Flag.COMPRESSION1, Flag.COMPRESSION2, Flag.COMPRESSION3, Flag.COMPRESSION4)

#: Above this share of the imaging lines, broken rules are an error rather than stray lines.
MOST_REJECTED = 0.05

#: Fields of view that differ by less are equal: headers round them.
_SAME_FOV = 0.01

_COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set")


def check(lines: NDArray[np.void], encodings: Sequence[Encoding]) -> tuple[NDArray[np.bool_], tuple[str, ...], int]:
    """Which lines can be used, notes on those that cannot, and how many imaging lines are among these.

    Imaging and calibration lines are left out if they name an encoding that the header does not have, lie outside its
    encoded matrix, have no sample or channel, discard all of their samples, or have a counter beyond its limit. If the
    values beyond a limit follow it without a gap and are filled as well as those within, the limit is wrong: such lines
    stay, with a note. Raises DataError for compressed lines, and if a share of MOST_REJECTED or more of the imaging
    lines would be left out.
    """
    compressed = int(np.count_nonzero(flagged(lines, *COMPRESSED)))
    if compressed:
        raise DataError(
            f"{compressed} of {len(lines)} lines hold compressed samples (flags 53 to 56), which are not "
            "supported; switch compression off in the program that writes the file"
        )
    image = imaging(lines)
    placed = image | (flagged(lines, Flag.CALIBRATION) & ~flagged(lines, *NOT_IMAGE))
    broken: list[tuple[str, NDArray[np.bool_]]] = []
    notes: list[str] = []

    reference = lines["encoding_space_ref"]
    unknown = placed & (reference >= len(encodings))
    broken.append((f"have an encoding_space_ref beyond the {len(encodings)} encodings of the header", unknown))
    empty = (lines["number_of_samples"] == 0) | (lines["active_channels"] == 0)
    broken.append(("have no samples or no channels", placed & empty))
    used = lines["discard_pre"].astype(np.int64) + lines["discard_post"] >= lines["number_of_samples"]
    broken.append(("discard all of their samples", placed & used))
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
    """Lines whose counter exceeds its limit; none, and a note, if the limit is plainly wrong."""
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
            f"the header's limit of {name} is {limit.maximum}, but the lines count up to {len(filled) - 1}; "
            "the counters of the lines are used"
        ]
    return beyond, []


def complete_limits(
    lines: NDArray[np.void], encodings: Sequence[Encoding]
) -> tuple[tuple[Encoding, ...], tuple[str, ...]]:
    """Encodings with missing or wrong limits of the phase encodes corrected where the lines leave no doubt, and notes.

    Lines from a to a + N − 1, with N the encoded matrix, fit on the grid only with the centre a + N // 2. This centre
    is used in two cases. The header states no limits and all N lines are there. Or the stated centre puts lines outside
    the grid and is off by one, or is impossible: it lies outside the lines, or leaves out so many that the scan could
    not be read. Converters write such centres: (max − min) // 2 for even N, or 1 for one partition. Other limits are
    unchanged.
    """
    out, notes = [], []
    image = imaging(lines)
    for number, encoding in enumerate(encodings):
        limits = dict(encoding.limits)
        mine = lines[image & (lines["encoding_space_ref"] == number)]
        for step, axis in (("1", 1), ("2", 2)):
            size, name = encoding.encoded_matrix[axis], f"kspace_encoding_step_{step}"
            if not len(mine) or not encoding.on_grid:
                continue
            limit, values = limits.get(name), mine[f"kspace_encode_step_{step}"].astype(np.int64)
            first, last = int(values.min()), int(values.max())
            centre, path = first + size // 2, f"encoding[{number}]/encodingLimits/{name}"
            if last - first + 1 != size:
                continue
            if limit is None and len(np.unique(values)) == size:
                limits[name] = Limit(first, last, centre)
                if size > 1:
                    notes.append(f"{path} is missing; all {size} lines were acquired, so the centre is {centre}")
            elif limit is not None and centre != limit.center:
                row = values + size // 2 - limit.center
                outside = int(np.count_nonzero((row < 0) | (row >= size)))
                impossible = not first <= limit.center <= last or outside >= MOST_REJECTED * len(values)
                if impossible or abs(centre - limit.center) == 1:
                    limits[name] = replace(limit, center=centre)
                    notes.append(
                        f"{path} has its centre at {limit.center}, which puts {outside} of {len(values)} lines "
                        f"outside the grid; {centre} is used, the only centre with which they fit"
                    )
        out.append(replace(encoding, limits=limits))
    return tuple(out), tuple(notes)


def oversampled(lines: NDArray[np.void], encodings: Sequence[Encoding]) -> tuple[tuple[Encoding, ...], tuple[str, ...]]:
    """Encodings with the encoded matrix widened to the readouts if these have twice its samples, and notes.

    In this case the header omits the readout oversampling: N samples more beside the image, not finer voxels than
    requested.
    """
    out, notes = [], []
    image = imaging(lines)
    for number, e in enumerate(encodings):
        mine = lines[image & (lines["encoding_space_ref"] == number)]
        nx = e.encoded_matrix[0]
        full = (mine["number_of_samples"] == 2 * nx) & (np.abs(mine["center_sample"].astype(np.int64) - nx) <= 1)
        if e.trajectory == "cartesian" and len(mine) and full.all() and e.recon_matrix[0] <= nx:
            notes.append(
                f"all readouts have {2 * nx} samples where encoding[{number}]/encodedSpace/matrixSize/x is "
                f"{nx}; they are assumed to be oversampled twofold, over {2 * e.encoded_fov[0]:g} mm"
            )
            matrix, fov = (2 * nx, *e.encoded_matrix[1:]), (2 * e.encoded_fov[0], *e.encoded_fov[1:])
            e = replace(e, encoded_matrix=matrix, encoded_fov=fov)
        out.append(e)
    return tuple(out), tuple(notes)


def calibration_of_others(
    lines: NDArray[np.void], encodings: Sequence[Encoding], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.void], NDArray[np.bool_], tuple[str, ...]]:
    """Lines of other encodings' calibration moved to the image's grid, which of those to `keep` stay, and notes.

    A reference scan has its own matrix and limits. If its encoded field of view is the same, its samples lie on the
    image's grid, and its lines differ only in where counting starts:

        step = step' − c' + c

    with c' and c the centres of the two limits. Such lines calibrate the image. Lines with another field of view, with
    longer readouts than the image's, or with an unknown centre are left out.
    """
    image, reference = imaging(lines) & keep, lines["encoding_space_ref"]
    apart = flagged(lines, Flag.CALIBRATION) & ~flagged(lines, *NOT_IMAGE) & ~image & keep
    used = int(np.bincount(reference[image]).argmax()) if image.any() else 0
    if not image.any() or not encodings[used].on_grid:
        return lines, keep, ()
    notes = []
    for number in np.unique(reference[apart & (reference != used)]).tolist():
        mine = apart & (reference == number)
        moved, why = _onto(lines[mine], encodings[number], encodings[used])
        count = int(np.count_nonzero(mine))
        if why:
            keep = keep & ~mine
            notes.append(f"{count} calibration lines belong to encoding[{number}], {why}: they are left out")
        else:
            lines = lines.copy()
            lines[mine] = moved
            notes.append(
                f"{count} calibration lines of encoding[{number}] lie on the grid of encoding[{used}] and are "
                "used to calibrate its coils"
            )
    return lines, keep, tuple(notes)


def _onto(lines: NDArray[np.void], theirs: Encoding, ours: Encoding) -> tuple[NDArray[np.void], str]:
    """Lines of one encoding counted as those of another, or the reason why this is impossible."""
    out = lines.copy()
    if not theirs.on_grid:
        return out, "which is not Cartesian"
    if not np.allclose(theirs.encoded_fov, ours.encoded_fov, rtol=_SAME_FOV, atol=0):
        a, b = ("×".join(f"{x:g}" for x in e.encoded_fov) for e in (theirs, ours))
        return out, f"whose field of view is {a} mm where the image's is {b} mm"
    if (lines["number_of_samples"] > ours.encoded_matrix[0]).any():
        return out, "whose readouts are longer than the image's"
    for step, axis in (("1", 1), ("2", 2)):
        name, size = f"kspace_encoding_step_{step}", theirs.encoded_matrix[axis]
        values, limits = (
            lines[f"kspace_encode_step_{step}"].astype(np.int64),
            [e.limits.get(name) for e in (theirs, ours)],
        )
        if limits[0] is None and len(np.unique(values)) < size:
            return out, f"whose header has no encodingLimits/{name}"
        centres = [
            limit.center if limit else e.encoded_matrix[axis] // 2
            for limit, e in zip(limits, (theirs, ours), strict=True)
        ]
        moved = values - centres[0] + centres[1]
        if moved.min() < 0:
            return out, "which has more phase encodes below its centre than the image's counters allow"
        out[f"kspace_encode_step_{step}"] = moved
    return out, ""


#: Lines whose k-space positions are examined, and how far they may deviate, as a share of the longest.
_LOOKED_AT, _STRAIGHT = 64, 1e-2


def off_grid(
    lines: NDArray[np.void],
    encodings: Sequence[Encoding],
    positions: Callable[[NDArray[np.intp]], NDArray[np.float32]],
) -> tuple[tuple[Encoding, ...], tuple[str, ...]]:
    """Encodings stated as Cartesian whose lines have positions that are not, changed to "other", and notes.

    Simulators and converters omit the trajectory in the header, which then means Cartesian, but store each sample's
    position. `positions` returns those of rows of one shape, (row, sample, dimension). They are Cartesian if every line
    runs along the same axis, in equal steps.
    """
    out, notes = [], []
    image = imaging(lines)
    for number, e in enumerate(encodings):
        mine = np.nonzero(image & (lines["encoding_space_ref"] == number) & (lines["trajectory_dimensions"] > 1))[0]
        if e.trajectory == "cartesian" and len(mine):
            shape = lines[["number_of_samples", "trajectory_dimensions", "active_channels"]]
            mine = mine[shape[mine] == shape[mine[0]]]
            k = positions(mine[np.unique(np.linspace(0, len(mine) - 1, _LOOKED_AT).astype(np.intp))]).astype(np.float64)
            if k.shape[1] > 2 and np.isfinite(k).all() and k.any() and not _straight(k):
                e = replace(e, trajectory="other")
                notes.append(
                    f"the k-space positions of encoding[{number}]'s lines are not on a Cartesian grid, "
                    "although the header gives no trajectory or calls it cartesian; the positions of the "
                    "lines are used"
                )
        out.append(e)
    return tuple(out), tuple(notes)


def _straight(k: NDArray[np.float64]) -> bool:
    """Whether all lines of positions (line, sample, dimension) run along one axis in equal steps."""
    reach = np.ptp(k, axis=1)
    longest = float(reach.max())
    axis = int(reach.max(axis=0).argmax())
    along, across = k[..., axis], np.delete(reach, axis, axis=1)
    ramp = along[:, :1] + (along[:, -1:] - along[:, :1]) * np.linspace(0, 1, k.shape[1])
    return bool(
        across.max(initial=0) < _STRAIGHT * longest
        and reach[:, axis].min() > (1 - _STRAIGHT) * longest
        and np.abs(along - ramp).max() < _STRAIGHT * longest
    )
