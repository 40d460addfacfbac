"""Errors with a cure; what may be said of one, a line that holds nothing of a file; and how a process ends."""

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
    """An error that its reader can mend: one sentence of what was found and what cures it."""


class DataError(ReconError):
    """The scan file holds something that cannot be reconstructed as it stands."""


class MissingPackage(ReconError):
    """An optional package is needed; the sentence holds its install command."""


class TooLarge(ReconError):
    """A work needs more memory than it may use; where the limit is set, only the caller knows.

    `found` says what needs how much, `otherwise` what helps beside a higher limit. In its own words the limit is the
    option --memory; `cured` names another.
    """

    def __init__(self, found: str, otherwise: str) -> None:
        self.found, self.otherwise = found, otherwise
        super().__init__(self.cured("--memory"))

    def cured(self, limit: str) -> str:
        """The sentence, with the name of the setting that limits memory."""
        return f"{self.found}; raise {limit}, or {self.otherwise}"


def sentence(e: Exception, *, memory: str, limit: str = "--memory", unforeseen: str = "") -> str:
    """An error in its own words where this engine wrote them; otherwise what kind it is, and its cure.

    `memory` says what helps where the machine ran out of it, `limit` is the setting that says how much of it may be
    used, `unforeseen` is added to an error that nobody expected.
    """
    if isinstance(e, TooLarge):
        return one_line(e.cured(limit))
    if isinstance(e, ReconError):
        return one_line(str(e))
    if out_of_memory(e):
        return f"the machine ran out of memory; {memory}"
    if isinstance(e, ModuleNotFoundError):
        return f"the package {e.name} is missing; run pip install {e.name}, and see recon doctor"
    if isinstance(e, OSError) and e.errno:  # the system's own words hold no name of a file
        return f"the system says: {os.strerror(e.errno)}{unforeseen}"
    # The type alone: the text of an unforeseen error could hold something of the file.
    return f"an unexpected error ({type(e).__name__}){unforeseen}"


def out_of_memory(e: Exception) -> bool:
    """Whether the machine or its GPU ran out of memory, for which torch and cuFFT have no type of their own."""
    said = isinstance(e, RuntimeError) and re.search("out of memory|allocate|ALLOC_FAILED", str(e), re.IGNORECASE)
    refused = isinstance(e, OSError) and e.errno == errno.ENOMEM
    return isinstance(e, MemoryError) or refused or bool(said)


def one_line(text: str) -> str:
    """The text without line ends and control characters, which names in a file may hold."""
    return printable(" ".join(text.split()))


def counted(n: int, one: str, many: str = "") -> str:
    """A number and what it counts: "1 slice", "3 slices", or the plural that is given."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def printable(text: str) -> str:
    """The lines of a text without control characters: what stands in a file gives a terminal no commands."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def tell(line: str, *, out: bool = False) -> None:
    """Write a line to standard error, or to standard output, where somebody reads it.

    What takes nothing, a full disk or a pipe that is closed, ends no work and no server.
    """
    with contextlib.suppress(OSError, ValueError):
        print(printable(line), file=sys.stdout if out else sys.stderr, flush=True)


def log(line: str) -> None:
    """Write a line with the time to standard error, see `tell`."""
    tell(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {one_line(line)}")


def leave(code: int) -> NoReturn:
    """End the process as Python does, but for taking apart torch's libraries, a tenth of a short run's time.

    Threads are waited for, what registered itself for the end is called, and what was said is written out.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # who read it has gone
            code = code or 1
    os._exit(code)
