"""Peers that never end what they have begun: byte by byte, half a message, answers without end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt

from recon.pacs.dimse import Dimse
from recon.pacs.settings import Pacs, Tls, check
from tests.pacs import certificates
from tests.pacs.conftest import QUICK, Post
from tests.pacs.peers import Told, free_port

Start = Callable[..., tuple[Told, Post]]
#: Longer than any wait of QUICK, and than a busy machine takes beside it.
PATIENCE = 20
#: The head of an acceptance of an association, and of a request for one, each with 4 MiB to come.
ACCEPTED, ASKED = b"\x02\0\0\x40\0\0", b"\x01\0\0\x40\0\0"


def drip(connection: socket.socket, head: bytes, pause: float) -> None:
    """Send a message byte by byte, or its head alone where the pause is 0, and stay until the other side leaves."""
    connection.settimeout(0.1)
    with contextlib.suppress(OSError):
        if not pause:
            connection.sendall(head)
        while True:
            if pause:
                connection.sendall(head[:1] or b"\0")
                head = head[1:]
                time.sleep(pause)
            try:
                if not connection.recv(4096):
                    return
            except TimeoutError:
                continue


@pytest.mark.parametrize("pause", [0.2, 0.0], ids=["byte by byte", "half a message"])
def test_f33_a_pacs_that_never_ends_its_answer_does_not_hold_the_sender(
    post: Callable[..., Post], brain: Path, pause: float
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):  # until the test ends
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=drip, args=(connection, ACCEPTED, pause), daemon=True).start()

        threading.Thread(target=answer, daemon=True).start()
        to = f"PACS@127.0.0.1:{listener.getsockname()[1]}"
        here = post(to, listen=f"127.0.0.1:{free_port()}", waits=QUICK)
        uids = here.put(brain)
        sender = threading.Thread(target=here.once, daemon=True)
        sender.start()
        sender.join(PATIENCE)
        assert not sender.is_alive()
        listener.shutdown(socket.SHUT_RDWR)
    assert here.states(uids) == ["new"] * 3
    assert here.reasons("new") == {"the PACS cannot be reached: no answer to the request for an association within 1 s"}


@contextlib.contextmanager
def hearing(tmp_path: Path, tls: Tls) -> Iterator[int]:
    """A port where reports of storage commitments are heard, by a sender that must be able to end afterwards."""
    port, before = free_port(), set(threading.enumerate())
    pacs = Pacs(to="PACS@127.0.0.1:104", spool=str(tmp_path / "spool"), listen=f"127.0.0.1:{port}")
    context = Dimse(check(replace(pacs, tls=tls, waits=QUICK))).listening()
    context.__enter__()
    yield port
    end = threading.Thread(target=context.__exit__, args=(None, None, None), daemon=True)
    end.start()
    end.join(PATIENCE)
    assert not end.is_alive()
    # A process ends when all threads have ended that are no daemons.
    for left in (t for t in set(threading.enumerate()) - before if not t.daemon):
        left.join(PATIENCE)
        assert not left.is_alive(), left


@pytest.mark.parametrize("pause", [0.2, 0.0], ids=["byte by byte", "half a message"])
def test_f33_a_peer_that_never_ends_its_request_is_dropped_and_does_not_block_the_sender(
    tmp_path: Path, pause: float
) -> None:
    with hearing(tmp_path, Tls()) as port:
        first = socket.create_connection(("127.0.0.1", port))
        client = threading.Thread(target=drip, args=(first, ASKED, pause), daemon=True)
        client.start()
        client.join(PATIENCE)
        assert not client.is_alive()
        # Of those that are there when the sender ends.
        second = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=drip, args=(second, ASKED, pause), daemon=True).start()
        time.sleep(0.3)


def test_f33_a_client_without_a_handshake_does_not_block_reports(tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path, "ca")
    ours, pacs = (certificates.signed(tmp_path, name, ca) for name in ("ours", "pacs"))
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(*pacs)
    with hearing(tmp_path, Tls(str(ca), str(ours[0]), str(ours[1]))) as port:
        silent = socket.create_connection(("127.0.0.1", port))
        ae = AE("PACS")
        ae.add_requested_context("1.2.840.10008.1.1")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 5
        association = ae.associate("127.0.0.1", port, ae_title="RECON", tls_args=(context, "127.0.0.1"))
        assert association.is_established
        assert association.send_c_echo().Status == 0
        association.release()
        stranger = socket.create_connection(("127.0.0.1", port), PATIENCE)
        stranger.sendall(b"\x01\0\0\0\0\x44" + b"\0" * 68)  # a request for an association that is not encrypted
        with contextlib.suppress(ConnectionError):
            assert stranger.recv(1)[:1] in (b"", b"\x15")  # an alert of TLS at most
        silent.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionError):
            assert silent.recv(1) == b""


def test_f33_a_pacs_that_takes_an_image_drop_by_drop_does_not_hold_the_sender(
    post: Callable[..., Post], brain: Path, tmp_path: Path
) -> None:
    image = dcmread(brain / "IM0001.dcm")
    image.Rows = image.Columns = 2048  # 8 MB, more than a socket takes while its peer reads nothing
    image.PixelData = bytes(2 * 2048 * 2048)
    (tmp_path / "large").mkdir()
    image.save_as(tmp_path / "large" / "IM0001.dcm")
    ended = threading.Event()

    def take_a_little(event: evt.Event) -> None:
        transport = event.assoc.dul.socket

        def read(count: int) -> bytearray:
            out = bytearray()
            while len(out) < count and not ended.wait(0.1):
                out += transport.socket.recv(min(2048, count - len(out)))
            return out

        if any(c.abstract_syntax == image.SOPClassUID for c in event.assoc.accepted_contexts):
            transport.recv = read

    ae = AE("SLOW")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.add_supported_context(image.SOPClassUID)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_ESTABLISHED, take_a_little)])
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    here = post(f"SLOW@127.0.0.1:{server.socket.getsockname()[1]}", confirm="none", waits=QUICK)
    uids = here.put(tmp_path / "large")
    sender = threading.Thread(target=here.once, daemon=True)
    sender.start()
    sender.join(PATIENCE)
    stuck = sender.is_alive()
    ended.set()
    server.shutdown()
    assert not stuck
    assert here.states(uids) == ["new"]
    assert here.reasons("new") == {"the PACS gave no answer to the transfer, or broke it off"}


def test_f33_a_pacs_that_finds_without_end_does_not_hold_the_sender(post: Callable[..., Post], brain: Path) -> None:
    ae = AE("FINDS")
    for name in ("1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.1.4"):
        ae.add_supported_context(name)

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        other = Dataset()
        other.SOPInstanceUID = "1.2.3"
        while not event.is_cancelled and event.assoc.is_established:
            yield 0xFF00, other
            time.sleep(0.1)

    handlers = [(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_C_FIND, find)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    here = post(f"FINDS@127.0.0.1:{server.socket.getsockname()[1]}", confirm="find", waits=QUICK)
    uids = here.put(brain)
    sender = threading.Thread(target=here.once, daemon=True)
    sender.start()
    sender.join(PATIENCE)
    assert not sender.is_alive()
    assert here.states(uids) == ["unconfirmed"] * 3
    server.shutdown()
