"""Outputs appear completely or not at all: written under a temporary name beside the final one, synced, renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.errors import ReconError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another disk for the output",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another disk for the output",
    errno.EFBIG: "the file would be larger than this system allows; raise the limit (ulimit -f) or write elsewhere",
    errno.EACCES: "writing there is not permitted; choose a folder of your own with --output",
    errno.EPERM: "writing there is not permitted; choose a folder of your own with --output",
    errno.EROFS: "the disk is read-only; choose another with --output",
    errno.ENOENT: "its folder does not exist; create it, or choose another with --output",
    errno.ENOTDIR: "its folder is a file; choose another with --output",
    errno.EISDIR: "a folder of that name exists; choose another name with --output",
    errno.ENOTEMPTY: "the folder holds files; empty it or choose a new name with --output",
    errno.EEXIST: "the folder holds files; empty it or choose a new name with --output",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one with --output",
    errno.ELOOP: "its link leads nowhere but to itself; remove the link or choose another name with --output",
    errno.EIO: "the disk reports an error; write to another with --output",
}

#: Files that the file managers of macOS and Windows leave in opened folders, in lower case.
_LITTER = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini"}


def entries(folder: Path) -> list[Path]:
    """The content of a folder, by name, except what file managers left: .DS_Store, ._*, Thumbs.db, desktop.ini."""
    return sorted(p for p in folder.iterdir() if not is_litter(p))


def is_litter(path: Path) -> bool:
    """Whether a file is one that file managers leave in folders, and holds no data."""
    name = path.name.lower()
    return (name in _LITTER or name.startswith("._")) and path.is_file()


def write_error(path: Path, error: OSError) -> ReconError:
    """The sentence on why `path` was not written, with the cure."""
    known: BaseException | None = error
    # Libraries wrap errors in their own text; the first in the chain has the system's error number.
    while known is not None and not (isinstance(known, OSError) and known.errno):
        known = known.__cause__ or known.__context__
    number, words = (known.errno, known.strerror) if isinstance(known, OSError) else (0, type(error).__name__)
    reason = _REASONS.get(number or 0, f"the system says: {words}")
    return ReconError(f"cannot write {path}: {reason}")


def check_parent(path: Path) -> Path:
    """The folder for an output; raises ReconError if it does not exist or is not writable."""
    parent = followed(path).parent
    _check(path, parent)
    return parent


def check_folder(path: Path) -> None:
    """Raise ReconError unless files can be created in a folder, which may be missing together with its parents."""
    # Not Path.exists, which fails inside a folder without search permission.
    _check(path, next(p for p in (path, *path.absolute().parents) if os.path.exists(p)))


def _check(path: Path, folder: Path) -> None:
    number = 0 if folder.is_dir() else errno.ENOTDIR if folder.exists() else errno.ENOENT
    if not number and not os.access(folder, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number:
        raise write_error(path, OSError(number, ""))


def followed(path: Path) -> Path:
    """Where an output is written that may be a link: the file or folder it points to, whether it exists or not.

    As in world-writable folders under Linux, a link is followed if the user, the owner of its folder or root created
    it. Any other link may be a trap and is replaced by the output. Raises OSError for links in a circle.
    """
    for _ in range(40):
        if not path.is_symlink():
            return path
        mine = os.geteuid() if hasattr(os, "geteuid") else path.lstat().st_uid
        if path.lstat().st_uid not in (mine, path.parent.stat().st_uid, 0):
            return path
        path = path.parent / os.readlink(path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file (mode 0600, dot-prefixed, same folder) that becomes `path` when the block ends without error.

    An existing file with that name is replaced in one step; for a link, its target (see `followed`). On any error the
    temporary file is removed and `path` is unchanged; an OSError becomes a ReconError.
    """
    temporary = None
    try:
        target = followed(path)
        temporary = _sibling(target)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield temporary
        sync(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        sync(target.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def put(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, as `atomic_file`; raises ReconError if it cannot be written."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the rename is then as safe as they make it.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """A temporary folder (mode 0700, dot-prefixed, beside `path`) that becomes `path` when the block ends well.

    `path` must not exist, or be a folder without `entries`, or a link to either (see `followed`). On any error the
    temporary folder is removed with its content; an OSError becomes a ReconError.
    """
    temporary = None
    try:
        target = followed(path)
        temporary = _sibling(target)
        os.mkdir(temporary, 0o700)
        yield temporary
        mask = _umask()
        for folder, _, names in os.walk(temporary, topdown=False):
            for name in names:
                sync(Path(folder, name))
                os.chmod(Path(folder, name), 0o666 & ~mask)
            sync(Path(folder))
            os.chmod(folder, 0o777 & ~mask)
        if target.is_dir() and not entries(target):
            for left in target.iterdir():
                left.unlink()
        os.rename(temporary, target)
        sync(target.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sibling(path: Path) -> Path:
    # Limited, in bytes, so that a long but legal final name does not give an illegal temporary one.
    name = os.fsencode(path.name)[:180].decode(errors="ignore")
    return path.parent / f".{name}.{secrets.token_hex(6)}.part"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
