"""Time limits for peers; pynetdicom waits without limit for the rest of what a peer has begun to send."""

from __future__ import annotations

import socket
import time
from functools import partial
from socketserver import BaseServer
from typing import Any

from pynetdicom.transport import ThreadedAssociationServer

from recon.pacs.tls import Certificates

#: Bytes with a time limit of their own, so that a slow connection does not count as stalled.
_PIECE = 65536


def bound(transport: Any, seconds: float) -> None:
    """Require a peer of an association to accept data, and to complete what it began, within some seconds.

    `transport` is pynetdicom's AssociationSocket. A message arrives in two pieces, its header and the rest, each with
    this time limit, as has each piece of an outgoing message. A peer that is too slow is treated as a broken
    connection.
    """
    transport.recv = partial(_read, transport, seconds)
    transport.send = partial(_write, transport, seconds)


def _write(transport: Any, seconds: float, message: bytes) -> None:
    """Send a message, or tell pynetdicom that the connection is closed if the peer does not accept it in time."""
    try:
        with memoryview(message) as whole:
            for start in range(0, len(whole), _PIECE):
                _send(transport.socket, whole[start : start + _PIECE], time.monotonic() + seconds)
    except Exception:  # of any kind, as pynetdicom does
        transport.event_queue.put("Evt17")


def _send(peer: socket.socket, piece: memoryview, until: float) -> None:
    try:
        while piece:
            peer.settimeout(_remaining(until))
            piece = piece[peer.send(piece) :]
    finally:
        peer.settimeout(None)


def _remaining(until: float) -> float:
    """Seconds until a monotonic time; raises TimeoutError if it has passed."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(transport: Any, seconds: float, count: int) -> bytearray:
    """This many bytes from a peer, fewer if it closes; raises TimeoutError if they do not arrive in time."""
    peer, until, out = transport.socket, time.monotonic() + seconds, bytearray()
    try:
        while len(out) < count:
            peer.settimeout(_remaining(until))
            part = peer.recv(min(count - len(out), _PIECE))
            if not part:
                break
            out += part
        return out
    finally:
        peer.settimeout(None)


class Listener(ThreadedAssociationServer):
    """A server of associations that no peer can block: each handshake has its own thread and some seconds."""

    daemon_threads, block_on_close = True, False

    def __init__(self, ae: Any, at: Any, certificates: Certificates, seconds: float, handlers: list[Any]) -> None:
        self._certificates, self._seconds = certificates, seconds
        super().__init__(ae, at, ae.ae_title, ae.supported_contexts, None, handlers)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, encrypted if the site has certificates: those in use at the moment."""
        if context := self._certificates.server:
            request.settimeout(self._seconds)
            request = context.wrap_socket(request, server_side=True)
            request.settimeout(None)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers that do not complete an association are not reported."""

    def shutdown(self) -> None:
        """Stop listening, and drop peers without a completed association."""
        BaseServer.shutdown(self)
        self.server_close()
        for association in self.active_associations:
            if not association.is_established and association.dul.socket:
                association.dul.socket.close()
