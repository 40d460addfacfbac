"""Predicts the peak memory of a reconstruction before it runs, and picks how many slices are worked on at once."""

from __future__ import annotations

from dataclasses import dataclass

from recon.data import ReconError

#: Python, torch and the libraries themselves.
_BASE = 450 * 2**20
_COMPLEX = 8

#: Complex arrays of the size of one problem's image, and of its coil images, that a method holds at its peak.
#: Measured on CPU for tests/test_plan.py; the maps and their making are counted apart.
_IMAGES = {"combine": 4, "grappa": 4, "sense": 7, "cs": 10, "tv": 16, "noncartesian": 24}
_COIL_IMAGES = {"combine": 8, "grappa": 11, "sense": 7, "cs": 7, "tv": 7, "noncartesian": 12}


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
    """`batch` problems at a time, with the peak memory in bytes that this is predicted to take."""

    batch: int
    peak: int


def plan(problem: Problem, budget: int) -> Plan:
    """The largest batch whose predicted peak fits into `budget` bytes, at most 16 problems (more gain no speed).

        peak = base + result + lines + batch · (images + coil images + maps) · voxels · 8 bytes

    Raises ReconError when not even one problem at a time fits.
    """
    fixed = _BASE + problem.items * problem.voxels * _COMPLEX + _lines(problem)
    each = _each(problem)
    batch = min(16, problem.items, (budget - fixed) // each) if budget > fixed else 0
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


def _each(p: Problem) -> int:
    voxels = p.grid[0] * p.grid[1] * p.grid[2]
    coil_images = _COIL_IMAGES[p.method] + p.map_sets
    return voxels * _COMPLEX * (_IMAGES[p.method] * p.map_sets + coil_images * p.virtual_coils)


def _lines(p: Problem) -> int:
    """The hybrid lines of one problem before they are placed, and the block of raw lines in work (see cartesian.py)."""
    hybrid = p.lines * p.virtual_coils * p.grid[2] * _COMPLEX
    raw = min(p.lines * p.coils * p.samples * _COMPLEX, 64 * 2**20)
    return hybrid + 5 * raw


def _container_limit() -> int:
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return 1 << 62
