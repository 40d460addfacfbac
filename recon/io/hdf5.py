"""HDF5 files: input is opened read-only and not trusted beyond the file itself; output is written completely."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data import DataError
from recon.io.atomic import atomic_file

#: Largest ratio of uncompressed size to file size: deflate compresses zeros 1032 times, and no scan is all zeros.
PACKED = 1100

#: Bytes that must be free beyond the known size of a file being written, for HDF5's tables.
_SPARE = 2**15


@contextlib.contextmanager
def created(path: Path, size: int) -> Iterator[Any]:
    """A new file that becomes `path` when the block ends without error (see `atomic_file`), to hold `size` bytes.

    Space is checked first: if HDF5 cannot write its last blocks while closing, the process ends. Raises ReconError if
    the system refuses the file.
    """
    with atomic_file(path) as temporary:
        if shutil.disk_usage(temporary.parent).free < size + size // 32 + _SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with h5py.File(temporary, "w") as file:
                yield file
        except RuntimeError as error:  # HDF5's message for a failed write while closing
            raise OSError(0, "HDF5 could not write the file") from error


@contextlib.contextmanager
def opened(path: Path, *, again: bool = False) -> Iterator[Any]:
    """The file, read-only; any error of HDF5 becomes one sentence of a DataError.

    Also raises DataError if the file takes data from another one (an external link, external storage, a virtual data
    set): a scan from somebody else could otherwise reveal files of this machine. It raises DataError, before anything
    is allocated, if a data set states a size that cannot be compressed into this file. Both checks are skipped with
    `again` for an unchanged file.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the name")
    try:
        with h5py.File(path, "r") as file:
            if not again:
                _whole(file, path)
            yield file
    except PermissionError:
        raise DataError(f"{path.name} cannot be opened: reading it is not permitted; ask its owner") from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path.name} {_reason(path, error)}") from error


def group(inside: Any, name: str) -> Any:
    """A group by its name; raises DataError if it is not a group, KeyError if it does not exist."""
    found = inside[name]
    if not isinstance(found, h5py.Group):
        raise _odd(inside, name)
    return found


def array(inside: Any, name: str, kinds: str = "") -> Any:
    """A data set of a group by its name, with one of these kinds of NumPy types, by default any.

    Raises DataError if it is a group, is empty in HDF5's sense, or has a type unknown to NumPy; KeyError if it does not
    exist.
    """
    found = inside[name]
    with contextlib.suppress(TypeError):  # from h5py, for types unknown to NumPy
        there = isinstance(found, h5py.Dataset) and found.shape is not None
        if there and (found.dtype.kind in kinds or not kinds):
            return found
    raise _odd(inside, name)


def text(inside: Any, name: str) -> bytes:
    """The text in a data set, or the first of a list; raises DataError if it is not text, and as `array`."""
    found = array(inside, name, "SO")
    value = found[(0,) * found.ndim] if found.size else None
    value = value.encode() if isinstance(value, str) else value
    if not isinstance(value, bytes):
        raise _odd(inside, name)
    return value


def attribute(item: Any, name: str, default: Any = None) -> Any:
    """An attribute of a group or a data set; None if it does not exist.

    Raises DataError if it is empty in HDF5's sense, or has a type unknown to NumPy.
    """
    try:
        value = default if item is None else item.attrs.get(name, default)
    except TypeError:  # from h5py, for types unknown to NumPy
        raise _odd(item, name) from None
    if isinstance(value, h5py.Empty):
        raise _odd(item, name)
    return value


def numbers(item: Any, name: str, default: Any) -> NDArray[np.float64]:
    """The numbers of an attribute as a list; raises DataError if it holds anything else."""
    value = attribute(item, name, default)
    try:
        if not np.iscomplexobj(value):
            return np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        pass
    raise _odd(item, name)


def _odd(inside: Any, name: str) -> DataError:
    return DataError(
        f"{Path(inside.file.filename).name} is damaged, or {name} is not of the type that its format needs; "
        "copy or write it again"
    )


def _whole(file: Any, path: Path) -> None:
    """Raise DataError unless everything that the file refers to lies within it and fits."""
    size = path.stat().st_size

    # An error raised during HDF5's visit is lost; a returned value ends the visit.
    def away(name: bytes, link: Any) -> str | None:
        within = link.type in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
        return None if within else _elsewhere(name.decode(errors="replace"))

    def odd(name: str, item: Any) -> str | None:
        if not isinstance(item, h5py.Dataset):
            return None
        if item.external or item.is_virtual:
            return _elsewhere(name)
        if math.prod(item.shape or (0,)) * item.id.get_type().get_size() > PACKED * size:
            return f"states {item.shape} entries in {name}, more than its {size} bytes can hold; copy it again"
        return None

    found = file.id.links.visit(away, info=True) or file.visititems(odd)
    if found:
        raise DataError(f"{path.name} {found}")


def _elsewhere(name: str) -> str:
    return f"links {name} to another file, and such links are not followed; copy the data into one file"


def _reason(path: Path, error: Exception) -> str:
    text = str(error)
    if "unable to lock" in text or "already open for write" in text:
        return "is being written by another program; read it when that has finished"
    if "signature not found" in text:
        return "is not an HDF5 file: it is of another format or empty; check its name, or copy it again"
    if "truncated" in text:
        return "is truncated: it is shorter than its header says; copy it again from its source"
    return f"cannot be read as HDF5: it is damaged or truncated ({path.stat().st_size} bytes); copy it again"
