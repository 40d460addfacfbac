"""When certificates expire, so that a forgotten renewal is noticed in time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recon.errors import MissingPackage, ReconError, counted
from recon.serve.settings import Site

#: Days before its end from which on a certificate is reported.
SOON = 30


def expires(path: Path) -> datetime:
    """When the first certificate of a PEM file expires; of several authorities, the earliest.

    Raises ReconError for a file without one, MissingPackage without the package that reads them.
    """
    try:
        from cryptography import x509
    except ModuleNotFoundError:
        raise MissingPackage("expiry of certificates is not monitored; run pip install cryptography") from None
    try:
        return min(c.not_valid_after_utc for c in x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError):
        raise ReconError(f"{path} holds no certificate that can be read; give one as PEM") from None


def certificates(site: Site) -> list[dict[str, Any]]:
    """The certificates in a site's settings: purpose, name of the file, and days left."""
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
    """A sentence for each certificate that has expired or will soon, or that cannot be checked."""
    try:
        found = certificates(site)
    except MissingPackage as e:
        yield str(e)
        return
    for one in found:
        when = (
            f"{one['expires'][:10]}, in {counted(round(one['days']), 'day')}"
            if one["days"] > 0
            else f"{one['expires'][:10]}"
        )
        verb = "expires on" if one["days"] > 0 else "has expired on"
        if one["days"] < SOON:
            yield f"{one['file']} ({one['key']}) {verb} {when}; renew it, then reload the service (SIGHUP)"
