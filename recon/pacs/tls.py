"""Encryption to a PACS with the certificates of a site, and reasons for failed connections."""

from __future__ import annotations

import os
import socket
import ssl

from recon.errors import ReconError
from recon.pacs.settings import Tls


def client(tls: Tls) -> ssl.SSLContext | None:
    """For outgoing connections: the other side must have a certificate from `ca` for the host name."""
    return _loaded(ssl.Purpose.SERVER_AUTH, tls) if tls.ca else None


def server(tls: Tls) -> ssl.SSLContext | None:
    """For incoming connections: the other side, too, must have a certificate from `ca`."""
    if not tls.certificate:
        return None
    context = _loaded(ssl.Purpose.CLIENT_AUTH, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Certificates:
    """The contexts of a site's certificates; `look` recreates them when files have been replaced.

    If files cannot be loaded, for instance during the replacement, the old ones are used until the next look.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls, self._seen = tls, _state(tls)
        self.client, self.server = client(tls), server(tls)

    def look(self) -> bool:
        """Whether other certificates are in use from now on."""
        state = _state(self._tls)
        if state == self._seen:
            return False
        try:
            made = client(self._tls), server(self._tls)
        except ReconError:
            return False
        (self.client, self.server), self._seen = made, state
        return True


def _state(tls: Tls) -> list[tuple[int, ...]]:
    """What distinguishes the files from their replacements; empty for a missing file."""
    out: list[tuple[int, ...]] = []
    for name in filter(None, (tls.ca, tls.certificate, tls.key)):
        try:
            s = os.stat(name)
            out.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))
        except OSError:
            out.append(())
    return out


def _loaded(purpose: ssl.Purpose, tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(purpose, cafile=tls.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
        return context
    except (OSError, ssl.SSLError) as e:
        words = getattr(e, "reason", None) or getattr(e, "strerror", None) or type(e).__name__
        raise ReconError(f"the site's certificates cannot be loaded ({words}); check ca, certificate and key") from None


def why(host: str, port: int, context: ssl.SSLContext | None, wait_s: float) -> str:
    """Why no connection to a peer is possible, empty if it is."""
    try:
        with socket.create_connection((host, port), wait_s) as plain:
            if context is not None:
                context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as e:
        return f"its certificate is refused: {e.verify_message}"
    except ssl.SSLError as e:
        return f"TLS negotiation failed ({e.reason or 'unknown reason'})"
    except TimeoutError:
        return f"no connection within {wait_s:g} s"
    except OSError as e:
        return f"no connection ({e.strerror or 'unknown host'})"
    return ""
