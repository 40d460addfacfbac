"""HDF5 files: others' are opened read-only, not followed elsewhere nor believed beyond their size; ours are whole."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from recon.data import DataError
from recon.io.atomic import atomic_file

#: How many times larger what is packed may be than its file: deflate packs zeros 1032 times, and no scan is all zeros.
PACKED = 1100

#: Bytes that are to be free beside what is known of a file that is written, for HDF5's tables.
_SPARE = 2**15


@contextmanager
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


@contextmanager
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
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path.name} {_reason(path, error)}") from error


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
    return f"takes {name} from another file, which is not followed; copy the data into one file"


def _reason(path: Path, error: Exception) -> str:
    text = str(error)
    if "unable to lock" in text or "already open for write" in text:
        return "is being written by another program; read it when that has ended"
    if "signature not found" in text:
        return "is no HDF5 file: it is of another format or empty; check its name, or copy it again"
    if isinstance(error, (TypeError, AttributeError)):
        return "is damaged, or holds another kind of thing than its format has in some place; copy or write it again"
    if "truncated" in text:
        return "is cut short: it holds less than it says; copy it again from where it was made"
    return f"cannot be read as HDF5: it is damaged or cut short ({path.stat().st_size} bytes); copy it again"
