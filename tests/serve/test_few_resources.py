"""A machine, or a container, with few files or processes left: sessions that run go on, and later ones work again."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from recon.serve import door, process
from recon.serve.board import Board
from recon.serve.control import Listening, Speaking
from recon.serve.door import Arriving
from recon.serve.process import Starting, Worker
from recon.serve.status import showing
from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, run, session
from tests.serve.test_server import wait_for, workers
from tests.serve.test_status import ask

Start = Callable[..., Running]


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.dup(0)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_f13_a_scan_goes_on_where_no_process_for_the_next_can_be_started(server: Start, full: Recording) -> None:
    one = server("max_sessions = 2\n")
    wait_for(lambda: workers(one))
    own = psutil.Process(one.process.pid)
    before = own.rlimit(resource.RLIMIT_NOFILE)
    # The connection of the scan is one more file; the socket of a process would be two. Files that are open only while
    # a worker starts do not count.
    settled = min(own.num_fds() for _ in range(20) if time.sleep(0.05) is None)
    own.rlimit(resource.RLIMIT_NOFILE, (settled + 2, before[1]))
    first = Scanner(one.port).send(session(full)[:9])
    wait_for(lambda: "no process for a session could be started (Too many open files)" in one.log())
    assert run(one.port, session(full)).texts == ["ERR busy: no process could be started; try again later"]
    own.rlimit(resource.RLIMIT_NOFILE, before)
    assert len(first.send(session(full)[9:]).wait().images) == 1
    wait_for(lambda: workers(one), 10)
    assert len(run(one.port, session(full)).images) == 1
    assert one.stop() == 0


def test_f13_connections_wait_where_no_more_files_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_AGAIN_S", 0.1)
    listener = socket.create_server(("127.0.0.1", 0))
    said: list[str] = []
    came: list[socket.socket] = []
    with selectors.DefaultSelector() as selector, socket.create_connection(listener.getsockname()):
        arriving = Arriving(selector, listener, lambda connection, _: came.append(connection), said.append)
        with no_more_files():
            for key, _ in selector.select(5):
                key.data()
            assert said == [
                "a connection has to wait (Too many open files); if this persists, raise LimitNOFILE of the service"
            ]
            assert not selector.select(0)  # the loop turns no faster
        assert 0 < arriving.due() - time.monotonic() <= 0.1
        time.sleep(0.1)
        arriving.look()
        for key, _ in selector.select(5):
            key.data()
        assert len(came) == 1
        arriving.close()
        came[0].close()


def test_f13_a_process_that_cannot_be_started_is_tried_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    starting = Starting(b"{}", said.append)
    for pause in (2, 4, 8, 16, 32, 60, 60):
        with no_more_files():
            assert starting.worker() is None
        assert starting.due() - time.monotonic() == pytest.approx(pause, abs=1)
        assert f"next try in {pause} s" in said[-1]
        assert starting.worker() is None  # before that time none is
        later = starting.due() + 0.5
        monkeypatch.setattr(process.time, "monotonic", lambda later=later: later)
        starting.look()
        monkeypatch.undo()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(None, Listening(ours))  # type: ignore[arg-type]
        monkeypatch.setattr(process, "start", lambda setup: worker)
        assert starting.worker() is worker
    assert starting.due() == float("inf")
    assert len(said) == 7


def test_f31_a_message_whose_file_cannot_be_opened_is_known_to_be_lost_and_so_are_those_after_it() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        listening, speaking = Listening(ours), Speaking(theirs)
        speaking.hand(b"first")
        (first,) = listening.take()[0]
        speaking.hand(b"second")
        with no_more_files():
            assert listening.take() == ([{"message": 6, "file": -1}], True)
        speaking.hand(b"third")
        before = psutil.Process().num_fds()
        assert listening.take() == ([{"message": 5, "file": -1}], True)
        assert psutil.Process().num_fds() == before
        assert os.pread(first["file"], 99, 0) == b"first"
        os.close(first["file"])
        listening.close()


def test_the_status_page_answers_again_when_threads_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with showing(Board({"version": "0", "address": "127.0.0.1:1", "max_sessions": 4}), 0) as port:
        with monkeypatch.context() as few:
            few.setattr(threading.Thread, "start", refuse)
            for _ in range(20):
                with pytest.raises(OSError):  # noqa: PT011  (whichever way the connection ends)
                    ask(port, "/")
        assert ask(port, "/status.json")[0] == 200
