"""The connection between the server and the process of a session: JSON lines both ways, and messages for the peer.

A message for the peer is handed over as a whole, in an unnamed file, before its first byte is sent. Whatever happens to
the process afterwards, the server sends it completely or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

_PIECE, _FILES = 1 << 16, 16


def scratch() -> IO[bytes]:
    """An unnamed file, in memory if possible, so that no session depends on a full disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("recon"), "w+b")
    return tempfile.TemporaryFile()


class Speaking:
    """The process's end; several threads may use it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._one = sock, threading.Lock()

    def tell(self, **what: Any) -> None:
        """Report to the server."""
        with self._one, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(what).encode() + b"\n")

    def hand(self, message: bytes) -> None:
        """Hand over a whole message for the peer."""
        with scratch() as file:
            file.write(message)
            file.flush()
            told = json.dumps({"message": len(message)}).encode() + b"\n"
            with self._one, contextlib.suppress(OSError):
                socket.send_fds(self._socket, [told], [file.fileno()])

    def heard(self) -> Iterator[dict[str, Any]]:
        """Messages from the server, until it has ended."""
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)


class Listening:
    """The server's end, which never blocks: what cannot be sent now is sent with the next message of the process."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = self._unsaid = b""
        self._files: deque[int] = deque()
        self._lost = False
        sock.setblocking(False)

    def take(self) -> tuple[list[dict[str, Any]], bool]:
        """What the process has reported since, and whether it is running; `file` of a message belongs to the caller.

        It is -1, from one message on, where this process could not open another file.
        """
        self._say()
        try:
            got, files, flags, _ = socket.recv_fds(self.socket, _PIECE, _FILES)
        except BlockingIOError:
            return [], True
        except OSError:
            got, files, flags = b"", [], 0
        if self._lost:  # these belong to later messages
            for file in files:
                os.close(file)
        else:
            self._files += files
            self._lost = bool(flags & socket.MSG_CTRUNC)
        *lines, self._buffer = (self._buffer + got).split(b"\n")
        said = [json.loads(line) for line in lines]
        for what in said:
            if "message" in what:
                what["file"] = self._files.popleft() if self._files else -1
        return said, bool(got)

    def tell(self, **what: Any) -> None:
        """Send a message to the process, which may have ended, or may not read for a while."""
        self._unsaid += json.dumps(what).encode() + b"\n"
        self._say()

    def _say(self) -> None:
        with contextlib.suppress(OSError):
            while self._unsaid:
                self._unsaid = self._unsaid[self.socket.send(self._unsaid) :]

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
        while self._files:
            os.close(self._files.popleft())
