"""How much is processed at once, and where; and the next smaller step when a machine runs out of memory."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from recon.errors import out_of_memory
from recon.kernels import graph
from recon.plan import HALO, LEAST_COLUMNS, Problem

K = TypeVar("K")
T = TypeVar("T")

_DRIVER = re.compile("CUDA|CUBLAS|CUFFT|CUSOLVER|NVRTC|HIP", re.IGNORECASE)


@dataclass(frozen=True)
class Pace:
    """`batch` slices or slabs at a time, of a volume `columns` of its readout at a time (0 for all), on `device`."""

    device: torch.device
    batch: int
    columns: int = 0


def trouble(e: Exception) -> str:
    """ "memory" if a machine ran out of it, "driver" if its GPU failed, empty for any other error."""
    if out_of_memory(e):
        return "memory"
    return "driver" if isinstance(e, RuntimeError) and _DRIVER.search(str(e)) else ""


def lesser(pace: Pace, e: Exception, problem: Problem) -> Pace | None:
    """The next smaller step after an error, or None if there is none or it would not help.

    Half the slices at a time, then half the columns of a volume, then the CPU instead of the GPU; after a failure of
    the GPU itself the CPU at once.
    """
    what = trouble(e)
    if not what:
        return None
    if what == "memory" and pace.batch > 1:
        return replace(pace, batch=pace.batch // 2)
    if what == "memory" and problem.grid[0] > 1 and problem.method in HALO:
        columns = (pace.columns or problem.grid[2]) // 2
        if columns >= LEAST_COLUMNS:
            return replace(pace, columns=columns)
    return Pace(torch.device("cpu"), 1, pace.columns) if pace.device.type != "cpu" else None


def walk(
    keys: Sequence[K], pace: Pace, problem: Problem, work: Callable[[Sequence[K], Pace], T], notes: list[str]
) -> Iterator[tuple[Sequence[K], T, Pace]]:
    """Results of `work` for the keys, a few at a time: (those keys, the result, the pace it was made at).

    If memory runs out or the GPU fails, the same keys are repeated at the next smaller step, with a note in `notes`;
    finished results are kept.
    """
    done = 0
    while done < len(keys):
        batch = keys[done : done + pace.batch]
        smaller = None
        try:
            result = work(batch, pace)
        except (RuntimeError, MemoryError) as e:
            smaller, reason = lesser(pace, e, problem), trouble(e)
            if smaller is None:
                raise
        if smaller is not None:  # the exception is deleted by now, and with it the tensors that it held
            notes.append(_note(reason, smaller, pace))
            pace = smaller
            _release()
            continue
        done += len(batch)
        yield batch, result, pace


def walk_parts(
    parts: Iterable[Sequence[K]], pace: Pace, problem: Problem, work: Callable[[Sequence[K], Pace], T], notes: list[str]
) -> Iterator[tuple[Sequence[K], T, Pace]]:
    """As `walk`, with keys in parts; only keys of the same part are processed together."""
    reached = pace
    for keys in parts:
        for batch, result, reached in walk(keys, pace, problem, work, notes):
            yield batch, result, reached
        pace = reached


def _release() -> None:
    graph.forget()
    gc.collect()
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # after a failure of the GPU its memory cannot be freed
            torch.cuda.empty_cache()


def _note(reason: str, pace: Pace, before: Pace) -> str:
    where = "GPU" if before.device.type != "cpu" else "machine"
    what = f"the {where} ran out of memory" if reason == "memory" else "the GPU failed"
    if pace.device != before.device:
        return f"warning: {what} during the reconstruction; the rest was computed on the CPU"
    rest = f"{pace.columns} columns" if pace.columns != before.columns else f"{pace.batch} slices"
    return f"warning: {what} during the reconstruction, which continued with {rest} at a time"
