"""What was handed over for the scanner reaches it whole, whatever becomes of the process that made it."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from recon.serve.control import Listening, Speaking, scratch
from recon.serve.outbox import Outbox
from tests.serve import scanner
from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, config, header
from tests.serve.test_server import wait_for
from tests.serve.test_service_faults import busy

Start = Callable[..., Running]

#: Far more than the buffers of a connection hold.
PIXELS = np.arange(3 * 2048 * 1024).reshape(1, 3, 2048, 1024) % 30000


def begun(one: Running, xml: bytes) -> Scanner:
    """A scanner that reads nothing, to which the server has begun to send an image."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    sock.connect(("127.0.0.1", one.port))
    client = Scanner(one.port, reading=False, sock=sock)
    client.send([config(), header(xml), scanner.picture(PIXELS)])
    wait_for(lambda: len(sock.recv(1 << 12, socket.MSG_PEEK)) == 1 << 12)
    return client


def is_whole(client: Scanner) -> str:
    """Start to read: the one image must come as it is, then a reason, which is returned, and CLOSE."""
    client.thread.start()
    reply = client.wait()
    assert (reply.broken, reply.closes, reply.ended, len(reply.images)) == ("", 1, True, 1)
    assert np.array_equal(reply.images[0].pixels, PIXELS)
    return reply.error()


def test_f16_f31_an_image_is_sent_to_its_end_where_its_process_or_the_server_ends_in_the_middle(
    server: Start, full: Recording
) -> None:
    one = server("[limits]\ngrace_s = 30\n")
    client = begun(one, full.xml)
    busy(one).kill()
    wait_for(lambda: "ended unexpectedly" in one.log())
    assert "ended unexpectedly" in is_whole(client)

    client = begun(one, full.xml)
    one.process.terminate()
    wait_for(lambda: "is shutting down" in one.log())
    assert "is shutting down" in is_whole(client)
    assert one.process.wait(20) == 0


def test_f11_a_scanner_that_reads_nothing_more_is_given_up_and_keeps_no_server(server: Start, full: Recording) -> None:
    one = server("max_sessions = 1\n[limits]\nsend_s = 2\ngrace_s = 0.5\n")
    client = begun(one, full.xml).send([scanner.CLOSE])
    wait_for(lambda: ": undelivered" in one.log())
    assert "read nothing for 2 s" in one.audit()[-1]["reason"]
    other = begun(one, full.xml)
    assert one.stop() == 0
    client.socket.close()
    other.socket.close()


@pytest.mark.parametrize("cut", [0, 5])
def test_a_message_that_was_not_handed_over_completely_is_not_sent(cut: int) -> None:
    ours, theirs = socket.socketpair()
    listening, speaking = Listening(ours), Speaking(theirs)
    speaking.tell(lines=1)
    speaking.hand(b"one message")
    speaking.hand(b"another")
    if cut:
        theirs.send(b'{"message": 7}'[:cut])
    theirs.close()
    said, alive = [], True
    while alive:
        more, alive = listening.take()
        said += more
    assert [w.get("message") for w in said] == [None, 11, 7]
    assert [os.pread(w["file"], 99, 0) for w in said[1:]] == [b"one message", b"another"]
    for what in said[1:]:
        os.close(what["file"])
    listening.close()


def test_a_process_that_paused_reading_gets_all_reports_with_its_next_message() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server, process = Listening(ours), Speaking(theirs)
        theirs.settimeout(5)
        line, count = b'{"sent": 1}\n', 20_000  # many times what a socket holds
        for _ in range(count):
            server.tell(sent=1)
        heard = b""
        while len(heard) < count * len(line):
            heard += theirs.recv(1 << 20)
            process.tell(progress={})
            assert server.take() == ([{"progress": {}}], True)
        assert heard == count * line


def test_f11_hundreds_of_images_that_wait_for_a_scanner_take_few_of_the_files_that_a_process_may_open() -> None:
    ours, peer = socket.socketpair()
    told: list[dict[str, int]] = []
    few = psutil.Process().num_fds() + 64
    messages = [n.to_bytes(4, "little") * 5000 for n in range(900)]
    with selectors.DefaultSelector() as selector, peer:
        box = Outbox(selector, ours, 60.0, lambda **what: told.append(what))
        for message in messages:
            with scratch() as file:
                file.write(message)
                file.flush()
                box.put(os.dup(file.fileno()), len(message))
        assert box.held > 16_000_000
        assert psutil.Process().num_fds() < few
        left: list[socket.socket] = []
        box.end(b"last", left.append)
        got = bytearray()
        while not left or len(got) < 18_000_004:
            for key, _ in selector.select(0):
                key.data()
            got += peer.recv(1 << 20, socket.MSG_DONTWAIT)
        ours.close()
    assert got == b"".join(messages) + b"last"
    assert sum(t["sent"] for t in told) == len(got)
    assert box.held == 0
