"""A little disk space reserved for a spool's sender: delivered images free space, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

#: Bytes of disk reserved for the sender's records: images that fill the disk must not block their own delivery.
_RESERVE = 2**20


def set_aside(spool: Path) -> None:
    """Reserve a little disk space for the sender, if there is enough."""
    reserve, disk = spool / "reserve", os.statvfs(spool)
    if reserve.exists() or disk.f_bavail * disk.f_frsize < 2 * _RESERVE:
        return
    descriptor = os.open(reserve, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVE)
    except OSError:  # another process was faster, or the file system does not support it
        reserve.unlink()
    finally:
        os.close(descriptor)


def make_room(spool: Path) -> bool:
    """Release the reserved space; returns whether there was any."""
    try:
        (spool / "reserve").unlink()
    except OSError:
        return False
    return True
