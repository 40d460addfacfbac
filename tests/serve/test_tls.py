"""The scanner's connection within TLS: certificates of an authority that the test makes, and who is turned away."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import trustme

from recon.data import ReconError
from recon.serve import settings
from recon.serve.tls import Front, client_context, server_context, shake
from tests.command import recon, refused
from tests.pacs import certificates
from tests.serve import scanner
from tests.serve.conftest import Local, Running
from tests.serve.scanner import CLOSE, Recording, Scanner, config, header, run, session
from tests.serve.test_server import ONE, images_of, wait_for

Start = Callable[..., Running]


@dataclass
class Files:
    """PEM files: the authority, the server's and a client's certificate and key."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def table(self, clients: bool = False) -> str:
        text = f'[tls]\ncertificate = "{self.server}"\nkey = "{self.server_key}"\n'
        return text + (f'clients = "{self.ca}"\n' if clients else "")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    out = Files(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))
    ca.cert_pem.write_to_path(out.ca)
    for name, certificate, key in (("127.0.0.1", out.server, out.server_key), ("scanner", out.client, out.client_key)):
        one = ca.issue_cert(name)
        certificate.write_bytes(b"".join(b.bytes() for b in one.cert_chain_pems))
        one.private_key_pem.write_to_path(key)
        key.chmod(0o600)
    return out


def secure(port: int, files: Files, *, known: bool = False, reading: bool = True) -> Scanner:
    """A scanner that speaks TLS, by Python's own client."""
    context = ssl.create_default_context(cafile=str(files.ca))
    if known:
        context.load_cert_chain(files.client, files.client_key)
    sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30), server_hostname="127.0.0.1")
    return Scanner(port, sock=sock, reading=reading)


def test_f41_a_stream_within_tls_gives_the_same_pixels(
    server: Start, files: Files, scan_file: Path, tmp_path: Path
) -> None:
    one = server(ONE + files.table())
    to = ("stream", scan_file, "--to", f"127.0.0.1:{one.port}")
    streamed = recon(*to, "--tls-ca", files.ca, "-o", tmp_path / "s.h5")
    assert streamed.code == 0, streamed.err
    assert recon("run", scan_file, "-q", "-o", tmp_path / "run.h5").code == 0
    assert np.array_equal(images_of(tmp_path / "s.h5"), images_of(tmp_path / "run.h5"))
    stranger = recon(*to, "--tls")
    assert "certificate verify failed" in refused(stranger, 1)
    assert stranger.err.count("\n") == 1


def test_f41_clients_without_tls_or_certificate_are_refused_and_others_are_served(
    server: Start, files: Files, full: Recording
) -> None:
    one = server(ONE + files.table(clients=True) + "[limits]\nfirst_s = 6\n")
    silent = Scanner(one.port)
    plain = Scanner(one.port).send(session(full)[:3]).wait()
    assert (plain.images, plain.texts, plain.closes) == ([], [], 0)
    with pytest.raises((ssl.SSLError, OSError)):  # TLS 1.3 says so with the first bytes that are read
        secure(one.port, files, reading=False).socket.recv(1)
    reply = secure(one.port, files, known=True).send(session(full)).wait()
    assert (len(reply.images), reply.closes, reply.broken) == (1, 1, "")
    assert silent.wait(20).ended
    wait_for(lambda: one.log().count("was not served") == 3)
    assert [line["event"] for line in one.audit()] == ["started", "ended"]


def test_f41_a_refused_client_gets_possible_reasons_and_the_log_states_the_reason(
    server: Start, files: Files, scan_file: Path
) -> None:
    one = server(ONE + files.table(clients=True))
    to = ("stream", scan_file, "--to", f"127.0.0.1:{one.port}")
    stranger = recon(*to, "--tls-ca", files.ca)
    assert "require a client certificate (--tls-certificate" in refused(stranger, 1)
    wait_for(
        lambda: "was not served: the TLS handshake failed (peer did not return a certificate); check that" in one.log()
    )
    assert "it may accept only TLS (--tls)" in refused(recon(*to), 1)
    wait_for(lambda: one.log().count("was not served: the TLS handshake failed (") == 2)
    mine = ("--tls-certificate", files.client, "--tls-key", files.client_key)
    known = recon(*to, "--tls-ca", files.ca, *mine)
    assert known.code == 0, known.err


def test_within_tls_a_stopped_server_and_a_busy_one_still_say_so(server: Start, files: Files, full: Recording) -> None:
    one = server(files.table() + "[limits]\nfirst_s = 20\n", **{"max-sessions": "1"})
    client = secure(one.port, files).send(session(full)[:20])
    wait_for(lambda: "started" in one.log())
    assert "ERR busy" in secure(one.port, files).wait().error()
    assert one.stop() == 0
    reply = client.wait()
    assert "the server is shutting down" in reply.error()
    assert (reply.closes, reply.images, reply.broken) == (1, [], "")


def test_f41_the_log_says_that_the_certificate_of_a_scanner_has_expired(tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path, "ca")
    certificate, key = certificates.signed(tmp_path, "server", ca)
    late = certificates.signed(tmp_path, "scanner", ca, days=-1)
    ours, theirs = socket.socketpair()
    front = Front(server_context(str(certificate), str(key), str(ca)), 5)
    front.begin(theirs, "peer")
    with contextlib.suppress(ReconError):  # in TLS 1.3 a client is through before it is looked at
        shake(ours, client_context(str(ca), *map(str, late)), 5, name="127.0.0.1").close()
    assert select.select([front.ready], [], [], 10)[0]
    ((plain, _, reason),) = front.take()
    assert plain is None
    assert "the TLS handshake failed (certificate verify failed: certificate has expired)" in reason
    front.close()


def test_bytes_go_both_ways_at_once_and_wait_for_a_slow_reader(files: Files) -> None:
    ours, theirs = socket.socketpair()
    front = Front(server_context(str(files.server), str(files.server_key)), 5)
    front.begin(theirs, "peer")
    client = shake(ours, client_context(str(files.ca)), 5, name="127.0.0.1")
    assert select.select([front.ready], [], [], 10)[0]
    ((plain, peer, reason),) = front.take()
    assert (peer, reason) == ("peer", "")
    assert plain is not None
    sent = {plain: os.urandom(24 * 2**20), client: os.urandom(24 * 2**20)}
    got: dict[socket.socket, bytes] = {}

    def write(s: socket.socket) -> None:
        s.sendall(sent[s])
        s.shutdown(socket.SHUT_WR) if s is plain else None

    def read(s: socket.socket, n: int) -> None:
        time.sleep(0.3)
        out = bytearray()
        while len(out) < n:
            out += s.recv(1 << 16)
        got[s] = bytes(out)

    threads = [threading.Thread(target=write, args=(client,)), threading.Thread(target=read, args=(plain, 24 * 2**20))]
    threads += [threading.Thread(target=read, args=(client, 24 * 2**20))]
    for t in threads:
        t.start()
    plain.sendall(sent[plain])
    for t in threads:
        t.join(30)
    assert got[plain] == sent[client]
    assert got[client] == sent[plain]
    plain.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.close()
    assert plain.recv(1) == b""
    plain.close()
    front.close()


def test_a_connection_that_breaks_ends_on_the_other_side(files: Files) -> None:
    before = threading.active_count()
    for broken in (0, 1):
        ours, theirs = socket.socketpair()
        front = Front(server_context(str(files.server), str(files.server_key)), 5)
        front.begin(theirs, "peer")
        client = shake(ours, client_context(str(files.ca)), 5, name="127.0.0.1")
        assert select.select([front.ready], [], [], 10)[0]
        plain = front.take()[0][0]
        assert plain is not None
        pair = [client, plain]
        pair[broken].close()
        pair[1 - broken].settimeout(5)
        assert pair[1 - broken].recv(1) == b""
        pair[1 - broken].close()
        front.close()
    wait_for(lambda: threading.active_count() <= before)


def wrong(files: Files, folder: Path, what: str) -> str:
    table = {"certificate": files.server, "key": files.server_key}
    if what == "no key":
        del table["key"]
    elif what == "no certificate":
        del table["certificate"]
    elif what == "another's key":
        table["key"] = files.client_key
    elif what == "no PEM":
        table["certificate"] = folder / "certificate.pem"
        table["certificate"].write_text("hello")
    elif what == "a key for all":
        table["key"] = folder / "key.pem"
        table["key"].write_bytes(files.server_key.read_bytes())
        table["key"].chmod(0o644)
    elif what == "a locked key":
        table["key"] = folder / "key.pem"
        done = ["openssl", "pkey", "-in", files.server_key, "-aes128", "-passout", "pass:abcd", "-out", table["key"]]
        subprocess.run(done, check=True)
    elif what == "no authority":
        table["clients"] = folder / "none.pem"
    return "[tls]\n" + "".join(f'{k} = "{v}"\n' for k, v in table.items())


WRONG = {
    "no key": "there is no file (empty)", "no certificate": "there is no file (empty)",
    "another's key": "not a certificate and its key", "no PEM": "not a certificate and its key",
    "a key for all": "chmod 600", "a locked key": "protected by a password",
    "no authority": "holds no CA certificate",
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_f43_certificates_are_checked_before_anything_listens(files: Files, tmp_path: Path, what: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(wrong(files, tmp_path, what))
    with pytest.raises(ReconError) as caught:
        settings.load(path)
    assert WRONG[what] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_client_reports_a_server_without_tls(
    local: Callable[..., Local], files: Files, scan_file: Path, full: Recording
) -> None:
    one = local(first_s=1)
    assert "the TLS handshake failed" in refused(
        recon("stream", scan_file, "--to", f"127.0.0.1:{one.port}", "--tls-ca", files.ca), 1
    )
    assert len(run(one.port, session(full)).images) == 1


def test_f11_within_tls_who_never_reads_is_given_up_too(server: Start, files: Files, full: Recording) -> None:
    """What is sent goes through more buffers there: those between the server, the encryption and the peer."""
    one = server("max_sessions = 1\n[limits]\nsend_s = 2\n" + files.table())
    picture = scanner.picture(np.zeros((1, 4, 1024, 1024)))
    client = secure(one.port, files, reading=False)
    client.socket.settimeout(20)
    client.send([config(), header(full.xml), *[picture] * 8, CLOSE])
    wait_for(lambda: ": undelivered" in one.log(), 30)
    assert "read nothing for 2 s" in one.audit()[-1]["reason"]
    client.socket.close()
    assert secure(one.port, files).send(session(full)).wait().closes == 1
