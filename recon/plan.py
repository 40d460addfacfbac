"""Predicts the peak memory of a reconstruction before it runs, and picks what is worked on at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon.data import ReconError

#: Python, torch and the libraries themselves, and what torch's builds for GPUs take beyond that.
_BASE, _BASE_GPU = 450 * 2**20, 330 * 2**20
_COMPLEX = 8

#: Complex arrays of the size of one problem's image, and of its coil images, that a method holds at its peak.
#: Measured on CPU for tests/test_plan.py; the maps and their making are counted apart.
_IMAGES = {"combine": 4, "grappa": 4, "sense": 7, "cs": 10, "tv": 16, "unrolled": 24, "noncartesian": 24}
_IMAGES["varnet"] = 100  # features of a U-Net at full resolution
_COIL_IMAGES = {"combine": 10, "grappa": 13, "sense": 5, "cs": 5, "tv": 5, "unrolled": 9, "noncartesian": 12}
_COIL_IMAGES["varnet"] = 8


#: Columns on either side of a part of a volume that are solved too and thrown away: none where columns are independent
#: problems, the window of the adaptive combination, the reach of wavelets and of total variation.
HALO = {"sense": 0, "combine": 4, "cs": 16, "tv": 16}

#: Fewer columns at a time than this are not worth their halo.
LEAST_COLUMNS = 8


@dataclass(frozen=True)
class Problem:
    """Sizes of one slice or slab: channels as acquired and as solved, grid (nz, ny, nx), readout samples, lines.

    There are `items` of them in all, each with an image of `voxels` in the end.
    """

    coils: int
    virtual_coils: int
    grid: tuple[int, int, int]
    samples: int
    lines: int
    items: int
    voxels: int
    method: str
    map_sets: int = 1


@dataclass(frozen=True)
class Plan:
    """`batch` problems at a time, with the peak memory in bytes that this is predicted to take.

    `columns` is 0, or how many columns of the readout of a volume are solved at a time.
    """

    batch: int
    peak: int
    columns: int = 0


def plan(problem: Problem, budget: int) -> Plan:
    """The largest batch whose predicted peak fits into `budget` bytes, at most 16 problems (more gain no speed).

        peak = base + result + lines + batch · (images + coil images + maps) · voxels · 8 bytes

    A volume that does not fit as a whole is solved in parts along its fully sampled readout, where k-space of all
    columns and three images stay in memory. Raises ReconError when not even that fits.
    """
    fixed = _base() + problem.items * problem.voxels * _COMPLEX + _lines(problem) + _calibration(problem)
    each = _each(problem)
    batch = min(16, problem.items, (budget - fixed) // each) if budget > fixed else 0
    if batch < 1 and problem.grid[0] > 1 and problem.method in HALO:
        nx, halo = problem.grid[2], HALO[problem.method]
        whole = fixed + math.prod(problem.grid) * _COMPLEX * (3 + problem.virtual_coils)
        columns = min(nx, int((budget - whole) // (each // nx)) - 2 * halo)
        if columns >= LEAST_COLUMNS:
            columns = -(-nx // -(-nx // columns))  # parts of equal width
            return Plan(1, int(whole + (columns + 2 * halo) * (each // nx)), columns)
        each = whole - fixed + (LEAST_COLUMNS + 2 * halo) * (each // nx)
    if batch < 1:
        need, have = (fixed + each) / 2**30, budget / 2**30
        raise ReconError(
            f"one slice or slab of {problem.virtual_coils} coils × {'×'.join(map(str, problem.grid))} needs {need:.1f} "
            f"GiB and {have:.1f} GiB are allowed; raise --memory, or lower prepare.virtual_coils in the recipe"
        )
    return Plan(int(batch), int(fixed + batch * each))


def budget(limit: int | None) -> int:
    """Bytes that may be used: `limit`, or nine tenths of what is free now (a container's limit counts)."""
    if limit is not None:
        return limit
    import psutil

    return int(0.9 * min(psutil.virtual_memory().available, _container_limit()))


def _base() -> int:
    import torch

    return _BASE + (0 if torch.version.cuda is None and torch.version.hip is None else _BASE_GPU)


def _each(p: Problem) -> int:
    voxels = p.grid[0] * p.grid[1] * p.grid[2]
    # A network takes a volume column by column, so that what it starts from decides.
    column = p.method == "unrolled" and p.grid[0] > 1
    method = "cs" if column else p.method
    coil_images = _COIL_IMAGES[method] + p.map_sets
    return voxels * _COMPLEX * ((_IMAGES[method] + 2 * column) * p.map_sets + coil_images * p.virtual_coils)


def _lines(p: Problem) -> int:
    """The hybrid lines of one problem before they are placed, and the block of raw lines in work (see cartesian.py)."""
    hybrid = p.lines * p.virtual_coils * p.grid[2] * _COMPLEX
    raw = min(p.lines * p.coils * p.samples * _COMPLEX, 64 * 2**20)
    return hybrid + 5 * raw


def _calibration(p: Problem) -> int:
    """The calibration of a volume: eigenvectors of a matrix of all coils and kernel positions, and its copies."""
    needs_maps = p.grid[0] > 1 and p.method not in ("combine", "grappa") and p.virtual_coils > 1
    return 4 * (6**3 * p.virtual_coils) ** 2 * _COMPLEX if needs_maps else 0


def _container_limit() -> int:
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 1 << 62
