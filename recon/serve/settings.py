"""Settings of a site's server: one TOML file, checked before anything listens."""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from recon import recipe as recipes
from recon.errors import ReconError
from recon.pacs import settings as pacs_settings
from recon.pacs.settings import Pacs
from recon.recipe import Recipe

Seconds = Annotated[float, Ge(0.05), Le(1e6)]
Mebibytes = Annotated[int, Ge(1), Le(2**24)]

MiB = 2**20

#: The configuration name that scanners send for every OpenRecon application; the user interface names the recipe.
OPENRECON = "openrecon"

#: Smallest MiB for a session's process: Python, torch and the libraries, and a small scan.
_LEAST_MiB = 1024

#: Recipes that every server knows, and the method of each.
BUILT_IN: dict[str, recipes.Method] = {
    "auto": "auto", "default": "auto", OPENRECON: "auto", "combine": "combine", "grappa": "grappa", "sense": "sense",
    "cs": "cs", "tv": "tv", "unrolled": "unrolled",
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Time and size limits."""

    #: Seconds until the first message, of silence before CLOSE, of a whole session, and without progress in sending.
    first_s: Seconds = 10.0
    idle_s: Seconds = 60.0
    wall_s: Seconds = 1800.0
    send_s: Seconds = 60.0
    #: Seconds that running sessions may continue when the server is asked to stop; and that their last images then have
    #: to be sent.
    drain_s: Annotated[float, Ge(0), Le(1e6)] = 0.0
    grace_s: Seconds = 5.0
    #: MiB of raw data that a session may hold, and of images that wait to be sent.
    session_MiB: Mebibytes = 8192
    queue_MiB: Mebibytes = 256
    #: MiB that the process of a session may hold before it is ended; 0 means its share of the machine's memory.
    process_MiB: Annotated[int, Ge(0), Le(2**24)] = 0
    #: MiB that each waiting process reserves for raw data, at most a sixteenth of what is free.
    ready_MiB: Annotated[int, Ge(0), Le(2**24)] = 1024
    #: MiB of a GPU that a session may hold; 0 means its share of the GPU.
    gpu_MiB: Annotated[int, Ge(0), Le(2**24)] = 0
    #: MiB that a reconstruction may use; 0 means what is free.
    memory_MiB: Annotated[int, Ge(0), Le(2**24)] = 0


@dataclass(frozen=True)
class Tls:
    """Encryption of the scanner's connection, off without a certificate; all files are PEM."""

    certificate: str = ""
    key: str = ""
    #: Authority that signed the certificates of allowed clients; without it clients need no certificate.
    clients: str = ""


@dataclass(frozen=True)
class Site:
    """The server of a site."""

    host: str = "127.0.0.1"
    port: Annotated[int, Ge(0), Le(65535)] = 9002
    #: Addresses or networks that may connect; required if `host` is reachable from other machines.
    allow: tuple[str, ...] = ()
    #: Simultaneous sessions; further ones are answered "busy".
    max_sessions: Annotated[int, Ge(1), Le(256)] = 4
    #: Processes that wait for the next session with everything imported.
    warm: Annotated[int, Ge(1), Le(16)] = 1
    #: Recipe name that a scanner requests, and its TOML file, relative to this one.
    recipes: Mapping[str, str] = field(default_factory=dict)
    pixel: Literal["float32", "int16"] = "float32"
    #: Send the image of a slice as soon as its lines are complete, before the scan has ended.
    early: bool = True
    device: str = "auto"
    #: CPU threads of a session; 0 means all.
    threads: Annotated[int, Ge(0), Le(1024)] = 0
    #: Port of the status page on 127.0.0.1; empty means no page, 0 any free port.
    status_port: Annotated[int, Ge(0), Le(65535)] | None = None
    #: File to which one line per job is appended.
    audit: str = "~/.local/state/recon/audit.jsonl"
    limits: Limits = field(default_factory=Limits)
    tls: Tls = field(default_factory=Tls)
    #: Where the images of whole scans are sent besides the scanner; nowhere without `to`.
    pacs: Pacs = field(default_factory=Pacs)


def load(path: Path) -> Site:
    """The site in a TOML file; relative names in it refer to its folder.

    Raises ReconError for a file that is not valid, that everybody may write, or that has an unknown key or a wrong
    value.
    """
    if not path.is_file():
        raise ReconError(f"there is no file {path}; write one as the scanner tutorial shows")
    if path.stat().st_mode & stat.S_IWOTH:
        raise ReconError(f"{path} can be changed by any user of this machine; run chmod o-w {path}")
    try:
        table = recipes.table(path)
    except ReconError as e:
        raise ReconError(f"{str(e).rpartition('; ')[0]}; write one as the scanner tutorial shows") from None
    site = recipes.parse(table, str(path), Site)
    named = {name: str(path.parent / file) for name, file in site.recipes.items()}
    tls = Tls(*(file and str(path.parent / file) for file in (site.tls.certificate, site.tls.key, site.tls.clients)))
    audit = str(path.parent / Path(site.audit).expanduser())
    pacs = pacs_settings.resolved(site.pacs, path.parent)
    return check(replace(site, recipes=named, audit=audit, tls=tls, pacs=pacs))


def check(site: Site) -> Site:
    """The site itself; raises ReconError for an address that needs an allow-list, and for an invalid address."""
    networks(site)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", site.device):
        raise ReconError(f"device is {site.device!r}; it is auto, cpu, cuda or cuda:N")
    try:
        local = ipaddress.ip_address(site.host).is_loopback
    except ValueError:
        raise ReconError(f"host is {site.host!r}; give an IP address of this machine, such as 127.0.0.1") from None
    if not local and not site.allow:
        raise ReconError(
            f"at {site.host} other machines can connect; list those that may, for instance --allow "
            "192.168.2.0/24, or listen on 127.0.0.1"
        )
    if 0 < site.limits.process_MiB < _LEAST_MiB:
        raise ReconError(
            f"process_MiB is {site.limits.process_MiB}, too little for any session; give {_LEAST_MiB} or more, "
            "or 0 for an equal share of this machine's memory"
        )
    if any(asdict(site.tls).values()):
        from recon.serve.tls import server_context

        server_context(**asdict(site.tls))
    if site.pacs.to:
        pacs_settings.check(site.pacs)
    return site


def networks(site: Site) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks that may connect: those allowed and this machine; raises ReconError for an invalid network."""
    out = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")]
    for text in site.allow:
        try:
            out.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise ReconError(f"allow holds {text!r}; give addresses or networks such as 192.168.2.0/24") from None
    return tuple(out)


def registered(site: Site) -> dict[str, Recipe]:
    """All recipes that a scanner may request, by name; raises ReconError for a file that is not a recipe."""
    known = {name: replace(recipes.with_method(Recipe(), method), name=name) for name, method in BUILT_IN.items()}
    return {**known, **{name: recipes.load(Path(file)) for name, file in site.recipes.items()}}


def rehearse(site: Site, known: Mapping[str, Recipe]) -> None:
    """Load the networks of the recipes, so that broken weights are refused before any scan, and no scan waits.

    Raises ReconError for weights that a recipe of the site names and that cannot be used.
    """
    from recon.mri import networks

    for name, recipe in known.items():
        try:
            networks.evidence(recipe.solve.method, recipe.solve)
        except ReconError as e:
            if name in site.recipes:
                raise ReconError(f"the recipe {name}: {e}") from None
