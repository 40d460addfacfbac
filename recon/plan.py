"""Prediction of the peak memory of a reconstruction before it runs, and choice of how much is processed at once."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recon.errors import TooLarge, counted

#: Python, torch and the libraries themselves, and what torch's builds for GPUs take in addition.
_BASE, _BASE_GPU = 300 * 2**20, 330 * 2**20
#: MiB of work space of a method for a slice or a volume, independent of the size of the problem: the weights of a
#: network and the work space of its convolutions, the transform of non-Cartesian k-space, the adaptive combination
#: (without kernels its tiles, which are larger for a volume). A network of slices took 409 to 437 MiB in total for one
#: scan, in repeated runs.
_WORK = {"unrolled": (115, 90), "varnet": (90, 90), "noncartesian": (90, 90), "combine": (44, 80), "grappa": (48, 80)}
_COMPLEX = 8

#: Complex arrays of the size of a problem's image, and of its coil images, that a method holds at its peak, not
#: counting the maps. Measured on CPU by bench/memory.py.
_IMAGES = {"combine": 4, "grappa": 4, "sense": 7, "cs": 10, "tv": 16, "unrolled": 40, "noncartesian": 24}
_IMAGES["varnet"] = 100  # features of a U-Net at full resolution
_COIL_IMAGES = {"combine": 6, "grappa": 8, "sense": 5, "cs": 5, "tv": 5, "unrolled": 5, "noncartesian": 12}
_COIL_IMAGES["varnet"] = 8
#: The same for a volume of many coils, in coil images including the maps: its kernels and its maps are computed in
#: parts. Measured from 64³ to 128³.
_VOLUME = {"sense": 4.4, "cs": 4.4, "tv": 4.4, "combine": 5.75}
_MANY_COILS, _MAKING_MAPS = 8, 150 * 2**20
#: For GRAPPA in a volume, the unknowns of a coil: five samples of some fourteen lines. The neighbours that are gathered
#: at a time are included in its work space.
_SAMPLES = 70
#: Coil images that stay in the allocator from slice to slice if each is solved alone: while those of a slice take at
#: most 32 MiB, beyond which arrays are returned to the system, and above it. Measured from 192² to 768².
_LEFT, _RETURNED = {"combine": (8, 0), "grappa": (8, 2)}, 32 * 2**20
#: Blocks of raw lines at a time: as read, whitened, transformed and cropped.
_RAW_BLOCKS = 4

#: For a CT cone beam, arrays of the size of its projections, and of its volume, that a method holds at most at its
#: peak, in single precision, in addition to the program: fitted to peaks at 64³, 96³ and 128³ and rounded up
#: (bench/memory.py).
_CONE = {"fbp": (9, 9), "unrolled": (9, 9), "sirt": (11, 9), "cgls": (12, 10), "tv": (12, 16)}
_CONE_BASE = 400 * 2**20
#: For a body that extends beyond the detector, arrays of the size of the measured projections: each method begins with
#: a filtered backprojection of views extrapolated to up to twice their width.
_CONE_CUT = 25


#: Columns on either side of a part of a volume that are also solved and then discarded: none if columns are independent
#: problems, otherwise the window of the adaptive combination, or the reach of wavelets and of total variation.
HALO = {"sense": 0, "combine": 4, "cs": 16, "tv": 16}

#: What the parts of a volume may leave in the allocator when the next begins: 75 MiB from run to run, measured at
#: 8×80×128² in parts of 32 and 43 columns.
_PARTS = 128 * 2**20

#: Parts with fewer columns than this are not worth their halo.
LEAST_COLUMNS = 8


@dataclass(frozen=True)
class Problem:
    """Sizes of one slice or slab: channels as acquired and as solved, grid (nz, ny, nx), readout samples, lines.

    There are `items` of them in total, each with a final image of `voxels`; at most `most` are solved at a time.
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
    most: int = 16


@dataclass(frozen=True)
class Plan:
    """`batch` problems at a time, with the predicted peak memory in bytes.

    `columns` is 0, or how many columns of a volume's readout are solved at a time.
    """

    batch: int
    peak: int
    columns: int = 0


def plan(problem: Problem, budget: int) -> Plan:
    """The largest batch whose predicted peak fits into `budget` bytes, at most 16 problems (more are not faster).

        peak = base + result + max(calibration, batch · (k-space + maps) + lines, batch · (images + coil images + maps))

    A volume that does not fit as a whole is solved in parts along its fully sampled readout; k-space of all columns and
    three images then stay in memory. Raises TooLarge if not even that fits.
    """
    fixed, each, raw = _fixed(problem), _each(problem), _RAW_BLOCKS * _raw(problem)
    calibrating, kept = _calibration(problem), _kept(problem)
    stack = math.prod(problem.grid) * _COMPLEX * problem.virtual_coils

    def peak(batch: int) -> int:
        """A batch is calibrated and placed slab by slab, then solved: the larger of the two counts."""
        copied = batch * stack if batch > 1 else 0  # k-space of several is copied into one array
        return fixed + max(calibrating + (batch - 1) * kept, batch * kept + raw, batch * _solving(problem) + copied)

    batch = next((n for n in range(min(problem.most, problem.items), 0, -1) if peak(n) <= budget), 0)
    need = peak(1)
    if batch < 1 and problem.grid[0] > 1 and problem.method in HALO:
        nx, halo = problem.grid[2], HALO[problem.method]
        whole = fixed + max(calibrating, stack + raw)
        slim = fixed + _PARTS + stack + math.prod(problem.grid) * _COMPLEX * 3
        columns = min(nx, int((budget - slim) // (each // nx)) - 2 * halo) if whole <= budget else 0
        if columns >= LEAST_COLUMNS:
            columns = -(-nx // -(-nx // columns))  # parts of equal width
            return Plan(1, max(whole, slim + (columns + 2 * halo) * (each // nx)), columns)
        need = max(whole, slim + (LEAST_COLUMNS + 2 * halo) * (each // nx))
    if batch < 1:
        raise TooLarge(
            f"one slice or slab of {counted(problem.virtual_coils, 'coil')} × {'×'.join(map(str, problem.grid))} needs "
            f"{_readable(need)} and {_readable(budget)} are allowed",
            "lower prepare.virtual_coils in the recipe",
        )
    return Plan(batch, peak(batch))


def cone(rays: int, voxels: int, method: str, *, cut: bool = False) -> int:
    """Bytes at the peak of a CT volume that is made from the rays of a cone beam as a whole.

    `cut` says that the body extends beyond the detector.
    """
    held, made = _CONE[method]
    held = max(held, _CONE_CUT) if cut else held
    return _CONE_BASE + _base() - _BASE + 4 * (held * rays + made * voxels)


def _readable(size: int) -> str:
    """A size in the unit in which it does not round to 0."""
    exponent, unit = next(((e, u) for e, u in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if size >= 2**e), (0, "bytes"))
    return f"{size / 2**exponent:.{int(exponent == 30)}f} {unit}"


def budget(limit: int | None) -> int:
    """Bytes that may be used: `limit`, or nine tenths of what is free, within the limit of a container or service."""
    if limit is not None:
        return limit
    import psutil

    return int(0.9 * min(psutil.virtual_memory().available, _container_limit()))


def _base() -> int:
    import torch

    return _BASE + (0 if torch.version.cuda is None and torch.version.hip is None else _BASE_GPU)


def _each(p: Problem) -> int:
    voxels = p.grid[0] * p.grid[1] * p.grid[2]
    # A network processes a volume column by column, so its start decides.
    column = p.method == "unrolled" and p.grid[0] > 1
    method = "cs" if column else p.method
    coil_images = _COIL_IMAGES[method] + p.map_sets
    return voxels * _COMPLEX * ((_IMAGES[method] + 2 * column) * p.map_sets + coil_images * p.virtual_coils)


def _solving(p: Problem) -> int:
    """What a problem needs that is solved as a whole: for a volume, the larger of making its maps and solving it."""
    if p.grid[0] > 1 and p.method == "grappa":
        from recon.solve.grappa import EQUATIONS  # imports torch, which a server that only counts need not wait for

        return _each(p) + EQUATIONS * (_SAMPLES * p.virtual_coils) ** 2 * _COMPLEX
    if p.grid[0] == 1 or p.method not in _VOLUME or p.map_sets > 1 or p.virtual_coils < _MANY_COILS:
        return _each(p)
    image = math.prod(p.grid) * _COMPLEX
    maps = 0 if p.method == "combine" else 4 * image * p.virtual_coils + _MAKING_MAPS
    solution = int(image * (_IMAGES[p.method] + _VOLUME[p.method] * p.virtual_coils))
    return max(maps, solution)


def _fixed(p: Problem) -> int:
    """What is needed all the time: the program, the result, and the work space of a method."""
    return _base() + p.items * p.voxels * _COMPLEX + _work(p.method, volume=p.grid[0] > 1) + _leftover(p)


def _leftover(p: Problem) -> int:
    """What slices that are solved one by one leave in the allocator for the next one."""
    coil_images = math.prod(p.grid) * _COMPLEX * p.virtual_coils
    alone = p.most == 1 and p.items > 1 and p.grid[0] == 1
    return coil_images * _LEFT.get(p.method, (0, 0))[coil_images > _RETURNED] if alone else 0


def _work(method: str, *, volume: bool) -> int:
    return _WORK.get(method, (0, 0))[volume] * 2**20


def _raw(p: Problem) -> int:
    """A block of raw lines during processing (see hybrid.py)."""
    return min(p.lines * p.coils * p.samples * _COMPLEX, 64 * 2**20)


def _kept(p: Problem) -> int:
    """What a problem of a batch keeps until the batch is solved: its k-space, and its maps if there are any."""
    maps = 0 if p.method in ("combine", "grappa", "varnet") else p.map_sets
    return math.prod(p.grid) * _COMPLEX * p.virtual_coils * (1 + maps)


def _calibration(p: Problem) -> int:
    """The calibration of a volume: eigenvectors of a matrix of all coils and kernel positions, and its copies."""
    needs_maps = p.grid[0] > 1 and p.method not in ("combine", "grappa") and p.virtual_coils > 1
    return 8 * (6**3 * p.virtual_coils) ** 2 * _COMPLEX if needs_maps else 0


def machine() -> int:
    """Total memory in bytes (the limit of a container or a service counts)."""
    import psutil

    return int(min(psutil.virtual_memory().total, _container_limit()))


def _container_limit(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The most bytes that the control group of this process, or one above it, may use: a container's or a service's.

    A line of `own` reads `0::PATH` in version 2 of control groups, `N:memory:PATH` in version 1.
    """
    limits = [1 << 62]
    with suppress(OSError, ValueError):
        for line in own.read_text("ascii").splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            top, name = (groups / "memory", "memory.limit_in_bytes") if kinds else (groups, "memory.max")
            at = top / path.strip("/")
            for group in (at, *(p for p in at.parents if p.is_relative_to(top))):
                with suppress(OSError, ValueError):
                    limits.append(int((group / name).read_text("ascii")))
    return min(limits)
