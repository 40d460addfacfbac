"""A quicker start of heavy imports."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def staying() -> Iterator[None]:
    """What is imported within stays to the end of the process, and no search for garbage goes through it.

    Importing torch makes some 160,000 objects that are never garbage: Python would go through all of them again and
    again while they grow in number, a twelfth of the time of the import, and once more in every run that follows.
    """
    usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if usual:
            gc.enable()
