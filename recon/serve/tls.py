"""TLS for a connection: a thread decrypts it, so that all others see plain bytes on a socket of their own."""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import ssl
import stat
import threading
import time
from pathlib import Path

from recon.errors import ReconError

_PIECE = 2**17
#: Bytes that wait in either direction before the other side is no longer read.
_MOST = 2**20
#: Simultaneous handshakes.
_AT_ONCE = 16
#: Seconds that an ending connection has to receive the last bytes.
_LINGER_S = 5.0


def server_context(certificate: str, key: str, clients: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later with this certificate; with `clients`, only for peers whose certificate this CA has signed.

    Raises ReconError for files that are missing or do not fit together, and for a key that others may read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _identify(context, certificate, key)
    if clients:
        _trust(context, clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str = "", certificate: str = "", key: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later to a server whose name and certificate are checked against `ca`, or the system's authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca:
        _trust(context, ca)
    else:
        context.load_default_certs()
    if certificate:
        _identify(context, certificate, key or certificate)
    return context


def _identify(context: ssl.SSLContext, certificate: str, key: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name in (certificate, key):
        if not Path(name).is_file():
            raise ReconError(f"there is no file {name or '(empty)'} for TLS; give a certificate and its key (PEM)")
    if Path(key).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ReconError(f"the key {key} can be read by any user of this machine; run chmod 600 {key}")
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except (ssl.SSLError, OSError) as e:
        reason = getattr(e, "reason", "") or "it cannot be read"
        raise ReconError(
            f"{certificate} and {key} are not a certificate and its key ({reason}); give both as PEM"
        ) from None


def _no_password() -> str:
    raise ReconError("the TLS key is protected by a password, which a server cannot ask for; give one without")


def _trust(context: ssl.SSLContext, ca: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError):
        raise ReconError(f"{ca} holds no CA certificate; give one as PEM") from None


def shake(sock: socket.socket, context: ssl.SSLContext, seconds: float, name: str | None = None) -> socket.socket:
    """Perform the TLS handshake and return a socket with the plain bytes; `name` is the server's, for a client.

    Raises ReconError, without content from the peer, if the handshake does not succeed in time. The connection is then
    closed; otherwise it belongs to a thread that ends when either side has ended.
    """
    until = time.monotonic() + seconds
    try:
        sock.setblocking(False)
        secure = context.wrap_socket(
            sock, server_side=name is None, server_hostname=name, do_handshake_on_connect=False
        )
    except (OSError, ValueError) as e:
        sock.close()
        raise ReconError(
            f"the TLS handshake did not start ({type(e).__name__}); check that the client is still connected"
        ) from None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(secure, selectors.EVENT_READ)
            while True:
                try:
                    secure.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    selector.modify(secure, selectors.EVENT_READ)
                except ssl.SSLWantWriteError:
                    selector.modify(secure, selectors.EVENT_WRITE)
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise ReconError(f"no TLS handshake within {seconds:g} s; check that the client uses TLS")
    except ssl.SSLError as e:
        secure.close()
        reason = (e.reason or "unknown reason").lower().replace("_", " ")
        if isinstance(e, ssl.SSLCertVerificationError):  # such as its end
            reason = f"{reason}: {e.verify_message}"
        raise ReconError(
            f"the TLS handshake failed ({reason}); check that both sides use TLS and trust each other's authority"
        ) from None
    except (OSError, ReconError) as e:
        secure.close()
        raise (
            e
            if isinstance(e, ReconError)
            else ReconError("the client disconnected before TLS was established; try again")
        ) from None
    plain, inner = socket.socketpair()
    threading.Thread(target=_relay, args=(secure, inner), daemon=True).start()
    return plain


class _Way:
    """One direction of a relay: bytes read from `source` that wait to be written to `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.held = bytearray()
        self.ended = False

    def move(self) -> bool:
        """Read and write what is possible without waiting; returns whether anything moved."""
        moved = False
        if not self.ended and len(self.held) < _MOST:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                got = self.source.recv(_PIECE)
                self.held += got
                self.ended, moved = not got, True
        if self.held:
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                n = self.sink.send(memoryview(self.held)[:_PIECE])
                del self.held[:n]
                moved = True
        return moved


def _relay(secure: ssl.SSLSocket, inner: socket.socket) -> None:
    """Move bytes between both sockets until this side has sent everything, or one of them breaks."""
    inner.setblocking(False)
    into, out = _Way(secure, inner), _Way(inner, secure)
    told = False
    with secure, inner, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
        while True:
            while into.move() | out.move():
                pass
            if into.ended and not into.held and not told:
                inner.shutdown(socket.SHUT_WR)
                told = True
            if out.ended and not out.held:
                _part(secure)
                return
            _watch(selector, secure, not into.ended and len(into.held) < _MOST, bool(out.held))
            _watch(selector, inner, not out.ended and len(out.held) < _MOST, bool(into.held))
            selector.select(1.0)


def _watch(selector: selectors.BaseSelector, sock: socket.socket, read: bool, write: bool) -> None:
    wanted = selectors.EVENT_READ * read | selectors.EVENT_WRITE * write
    known = sock in selector.get_map()
    if wanted and known:
        selector.modify(sock, wanted)
    elif wanted:
        selector.register(sock, wanted)
    elif known:
        selector.unregister(sock)


def _part(secure: ssl.SSLSocket) -> None:
    """Send TLS's closing message, which distinguishes a complete answer from a truncated one, and wait for the peer."""
    with contextlib.suppress(ssl.SSLError, ValueError):
        secure.unwrap()  # without waiting for the peer's: it may have more to send, which is not read any more
    secure.shutdown(socket.SHUT_WR)
    secure.settimeout(_LINGER_S)
    until = time.monotonic() + _LINGER_S
    while time.monotonic() < until and secure.recv(_PIECE):
        pass


class Front:
    """Handshakes of a server, each in its own thread; `ready` is readable when one has finished."""

    def __init__(self, context: ssl.SSLContext, seconds: float) -> None:
        self._context, self._seconds = context, seconds
        self._done: queue.SimpleQueue[tuple[socket.socket | None, str, str]] = queue.SimpleQueue()
        self.ready, self._bell = socket.socketpair()
        for s in (self.ready, self._bell):
            s.setblocking(False)
        self._free = threading.BoundedSemaphore(_AT_ONCE)

    def renew(self, context: ssl.SSLContext) -> None:
        """Use other certificates for all new connections."""
        self._context = context

    def begin(self, connection: socket.socket, peer: str) -> None:
        """Start a handshake with a peer; with too many already running, it is dropped."""
        if self._free.acquire(blocking=False):
            threading.Thread(target=self._handshake, args=(connection, peer), daemon=True).start()
        else:
            connection.close()
            self._ended(None, peer, "too many clients connect at once")

    def take(self) -> list[tuple[socket.socket | None, str, str]]:
        """Finished handshakes: the socket with plain bytes, or None and the reason, with the peer's address between."""
        with contextlib.suppress(BlockingIOError):
            self.ready.recv(1 << 10)
        out = []
        while not self._done.empty():
            out.append(self._done.get())
        return out

    def close(self) -> None:
        """Drop all."""
        for plain, _, _ in self.take():
            if plain is not None:
                plain.close()
        self.ready.close()
        self._bell.close()

    def _handshake(self, connection: socket.socket, peer: str) -> None:
        try:
            self._ended(shake(connection, self._context, self._seconds), peer, "")
        except ReconError as e:
            self._ended(None, peer, str(e))
        finally:
            self._free.release()

    def _ended(self, plain: socket.socket | None, peer: str, reason: str) -> None:
        self._done.put((plain, peer, reason))
        with contextlib.suppress(OSError):  # already signalled, or nobody is listening any more
            self._bell.send(b"\0")
