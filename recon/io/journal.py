"""Files with one JSON record per line that are only appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any


def append(file: int, record: Mapping[str, Any]) -> None:
    """Append a record to a file, open for reading and appending, and flush it to disk.

    If the last line is incomplete, because of a full disk or a crash, this record starts on a new line. Raises OSError
    if nothing can be written.
    """
    size = os.fstat(file).st_size
    torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
    left = memoryview((b"\n" if torn else b"") + json.dumps(record).encode() + b"\n")
    while left:
        left = left[os.write(file, left) :]
    os.fsync(file)
