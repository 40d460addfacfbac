"""A quicker start of the heaviest import."""

from __future__ import annotations

import functools
import inspect
import sys


def import_torch() -> None:
    """Import torch in nine tenths of the time: without the lines of source of its operators.

    Torch asks `inspect` where each of a hundred operators is defined and uses the file's name and the line's number;
    `inspect` reads and searches the file for the lines around it as well, unless it is told not to (`context=0`).
    """
    if "torch" in sys.modules:
        return
    usual = inspect.getframeinfo
    inspect.getframeinfo = functools.partial(usual, context=0)
    try:
        import torch  # noqa: F401
    finally:
        inspect.getframeinfo = usual
