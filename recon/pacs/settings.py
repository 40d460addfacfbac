"""Settings of the PACS: how it is reached, and when an image counts as delivered."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from annotated_types import Ge, Le, MinLen

from recon import recipe as recipes
from recon.errors import ReconError

Seconds = Annotated[float, Ge(0.05), Le(1e5)]
Minutes = Annotated[float, Ge(0), Le(1e5)]
Confirm = Literal["auto", "commitment", "find", "qido", "wado", "none"]
CONFIRM: tuple[Confirm, ...] = get_args(Confirm)

#: Characters that DICOM allows in an application entity title (PS3.5, table 6.2-1).
_TITLE = r"[^\\\x00-\x1f\x7f-\uffff]{1,16}"


@dataclass(frozen=True)
class Tls:
    """Certificate files (.pem); `ca` alone turns encryption on, the others identify recon."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Waits:
    """Seconds until a step counts as failed."""

    #: In order: until the connection is established; until an association or a request is answered; of silence on an
    #: association.
    connect_s: Seconds = 10.0
    answer_s: Seconds = 30.0
    idle_s: Seconds = 60.0
    #: Until the PACS reports on a storage commitment; later reports count, too.
    commitment_s: Seconds = 60.0


@dataclass(frozen=True)
class Pacs:
    """The PACS of a site; without `to` there is none."""

    #: AET@host:port for C-STORE, https://host/dicom-web for STOW-RS.
    to: str = ""
    #: Application entity title of recon.
    aet: str = "RECON"
    #: Folder that holds the images until they are delivered.
    spool: str = "~/.local/state/recon/spool"
    #: How the PACS confirms that it stores an image: storage commitment, C-FIND, QIDO-RS, WADO-RS with a comparison of
    #: the pixels. "auto" is commitment, or QIDO-RS for STOW-RS; "none" trusts the answer to the transfer.
    confirm: Confirm = "auto"
    #: host:port for incoming reports of storage commitments.
    listen: str = "127.0.0.1:11119"
    #: Minutes until the second try, the third, …; the last value is repeated. After `tries`, ten days with these
    #: values, the image has failed.
    retry_minutes: Annotated[tuple[Minutes, ...], MinLen(1)] = (1.0, 5.0, 15.0, 60.0)
    tries: Annotated[int, Ge(1), Le(10000)] = 250
    #: Days that the record of a delivered image is kept; the image itself is removed at once.
    keep_days: Annotated[float, Ge(0), Le(36500)] = 30.0
    #: De-identify images (PS3.15, Basic Application Level Confidentiality Profile) before spooling.
    deidentify: bool = False
    #: File with user:password for DICOMweb, readable only by its owner.
    login: str = ""
    tls: Tls = field(default_factory=Tls)
    waits: Waits = field(default_factory=Waits)

    @property
    def web(self) -> bool:
        """Whether the PACS is reached by DICOMweb."""
        return self.to.startswith(("http://", "https://"))

    @property
    def confirmed_by(self) -> Confirm:
        """The method of confirmation that "auto" means here."""
        return self.confirm if self.confirm != "auto" else "qido" if self.web else "commitment"


@dataclass(frozen=True)
class Address:
    """Where a PACS listens for associations."""

    aet: str
    host: str
    port: int


def address(pacs: Pacs) -> Address:
    """Title, host and port of a PACS for C-STORE; raises ReconError for another form."""
    found = re.fullmatch(rf"({_TITLE})@(.+):(\d{{1,5}})", pacs.to)
    if not found or not 0 < int(found[3]) <= 65535 or not found[1].strip() or "@" in found[2] or not _host(found[2]):
        raise ReconError(f"the PACS is {pacs.to!r}; give AET@host:port, or https://host/dicom-web")
    return Address(found[1], found[2].strip("[]"), int(found[3]))


def listening(pacs: Pacs) -> tuple[str, int]:
    """Host and port for reports of storage commitments; raises ReconError for another form."""
    host, _, port = pacs.listen.rpartition(":")
    host = host.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = ""
    if not host or not port.isdigit() or int(port) > 65535:
        raise ReconError(f"listen is {pacs.listen!r}; give an address of this machine and a port: 127.0.0.1:11119")
    return host, int(port)


def check(pacs: Pacs) -> Pacs:
    """The settings themselves; raises ReconError for contradictory values and missing files."""
    if not re.fullmatch(_TITLE, pacs.aet) or not pacs.aet.strip():
        raise ReconError(f"aet is {pacs.aet!r}; an AE title has 1 to 16 characters and no backslash")
    by = pacs.confirmed_by
    if pacs.web:
        _check_web(pacs)
    else:
        address(pacs)
        if pacs.login:
            raise ReconError("login is for DICOMweb only; with C-STORE, use a TLS certificate to authenticate")
        if by in ("qido", "wado"):
            raise ReconError(f"confirm = {by!r} needs a PACS at https://…; use commitment, find or none")
    if by == "commitment" and _local(listening(pacs)[0]) and not _local(address(pacs).host):
        raise ReconError(
            f"listen is {pacs.listen}, which {address(pacs).host} cannot reach to report commitments; give an "
            "address of this machine that the PACS can reach, such as 192.168.2.2:11119, or set confirm to "
            "find"
        )
    tls = pacs.tls
    if (tls.certificate or tls.key) and not tls.ca:
        raise ReconError("tls has a certificate but no ca; give the file of the authorities to trust")
    if bool(tls.certificate) != bool(tls.key):
        raise ReconError("tls needs both certificate and key; give the missing one")
    for name, file in (*asdict(tls).items(), ("login", pacs.login)):
        if file and not Path(file).is_file():
            raise ReconError(f"there is no file {file}, which is set as {name}; correct the name")
    for name, file in (("key", tls.key), ("login", pacs.login)):
        if file and Path(file).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ReconError(f"{file} ({name}) can be read by other users; run chmod 600 {file}")
    from recon.pacs import tls as certificates

    certificates.client(tls)
    certificates.server(tls)
    needed = {} if pacs.web else {"pynetdicom": "pynetdicom"}
    needed |= {"dicomanonymizer": "dicom-anonymizer"} if pacs.deidentify else {}
    for module, package in needed.items():
        if importlib.util.find_spec(module) is None:
            raise ReconError(f"the package {package} is missing; run pip install {package}")
    return pacs


def _host(name: str) -> bool:
    """Whether a name is a possible host name: none of its parts is empty or longer than 63 bytes."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_web(pacs: Pacs) -> None:
    try:
        url = urlsplit(pacs.to)
        port = url.port
    except ValueError:
        raise ReconError("the address of the PACS is not a URL; give one such as https://pacs:8443/dicom-web") from None
    if url.username or url.password:
        raise ReconError(
            "the address of the PACS holds a password; put user:password in a file and set login to its path"
        )
    if not url.hostname or not _host(url.hostname) or url.query or url.fragment or port == 0:
        raise ReconError("the address of the PACS is not a URL of a service; give one such as https://pacs/dicom-web")
    if url.scheme == "http" and pacs.tls != Tls():
        raise ReconError("tls is set and the address begins with http://; write https://")
    if url.scheme == "http" and pacs.login and not _local(url.hostname):
        raise ReconError("the password would be sent unencrypted; use https://")
    if pacs.confirmed_by in ("commitment", "find"):
        raise ReconError(f"confirm = {pacs.confirm!r} needs a PACS at AET@host:port; use qido, wado or none")


def resolved(pacs: Pacs, folder: Path) -> Pacs:
    """The settings with absolute file names: `~` is the user's home, others are relative to `folder`."""

    def at(name: str) -> str:
        return str(folder.absolute() / Path(name).expanduser()) if name else ""

    tls = Tls(**{name: at(file) for name, file in asdict(pacs.tls).items()})
    return replace(pacs, spool=at(pacs.spool), login=at(pacs.login), tls=tls)


def parse(table: Mapping[str, Any], where: str) -> Pacs:
    """The settings in a mapping; raises ReconError for an unknown key or a wrong value."""
    return recipes.parse(table, where, Pacs)
