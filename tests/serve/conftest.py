"""Servers for the tests: one within the test's own process, and whole ones, on loopback at a free port."""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon import simulation
from recon.data import Limit
from recon.io.ismrmrd import write
from recon.io.samples import SomeRows
from recon.pacs.settings import Pacs
from recon.serve.control import Listening, Speaking
from recon.serve.outbox import Outbox
from recon.serve.settings import Limits, Site, registered
from recon.serve.worker import Job, talk
from tests.serve import scanner
from tests.serve.scanner import Recording


@dataclass
class Local:
    """Sessions without separate processes: `told` holds the reports of each."""

    port: int
    told: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def local() -> Iterator[Callable[..., Local]]:
    """A function that opens a server within this process, with other limits than usual where given."""
    open_: list[tuple[socket.socket, threading.Thread]] = []

    def start(
        pixel: str = "float32",
        early: bool = True,
        recipes: dict[str, str] | None = None,
        pacs: Pacs = Pacs(),  # noqa: B008  (a frozen value)
        **limits: float,
    ) -> Local:
        bounds = replace(Limits(), **limits)  # type: ignore[arg-type]
        site = Site(pixel=pixel, early=early, recipes=recipes or {}, limits=bounds, pacs=pacs)  # type: ignore[arg-type]
        known = registered(site)
        listener = socket.create_server(("127.0.0.1", 0))
        out = Local(listener.getsockname()[1])

        def serve(connection: socket.socket) -> None:
            ours, theirs = socket.socketpair()
            with connection, theirs:
                heard = threading.Thread(target=hear, args=(Listening(ours), connection.dup()), daemon=True)
                heard.start()
                talk(connection, Job("j0b", site, known, Speaking(theirs), lambda: None))
                theirs.shutdown(socket.SHUT_WR)
                heard.join(60)  # when the connection ends, all reports are available
                connection.shutdown(socket.SHUT_RDWR)

        def hear(control: Listening, connection: socket.socket) -> None:
            with connection, selectors.DefaultSelector() as selector:
                box = Outbox(selector, connection, site.limits.send_s, control.tell)
                selector.register(control.socket, selectors.EVENT_READ)
                alive = True
                while alive:
                    for key, _ in selector.select(0.05):
                        if key.data:
                            key.data()
                    box.look()
                    said, alive = control.take()
                    for what in said:
                        if "message" in what:
                            box.put(what["file"], what["message"])
                        else:
                            out.told.append(what)
            control.close()

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_quietly, args=(serve, connection), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        open_.append((listener, accepting))
        return out

    yield start
    for listener, accepting in open_:
        with contextlib.suppress(OSError):  # where closing it is enough to wake who accepts, as on macOS
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(10)
        assert not accepting.is_alive()


def _quietly(serve: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the peer is gone
        serve(connection)


@dataclass
class Running:
    """A server in its own process."""

    process: subprocess.Popen[str]
    port: int
    folder: Path

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """A function that starts `recon serve` with a site's settings as TOML; its workers hold no memory ready.

    It has one session at a time unless the settings say otherwise: no process is started without need.
    """
    running: list[Running] = []

    def start(settings: str = "", **options: str) -> Running:
        folder = tmp_path / f"server{len(running)}"
        folder.mkdir()
        limits = "" if "ready_MiB" in settings else "ready_MiB = 0\n"
        sessions = "" if "max_sessions" in settings else "max_sessions = 1\n"
        text = f'port = 0\naudit = "audit.jsonl"\n{sessions}{settings}'
        text = (
            text.replace("[limits]\n", f"[limits]\n{limits}") if "[limits]" in text else f"{text}\n[limits]\n{limits}"
        )
        (folder / "site.toml").write_text(text)
        words = [w for name, value in options.items() for w in (f"--{name}", value)]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "recon", "serve", "--config", str(folder / "site.toml"), *words],
                stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:"), (line, (folder / "log").read_text())
        running.append(Running(process, int(line.rpartition(":")[2]), folder))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


@pytest.fixture(scope="session")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scan of two slices, undersampled, with noise lines."""
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    simulation.simulate_to(path, simulation.preset(matrix=32, coils=4, accel=2, slices=2))
    return path


@pytest.fixture(scope="session")
def full_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small scan of one slice with all of its 32 lines."""
    path = tmp_path_factory.mktemp("scan") / "full.h5"
    simulation.simulate_to(path, simulation.preset(matrix=32, coils=2))
    return path


@pytest.fixture(scope="session")
def recording(scan_file: Path) -> Recording:
    return scanner.load(scan_file)


@pytest.fixture(scope="session")
def full(full_file: Path) -> Recording:
    return scanner.load(full_file)


@pytest.fixture(scope="module", params=["slice after slice", "interleaved"])
def series_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repetitions of three undersampled slices."""
    scan = simulation.simulate(simulation.preset(matrix=32, coils=4, accel=2, slices=3))
    noise = (scan.lines["flags"] & np.uint64(1 << 18)) != 0
    rows = np.nonzero(~noise)[0]
    order = rows if request.param == "slice after slice" else rows[np.argsort(rows % (len(rows) // 3), kind="stable")]
    table = np.concatenate([np.nonzero(noise)[0], order, order])
    lines = scan.lines[table].copy()
    lines["repetition"][len(table) - len(rows) :] = 1
    limits = {**scan.encodings[0].limits, "repetition": Limit(0, 1, 0)}
    encodings = (replace(scan.encodings[0], limits=limits), *scan.encodings[1:])
    path = tmp_path_factory.mktemp("series") / "series.h5"
    write(path, replace(scan, lines=lines, samples=SomeRows(scan.samples, table), encodings=encodings))
    return path


@pytest.fixture
def series(series_file: Path) -> Recording:
    return scanner.load(series_file)
