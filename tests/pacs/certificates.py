"""Certificates for tests, made by openssl: an authority and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.tools import need


def _openssl(*words: object) -> None:
    done = subprocess.run([need("openssl"), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def authority(folder: Path, name: str) -> Path:
    """A self-signed authority: NAME.pem and NAME.key."""
    _openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj",
        f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
    )  # fmt: skip
    (folder / f"{name}.key").chmod(0o600)
    return folder / f"{name}.pem"


def signed(folder: Path, name: str, by: Path, san: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
    """A certificate for a host that ends in some days, signed by an authority: NAME.pem and NAME.key."""
    request, extra = folder / f"{name}.csr", folder / f"{name}.ext"
    extra.write_text(f"subjectAltName={san}\n")
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
        "-keyout", key, "-out", request,
    )  # fmt: skip
    _openssl(
        "x509", "-req", "-in", request, "-days", days, "-CA", by, "-CAkey", by.with_suffix(".key"), "-CAcreateserial",
        "-extfile", extra, "-out", certificate,
    )  # fmt: skip
    key.chmod(0o600)
    return certificate, key
