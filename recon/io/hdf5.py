"""HDF5 files: others' are opened read-only, not followed elsewhere nor believed beyond their size; ours are whole."""

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

#: How many times larger what is packed may be than its file: deflate packs zeros 1032 times, and no scan is all zeros.
PACKED = 1100

#: Bytes that are to be free beside what is known of a file that is written, for HDF5's tables.
_SPARE = 2**15


@contextlib.contextmanager
def created(path: Path, size: int) -> Iterator[Any]:
    """A new file that becomes `path` when the block ends without error (see `atomic_file`), to hold `size` bytes.

    Room is asked for first: where HDF5 cannot write its last blocks while it closes, the process ends with it. Raises
    ReconError where the system refuses the file.
    """
    with atomic_file(path) as temporary:
        if shutil.disk_usage(temporary.parent).free < size + size // 32 + _SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with h5py.File(temporary, "w") as file:
                yield file
        except RuntimeError as error:  # HDF5's word for a write that the system refused while closing
            raise OSError(0, "HDF5 could not write the file") from error


@contextlib.contextmanager
def opened(path: Path, *, again: bool = False) -> Iterator[Any]:
    """The file, read-only; whatever HDF5 finds wrong with it becomes one sentence of a DataError.

    Raises DataError too where the file takes data from another one (an external link, external storage, a virtual data
    set): a scan that somebody sent would show what else lies on this machine. And where a data set states a size that
    no packing makes of the file's, before anything is allocated for it. Both are not looked at `again` in a file that
    has not changed.
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
    """A group by its name; raises DataError where that is none, KeyError where there is nothing."""
    found = inside[name]
    if not isinstance(found, h5py.Group):
        raise _odd(inside, name)
    return found


def array(inside: Any, name: str, kinds: str = "") -> Any:
    """A data set of a group by its name, of one of these kinds of NumPy's types, by default of any.

    Raises DataError where that is a group, empty in HDF5's sense, or of a type that NumPy does not have; KeyError where
    there is nothing of this name.
    """
    found = inside[name]
    with contextlib.suppress(TypeError):  # of h5py, for what NumPy has no type for
        there = isinstance(found, h5py.Dataset) and found.shape is not None
        if there and (found.dtype.kind in kinds or not kinds):
            return found
    raise _odd(inside, name)


def text(inside: Any, name: str) -> bytes:
    """The text in a data set, or the first of a list of them; raises DataError where it is none, as `array` does."""
    found = array(inside, name, "SO")
    value = found[(0,) * found.ndim] if found.size else None
    value = value.encode() if isinstance(value, str) else value
    if not isinstance(value, bytes):
        raise _odd(inside, name)
    return value


def attribute(item: Any, name: str, default: Any = None) -> Any:
    """An attribute of a group or a data set, of which None has none.

    Raises DataError where it is empty in HDF5's sense, or of a type that NumPy does not have.
    """
    try:
        value = default if item is None else item.attrs.get(name, default)
    except TypeError:  # of h5py, for what NumPy has no type for
        raise _odd(item, name) from None
    if isinstance(value, h5py.Empty):
        raise _odd(item, name)
    return value


def numbers(item: Any, name: str, default: Any) -> NDArray[np.float64]:
    """The numbers of an attribute in a list; raises DataError where it holds anything else."""
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
    """Raise DataError unless all that the file names lies within it and can."""
    size = path.stat().st_size

    # An error raised while HDF5 visits is lost: what is found is returned, which ends the visit.
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
