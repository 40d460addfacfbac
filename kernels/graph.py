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

#: Held from a capture `in_turn` to its last replay: the next one works in the same memory.
turn = threading.Lock()

#: Device → the graph that was captured last in turn, which keeps the memory, and how many bytes that is.
_kept: dict[torch.device, tuple[Any, int]] = {}


def beside(run: Callable[[], T], device: torch.device) -> T:
    """What `run` gives on the stream of captures, so that tables of that stream are there before one; others wait."""
    side, here = _side(device), torch.cuda.current_stream(device)
    side.wait_stream(here)
    with torch.cuda.stream(side):
        made = run()
    here.wait_stream(side)
    return made


def capture(run: Callable[[], T], device: torch.device, pool: Any = None, *, tidy: bool = False) -> tuple[Any, T]:
    """A graph of what `run` launches, and the tensors that each `replay()` of it writes; nothing is computed yet.

    `run` went through `beside` before, reads and writes tensors that stay where they are, and asks nothing of the
    device. What else it makes lies in `pool`, that of a living graph, or in memory of its own. With `tidy` unused
    memory is given back first, which takes as long as thousands of launches. Raises what torch raises where it cannot.
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
            with contextlib.suppress(RuntimeError):  # the capture is invalid; what made it so is said
                graph.capture_end()
            raise
        graph.capture_end()
        return made

    return graph, beside(recorded, device)


def in_turn(run: Callable[[], T], device: torch.device) -> tuple[Any, T]:
    """As `capture`, in the memory of the graph that this gave before, which is not replayed any more."""
    before, held = _kept.get(device, (None, 0))
    reserved = torch.cuda.memory_reserved(device)
    graph, made = capture(run, device, before and before.pool())
    _kept[device] = graph, held + max(0, torch.cuda.memory_reserved(device) - reserved)
    return graph, made


def leave(device: torch.device, most: int) -> None:
    """End a turn: the next one waits for its replays on whatever stream; no more than `most` bytes are kept for it."""
    _side(device).wait_stream(torch.cuda.current_stream(device))
    if _kept.get(device, (None, 0))[1] > most:
        forget()
        torch.cuda.empty_cache()


def forget() -> None:
    """Let go of all memory that is kept for the next turn; `torch.cuda.empty_cache` then gives it back."""
    _kept.clear()


@lru_cache(maxsize=16)
def _side(device: torch.device) -> Any:
    # One for the process: tables and plans of a stream are kept for it.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
