"""Sampling masks as pure functions of (shape, R, acs, seed): which lines of k-space are measured.

Every mask is a bool array over the phase-encoded axes, (ky,) for 2D scans and (kz, ky) for 3D ones, with the centre of
k-space at index N // 2. `shape` holds their lengths, or is the length of the only one. `R` is the acceleration factor
and `acs` the number of fully sampled central lines, one number or one per axis (0 for none). Random numbers come from
numpy's PCG64 through `Generator.random` only, whose stream is stable, so that a seed gives the same mask everywhere.
Raises ValueError, with the cure, for a shape, an R or a number of ACS lines that a mask cannot have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Counts = int | Sequence[int]


def effective(mask: Mask) -> float:
    """Effective acceleration factor: number of lines of the grid over number of measured ones, ACS included.

    Raises ValueError for a mask that measures nothing.
    """
    measured = int(np.count_nonzero(mask))
    if measured == 0:
        raise ValueError("the mask keeps no line at all; give a smaller acceleration factor or some ACS lines")
    return mask.size / measured


def centre(shape: Counts, acs: Counts) -> Mask:
    """The ACS block alone: `acs` lines along each axis around index N // 2; ValueError if they do not fit."""
    shape = _grid(shape)
    out = np.zeros(shape, bool)
    sizes = (acs,) * len(shape) if isinstance(acs, (int, np.integer)) else tuple(acs)
    if len(sizes) != len(shape) or any(not 0 <= a <= n for a, n in zip(sizes, shape)):
        raise ValueError(
            f"{acs} ACS lines do not fit a grid of {shape}; give at most one number per axis, up to its size"
        )
    out[tuple(slice(n // 2 - a // 2, n // 2 - a // 2 + a) for n, a in zip(shape, sizes))] = True
    return out


def _grid(shape: Counts) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(shape)


def central_block(mask: Mask) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Largest fully sampled rectangle of a mask (nz, ny) that contains the centre (N // 2), as ranges of y and of z.

    None if the centre itself is not sampled. For partitions from z₀ to z₁ around the centre, the rectangle has the rows
    that are sampled without a gap around the centre in every partition.
    """
    nz, ny = mask.shape
    cz, cy = nz // 2, ny // 2
    if not mask[cz, cy]:
        return None
    holes = ~mask
    low = (
        np.where(holes[:, :cy].any(axis=1), cy - np.argmax(holes[:, :cy][:, ::-1], axis=1), 0)
        if cy
        else np.zeros(nz, int)
    )
    high = np.where(holes[:, cy:].any(axis=1), cy + np.argmax(holes[:, cy:], axis=1), ny)
    run = mask[:, cy]
    below = cz - (int(np.argmin(run[:cz][::-1])) if not run[:cz].all() else cz)
    above = cz + (int(np.argmin(run[cz:])) if not run[cz:].all() else nz - cz)
    low_down, high_down = (
        np.maximum.accumulate(low[below : cz + 1][::-1]),
        np.minimum.accumulate(high[below : cz + 1][::-1]),
    )
    low_up, high_up = np.maximum.accumulate(low[cz:above]), np.minimum.accumulate(high[cz:above])
    width = np.minimum.outer(high_down, high_up) - np.maximum.outer(low_down, low_up)
    height = np.arange(1, len(low_down) + 1)[:, None] + np.arange(len(low_up))[None, :]
    down, up = np.unravel_index(int((width * height).argmax()), width.shape)
    y0, y1 = max(low_down[down], low_up[up]), min(high_down[down], high_up[up])
    return (int(y0), int(y1)), (cz - int(down), cz + int(up) + 1)


def equispaced(shape: Counts, R: Counts, acs: Counts = 0, seed: int | None = None, offset: Counts = 0) -> Mask:
    """Every R-th line along each axis, plus the ACS block: the regular mask of SENSE and GRAPPA.

    Line i is measured if (i − N//2 − offset) mod R = 0, on each axis with its own R; with a seed the offset is random.
    The ACS lines are added, so the effective factor is below R.
    """
    shape = _grid(shape)
    factors = _per_axis(R, shape)
    shifts = [math.floor(u * r) for u, r in zip(_rng(seed).random(len(shape)), factors)]
    shifts = shifts if seed is not None else list(_per_axis(offset, shape, least=-(10**9)))
    out = np.ones(shape, bool)
    for axis, (n, r, o) in enumerate(zip(shape, factors, shifts)):
        out &= _along((np.arange(n) - n // 2 - o) % r == 0, axis, len(shape))
    return out | centre(shape, acs)


def equispaced_fraction(shape: Counts, R: float, acs: Counts = 0, seed: int = 0) -> Mask:
    """Equally spaced lines whose spacing is widened so that, with the ACS lines, 1/R of all lines are measured.

        spacing = (N − acs) / (N/R − acs),
        line ⌊(j + o)·spacing⌋ of those outside the ACS block

    with the offset o drawn from the seed. Learned reconstruction is usually trained with this variant: its effective
    factor is R, its spacing is not R and not always an integer. One axis only.
    """
    shape = _grid(shape)
    if len(shape) != 1:
        raise ValueError(f"this mask has one axis, (ky,); got a shape of {len(shape)} axes")
    out = centre(shape, acs)
    outside = np.nonzero(~out)[0]
    wanted = _wanted(out, R)
    at = (np.arange(wanted) + _rng(seed).random()) * (len(outside) / max(wanted, 1))
    out[outside[np.floor(at).astype(int)]] = True
    return out


def random(shape: Counts, R: float, acs: Counts = 0, seed: int = 0) -> Mask:
    """Lines drawn with equal probability outside the ACS block, as many as give the effective factor R."""
    return _draw(_grid(shape), R, acs, seed, lambda r: np.ones_like(r))


def variable_density(shape: Counts, R: float, acs: Counts = 0, seed: int = 0, power: float = 3.0) -> Mask:
    """Lines drawn with probability ∝ (1 − r)^power + 0.01, r = distance from the centre, 1 in the corners."""
    return _draw(_grid(shape), R, acs, seed, lambda r: (1 - r) ** power + 0.01)


def poisson_disc(shape: Counts, R: float, acs: Counts = 0, seed: int = 0, slope: float = 2.0) -> Mask:
    """Variable-density Poisson disc on (kz, ky): lines with a minimum distance that grows from the centre outwards.

    A line at distance r (1 at the nearest edge) is at least a·(1 + slope·r) grid steps from others. Candidates come in
    random order. The spacing a is found by bisection so that slightly more lines than needed are accepted; lines
    outside the ACS block are then removed at random until the effective factor is R. Corners (r > 1) stay empty.
    Source: dart throwing, Cook, ACM TOG 1986.
    """
    shape = _grid(shape)
    if len(shape) != 2:
        raise ValueError(f"a Poisson disc needs two phase-encoded axes (kz, ky); got a shape of {len(shape)} axes")
    block = centre(shape, acs)
    rng = _rng(seed)
    order = np.argsort(rng.random(block.size), kind="stable")
    keep = np.argsort(rng.random(block.size), kind="stable")
    distance = _distance(shape, corner=False)
    wanted = _wanted(block, R)
    room = int(np.count_nonzero((distance <= 1) & ~block))
    if wanted >= room:
        raise ValueError(
            f"R = {R} asks for {wanted} lines outside the ACS block, but only {room} lie inside the ellipse of "
            "k-space; give a larger R or use random"
        )
    low, high = 0.0, 2.0 * math.sqrt(R) + 2
    accepted = (distance <= 1) & ~block
    for _ in range(24):
        middle = (low + high) / 2
        tried = _darts(shape, order, block, distance, middle, slope)
        if np.count_nonzero(tried) < wanted:
            high = middle
        else:
            low, accepted = middle, tried
            if np.count_nonzero(tried) <= wanted * 1.02 + 1:
                break
    flat = keep[accepted.ravel()[keep]][:wanted]
    block.ravel()[flat] = True
    return block


def caipi(shape: Counts, R: Sequence[int], acs: Counts = 0, seed: int | None = None, shift: int = 1) -> Mask:
    """2D CAIPIRINHA: every R[1]-th ky; the kz lattice of step R[0] is shifted by `shift` from one ky to the next.

    Line (z, y), counted from the centre, is measured if y mod R[1] = 0 and (z − shift·y/R[1]) mod R[0] = 0; a seed
    shifts the lattice. Source: Breuer et al., MRM 2006.
    """
    shape = _grid(shape)
    if len(shape) != 2:
        raise ValueError(f"CAIPIRINHA needs two phase-encoded axes (kz, ky); got a shape of {len(shape)} axes")
    rz, ry = _per_axis(R, shape)
    move = np.zeros(2) if seed is None else _rng(seed).random(2)
    z = np.arange(shape[0])[:, None] - shape[0] // 2 - math.floor(move[0] * rz)
    y = np.arange(shape[1])[None, :] - shape[1] // 2 - math.floor(move[1] * ry)
    lattice: Mask = (y % ry == 0) & ((z - shift * (y // ry)) % rz == 0)
    lattice |= centre(shape, acs)
    return lattice


def partial_fourier(n: int, fraction: float, missing: Literal["start", "end"] = "start") -> Mask:
    """Lines (n,) of a partial Fourier axis: round(fraction·n) of them, missing at low or at high index.

    Raises ValueError unless more than half is measured, because the centre, index n // 2, must be included.
    """
    count = round(fraction * n)
    if not n // 2 < count <= n:
        raise ValueError(f"a partial Fourier fraction of {fraction} leaves {count} of {n} lines; give one in (0.5, 1]")
    out = np.zeros(n, bool)
    out[slice(n - count, n) if missing == "start" else slice(0, count)] = True
    return out


def _draw(
    shape: tuple[int, ...],
    R: float,
    acs: Counts,
    seed: int,
    density: Callable[[Floats], Floats],
) -> Mask:
    """ACS block plus the lines of largest log(u)/density: a weighted draw without replacement (Efraimidis, 2006)."""
    out = centre(shape, acs)
    wanted = _wanted(out, R)
    weight = density(_distance(shape, corner=True))
    key = np.log(np.maximum(_rng(seed).random(shape), 1e-300)) / weight
    key[out] = -np.inf
    out.ravel()[np.argsort(-key, axis=None, kind="stable")[:wanted]] = True
    return out


def _darts(
    shape: tuple[int, ...], order: NDArray[np.intp], block: Mask, distance: Floats, a: float, slope: float
) -> Mask:
    """Points accepted outside `block`, in the given order, none closer to an accepted one than a·(1 + slope·r)."""
    nz, ny = shape
    free = (distance <= 1) & ~block
    out = np.zeros(shape, bool)
    reach = a * (1 + slope * distance)
    for flat in order:
        z, y = divmod(int(flat), ny)
        if not free[z, y]:
            continue
        out[z, y] = True
        r = reach[z, y]
        n = int(r)
        z0, z1, y0, y1 = max(z - n, 0), min(z + n + 1, nz), max(y - n, 0), min(y + n + 1, ny)
        dz, dy = np.arange(z0 - z, z1 - z)[:, None], np.arange(y0 - y, y1 - y)
        free[z0:z1, y0:y1] &= dz * dz + dy * dy >= r * r
        free[z, y] = False
    return out


def _distance(shape: tuple[int, ...], corner: bool) -> Floats:
    """Distance from the centre of k-space: 1 in the corners, or 1 at the middle of the edges."""
    axes = [(np.arange(n) - n // 2) / max(n // 2, 1) for n in shape]
    r = np.sqrt(sum(_along(a, i, len(shape)) ** 2 for i, a in enumerate(axes)))
    return np.asarray(r / math.sqrt(len(shape)) if corner else r, np.float64)


def _wanted(block: Mask, R: float) -> int:
    """How many lines outside the ACS block give the effective factor R."""
    if R < 1:
        raise ValueError(f"an acceleration factor of {R} is below 1; give 1 or more")
    wanted = round(block.size / R) - int(np.count_nonzero(block))
    if wanted < 0:
        raise ValueError(
            f"R = {R} allows {round(block.size / R)} of {block.size} lines, and the ACS block alone has "
            f"{np.count_nonzero(block)}; give fewer ACS lines or a smaller R"
        )
    return wanted


def _per_axis(value: Counts, shape: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * len(shape)
    if len(values) != len(shape) or any(v < least or v != int(v) for v in values):
        raise ValueError(f"{value} does not give one whole number, at least {least}, for each axis of {shape}")
    return tuple(int(v) for v in values)


def _along(values: NDArray[Any], axis: int, ndim: int) -> NDArray[Any]:
    return values.reshape([-1 if i == axis else 1 for i in range(ndim)])


def _rng(seed: int | None) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(0 if seed is None else seed))
