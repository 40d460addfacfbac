"""Files of one JSON record a line that are only ever appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any


def append(file: int, record: Mapping[str, Any]) -> None:
    """Append a record to a file, open for reading and appending, and have it on the disk.

    Where a line broke off before, on a full disk or because the machine went down, this one begins on its own. Raises
    OSError where the disk takes nothing.
    """
    size = os.fstat(file).st_size
    torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
    left = memoryview((b"\n" if torn else b"") + json.dumps(record).encode() + b"\n")
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)
