"""Images of a patient whose name must appear nowhere, settings with short waits, and the PACSs of the tests."""

from __future__ import annotations

import socketserver
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest

from recon.io.dicom import write_dicom
from recon.pacs import deliver
from recon.pacs import spool as spools
from recon.pacs.settings import Pacs, Tls, Waits, check
from tests.io import pictures
from tests.pacs.network import Network
from tests.pacs.peers import Orthanc, Told, free_port

#: Waits that a loaded machine does not use up, and short ones for tests in which they are waited for.
WAITS = Waits(connect_s=5, answer_s=5, idle_s=10, commitment_s=5)
QUICK = Waits(connect_s=1, answer_s=1, idle_s=2, commitment_s=0.3)


def series(folder: Path, slices: int = 3, seed: int = 0) -> Path:
    """A folder with a DICOM series of the marked patient."""
    write_dicom(pictures.picture((slices, 12, 16), seed), folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_lingering() -> Iterator[None]:
    """Servers of pynetdicom look every half second whether they are to stop: too seldom for many short tests."""
    serve: Any = socketserver.BaseServer.serve_forever
    before, serve.__defaults__ = serve.__defaults__, (0.02,)
    yield
    serve.__defaults__ = before


@pytest.fixture(scope="session")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DICOM series of three slices."""
    return series(tmp_path_factory.mktemp("brain") / "dicom")


@dataclass
class Post:
    """A spool with its PACS, and everything that was said."""

    pacs: Pacs
    lines: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.pacs.spool)

    def put(self, folder: Path) -> list[str]:
        """Spool a folder; its UIDs."""
        return [r.uid for r in deliver.hand_over(self.pacs, ((p.name, p) for p in deliver.files([folder])))]

    def once(self) -> None:
        """A round; what is to be tried again is due at once in these tests."""
        deliver.once(self.pacs, self.lines.append)

    def states(self, uids: list[str]) -> list[str]:
        return [found[0] if (found := spools.find(self.folder, uid)) else "none" for uid in uids]

    def reasons(self, state: spools.State) -> set[str]:
        return {item.record.reason for item in spools.items(self.folder, state)}


@pytest.fixture
def post(tmp_path: Path) -> Callable[..., Post]:
    """A function that makes a spool for a PACS."""

    def make(to: str, **settings: Any) -> Post:
        given: dict[str, Any] = {"retry_minutes": (0.001,), "tries": 3, "waits": WAITS, "tls": Tls(), **settings}
        return Post(check(Pacs(to=to, spool=str(tmp_path / "spool"), **given)))

    return make


@pytest.fixture
def told(post: Callable[..., Post]) -> Iterator[Callable[..., tuple[Told, Post]]]:
    """A function that starts a PACS with the given answers, and makes a spool for it."""
    running = []

    def start(store: list[int | str] | None = None, commit: int | str = 0, classes: list[str] | None = None,
              aet: str = "TOLD", **settings: Any) -> tuple[Told, Post]:  # fmt: skip
        report = free_port()
        peer = Told(store or [0], commit, report, classes=classes or [])
        context = peer.running()
        context.__enter__()
        running.append(context)
        given = {"listen": f"127.0.0.1:{report}", **settings}
        return peer, post(f"{aet}@127.0.0.1:{peer.port}", **given)

    yield start
    for context in running:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """A separate network, for servers that cannot be restricted to loopback."""
    try:
        made = Network()
    except (OSError, AttributeError) as e:
        pytest.skip(f"Orthanc listens on every address and runs only in a network of its own, which needs root ({e})")
    yield made
    made.close()


@pytest.fixture(scope="session")
def orthanc(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Debian's Orthanc, started once for all tests."""
    server = Orthanc(network, tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def to_orthanc(orthanc: Orthanc, post: Callable[..., Post]) -> Post:
    """A spool for Orthanc, to be used within its network."""
    return post("ORTHANC@127.0.0.1:14242", waits=WAITS)


def blackened(folder: Path, other: Path) -> Path:
    """A folder with the first image of another, of which every pixel is zero."""
    other.mkdir()
    d = pydicom.dcmread(folder / "IM0001.dcm")
    d.PixelData = bytes(len(d.PixelData))
    d.save_as(other / "IM0001.dcm")
    return other
