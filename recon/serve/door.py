"""Connections without a session: incoming ones, those before their first message, and those after the last byte."""

from __future__ import annotations

import contextlib
import errno
import math
import select
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from recon.serve.words import whole_first

#: Seconds that a connection stays open after the last byte sent, so that the peer reads it before a reset.
_LINGER_S = 5.0
_MOST = 64
#: Largest part of a first message that is waited for, in bytes, and seconds between two checks of an incomplete one.
_FIRST, _LOOK_S = 2**15, 0.05
#: The message of a machine without resources for another connection, and seconds until the next attempt.
_FULL, _AGAIN_S = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM), 1.0

Then = Callable[[socket.socket, str], None]


@dataclass(frozen=True)
class _Guest:
    peer: str
    until: float
    then: Then
    whole: bool


class Arriving:
    """Incoming connections on a listening socket, each passed to `then`.

    If this process cannot open more files, none is accepted for a while; otherwise the loop would do nothing but try.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        then: Callable[[socket.socket, tuple[str, int]], None],
        log: Callable[[str], None],
    ) -> None:
        listener.setblocking(False)
        self._selector, self._listener, self._then, self._log = selector, listener, then, log
        self._again = math.inf
        self._watch()

    def due(self) -> float:
        """The monotonic time at which connections are accepted again."""
        return self._again

    def look(self) -> None:
        """Accept connections again if it is time."""
        if time.monotonic() >= self._again:
            self._again = math.inf
            self._watch()

    def close(self) -> None:
        """Accept no more."""
        self._again = math.inf
        if self._listener.fileno() >= 0:
            if self._listener in self._selector.get_map():
                self._selector.unregister(self._listener)
            self._listener.close()

    def _watch(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            connection, address = self._listener.accept()
        except OSError as e:
            if e.errno in _FULL:
                self._log(
                    f"a connection has to wait ({e.strerror}); if this persists, raise LimitNOFILE of the service"
                )
                self._selector.unregister(self._listener)
                self._again = time.monotonic() + _AGAIN_S
            return  # otherwise the peer has disconnected again
        self._then(connection, address)


class Waiting:
    """Connections whose peers have not sent enough yet.

    A port monitor connects and disconnects: `left` is called for it, and nothing else happens. Once the first byte, or
    the `whole` first message, has arrived, it stays unread and `then` of that connection takes over. A connection that
    does not send this within `seconds` is passed to `silent`; so is the one that has waited longest if there are too
    many. This does not depend on sessions and their processes.
    """

    def __init__(
        self, selector: selectors.BaseSelector, seconds: float, left: Callable[[], None], silent: Then
    ) -> None:
        self._selector, self._seconds, self._left, self._silent = selector, seconds, left, silent
        self._guests: dict[socket.socket, _Guest] = {}
        #: Those in the middle of their first message; what has arrived makes them readable all the time.
        self._begun: set[socket.socket] = set()
        self._looks_at = math.inf

    def put(self, connection: socket.socket, peer: str, then: Then, *, whole: bool = False) -> None:
        """Wait for the first byte of a connection, or for its `whole` first message."""
        if len(self._guests) >= _MOST:
            self._let_go(next(iter(self._guests)))
        connection.setblocking(False)
        self._guests[connection] = _Guest(peer, time.monotonic() + self._seconds, then, whole)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._hear(connection))

    def due(self) -> float:
        """The monotonic time of the next action for one of them."""
        return min((g.until for g in self._guests.values()), default=math.inf) if not self._begun else self._looks_at

    def look(self) -> None:
        """Check for complete first messages, and drop those that have waited too long."""
        now = time.monotonic()
        if self._begun and now >= self._looks_at:
            self._looks_at = now + _LOOK_S
            for connection in list(self._begun):
                self._hear(connection)
        for connection in [c for c, g in self._guests.items() if now >= g.until]:
            self._let_go(connection)

    def end(self) -> list[socket.socket]:
        """Return all that still wait; they belong to the caller from now on."""
        out = list(self._guests)
        for connection in out:
            self._take(connection)
        return out

    def _take(self, connection: socket.socket) -> _Guest:
        if connection in self._begun:
            self._begun.remove(connection)
        else:
            self._selector.unregister(connection)
        connection.setblocking(True)
        return self._guests.pop(connection)

    def _let_go(self, connection: socket.socket) -> None:
        self._silent(connection, self._take(connection).peer)

    def _hear(self, connection: socket.socket) -> None:
        try:
            said = connection.recv(_FIRST, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        more = said and self._guests[connection].whole and not whole_first(said, _FIRST)
        if more and not _hung_up(connection):
            if connection not in self._begun:
                self._selector.unregister(connection)
                self._begun.add(connection)
                self._looks_at = min(self._looks_at, time.monotonic() + _LOOK_S)
            return
        guest = self._take(connection)
        if said:
            guest.then(connection, guest.peer)
        else:
            connection.close()
            self._left()


def _hung_up(connection: socket.socket) -> bool:
    """Whether the peer has closed, and what is waiting to be read is everything."""
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


class Leaving:
    """Connections to which everything has been sent; input is discarded for a while, until the peer closes."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._until: dict[socket.socket, float] = {}

    def put(self, connection: socket.socket, last: bytes = b"") -> None:
        """Send the `last` bytes to a peer, as far as it accepts them at once, and let it close."""
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            if last:
                connection.send(last)
            connection.shutdown(socket.SHUT_WR)
            if len(self._until) < _MOST:
                self._until[connection] = time.monotonic() + _LINGER_S
                self._selector.register(connection, selectors.EVENT_READ, lambda: self._drain(connection))
                return
        connection.close()

    def due(self) -> float:
        """The monotonic time at which the next one is closed, whatever its peer does."""
        return min(self._until.values(), default=math.inf)

    def look(self) -> None:
        """Close those whose time is over."""
        now = time.monotonic()
        for connection in [c for c, until in self._until.items() if now >= until]:
            self._release(connection)

    def end(self, seconds: float) -> None:
        """Close all, after `seconds` at most."""
        until = time.monotonic() + seconds
        while self._until and time.monotonic() < until:
            for key, _ in self._selector.select(0.05):
                if key.fileobj in self._until:
                    key.data()
        for connection in list(self._until):
            self._release(connection)

    def _drain(self, connection: socket.socket) -> None:
        try:
            if connection.recv(1 << 20):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._release(connection)

    def _release(self, connection: socket.socket) -> None:
        del self._until[connection]
        self._selector.unregister(connection)
        connection.close()
