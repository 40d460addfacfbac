"""BART's .cfl/.hdr pairs: column-major complex64 with up to 16 numbered dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recon.data import DataError, RawScan
from recon.errors import out_of_memory
from recon.io.arrays import axis_names, scan_from_array, unaddressable
from recon.io.atomic import atomic_file

#: The meaning of each of BART's dimensions here; an empty name is a dimension that k-space does not have.
DIMENSIONS = (
    "x", "y", "z", "coil", "", "contrast", "", "", "", "", "repetition", "phase", "", "slice", "average", "",
)  # fmt: skip

_BART_NAMES = (
    "READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2",
    "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH",
)  # fmt: skip

_OFF_GRID = (
    "the first dimension has length 1, as in BART's radial and spiral data; the other two are read as phase "
    "encodes, use --trajectory if the samples are non-Cartesian"
)


def read(
    path: str | Path, *, axes: Sequence[str] | None = None, voxel: tuple[float, float, float] | None = None
) -> RawScan:
    """Scan in a .cfl/.hdr pair of centred k-space; `path` may name either file or neither suffix.

    Dimensions are BART's: 0 to 2 x, y, z with x the readout, 3 coil, 5 contrast, 10 repetition, 11 phase, 13 slice, 14
    average. `axes` names those of the .hdr in its order instead (see `recon.io.arrays.AXES`); trailing ones of length 1
    may be omitted, others of length 1 may be left without a name. `voxel` is the voxel size (x, y, z) in mm. Zeros were
    not measured; a 2D mask that varies along x is treated as in `recon.io.arrays.scan_from_array`. The file is
    memory-mapped. Raises DataError for a missing or broken .hdr, a .cfl of another size, non-finite samples and
    dimensions that k-space does not have. Source: BART 0.8, mri.h.
    """
    path = Path(path)
    array = load(path)
    shape = array.shape[::-1]
    names = axis_names(axes)
    notes = (_OFF_GRID,) if names is None and off_grid_axes(path) else ()
    if names is None:
        for i, n in enumerate(shape):
            if n > 1 and (i >= len(DIMENSIONS) or not DIMENSIONS[i]):
                what = f"{i} ({_BART_NAMES[i]})" if i < len(_BART_NAMES) else str(i)
                raise DataError(
                    f"{path.name} has {n} entries in BART's dimension {what}, which k-space does not have; extract one "
                    "with `bart slice`, or name the dimensions with --axes"
                )
        kept = [i for i in range(len(shape)) if i < len(DIMENSIONS) and DIMENSIONS[i]]
        names = tuple(DIMENSIONS[i] for i in kept)
        shape = tuple(shape[i] for i in kept)
    else:
        trailing = math.prod(shape[len(names) :])
        if trailing != 1:
            raise DataError(
                f"{path.name} has the dimensions {_text(shape)}, --axes {','.join(names)} names too few; name one for "
                "each up to the last that is longer than 1"
            )
        shape = shape[: len(names)] + (1,) * (len(names) - len(shape))
        kept = [i for i, name in enumerate(names) if name or shape[i] > 1]
        names, shape = tuple(names[i] for i in kept), tuple(shape[i] for i in kept)
    if len(names) < 2:
        names, shape = ("x", "y"), (math.prod(shape), 1)
    return scan_from_array(
        array.reshape(shape[::-1]), names[::-1], voxel=voxel, source="cfl", name=path.name, notes=notes
    )


def off_grid_axes(path: str | Path) -> tuple[str, ...] | None:
    """Axes of a pair with non-Cartesian samples, which BART stores as 1 × sample × line; None for other shapes."""
    shape = load(path).shape[::-1]
    used = max((i + 1 for i, n in enumerate(shape) if n > 1), default=0)
    if not 3 <= used <= len(DIMENSIONS) or shape[0] > 1 or min(shape[1:3]) < 2:
        return None
    return ("z", "x", "y", *DIMENSIONS[3:used])


def is_pair(path: Path) -> bool:
    """Whether the path, with either suffix or none, names a pair whose .hdr begins like BART's."""
    base = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    header = Path(f"{base}.hdr")
    if (path.suffix not in (".cfl", ".hdr") and path.is_file()) or not header.is_file():
        return False
    with header.open("rb") as file:
        return file.read(64).lstrip().startswith(b"# Dimensions")


def load(path: str | Path) -> NDArray[np.complex64]:
    """Array of a .cfl/.hdr pair with BART's dimensions reversed, (…, maps, coil, z, y, x), as a read-only memory map.

    Raises DataError as `read`.
    """
    cfl, hdr = _pair(Path(path))
    for part in (cfl, hdr):
        if not part.is_file():
            raise DataError(
                f"there is no {part.name}; a BART array is a pair of files, .cfl with samples and .hdr with sizes"
            )
    shape = _dimensions(hdr)
    expected, found = 8 * math.prod(shape), cfl.stat().st_size
    if expected != found:
        raise DataError(
            f"{cfl.name} has {found} bytes but {hdr.name} states the dimensions {_text(shape)}, which take {expected}; "
            "copy both files again"
        )
    try:
        return np.memmap(cfl, np.dtype("<c8"), "r", shape=shape[::-1])
    except OSError as error:
        if out_of_memory(error):
            raise unaddressable(cfl) from error
        raise


def write(path: str | Path, array: ArrayLike) -> None:
    """Write an array (…, maps, coil, z, y, x) as a .cfl/.hdr pair, its axes reversed to BART's dimensions.

    Converted to complex64. Each file appears completely or not at all, the .hdr last. Raises DataError for an empty
    array or more than 16 axes, ReconError if the files cannot be written.
    """
    data: NDArray[Any] = np.asarray(array)
    if data.size == 0 or data.ndim > len(DIMENSIONS):
        raise DataError(f"an array of shape {data.shape} is not a BART array: it needs samples and at most 16 axes")
    cfl, hdr = _pair(Path(path))
    shape = data.shape[::-1] + (1,) * (len(DIMENSIONS) - data.ndim)
    with atomic_file(cfl) as temporary:
        np.ascontiguousarray(data, "<c8").tofile(temporary)
    with atomic_file(hdr) as temporary:
        temporary.write_text(f"# Dimensions\n{' '.join(map(str, shape))}\n", encoding="ascii")


def _pair(path: Path) -> tuple[Path, Path]:
    """Both files of a pair; only the suffixes .cfl and .hdr are removed, because names may contain dots."""
    base = path.with_suffix("") if path.suffix in (".cfl", ".hdr") else path
    return base.with_name(base.name + ".cfl"), base.with_name(base.name + ".hdr")


def _dimensions(hdr: Path) -> tuple[int, ...]:
    lines = hdr.read_bytes()[:65536].decode("ascii", "replace").splitlines()
    try:
        at = [line.strip() for line in lines].index("# Dimensions")
        shape = tuple(int(n) for n in lines[at + 1].split())
    except (ValueError, IndexError):
        shape = ()
    if not shape or min(shape) < 1:
        raise DataError(
            f"{hdr.name} states no dimensions: expected a line '# Dimensions' and positive numbers below it; write the "
            "pair again"
        )
    return shape


def _text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
