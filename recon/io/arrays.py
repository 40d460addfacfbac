"""NumPy arrays of k-space (.npy, .npz) as scans; also the common last step of every format that stores whole arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import FRAME_COUNTERS, DataError, Encoding, Header, Image, Limit, RawScan, Samples, counted
from recon.errors import out_of_memory
from recon.io.samples import join, lines_from_array

#: Names of axes, outermost first, in the order of `scan_from_array`.
AXES = (*FRAME_COUNTERS, "average", "slice", "coil", "z", "y", "x")

#: Errors raised when reading a .npy or .npz that is damaged, locked, or another kind of file.
BROKEN = (
    *(ValueError, OSError, EOFError, KeyError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

#: Readouts with a smaller share of exact zeros than this count as fully sampled: a stray zero of a quantised recording
#: is not a hole in the mask.
_STRAY = 0.01


def read(
    path: str | Path,
    *,
    axes: Sequence[str] | None = None,
    key: str | None = None,
    voxel: tuple[float, float, float] | None = None,
) -> RawScan:
    """Scan in a .npy or .npz file of centred complex k-space.

    `axes` names the axes of the array in order (a sequence, or one string "coil,y,x") out of AXES; x is the readout, a
    missing axis has length 1. It may be omitted for two axes, which are then y, x. `key` selects the array of an .npz
    that holds several. `voxel` is the voxel size (x, y, z) in mm, 1 mm if unknown. Rows of exact zeros were not
    measured. If the mask of a 2D scan varies along x as well, both axes of the image are phase encoded: see
    `scan_from_array`. Raises DataError for other files, real or non-finite data and axes that do not fit.
    """
    path = Path(path)
    array = _load(path, key)
    if array.dtype.kind != "c":
        raise DataError(
            f"{path.name} holds real numbers ({array.dtype}) of shape {array.shape}, k-space is complex; save it as "
            "real + 1j·imaginary"
        )
    names, notes = axis_names(axes), list[str]()
    if names is None:
        if array.ndim != 2:
            raise DataError(
                f"{path.name} holds an array of shape {array.shape}, whose {array.ndim} axes could be coils, slices or "
                "partitions; name them, for example --axes coil,y,x"
            )
        names = ("y", "x")
        notes.append("the array has two axes, read as y, x with x the readout; use --axes if they are others")
    return scan_from_array(array, names, voxel=voxel, source="numpy", name=path.name, notes=tuple(notes))


def scan_from_array(
    array: NDArray[Any],
    axes: Sequence[str],
    *,
    voxel: tuple[float, float, float] | None = None,
    source: str = "numpy",
    name: str = "the array",
    notes: tuple[str, ...] = (),
    header: Header | None = None,
) -> RawScan:
    """Scan of a centred complex k-space array with named axes (zero frequency at index N // 2).

    `axes` are names out of AXES in the order of the array, a sequence or "coil,y,x"; `voxel` is (x, y, z) in mm.
    Readouts that are zero in all coils were not measured; columns at either end of x that are zero in every readout are
    discarded samples. If a 2D mask varies along x, x cannot be a readout: y and x become the phase encodings kz and ky
    of a scan with a readout of length 1, and `plane` turns its image back into (y, x). The array, which may be a
    memmap, is kept and read on request; anything else, such as a tensor, is converted to an array. Raises DataError for
    wrong names, a wrong number of axes, real, empty or non-finite arrays, a scan of zeros, and a 3D mask that varies
    along x.
    """
    axes, array = axis_names(axes) or (), np.asanyarray(array)
    if array.dtype.kind != "c":
        raise DataError(f"{name} holds real numbers ({array.dtype}), k-space is complex; give real + 1j * imaginary")
    data = _ordered(array, axes, name)
    frames = data.shape[: len(FRAME_COUNTERS) + 1]
    measured = _mask(data, name)
    columns = np.asarray(measured.any(axis=tuple(range(measured.ndim - 1))))
    pre, stop = int(columns.argmax()), len(columns) - int(columns[::-1].argmax())
    rows = np.asarray(measured.any(axis=-1))
    holes = 1 - float(measured[..., pre:stop][rows].mean())
    if holes > _STRAY:
        data, measured = _two_phase_encodings(data, measured, axes, name)
        rows = measured[..., 0]
        pre, stop = 0, 1
        notes += (
            f"{holes:.0%} of the samples of the measured rows are zero, so x seems to be phase encoded too: y "
            "and x are read as kz and ky with a readout of length 1",
        )
    nz, ny, nx = data.shape[-3:]
    parts: list[tuple[NDArray[np.void], Samples]] = []
    for index in product(*(range(n) for n in frames)):
        if rows[index].any():
            counters = dict(zip((*FRAME_COUNTERS, "average"), index, strict=True))
            parts.append(lines_from_array(data[index], rows[index], counters=counters))
    lines, samples = join(*parts) if len(parts) > 1 else parts[0]
    lines["discard_pre"], lines["discard_post"] = pre, nx - stop
    if pre or stop < nx:
        notes += (
            f"columns {stop} to {nx} and 0 to {pre} of x are zero in every readout and are treated as not measured",
        )
    if holes and holes <= _STRAY:
        zeros = int(np.count_nonzero(~measured[..., pre:stop][rows]))
        notes += (f"{counted(zeros, 'sample is', 'samples are')} exactly zero among the measured ones, and kept",)
    if voxel is None:
        notes += ("the file does not store the voxel size; 1 mm is assumed, use --voxel x,y,z to set it",)
    encoding = array_encoding((nx, ny, nz), voxel or (1.0, 1.0, 1.0), rotated=holes > _STRAY)
    return RawScan(lines, samples, (encoding,), header or Header(), source, notes)


def array_encoding(
    matrix: tuple[int, int, int], voxel: tuple[float, float, float], *, rotated: bool = False
) -> Encoding:
    """Encoding of an array of `matrix` (x, y, z) samples and `voxel` (mm) whose grid is also the image's.

    `rotated` means that the voxel is that of the image (x, y, z) while the encoding's x, y, z are the image's z, x, y.
    Raises DataError for a voxel that is not three positive numbers.
    """
    if len(voxel) != 3 or not all(np.isfinite(v) and v > 0 for v in voxel):
        raise DataError(f"the voxel size {voxel} mm is not three positive numbers; give it as --voxel x,y,z")
    step = (voxel[2], voxel[0], voxel[1]) if rotated else voxel
    fov = (matrix[0] * step[0], matrix[1] * step[1], matrix[2] * step[2])
    limits = {
        "kspace_encoding_step_1": Limit(0, matrix[1] - 1, matrix[1] // 2),
        "kspace_encoding_step_2": Limit(0, matrix[2] - 1, matrix[2] // 2),
    }
    return Encoding(matrix, fov, matrix, fov, limits=limits)


def plane(image: Image) -> Image:
    """The image of a scan without readout, whose two phase encodings span the image, reordered to (…, z, y, x).

        (…, z = rows, y = columns, x = 1)  →  (…, z = 1, y = rows, x = columns)

    Every voxel keeps its position in the patient: directions and voxel sizes move with their axes. If the geometry is
    unknown, the directions are those of the array, before and after. An image with more than one voxel along x, or with
    one plane, is returned unchanged.
    """
    if image.data.shape[-1] != 1 or image.data.shape[-3] == 1:
        return image
    g = image.geometry
    (dx, dy, dz), (nz, ny, nx) = g.voxel, g.shape
    turned = replace(g, voxel=(dy, dz, dx), shape=(nx, nz, ny), thickness=dx)
    if g.known:
        turned = replace(turned, read_dir=g.phase_dir, phase_dir=g.slice_dir, slice_dir=g.read_dir)
    else:
        turned = replace(turned, position=(g.position[1], g.position[2], g.position[0]))
    return replace(image, data=np.moveaxis(image.data, -1, -3), geometry=turned)


def _two_phase_encodings(
    data: NDArray[Any], measured: NDArray[np.bool_], axes: Sequence[str], name: str
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """(…, slice, coil, 1, y, x) as (…, slice, coil, kz = y, ky = x, 1), and its mask."""
    if data.shape[-3] > 1:
        raise DataError(
            f"{name}: the sampling of the axes {','.join(axes)} varies along x, so x is not the readout of this 3D "
            "scan; name the fully sampled axis x in --axes"
        )
    if data.shape[-5] > 1:
        raise DataError(
            f"{name}: the sampling of each of the {data.shape[-5]} slices varies along both y and x; save each slice "
            "by itself and read it with --axes coil,y,x"
        )
    return np.moveaxis(data, -3, -1), np.moveaxis(measured, -3, -1)


def _ordered(array: NDArray[Any], axes: Sequence[str], name: str) -> NDArray[Any]:
    """View of the array with all of AXES, in their order."""
    unknown = [a for a in axes if a not in AXES]
    if unknown or len(set(axes)) != len(axes):
        raise DataError(
            f"--axes {','.join(axes)} has an unknown or repeated name; the names are {', '.join(AXES)}, each once"
        )
    if len(axes) != array.ndim:
        raise DataError(
            f"{name} has {array.ndim} axes (shape {array.shape}), --axes {','.join(axes)} names {len(axes)}; name "
            "every axis once, in the array's order"
        )
    if len({"z", "y", "x"} & set(axes)) < 2:
        raise DataError(f"--axes {','.join(axes)} needs at least two of z, y, x")
    if array.size == 0:
        raise DataError(f"{name} is empty (shape {array.shape}); there is no k-space in it")
    order = [axes.index(a) for a in AXES if a in axes]
    shape = [array.shape[axes.index(a)] if a in axes else 1 for a in AXES]
    ordered: NDArray[Any] = array.transpose(order).reshape(shape)
    return ordered


def _mask(data: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Which samples (…, slice, z, y, x) any coil measured; reads one slice of one frame at a time."""
    out = np.zeros((*data.shape[:-4], *data.shape[-3:]), bool)
    for index in np.ndindex(*data.shape[:-4]):
        part = np.asarray(data[index])
        if not np.isfinite(part).all():
            where = dict(zip(AXES, index, strict=False))
            raise DataError(
                f"{name} holds NaN or infinite samples in slice {where['slice']}; set samples that were not measured "
                "to zero"
            )
        out[index] = (part != 0).any(axis=0)
    if not out.any():
        raise DataError(f"{name} holds only zeros; there is no k-space in it")
    return out


def axis_names(axes: Sequence[str] | None) -> tuple[str, ...] | None:
    """Axes as a tuple of lower-case names, from a sequence or a string with commas; None stays None."""
    if axes is None:
        return None
    parts = axes.split(",") if isinstance(axes, str) else axes
    return tuple(str(a).strip().lower() for a in parts)


def unaddressable(path: Path) -> DataError:
    """The error for a file that is too large to be mapped into the address space of this process."""
    return DataError(
        f"{path.name} has {path.stat().st_size / 1e9:.3g} GB, more than this process may address; raise that limit "
        "(ulimit -v unlimited, no more memory is taken by it), or cut the array into smaller ones"
    )


def _load(path: Path, key: str | None) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"there is no file {path.name}; check the path")
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as archive:
                return _choose(archive, path.name, key)
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except BROKEN as error:
        if out_of_memory(error):
            raise unaddressable(path) from error
        raise DataError(
            f"{path.name} cannot be read as a NumPy array ({type(error).__name__}): it is truncated, damaged, "
            "locked, not an .npy or .npz file, or holds Python objects; save the array again with numpy.save"
        ) from error


def _choose(archive: Any, name: str, key: str | None) -> NDArray[Any]:
    """The array with that key, or the only one, or the only complex one; no other is read."""
    names = sorted(archive)
    if key is None:
        found = names if len(names) == 1 else [n for n in names if _is_complex(archive, n)]
        if len(found) != 1:
            held = ", ".join(names) or "nothing"
            raise DataError(f"{name} holds {len(found)} complex arrays among {held}; choose with --key")
        key = found[0]
    array = archive[key] if key in names else None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{name} has no array {key!r}; it holds {', '.join(names) or 'nothing'}: choose with --key")
    return array


def _is_complex(archive: Any, name: str) -> bool:
    """Whether an entry of an .npz is a complex array, by its header alone."""
    if f"{name}.npy" not in archive.zip.namelist():
        return False
    with archive.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        # Later versions are for tables whose column names go beyond Latin-1.
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return version in headers and headers[version](file)[2].kind == "c"
