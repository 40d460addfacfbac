"""Both directions of a session: bytes in with deadlines, messages out through a bounded queue."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence

from recon.data import ReconError
from recon.serve.slabs import SLAB, slab
from recon.serve.wire import Cut

_BLOCK = 2**18


class Broken(ReconError):
    """Nothing more can be sent: the peer is gone, or does not read."""


class Incoming:
    """A source of bytes over a socket; `take` is a `wire.Take`.

    Bytes are received in their final place, in slabs of memory that are never reused, beginning with the `ready` ones;
    nothing is copied, and a line is a view of its slab. Raises Cut if the peer ends or breaks off, is silent for
    `idle_s`, or has sent nothing complete within `first_s` seconds after the start; `begun` ends this last limit.
    """

    def __init__(self, sock: socket.socket, first_s: float, idle_s: float, ready: Sequence[memoryview] = ()) -> None:
        self._socket, self._idle, self._ready = sock, idle_s, list(ready)
        self._first_s, self._deadline = first_s, time.monotonic() + first_s
        self._waiting = True
        self._slab = memoryview(bytearray(_BLOCK))
        self._start = self._end = 0
        sock.settimeout(idle_s)

    def begun(self) -> None:
        """The first message has arrived."""
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
        """A slab with room for n bytes; the part already received is copied into it."""
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
                raise Cut(
                    f"no configuration arrived within {self._first_s:g} s; send it right after connecting"
                ) from None
            raise Cut(f"nothing arrived for {self._idle:g} s, and no CLOSE: the scan is incomplete") from None
        except OSError:
            raise Cut("the connection broke before CLOSE: the scan is incomplete") from None
        if not got:
            raise Cut("the connection ended before CLOSE: the scan is incomplete")
        return got


class Outgoing:
    """Outgoing messages: handed over by `hand`, which sends each as a whole; `put` blocks while `most_bytes` wait.

    The sender reports through `heard` what has been sent, and when no more can be.
    """

    def __init__(self, hand: Callable[[bytes], None], most_bytes: int) -> None:
        self._hand, self._most = hand, most_bytes
        #: Bytes that wait to be sent.
        self.held = 0
        self._broken = ""
        self._changed = threading.Condition()
        #: Set when nothing more will be sent.
        self.ended = threading.Event()

    def put(self, message: bytes) -> None:
        """Hand over a message; raises Broken if nothing can be sent any more."""
        size = len(message)
        with self._changed:
            self._changed.wait_for(lambda: self._broken or not self.held or self.held + size <= self._most)
            if self._broken:
                raise Broken(self._broken)
            self.held += size
        self._hand(message)

    def heard(self, sent: int = 0, broken: str = "") -> None:
        """This many bytes have been sent; or no more will be, for this reason."""
        with self._changed:
            self.held -= sent
            self._broken = self._broken or broken
            self._changed.notify_all()

    def finish(self) -> str:
        """Wait until everything is sent; returns the reason if it was not, otherwise nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or not self.held)
        self.ended.set()
        return self._broken
