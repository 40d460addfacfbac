"""When certificates expire: hospitals renew them once a year, and a night on which that was forgotten is a bad one."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recon.errors import ReconError
from recon.serve.settings import Site

#: Days before its end from which on a certificate is spoken of.
SOON = 30

_SEQUENCE, _VERSION, _UTC, _GENERAL = 0x30, 0xA0, 0x17, 0x18
_PEM = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def expires(path: Path) -> datetime:
    """When the first certificate of a PEM file expires, or, of several authorities, the one that does so first.

    Raises ReconError for a file that holds none.
    """
    try:
        found = [_not_after(ssl.PEM_cert_to_DER_cert(pem)) for pem in _PEM.findall(path.read_text("ascii"))]
        return min(found)
    except (OSError, ValueError, IndexError):
        raise ReconError(f"{path} holds no certificate that can be read; give one as PEM") from None


def certificates(site: Site) -> list[dict[str, Any]]:
    """The certificates that a site's file names: what for, the name of the file, and the days that each has left."""
    named = {
        "tls.certificate": site.tls.certificate, "tls.clients": site.tls.clients,
        "pacs.tls.certificate": site.pacs.tls.certificate, "pacs.tls.ca": site.pacs.tls.ca,
    }  # fmt: skip
    out = []
    for key, file in named.items():
        if file:
            end = expires(Path(file))
            left = (end - datetime.now(timezone.utc)).total_seconds() / 86400
            out.append({"key": key, "file": Path(file).name, "expires": end.isoformat(), "days": round(left, 1)})
    return out


def warnings(site: Site) -> Iterator[str]:
    """A sentence for each certificate that expires soon, or has."""
    for one in certificates(site):
        when = f"{one['expires'][:10]}, in {one['days']:.0f} days" if one["days"] > 0 else f"{one['expires'][:10]}"
        verb = "expires on" if one["days"] > 0 else "has expired on"
        if one["days"] < SOON:
            yield f"{one['file']} ({one['key']}) {verb} {when}; renew it, then reload the service (SIGHUP)"


def _not_after(der: bytes) -> datetime:
    """The end of a certificate's validity (RFC 5280, 4.1): the fifth field, or sixth after a version, of its body."""
    certificate = _fields(_value(der, 0)[1])
    body = _fields(certificate[0][1])
    validity = body[4 if body[0][0] == _VERSION else 3]
    if validity[0] != _SEQUENCE:
        raise ValueError("no validity")
    kind, raw = _fields(validity[1])[1]
    text = raw.decode("ascii")
    if kind == _UTC:  # two digits of the year: 50 and more are of the last century
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif kind != _GENERAL:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _fields(content: bytes) -> list[tuple[int, bytes]]:
    """The values one after the other within a value."""
    out, at = [], 0
    while at < len(content):
        tag, value, at = _value(content, at)
        out.append((tag, value))
    return out


def _value(content: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the value that begins here (X.690: lengths above 127 are counted in bytes)."""
    tag, length, at = content[at], content[at + 1], at + 2
    if length > 127:
        digits = length & 127
        length, at = int.from_bytes(content[at : at + digits], "big"), at + digits
    return tag, content[at : at + length], at + length
