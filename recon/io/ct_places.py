"""Positions of the slices of a CT series: their order, missing slices, and the grid that they form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, counted
from recon.geometry import Geometry, GeometryError, vector
from recon.io.ct_slices import Slice, number, whole

#: Largest deviation of a slice from its position in a regular series, in mm.
_TOLERANCE = 0.05
#: How much directions of parallel slices may differ: they are stored rounded.
PARALLEL = 1e-3


def straight(slices: Sequence[Slice]) -> bool:
    """Whether slices are parallel and lie along one line, as in one grid; True also for headers without a position.

    Headers without a position are reported elsewhere.
    """
    try:
        turns = np.array([[float(v) for v in s.header.ImageOrientationPatient] for s in slices])
        places = np.array([s.position for s in slices])
        along = places @ np.cross(turns[0, :3], turns[0, 3:])
    except (AttributeError, IndexError, TypeError, ValueError):
        return True
    if np.abs(turns - turns[0]).max() > PARALLEL:
        return False
    first, last = places[along.argmin()], places[along.argmax()]
    way = (last - first) / max(float(np.ptp(along)), 1e-9)
    return bool(np.abs(places - first - np.outer(along - along.min(), way)).max() <= 2 * _TOLERANCE)


def in_order(slices: Sequence[Slice], turn: NDArray[np.float64], label: str) -> tuple[list[Slice], list[str]]:
    """Slices along r × c, without duplicates, and notes.

    Raises DataError for two different slices at one position, and for missing slices: see `_missing`.
    """
    notes = []
    single: dict[tuple[str, str], Slice] = {}
    for s in slices:
        single.setdefault(s.identity, s)
    if len(single) < len(slices):
        notes.append(f"{counted(len(slices) - len(single), 'copy', 'copies')} of the same slice left out")
    normal = np.cross(turn[:3], turn[3:])
    along = {id(s): float(normal @ s.position) for s in single.values()}
    ordered = sorted(single.values(), key=lambda s: (along[id(s)], whole(s.header, "InstanceNumber") or 0))
    gaps = np.diff([along[id(s)] for s in ordered])
    same = np.nonzero(gaps < _TOLERANCE)[0]
    if len(same):
        pairs = ", ".join(f"{ordered[i].name} and {ordered[i + 1].name}" for i in same[:3])
        pairs += ", …" if len(same) > 3 else ""
        raise DataError(
            f"{label} holds {counted(len(same), 'slice')} twice at the same position ({pairs}); put each pass "
            "of the scanner into its own folder"
        )
    odd = _odd(gaps)
    for i in odd:
        if lost := _missing(ordered, gaps, int(i)):
            first, second = sorted(ordered[i : i + 2], key=lambda s: whole(s.header, "InstanceNumber") or 0)
            raise DataError(
                f"{label} lacks {counted(lost, 'slice')} between {first.name} and {second.name}; copy the "
                "whole series again"
            )
    if len(odd):
        i = int(odd[0])
        notes.append(
            f"slices are unevenly spaced: {len(odd)} of {counted(len(gaps), 'step')} not {_usual(gaps):.2f} "
            f"mm, the first being {gaps[i]:.2f} mm between {ordered[i].name} and {ordered[i + 1].name}; each "
            "slice stays at its measured position"
        )
    return ordered, notes


def _usual(gaps: NDArray[np.float64]) -> float:
    return float(np.sort(gaps)[(len(gaps) - 1) // 2]) if len(gaps) else 0.0


def _odd(gaps: NDArray[np.float64]) -> NDArray[np.intp]:
    """Steps that differ from the usual one."""
    step = _usual(gaps)
    return np.nonzero(np.abs(gaps - step) > max(_TOLERANCE, 0.02 * step))[0]


def _missing(ordered: Sequence[Slice], gaps: NDArray[np.float64], i: int) -> int:
    """How many slices are missing between i and i + 1, which lie further apart than usual.

    If instance numbers count through the other slices one by one, they decide: a scanner that skips a position
    continues to count. Otherwise, a gap of whole steps is a lost slice, and any other gap is a spacing.
    """
    step = _usual(gaps)
    if gaps[i] < step:
        return 0
    numbers = [whole(s.header, "InstanceNumber") for s in ordered]
    if all(n is not None for n in numbers):
        counts = np.diff(np.array(numbers, float))
        others = np.delete(counts, _odd(gaps))
        if len(others) and abs(others[0]) == 1 and (others == others[0]).all() and counts[i] * others[0] > 0:
            return abs(int(counts[i])) - 1
    lost = round(float(gaps[i]) / step) - 1
    return lost if abs(gaps[i] / step - lost - 1) < 0.1 else 0


def grid(slices: Sequence[Slice], turn: NDArray[np.float64], label: str) -> Geometry:
    """The grid of a sorted series; raises DataError for slices that are shifted against each other in their plane."""
    d = slices[0].header
    r, c = turn[:3] / np.linalg.norm(turn[:3]), turn[3:] / np.linalg.norm(turn[3:])
    normal = np.cross(r, c)
    places = np.array([s.position for s in slices])
    thickness = number(d, "SliceThickness") or number(d, "SpacingBetweenSlices") or 1.0
    shear, step = np.zeros(2), thickness
    steps: tuple[float, ...] = ()
    if len(slices) > 1:
        along = (places - places[0]) @ normal
        gaps = np.diff(along)
        uneven = len(_odd(gaps)) > 0
        step = _usual(gaps) if uneven else along[-1] / len(gaps)
        steps = tuple(float(g) for g in gaps) if uneven else ()
        way = (places[-1] - places[0]) / along[-1] * step
        shear = np.array([way @ r, way @ c])
        at = along / step if uneven else np.arange(len(slices))
        off = np.abs(places - places[0] - np.outer(at, way)).max()
        if off > 2 * _TOLERANCE:
            raise DataError(f"{label} holds slices that are shifted sideways by up to {off:.2f} mm; export it again")
    if np.abs(shear).max() * len(slices) < _TOLERANCE:
        shear = np.zeros(2)
    spacing = [float(v) for v in d.PixelSpacing]
    try:
        return Geometry(
            vector(places[0]), vector(r), vector(c), vector(normal), (spacing[1], spacing[0], float(step)),
            (len(slices), int(d.Rows), int(d.Columns)), thickness, True, (float(shear[0]), float(shear[1])), steps,
        )  # fmt: skip
    except GeometryError as error:
        raise DataError(f"{label}: {error}") from None


def sheared(geometry: Geometry) -> list[str]:
    """The note on slices that are not straight above each other.

    A gantry tilts about the axis from left to right, along which rows run: a shear along columns. A shear along rows
    has another cause, such as a resampled stack.
    """
    aside, along = (float(v) for v in geometry.shear)
    if not aside and not along:
        return []
    tilted = f"the gantry was tilted by {math.degrees(math.atan2(abs(along), geometry.voxel[2])):.1f}°"
    moved = (
        f"each slice is shifted by {abs(aside):.2f} mm along its rows against the one before, which a gantry "
        "tilt does not explain"
    )
    why = tilted if abs(aside) < 0.02 * abs(along) else moved
    return [
        f"{why}: slices stay as they were measured, and a NIfTI gets a sheared affine (sform); programs that "
        "read only the quaternion (qform) ignore the shear"
    ]
