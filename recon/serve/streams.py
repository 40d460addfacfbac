"""Both directions of a connection: bytes in with deadlines, messages out through a bounded queue."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from recon.data import ReconError
from recon.serve.slabs import SLAB, slab
from recon.serve.wire import Cut

_BLOCK = 2**18


class Broken(ReconError):
    """Nothing more can be sent: the peer is gone, or does not read."""


class Incoming:
    """A source of bytes over a socket; `take` is a `wire.Take`.

    Bytes are received where they stay: in slabs of memory that are never used again, those that are `ready` first, so
    that nothing is copied and a line is a view of its slab. Raises Cut where the peer ends or breaks off, is silent for
    `idle_s`, or has sent nothing whole for `first_s` seconds after the start; `begun` ends this last limit.
    """

    def __init__(self, sock: socket.socket, first_s: float, idle_s: float, ready: Sequence[memoryview] = ()) -> None:
        self._socket, self._idle, self._ready = sock, idle_s, list(ready)
        self._first_s, self._deadline = first_s, time.monotonic() + first_s
        self._waiting = True
        self._slab = memoryview(bytearray(_BLOCK))
        self._start = self._end = 0
        sock.settimeout(idle_s)

    def begun(self) -> None:
        """The first message is there."""
        if self._waiting:
            self._waiting = False
            self._socket.settimeout(self._idle)

    def take(self, n: int) -> memoryview:
        """The next n bytes."""
        if self._start + n > len(self._slab):
            self._another(n)
        stop = self._start + n
        while self._end < stop:
            self._end += self._receive(self._slab[self._end :])
        out = self._slab[self._start : stop]
        self._start = stop
        return out

    def _another(self, n: int) -> None:
        """A slab with room for n bytes; what has come of them already goes along."""
        rest = self._slab[self._start : self._end]
        small = n <= SLAB // 4
        new = self._ready.pop(0) if small and self._ready else slab(SLAB if small else n + _BLOCK)
        new[: len(rest)] = rest
        self._slab, self._start, self._end = new, 0, len(rest)

    def _receive(self, view: memoryview) -> int:
        if self._waiting:
            self._socket.settimeout(max(0.001, min(self._idle, self._deadline - time.monotonic())))
        try:
            got = self._socket.recv_into(view)
        except TimeoutError:
            if self._waiting:
                raise Cut(f"no message came within {self._first_s:g} s; send the configuration at once") from None
            raise Cut(f"nothing came for {self._idle:g} s and CLOSE had not come: the scan is incomplete") from None
        except OSError:
            raise Cut("the connection broke before CLOSE: the scan is incomplete") from None
        if not got:
            raise Cut("the connection ended before CLOSE: the scan is incomplete")
        return got


class Outgoing:
    """Messages on their way out, sent by a thread of their own; `put` waits while `most_bytes` wait already.

    `mark` is called with True before a message leaves and with False when it has left whole. `finish` closes it.
    """

    def __init__(self, sock: socket.socket, send_s: float, most_bytes: int, mark: Callable[[bool], None]) -> None:
        self._socket, self._send_s, self._most, self._mark = sock, send_s, most_bytes, mark
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._broken = ""
        self._ending = False
        #: Set when nothing more will be sent.
        self.ended = threading.Event()
        self._changed = threading.Condition()
        sock.settimeout(send_s)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def held(self) -> int:
        """Bytes that wait to be sent."""
        return self._held

    def put(self, message: bytes) -> None:
        """Hand over a message; raises Broken where none can be sent any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or not self._held or self._held + len(message) <= self._most)
            if self._broken:
                raise Broken(self._broken)
            self._waiting.append(message)
            self._held += len(message)
            self._changed.notify_all()

    def finish(self) -> str:
        """Wait until all is sent; returns why not, or nothing."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        self.ended.set()
        self._socket.close()
        return self._broken

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return
                message = self._waiting.popleft()
            reason = self._send(message)
            with self._changed:
                self._held -= len(message)
                self._broken = reason
                self._changed.notify_all()
            if reason:
                return

    def _send(self, message: bytes) -> str:
        self._mark(True)
        view = memoryview(message)
        try:
            while view:
                view = view[self._socket.send(view[: 4 * _BLOCK]) :]
        except TimeoutError:
            return f"the peer took nothing for {self._send_s:g} s; the session is given up"
        except OSError:
            return "the peer is gone; the session is given up"
        self._mark(False)
        return ""
