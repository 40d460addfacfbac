"""Assignment of a rotating detector's rays to the rays of a fan, for each focal spot, from either side of the body."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recon.data import CTViews, DataError

#: Focal spot positions that differ by less are the same: radians, mm along z, mm along the radius.
_SAME = (2e-5, 0.02, 0.1)
#: Most positions that a flying focal spot may have.
_PLACES = 8


@dataclass(frozen=True)
class Family:
    """Rays of one focal spot, from one side of the body, through one range of views.

    The ray of the virtual fan at angle φ and column c lies in a plane parallel to the axis: that of the view whose
    detector stands at φ + `lag`[c] (modulo 2π), at its column Σ_k `parts`[k, c] · `columns`[k, c]. `near` and `far` are
    the lengths from the focal spot to the foot of the axis and to the detector, in the plane of rotation, in mm.
    `axial` is the focal spot's Δz, `spots` the number of alternating spots. `views` are numbers of views in the order
    of their angles `turn`; `trust` is below 1 for columns outside the detector. `fan` holds the virtual fan's angles γ.
    """

    views: NDArray[np.intp] = field(repr=False)
    turn: NDArray[np.float64] = field(repr=False)
    lag: NDArray[np.float64] = field(repr=False)
    columns: NDArray[np.intp] = field(repr=False)
    parts: NDArray[np.float64] = field(repr=False)
    near: NDArray[np.float64] = field(repr=False)
    far: NDArray[np.float64] = field(repr=False)
    axial: float
    spots: int
    trust: NDArray[np.float64] = field(repr=False)
    fan: NDArray[np.float64] = field(repr=False)


def spots(shifts: NDArray[np.float64]) -> tuple[list[tuple[float, float, float]], NDArray[np.intp]]:
    """The positions of the focal spot (Δφ, Δz, Δρ), and that of each view; raises DataError for more than _PLACES."""
    cells = np.rint(shifts / np.array(_SAME)).astype(np.int64)
    places: list[NDArray[np.int64]] = []
    which = np.full(len(shifts), -1, np.intp)
    # Neighbouring cells are merged, so that rounding does not split a position.
    for cell in np.unique(cells, axis=0):
        known = next((i for i, p in enumerate(places) if np.abs(p - cell).max() <= 1), len(places))
        if known == len(places):
            places.append(cell)
            if len(places) > _PLACES:
                raise DataError(
                    f"the focal spot has more than {_PLACES} positions (7033,100B to 100D), too many for a flying "
                    "focal spot; export the projections again"
                )
        which[(cells == cell).all(1)] = known
    means = [shifts[which == i].mean(0) for i in range(len(places))]
    return [(float(m[0]), float(m[1]), float(m[2])) for m in means], which


def sections(scan: CTViews) -> list[NDArray[np.intp]]:
    """The views of a helix, or of each circle of a scan in steps."""
    every = np.arange(len(scan.angles))
    if scan.helical:
        return [every]
    row = scan.spacing[0] * scan.radius / scan.distance
    return [
        part.astype(np.intp) for part in np.split(every, np.nonzero(np.abs(np.diff(scan.positions)) > 0.5 * row)[0] + 1)
    ]


def families(scan: CTViews) -> list[Family]:
    """All families of a scan; raises DataError if a circle covers less than the fan needs."""
    places, which = spots(scan.shifts)
    gamma = _fan(scan)
    out = []
    for part in sections(scan):
        step = abs(float(np.median(np.diff(scan.angles[part])))) if len(part) > 1 else math.inf
        covered = float(np.ptp(scan.angles[part])) + step
        if covered < math.pi + 2 * float(np.abs(gamma).max()) - step:
            raise DataError(
                f"a circle covers {math.degrees(covered):.0f}° where the fan needs "
                f"{180 + math.degrees(2 * float(np.abs(gamma).max())):.0f}°; give whole turns"
            )
        whole = covered > 2 * math.pi - 0.5 * step
        for number, place in enumerate(places):
            views = part[which[part] == number]
            if len(views) < 2:
                continue
            views = views[np.argsort(scan.angles[views], kind="stable")]
            turn = scan.angles[views]
            if not scan.helical and whole:
                # A full turn is periodic.
                views, turn = np.append(views, views[0]), np.append(turn, turn[0] + 2 * math.pi)
                order = np.argsort(turn, kind="stable")
                views, turn = views[order], turn[order]
            for opposite in (False, True) if scan.helical or not whole else (False,):
                out.append(_family(scan, gamma, views, turn, place, len(places), opposite))
    return out


def _fan(scan: CTViews) -> NDArray[np.float64]:
    """Angles γ of the virtual fan: the detector's own columns seen from its focal centre."""
    along = (np.arange(scan.shape[1]) - scan.centre[1]) * scan.spacing[1] / scan.distance
    return np.asarray(along if scan.curved else np.arctan(along), dtype=np.float64)


def _family(
    scan: CTViews, gamma: NDArray[np.float64], views: NDArray[np.intp], turn: NDArray[np.float64],
    place: Sequence[float], spots: int, opposite: bool,
) -> Family:  # fmt: skip
    """The ray passes the axis at s = ±ρ sin γ; from the focal spot at ρ + Δρ it leaves at γ', sin γ' = s/(ρ + Δρ).

    Where the detector stands at φ the ray has the direction φ + Δφ + π + γ', which must be that of the virtual ray,
    or its opposite.
    """
    angular, axial, radial = place
    far_away = scan.radius + radial
    sine = (-1 if opposite else 1) * scan.radius * np.sin(gamma) / far_away
    leaves = np.arcsin(sine)
    lag = gamma - leaves - angular + (math.pi if opposite else 0.0)
    # In the frame of a detector at φ = 0: x to the right, y up, the focal centre at (0, ρ).
    x, y = -far_away * math.sin(angular), far_away * math.cos(angular) - scan.radius
    to_x, to_y = np.sin(angular + leaves), -np.cos(angular + leaves)
    if scan.curved:
        half = x * to_x + y * to_y
        far = -half + np.sqrt(half**2 - (x**2 + y**2 - scan.distance**2))
        across = np.arctan2(x + far * to_x, -(y + far * to_y)) * scan.distance
    else:
        far = -(scan.distance + y) / to_y
        across = x + far * to_x
    column = scan.centre[1] + across / scan.spacing[1]
    outside = np.maximum(-column, column - (scan.shape[1] - 1))
    columns, parts = _cubic(column.clip(0, scan.shape[1] - 1), scan.shape[1])
    trust = np.where(outside > 0.5, 1e-3, 1.0)
    return Family(
        views, turn, lag, columns, parts, far_away * np.cos(leaves), far, axial, spots, trust, gamma
    )  # fmt: skip


def _cubic(at: NDArray[np.float64], count: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Neighbouring columns (4 or 1, column) and their weights by cubic convolution; whole numbers need no neighbours.

    R. G. Keys, Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29, 1153 (1981).
    """
    low = np.floor(at + 1e-9)
    t = at - low
    if np.abs(t).max() < 1e-6:
        return low.astype(np.intp)[None], np.ones((1, len(at)))
    parts = np.stack([
        ((-0.5 * t + 1) * t - 0.5) * t, (1.5 * t - 2.5) * t**2 + 1, ((-1.5 * t + 2) * t + 0.5) * t, (t - 1) / 2 * t**2
    ])  # fmt: skip
    return (low[None] + np.arange(-1, 3)[:, None]).clip(0, count - 1).astype(np.intp), parts
