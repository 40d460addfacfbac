"""A little of the disk that is kept for a spool's sender: images that leave make room, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

#: Bytes of the disk that are kept for the sender's records: images that fill it must not keep each other from leaving.
_RESERVE = 2**20


def set_aside(spool: Path) -> None:
    """Keep a little of the disk for the sender, where there is enough of it."""
    reserve, disk = spool / "reserve", os.statvfs(spool)
    if reserve.exists() or disk.f_bavail * disk.f_frsize < 2 * _RESERVE:
        return
    descriptor = os.open(reserve, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVE)
    except OSError:  # somebody else was faster, or the file system cannot
        reserve.unlink()
    finally:
        os.close(descriptor)


def make_room(spool: Path) -> bool:
    """Give up what was set aside; says whether there was anything."""
    try:
        (spool / "reserve").unlink()
    except OSError:
        return False
    return True
