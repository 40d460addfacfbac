"""Work that must not block the reader: done in order by a separate thread, with a bounded queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """A thread that calls `work` on what it is given, in order.

    `put` blocks while `most_bytes` are waiting, so that the reader stops reading and the peer waits, too. An exception
    in `work` is raised by the next `put` and by `finish`, and ends the work.
    """

    def __init__(self, work: Callable[[T], None], most_bytes: int) -> None:
        self._work, self._most = work, most_bytes
        self._waiting: deque[tuple[T, int]] = deque()
        self._held = 0
        self._ending = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> int:
        """Bytes that are waiting or being processed."""
        return self._held

    def put(self, item: T, size: int) -> None:
        """Hand over an item of `size` bytes."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._held or self._held + size <= self._most)
            if self._error:
                raise self._error
            self._waiting.append((item, size))
            self._held += size
            if self._thread is None:  # several threads may call this
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until everything is done."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._error:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return
                item, size = self._waiting.popleft()
            error = None
            try:
                self._work(item)
            except Exception as e:
                error = e
            del item
            with self._changed:
                self._held -= size
                self._error = error
                self._changed.notify_all()
            if error:
                return
