"""Memory for incoming lines: large private pieces, some of them prepared before a scan begins.

The first access to a page costs more than receiving into it, much more under a hypervisor. A waiting process has time
for this; a scan does not.
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
#: Bytes touched at once, and the shortest interval in seconds.
_STEP, _PAUSE_S = 2 * HUGE, 0.02
#: Share of the free memory that a waiting process may take.
_SHARE = 16


def slab(size: int) -> memoryview:
    """Private memory of at least `size` bytes, all zero; none of it has been touched yet."""
    memory = mmap.mmap(-1, -(-size // HUGE) * HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # with small pages most of the time is spent creating them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def hold(most: int, wanted: socket.socket) -> list[memoryview]:
    """Pieces of `most` bytes in total, touched while `wanted` has nothing to read; those so far when it has.

    At most a sixteenth of the free memory is taken, and at most half of a processor is used.
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
