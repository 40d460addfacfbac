"""What may be said of an error: one line, and nothing that a file could have put into it."""

from __future__ import annotations

import re

from recon.data import ReconError


def sentence(e: Exception, *, memory: str, unforeseen: str = "") -> str:
    """An error in its own words where this engine wrote them; otherwise what kind it is, and its cure.

    `memory` says what helps where the machine ran out of it, `unforeseen` is added to an error that nobody expected.
    """
    if isinstance(e, ReconError):
        return one_line(str(e))
    # torch has no type of its own for a CPU that ran out.
    if isinstance(e, MemoryError) or (isinstance(e, RuntimeError) and re.search("allocate|out of memory", str(e))):
        return f"the machine ran out of memory; {memory}"
    if isinstance(e, ModuleNotFoundError):
        return f"the package {e.name} is missing; run pip install {e.name}, and see recon doctor"
    # The type alone: the text of an unforeseen error could hold something of the file.
    return f"an error that was not foreseen ({type(e).__name__}){unforeseen}"


def one_line(text: str) -> str:
    """The text without line ends and control characters, which names in a file may hold."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
