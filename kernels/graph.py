"""CUDA graphs: the launches of one piece of work, recorded once and replayed as one."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")

#: Held from a capture by `in_turn` to its last replay: the next one uses the same memory.
turn = threading.Lock()

#: Device → the graph that `in_turn` captured last, which keeps the memory, and its size in bytes.
_kept: dict[torch.device, tuple[Any, int]] = {}


def beside(run: Callable[[], T], device: torch.device) -> T:
    """The result of `run` on the capture stream, so that tables of that stream exist before a capture; others wait."""
    side, here = _side(device), torch.cuda.current_stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        made = run()
    here.wait_stream(side)
    return made


def capture(run: Callable[[], T], device: torch.device, pool: Any = None, *, tidy: bool = False) -> tuple[Any, T]:
    """A graph of the launches of `run`, and the tensors that each `replay()` writes; nothing is computed yet.

    `run` must have been called through `beside` before, must read and write tensors with fixed addresses, and must not
    read values back from the device. Its other tensors are allocated in `pool`, that of a living graph, or in separate
    memory. With `tidy` unused memory is released first, which takes as long as thousands of launches. Raises torch's
    error if a capture is impossible.
    """
    graph = torch.cuda.CUDAGraph()
    if tidy:
        torch.cuda.synchronize(device)
        gc.collect()
        torch.cuda.empty_cache()

    def recorded() -> T:
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            made = run()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the capture is invalid; the original error is reported
                graph.capture_end()
            raise
        graph.capture_end()
        return made

    return graph, beside(recorded, device)


def in_turn(run: Callable[[], T], device: torch.device) -> tuple[Any, T]:
    """As `capture`, in the memory of the graph returned before, which must not be replayed any more."""
    before, held = _kept.get(device, (None, 0))
    reserved = torch.cuda.memory_reserved(device)
    graph, made = capture(run, device, before and before.pool())
    _kept[device] = graph, held + max(0, torch.cuda.memory_reserved(device) - reserved)
    return graph, made


def leave(device: torch.device, most: int) -> None:
    """End a turn: the next one waits for its replays on any stream; at most `most` bytes are kept for it."""
    _side(device).wait_stream(torch.cuda.current_stream(device))
    if _kept.get(device, (None, 0))[1] > most:
        forget()
        torch.cuda.empty_cache()


def forget() -> None:
    """Release all memory that is kept for the next turn; `torch.cuda.empty_cache` then returns it."""
    _kept.clear()


@lru_cache(maxsize=16)
def _side(device: torch.device) -> Any:
    # One for the process, because tables and plans of a stream are cached.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
