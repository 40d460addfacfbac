"""Memory for lines that come in: large private pieces, and some of them held ready before a scan begins.

The first touch of a page costs more than receiving into it, by far where a hypervisor has to find the page. A process
that waits has time for that; a scan has not.
"""

from __future__ import annotations

import contextlib
import mmap
import select
import socket
import time

from recon import plan

#: Bytes of a piece, and of a large page of memory.
SLAB, HUGE = 2**24, 2**21
_PAGE = 4096
#: Bytes that are touched at once, and the least seconds between two times.
_STEP, _PAUSE_S = 2 * HUGE, 0.02
#: Part of the memory that is free which a waiting process may take.
_SHARE = 16


def slab(size: int) -> memoryview:
    """Private memory of at least `size` bytes, all zero; nothing of it is touched yet."""
    memory = mmap.mmap(-1, -(-size // HUGE) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # without large pages, most of the time goes to making small ones
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def hold(most: int, wanted: socket.socket) -> list[memoryview]:
    """Pieces of `most` bytes in all, touched while `wanted` has nothing to read; those so far when it has.

    At most a sixteenth of what is free is taken, and half of a processor at most.
    """
    out: list[memoryview] = []
    for _ in range(min(most, plan.budget(None) // _SHARE) // SLAB):
        piece = slab(SLAB)
        for start in range(0, len(piece), _STEP):
            began = time.thread_time()
            piece[start : start + _STEP : _PAGE] = bytes(_STEP // _PAGE)
            pause = max(_PAUSE_S, time.thread_time() - began)
            if select.select([wanted], [], [], pause)[0]:
                return [*out, piece]
        out.append(piece)
    return out
