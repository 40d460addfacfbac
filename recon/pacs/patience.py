"""How long a peer may keep us waiting; pynetdicom waits for ever for the rest of what a peer has begun to send."""

from __future__ import annotations

import socket
import time
from functools import partial
from socketserver import BaseServer
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from recon.pacs.tls import Certificates

#: Bytes that have their time by themselves, so that a slow line is none that stands still.
_PIECE = 65536


def bound(transport: Any, seconds: float) -> None:
    """Have the peer of an association take within some seconds what it is sent, and end within them what it began.

    `transport` is pynetdicom's AssociationSocket. A message comes in two pieces, its head and the rest, each of which
    has this time, as has each piece of a message that goes. A peer that is too slow counts as one whose connection
    broke.
    """
    transport.recv = partial(_read, transport, seconds)
    transport.send = partial(_write, transport, seconds)


def _write(transport: Any, seconds: float, message: bytes) -> None:
    """Send a message, or tell pynetdicom that the connection is closed where the peer does not take it in time."""
    try:
        with memoryview(message) as whole:
            for start in range(0, len(whole), _PIECE):
                _send(transport.socket, whole[start : start + _PIECE], time.monotonic() + seconds)
    except Exception:  # of whatever kind, as pynetdicom's own
        transport.event_queue.put("Evt17")


def _send(peer: socket.socket, piece: memoryview, until: float) -> None:
    try:
        while piece:
            peer.settimeout(_left(until))
            piece = piece[peer.send(piece) :]
    finally:
        peer.settimeout(None)


def _left(until: float) -> float:
    """Seconds until a monotonic time; raises TimeoutError where it is over."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(transport: Any, seconds: float, count: int) -> bytearray:
    """So many bytes of a peer, fewer where it closes; raises TimeoutError where they do not come in time."""
    peer, until, out = transport.socket, time.monotonic() + seconds, bytearray()
    try:
        while len(out) < count:
            peer.settimeout(_left(until))
            part = peer.recv(min(count - len(out), _PIECE))
            if not part:
                break
            out += part
        return out
    finally:
        peer.settimeout(None)


class Listener(ThreadedAssociationServer):
    """A server of associations that no peer holds up: each shakes hands in a thread of its own, for some seconds."""

    daemon_threads, block_on_close = True, False

    def __init__(self, ae: Any, at: Any, certificates: Certificates, seconds: float, handlers: list[Any]) -> None:
        self._certificates, self._seconds = certificates, seconds
        super().__init__(ae, at, ae.ae_title, ae.supported_contexts, None, handlers)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, encrypted where the site has certificates: those that are in use now."""
        if context := self._certificates.server:
            request.settimeout(self._seconds)
            request = context.wrap_socket(request, server_side=True)
            request.settimeout(None)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is told of who does not get as far as an association."""

    def shutdown(self) -> None:
        """Stop listening, and let go who has not got as far as an association."""
        BaseServer.shutdown(self)
        self.server_close()
        for association in self.active_associations:
            if not association.is_established and association.dul.socket:
                association.dul.socket.close()
