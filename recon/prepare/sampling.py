"""Sampling pattern: acceleration, ACS block and partial Fourier, detected from the rows that hold lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding
from recon.masks import central_block
from recon.prepare.volumes import MOST_MISSING

Side = Literal["", "low", "high"]


@dataclass(frozen=True)
class Sampling:
    """How the phase encodes of one frame were sampled; pairs are in the order y, z.

    `acceleration` is the spacing of a regular pattern outside the ACS block, (0, 0) if there is none. `caipi` is the
    shift along y from one sampled partition to the next. `acs` is the largest fully sampled block around the centre as
    half-open ranges, None if it is a single line. `partial_fourier` is the share of k-space between the outermost lines
    if these lie at unequal distances from the centre, otherwise 1, and `missing` the side that was left out.
    `effective` is the number of grid rows per sampled row.
    """

    shape: tuple[int, int]
    rows: int
    acceleration: tuple[int, int]
    caipi: int
    acs: tuple[tuple[int, int], tuple[int, int]] | None
    partial_fourier: tuple[float, float]
    missing: tuple[Side, Side]
    effective: float

    @property
    def full(self) -> bool:
        """Whether every row of the grid was sampled."""
        return self.rows == self.shape[0] * self.shape[1]

    @property
    def regular(self) -> bool:
        """Whether the rows outside the ACS block lie on a lattice."""
        return self.acceleration != (0, 0)


def decisive(counts: Iterable[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The frame that decides the method, given how often each row (kz, ky) was acquired in every frame.

    It is the first frame, or the one with the fewest rows if it lacks more than MOST_MISSING. Slices may have different
    accelerations, but a few lost rows do not call for another method.
    """
    each = list(counts)
    fewest = min(each, key=np.count_nonzero)
    return fewest if np.count_nonzero(fewest) < (1 - MOST_MISSING) * np.count_nonzero(each[0]) else each[0]


def sampling(counts: NDArray[Any]) -> Sampling:
    """The pattern in a mask or in counts of lines (nz, ny), or (ny,), with the centre of k-space at index N // 2."""
    mask = np.atleast_2d(np.asarray(counts) > 0)
    nz, ny = mask.shape
    rows = int(mask.sum())
    if not rows:
        return Sampling((ny, nz), 0, (0, 0), 0, None, (1.0, 1.0), ("", ""), float("inf"))
    block = central_block(mask)
    acceleration, caipi = _lattice(mask, mask & ~_core(mask, block))
    y, z = np.nonzero(mask.any(axis=0))[0], np.nonzero(mask.any(axis=1))[0]
    (pf_y, side_y), (pf_z, side_z) = _partial_fourier(y, ny), _partial_fourier(z, nz)
    single = block is None or (block[0][1] - block[0][0]) * (block[1][1] - block[1][0]) == 1
    return Sampling(
        (ny, nz),
        rows,
        acceleration,
        caipi,
        None if single and rows > 1 else block,
        (pf_y, pf_z),
        (side_y, side_z),
        nz * ny / rows,
    )


def _core(mask: NDArray[np.bool_], block: tuple[tuple[int, int], tuple[int, int]] | None) -> NDArray[np.bool_]:
    """The ACS region of any shape: the central block, what solid 2×2 squares connect with it, and its rim."""
    core = np.zeros_like(mask)
    if block is None:
        return core
    (y0, y1), (z0, z1) = block
    core[z0:z1, y0:y1] = True
    if min(mask.shape) == 1:
        return core
    square = mask[:-1, :-1] & mask[1:, :-1] & mask[:-1, 1:] & mask[1:, 1:]
    solid = np.zeros_like(mask)
    for dz, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):
        solid[dz : dz + square.shape[0], dy : dy + square.shape[1]] |= square
    size = 0
    while (now := int(core.sum())) != size:
        size, core = now, core | (_grown(core) & solid)
    return np.asarray(_grown(core) & mask)


def _grown(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    out: NDArray[np.bool_] = region.copy()
    out[1:] |= region[:-1]
    out[:-1] |= region[1:]
    out[:, 1:] |= region[:, :-1]
    out[:, :-1] |= region[:, 1:]
    return out


def _lattice(mask: NDArray[np.bool_], outside: NDArray[np.bool_]) -> tuple[tuple[int, int], int]:
    """Spacing (y, z) and shift of the lattice of the rows outside the ACS region; ((0, 0), 0) if there is none."""
    none = (0, 0), 0
    if not outside.any():
        return (1, 1), 0
    partitions = np.nonzero(outside.any(axis=1))[0]
    step_z = int(np.gcd.reduce(np.diff(partitions))) if len(partitions) > 1 else 1
    rows = [np.nonzero(outside[z])[0] for z in partitions]
    step_y = int(np.gcd.reduce(np.concatenate([np.diff(y) for y in rows]))) if max(map(len, rows)) > 1 else 0
    step_y = 1 if mask.shape[1] == 1 else step_y
    inside = np.arange(partitions[0], partitions[-1] + 1, step_z)
    if step_y == 0 or not mask[inside].any(axis=1).all():
        return none
    first = np.array([y[0] % step_y for y in rows])
    for z, start in zip(partitions, first):
        extent = np.nonzero(mask[z])[0]
        line = np.arange(extent[0], extent[-1] + 1)
        if not mask[z, line[line % step_y == start]].all():
            return none
    turn = (partitions - partitions[0]) // step_z
    near = np.nonzero(turn == 1)[0]
    shift = int((first[near[0]] - first[0]) % step_y) if len(near) else 0
    return none if ((first[0] + turn * shift - first) % step_y).any() else ((step_y, step_z), shift)


def _partial_fourier(rows: NDArray[np.intp], n: int) -> tuple[float, Side]:
    """Share of an axis between the outermost rows, and the missing side; (1, "") if both sides reach equally far.

    Distances that differ by no more than the widest gap between rows count as equal.
    """
    centre, first, last = n // 2, int(rows[0]), int(rows[-1])
    before, after = centre - first, last - centre
    tolerance = int(np.diff(rows).max()) if len(rows) > 1 else 1
    if len(rows) == 1 or abs(before - after) <= tolerance:
        return 1.0, ""
    whole = 2 * before if before > after else 2 * after + 2
    return (last - first + 1) / max(min(whole, n), last - first + 1), "high" if before > after else "low"


def disagreements(found: Sampling, encoding: Encoding, number: int = 0) -> tuple[str, ...]:
    """Sentences on where the header's acceleration contradicts the lines; the lines are used."""
    stated, path = encoding.acceleration, f"encoding[{number}]/parallelImaging/accelerationFactor"
    a, b = found.acceleration
    # A CAIPI lattice of 2×2 is also one of 4×1 with a shift: the header states only the product.
    if found.regular and a * b != stated[0] * stated[1] and not (found.full and stated == (1, 1)):
        return (f"{path} is {stated[0]}×{stated[1]}, but the lines are {a}×{b} undersampled; the lines are used",)
    if not found.regular and stated != (1, 1):
        return (
            f"{path} is {stated[0]}×{stated[1]}, but the lines are not on a regular grid "
            f"({found.effective:.1f} rows of the grid for each sampled one); the lines are used",
        )
    return ()
