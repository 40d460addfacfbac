"""Errors with a cure; text that is safe to show, one line without content of a file; and how a process ends."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import sys
import threading
import time
from typing import NoReturn


class ReconError(Exception):
    """An error that the user can fix: one sentence with what was found and the cure."""


class DataError(ReconError):
    """The scan file holds something that cannot be reconstructed as it stands."""


class MissingPackage(ReconError):
    """A missing optional package; the sentence contains its install command."""


class TooLarge(ReconError):
    """Work that needs more memory than it may use; only the caller knows where the limit is set.

    `found` says what needs how much, `otherwise` what helps besides a higher limit. By default the limit is called
    --memory; `cured` names another.
    """

    def __init__(self, found: str, otherwise: str) -> None:
        self.found, self.otherwise = found, otherwise
        super().__init__(self.cured("--memory"))

    def cured(self, limit: str) -> str:
        """The sentence, with the name of the setting that limits memory."""
        return f"{self.found}; raise {limit}, or {self.otherwise}"


def sentence(e: Exception, *, memory: str, limit: str = "--memory", unforeseen: str = "") -> str:
    """The text of an error written by recon; for others the kind of error, and its cure.

    `memory` is the hint if the machine ran out of memory, `limit` the setting that limits it; `unforeseen` is added to
    unexpected errors.
    """
    if isinstance(e, TooLarge):
        return one_line(e.cured(limit))
    if isinstance(e, ReconError):
        return one_line(str(e))
    if out_of_memory(e):
        return f"the machine ran out of memory; {memory}"
    if isinstance(e, ModuleNotFoundError):
        return f"the package {e.name} is missing; run pip install {e.name}, and see recon doctor"
    if isinstance(e, OSError) and e.errno:  # the system's own messages contain no file name
        return f"the system says: {os.strerror(e.errno)}{unforeseen}"
    # Only the type: the text of an unexpected error could contain something from the file.
    return f"an unexpected error ({type(e).__name__}){unforeseen}"


def out_of_memory(e: Exception) -> bool:
    """Whether the machine or its GPU ran out of memory; torch and cuFFT have no error type for it."""
    said = isinstance(e, RuntimeError) and re.search("out of memory|allocate|ALLOC_FAILED", str(e), re.IGNORECASE)
    refused = isinstance(e, OSError) and e.errno == errno.ENOMEM
    return isinstance(e, MemoryError) or refused or bool(said)


def one_line(text: str) -> str:
    """The text without line ends and control characters, which names in a file may contain."""
    return printable(" ".join(text.split()))


def counted(n: int, one: str, many: str = "") -> str:
    """A number and what it counts: "1 slice", "3 slices", or the given plural."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """The lines of a text without control characters, so that text from a file cannot control a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def tell(line: str, *, out: bool = False) -> None:
    """Write a line to standard error, or to standard output, if anyone reads it.

    A full disk or a closed pipe ends no run and no server.
    """
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stdout if out else sys.stderr, flush=True)


def log(line: str) -> None:
    """Write a line with the time to standard error; see `tell`."""
    tell(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {one_line(line)}")


def leave(code: int) -> NoReturn:
    """End the process like Python, but without unloading torch's libraries, which takes a tenth of a short run.

    Threads are joined, exit handlers are called, and output is flushed.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader is gone
            code = code or 1
    os._exit(code)
