"""What the server tells systemd, played by a socket of the test."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recon.serve import notify
from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, session
from tests.serve.test_server import wait_for


@contextlib.contextmanager
def manager(named: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(named.replace("@", "\0", 1) if named.startswith("@") else named)
        sock.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", named)
        yield sock


def test_a_notification_reaches_a_socket_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with manager(f"@recon-test-{tmp_path.name}-{id(tmp_path)}", monkeypatch) as systemd:
        notify.ready()
        assert systemd.recv(4096) == b"READY=1"


def test_systemd_is_notified_when_the_server_listens_and_how_long_a_stop_may_take(
    server: Callable[..., Running], full: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with manager(str(tmp_path / "notify"), monkeypatch) as systemd:
        _stops_in_time(server("max_sessions = 2\n[limits]\ndrain_s = 100\n"), systemd, full)


def _stops_in_time(one: Running, systemd: socket.socket, full: Recording) -> None:
    assert systemd.recv(4096) == b"READY=1"
    *messages, close = session(full)
    client = Scanner(one.port).send(messages[:3])  # after its notification every connection is served
    wait_for(lambda: " started" in one.log())
    one.process.terminate()
    said = dict(line.split("=") for line in systemd.recv(4096).decode().splitlines())
    assert said["STOPPING"] == "1"
    # The session may go on for 100 s, and its images have 5 s to leave; 20 s are the unit's own.
    assert 105e6 < int(said["EXTEND_TIMEOUT_USEC"]) < 180e6
    assert len(client.send([*messages[3:], close]).wait().images) == 1
    assert one.process.wait(20) == 0
