"""Scans made while a network trains: processes fill a folder, a thread moves finished scans to the device."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from recon.data import DataError, ReconError
from recon.learn import pool
from recon.learn.pool import Groups, Item
from recon.progress import Report

#: Makes the item of a number for a part of the data, "train" or "validation".
Make = Callable[[str, int], Item]

#: Numbers of a pool, and the folder of their files: (part of the data, folder, numbers).
Wanted = tuple[str, Path, range]

#: If this many scans in a row cannot be made before any succeeds, none will.
_HOPELESS = 8
#: Seconds after the end of the last process in which its scans may still arrive.
_LATE_S = 2.0

#: Share of a GPU's memory that is kept free of scans.
ROOM = 0.3


class Stream:
    """Items of a pool as they are finished, the validation set first; `held` and `groups` grow.

    The recipe decides which scan a number stands for, but not when it arrives: two trainings on a stream are similar
    but not identical.
    """

    def __init__(self, device: torch.device, width: int, lock: threading.Lock) -> None:
        self.device, self.groups, self.lock = device, Groups(width), lock
        self.held: dict[int, Item] = {}
        self.failed = 0
        #: Why the last scan could not be made, if known; and whether one of the validation set is missing.
        self.reason, self.lacking = "", False
        self._ready: Any = None
        self._processes: list[Any] = []

    def take(self) -> None:
        """Move finished scans to the device until the queue is closed by a None."""
        side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        while (message := self._ready.get()) is not None:
            which, number, path, said = message
            self.reason = said or self.reason
            read = self._read(path)
            if read is None:
                self.lacking |= which == "validation"
                continue
            if which == "validation":
                self.held[number] = read
            elif self._room():
                with self.lock, torch.cuda.stream(side) if side is not None else contextlib.nullcontext():
                    item = pool.placed(read, self.device)
                    if side is not None:
                        side.synchronize()
                self.groups.add(item)

    def _read(self, path: Path | None) -> Item | None:
        """The item in a finished file; None, counted as failed, if none was made or the file is damaged."""
        try:
            if path is not None:
                return pool.read(path)
        except DataError as e:
            self.reason = str(e)
            print(f"recon: {e}", file=sys.stderr, flush=True)
        self.failed += 1
        return None

    def _room(self) -> bool:
        if self.device.type != "cuda":
            return True
        free, total = torch.cuda.mem_get_info(self.device)
        return free > ROOM * total

    def wait(self, items: int, held: int, seconds: float, report: Report) -> None:
        """Return when this many items are available.

        Raises ReconError if no process makes any for too long, and at once if they cannot all be made.
        """
        seen, since = -1, time.monotonic()
        while (now := min(items, len(self.groups)) + len(self.held)) < items + held:
            if now > seen:
                seen, since = now, time.monotonic()
                report("pool", now, items + held)
            quiet = time.monotonic() - since
            ended = bool(self._processes) and not any(p.is_alive() for p in self._processes)
            hopeless = self.lacking or (not now and self.failed >= _HOPELESS) or (ended and quiet > _LATE_S)
            if hopeless and self.reason:
                raise ReconError(f"too few scans can be made: {self.reason}")
            if hopeless or quiet > seconds:
                raise ReconError(
                    f"no scan was made for {quiet:.0f} s ({now} are there, {self.failed} failed); "
                    "train with --workers 0 to see why"
                )
            time.sleep(0.05)


@contextlib.contextmanager
def running(
    make: Callable[[], Make],
    wanted: list[Wanted],
    workers: int,
    device: torch.device,
    width: int,
    lock: threading.Lock | None = None,
) -> Iterator[Stream]:
    """A stream filled by `workers` processes, which end with the block.

    `make` and its results must be picklable; each process calls it once.
    """
    context = multiprocessing.get_context("spawn")
    stream = Stream(device, width, lock or threading.Lock())
    stream._ready = context.Queue()
    processes = stream._processes
    thread = threading.Thread(target=stream.take, daemon=True)
    try:
        for i in range(workers):
            p = context.Process(target=_work, args=(make, wanted, (i, workers), stream._ready), daemon=True)
            p.start()
            processes.append(p)
        thread.start()
        yield stream
    finally:
        for p in processes:
            p.terminate()
        for p in processes:
            p.join(5)
        stream._ready.put(None)
        thread.join(10)


def _work(make: Callable[[], Make], wanted: list[Wanted], part: tuple[int, int], ready: Any) -> None:
    """Make every n-th item, report each, and stop when the training has stopped."""
    parent = os.getppid()
    torch.set_num_threads(1)
    one = make()
    for which, folder, numbers in wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for number in numbers[part[0] :: part[1]]:
            if os.getppid() != parent:
                return
            said = ""
            path: Path | None = folder / f"{number:06d}.safetensors"
            assert path is not None
            if not path.exists():
                try:
                    pool.write(path, one(which, number))
                except ReconError as e:
                    said, path = str(e), None
                except Exception:
                    traceback.print_exc()
                    path = None
            with contextlib.suppress(queue.Full):
                ready.put((which, number, path, said))
    # Unread messages keep a process alive until they are read.
