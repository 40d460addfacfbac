"""Messages on their way to a peer: each is sent to its last byte or never begun."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recon.serve.control import scratch
from recon.serve.words import close

#: Bytes that are sent before other peers have their turn.
_PIECE = 2**20
#: Number of waiting files above which messages share one, and largest size of a shared one: a process may open only few
#: files, often 1024, and thousands of small images may wait for a scanner that reads late.
_FILES, _SHARED = 16, 2**23


@dataclass
class _Waiting:
    """A file with `size` bytes of whole messages, of which `sent` have been sent."""

    file: int
    size: int
    sent: int = 0


class Outbox:
    """Messages for one peer, sent as it accepts them; the selector's key calls back the writer.

    `tell` is called with `sent` and the bytes of each file of messages that was sent, and with `broken` and the reason
    if no more can be sent: the peer is gone, or accepted nothing for `send_s` seconds. `closed` is set once CLOSE is
    among the messages.
    """

    def __init__(
        self, selector: selectors.BaseSelector, connection: socket.socket, send_s: float, tell: Callable[..., Any]
    ) -> None:
        connection.setblocking(False)
        self._selector, self._connection, self._send_s, self._tell = selector, connection, send_s, tell
        self._queue: deque[_Waiting] = deque()
        self._watching = False
        self._until = math.inf
        self._then: Callable[[socket.socket], None] | None = None
        self.held = 0
        self.broken = self.closed = False

    @property
    def ended(self) -> bool:
        """Whether the connection has been passed on."""
        return self._until == -math.inf

    def put(self, file: int, size: int) -> None:
        """Send a message, a file that belongs to this outbox from now on."""
        if self.broken:
            os.close(file)
            return
        self.closed = self.closed or os.pread(file, 2, 0) == close()
        if not self._shared(file, size):
            self._queue.append(_Waiting(file, size))
        self.held += size
        if len(self._queue) == 1:
            self._until = time.monotonic() + self._send_s
            self._send()

    def _shared(self, file: int, size: int) -> bool:
        """Append a message to the last file if many files are waiting; returns whether that was done."""
        last = self._queue[-1] if len(self._queue) >= _FILES else None
        if last is None or last.size + size > _SHARED:
            return False
        if os.pwrite(last.file, os.pread(file, size, 0), last.size) < size:
            return False  # a part of it lies behind the end, where nothing is read
        os.close(file)
        last.size += size
        return True

    def end(self, last: bytes, then: Callable[[socket.socket], None]) -> None:
        """Send the `last` words after everything that is waiting, and pass the connection on to `then`."""
        self._then = then
        if last and not self.broken:
            with contextlib.suppress(OSError), scratch() as file:  # without the words if no more files can be opened
                file.write(last)
                file.flush()
                self.put(os.dup(file.fileno()), len(last))
        self._settle()

    def due(self) -> float:
        """The monotonic time at which the peer has accepted nothing for too long."""
        return self._until if self._queue else math.inf

    def look(self) -> None:
        """Drop a peer that has accepted nothing for too long."""
        if self._queue and time.monotonic() >= self._until:
            self._break(f"the client read nothing for {self._send_s:g} s; the session was closed")

    def drop(self) -> None:
        """Drop everything that is waiting: no time is left."""
        self._break("the server was stopped before the client had read everything")

    def _send(self) -> None:
        spent = 0
        while self._queue and spent < _PIECE:
            one = self._queue[0]
            try:
                n = os.sendfile(self._connection.fileno(), one.file, one.sent, min(_PIECE, one.size - one.sent))
            except BlockingIOError:
                break
            except OSError:
                n = 0
            if not n:
                self._break("the client disconnected; the session was closed")
                return
            self._until = time.monotonic() + self._send_s
            one.sent, spent = one.sent + n, spent + n
            if one.sent == one.size:
                os.close(self._queue.popleft().file)
                self.held -= one.size
                self._tell(sent=one.size)
        self._watch(bool(self._queue))
        self._settle()

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watching:
            self._selector.register(self._connection, selectors.EVENT_WRITE, self._send)
        elif self._watching and not wanted:
            self._selector.unregister(self._connection)
        self._watching = wanted

    def _break(self, reason: str) -> None:
        self.broken, self.held = True, 0
        while self._queue:
            os.close(self._queue.popleft().file)
        self._watch(False)
        self._tell(broken=reason)
        self._settle()

    def _settle(self) -> None:
        """Pass the connection on once everything has been sent."""
        if self._then is not None and not self._queue and not self.ended:
            self._until = -math.inf
            self._then(self._connection)
