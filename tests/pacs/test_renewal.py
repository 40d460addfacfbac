"""Certificates of the way to a PACS that are put in place of old ones while the sender runs."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recon.pacs.answers import Unreachable
from recon.pacs.dimse import Dimse
from recon.pacs.settings import Pacs, Tls, check
from recon.pacs.web import Web
from tests.pacs import certificates
from tests.pacs.peers import free_port

Peers = Callable[[Path], tuple[str, list[str]]]


@pytest.fixture(params=["dimse", "web"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], tuple[Any, list[str]]]]:
    """A PACS that serves those whose certificate the authority `ca` has signed, and the names of all that came."""
    ca = certificates.authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.signed(tmp_path, "pacs", ca))
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    came: list[str] = []
    end: list[Callable[[], None]] = []

    def name(sock: Any) -> None:
        came.append(dict(pair for rdn in sock.getpeercert()["subject"] for pair in rdn)["commonName"])

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            name(self.connection)
            self.send_response(204)
            self.end_headers()

    def start() -> tuple[Any, list[str]]:
        tls = Tls(*(str(tmp_path / n) for n in ("trusted.pem", "ours.pem", "ours.key")))
        if request.param == "web":
            http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            http.socket = context.wrap_socket(http.socket, server_side=True)
            threading.Thread(target=http.serve_forever, daemon=True).start()
            end.extend((http.shutdown, http.server_close))
            to = f"https://127.0.0.1:{http.server_address[1]}/dicom-web"
            return Web(check(Pacs(to=to, tls=tls, spool=str(tmp_path / "spool")))), came
        from pynetdicom import AE, evt

        ae = AE(ae_title="PACS")
        ae.add_supported_context("1.2.840.10008.1.1")

        def echoed(event: Any) -> int:
            name(event.assoc.dul.socket.socket)
            return 0

        server = ae.start_server(("127.0.0.1", 0), False, context, [(evt.EVT_C_ECHO, echoed)])
        end.append(server.shutdown)
        to = f"PACS@127.0.0.1:{server.socket.getsockname()[1]}"
        pacs = Pacs(to=to, tls=tls, spool=str(tmp_path / "spool"), listen=f"127.0.0.1:{free_port()}")
        return Dimse(check(pacs)), came

    yield start
    for one in end:
        one()


def place(folder: Path, **files: Path) -> None:
    """Put files in place of others as a renewal does: whole, and all at once."""
    for name, source in files.items():
        target = folder / name.replace("_", ".")
        shutil.copy(source, folder / "fresh")
        os.replace(folder / "fresh", target)


def test_renewed_certificates_of_a_pacs_are_used_from_the_next_connection_on(
    peer: Callable[[], tuple[Any, list[str]]], tmp_path: Path
) -> None:
    other = certificates.authority(tmp_path, "other")
    before, key = certificates.signed(tmp_path, "before", tmp_path / "ca.pem")
    after, new_key = certificates.signed(tmp_path, "after", tmp_path / "ca.pem")
    place(tmp_path, trusted_pem=tmp_path / "ca.pem", ours_pem=before, ours_key=key)
    pacs, came = peer()
    pacs.echo()
    place(tmp_path, ours_pem=after)  # in the middle of an exchange, the files do not fit together
    pacs.echo()
    place(tmp_path, ours_key=new_key)
    pacs.echo()
    assert came == ["before", "before", "after"]
    place(tmp_path, trusted_pem=other)
    with pytest.raises(Unreachable, match="its certificate is refused"):
        pacs.echo()
    place(tmp_path, trusted_pem=tmp_path / "ca.pem")
    pacs.echo()
    assert came[3:] == ["after"]


def test_reports_of_storage_commitment_are_heard_with_the_renewed_certificate(tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path, "ca")
    made = {name: certificates.signed(tmp_path, name, ca) for name in ("before", "after", "pacs")}
    place(tmp_path, ours_pem=made["before"][0], ours_key=made["before"][1])
    tls = Tls(str(ca), str(tmp_path / "ours.pem"), str(tmp_path / "ours.key"))
    port = free_port()
    pacs = Pacs(to="PACS@127.0.0.1:104", tls=tls, spool=str(tmp_path / "spool"), listen=f"127.0.0.1:{port}")
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(*made["pacs"])

    def shown() -> str:
        plain = socket.create_connection(("127.0.0.1", port), 5)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            found: Any = secure.getpeercert()
        return str(dict(pair for rdn in found["subject"] for pair in rdn)["commonName"])

    here = Dimse(check(pacs))
    with here.listening():
        assert shown() == "before"
        place(tmp_path, ours_pem=made["after"][0], ours_key=made["after"][1])
        assert here.late() == []  # what a sender does in every round
        assert shown() == "after"
