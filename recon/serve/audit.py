"""One JSON line for the start and the end of each job, appended to a file that is never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recon.errors import ReconError, counted
from recon.io import journal

#: Bytes at the end of the file in which the last number is searched for.
_TAIL = 2**22


class Audit:
    """An open audit file. Lines carry a running number, so that their order does not depend on the clock."""

    def __init__(self, path: Path) -> None:
        self._path, self._number = path, 0
        self._open()

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as e:
            raise ReconError(
                f"cannot open the audit file {self._path} ({e.strerror}); give another with --audit"
            ) from None
        size = os.fstat(self._file).st_size
        self._number = max(self._number, _last(os.pread(self._file, _TAIL, max(0, size - _TAIL))))

    def reopen(self) -> None:
        """Continue in the file with this name after the previous one was moved away; numbers continue.

        Raises ReconError if it cannot be opened: lines then go to the previous file.
        """
        before = self._file
        self._open()
        os.close(before)

    def write(self, event: str, **what: Any) -> None:
        """Append one line and flush it to disk; raises OSError if it cannot be written."""
        self._number += 1
        line = {
            "n": self._number,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "monotonic_s": round(time.monotonic(), 3),
            "event": event,
            **what,
        }
        journal.append(self._file, line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def outcome(record: Mapping[str, Any]) -> str:
    """How a session ended, in words: its state, what it received and sent, and the reason for an incomplete end."""
    images = len(record.get("images", ())) + record.get("images_passed", 0)
    parts = [counted(n, what) for n, what in ((images, "image"), (record.get("lines", 0), "line")) if n]
    parts += [f"recipe {record['recipe']}"] if record.get("recipe") else []
    said = f" ({', '.join(parts)})" if parts else ""
    return f"{record['state']}{said}" + (f": {record['reason']}" if record.get("reason") else "")


def _last(tail: bytes) -> int:
    for line in reversed(tail.split(b"\n")):
        try:
            return int(json.loads(line)["n"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
