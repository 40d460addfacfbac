"""What those who keep the server running need at night: certificates that end, logs that turn over, restarts."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families as parsed

from recon.data import ReconError
from recon.pacs.settings import Pacs
from recon.serve import pacs as sending
from recon.serve.audit import Audit
from recon.serve.board import Board
from recon.serve.expiry import certificates, expires, warnings
from recon.serve.metrics import metrics
from recon.serve.page import page
from recon.serve.settings import load
from tests.command import recon
from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, session
from tests.serve.test_server import wait_for

Start = Callable[..., Running]


def write(folder: Path, end: datetime) -> tuple[Path, Path]:
    """A certificate that ends then, made out to this machine, and its key."""
    one = trustme.CA().issue_cert("127.0.0.1", not_after=end)
    certificate, key = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(one.cert_chain_pems[0].bytes())
    one.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    return certificate, key


def test_without_the_package_for_certificates_the_check_says_that_they_are_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = write(tmp_path, datetime.now(timezone.utc) + timedelta(days=3))
    file = tmp_path / "site.toml"
    file.write_text(f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n')
    (soon,) = warnings(load(file))
    assert "server.pem (tls.certificate) expires on" in soon
    monkeypatch.setitem(sys.modules, "cryptography", None)
    (unknown,) = warnings(load(file))
    assert "pip install cryptography" in unknown


@pytest.mark.parametrize("year", [1999, 2027, 2049, 2050, 2061])  # the notation changes with 2050
def test_the_end_of_a_certificate_is_read(tmp_path: Path, year: int) -> None:
    end = datetime(year, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
    one = trustme.CA().issue_cert("127.0.0.1", not_before=end - timedelta(days=9), not_after=end)
    path = tmp_path / "both.pem"
    path.write_bytes(b"words before\n" + one.cert_chain_pems[0].bytes() + trustme.CA().cert_pem.bytes())
    assert expires(path) == end if year < 2038 else expires(path) <= end
    path.write_bytes(one.cert_chain_pems[0].bytes())
    assert expires(path) == end


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "ä"])
def test_a_file_without_a_certificate_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "none.pem").write_text(text)
    with pytest.raises(ReconError, match="holds no certificate that can be read"):
        expires(tmp_path / "none.pem")


def test_a_certificate_that_ends_soon_is_spoken_of_before(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    (tmp_path / "site.toml").write_text('[tls]\ncertificate = "server.pem"\nkey = "server.key"\n')
    for days, said in ((400, ""), (10.2, "expires on"), (-2, "has expired on")):
        write(tmp_path, now + timedelta(days=days))
        told = recon("serve", "--check", tmp_path / "site.toml")
        assert told.code == 0
        assert ("warning: server.pem (tls.certificate)" in told.out) == bool(said)
        assert said in told.out
        site = load(tmp_path / "site.toml")
        assert [abs(c["days"] - days) < 0.1 for c in certificates(site)] == [True]
        board = Board({"version": "0", "max_sessions": 1}, None, lambda site=site: certificates(site))
        assert ("until the certificate server.pem expires" in page(board.snapshot())) == bool(said)
    (tmp_path / "server.pem").unlink()  # while it is exchanged, the page goes on
    assert "certificates" not in board.snapshot()


def test_prometheus_reads_the_numbers() -> None:
    spool = {"new": 3, "sending": 0, "unconfirmed": 1, "sent": 9, "failed": 2, "oldest_s": 70.5, "free_MiB": 10}
    ends = [{"key": "tls.certificate", "file": "server.pem", "expires": "", "days": 2.0}]
    board = Board({"version": "1.2", "max_sessions": 4}, lambda: spool, lambda: ends)
    empty = {f.name for f in parsed(metrics(board.snapshot()))}
    board.began("j0b", "192.168.2.9")
    board.refused("busy")
    board.reported("j0b", {"last_line_to_image_s": 0.25})
    board.ended("j0b", 1.0, {"state": "incomplete"})
    board.began("another", "192.168.2.9")
    text = metrics(board.snapshot())
    found = {(s.name, *s.labels.values()): s.value for f in parsed(text) for s in f.samples}
    assert found["recon_info", "1.2"] == 1
    assert (found["recon_sessions",], found["recon_sessions_max",]) == (1, 4)
    assert (found["recon_scans_total", "incomplete"], found["recon_scans_total", "done"]) == (1, 0)
    assert found["recon_refused_total", "busy"] == 1
    assert found["recon_latency_seconds", "median"] == 0.25
    assert (found["recon_spool_images", "failed"], found["recon_spool_oldest_seconds",]) == (2, 70.5)
    assert found["recon_spool_free_bytes",] == 10 * 2**20
    assert found["recon_certificate_seconds", "tls.certificate"] == 2 * 86400
    assert {f.name for f in parsed(text)} - empty == {"recon_latency_seconds"}
    assert "192.168.2.9" not in text
    board = Board({"version": "1.2", "max_sessions": 4}, lambda: {"last_error": "the spool cannot be read"})
    assert "recon_spool_images" not in metrics(board.snapshot())


def test_the_json_of_the_status_keeps_its_keys() -> None:
    """Who watches the server reads these: a key that goes, or changes its meaning, raises `format`."""
    shown = Board({"version": "1", "address": "", "max_sessions": 4, "tls": False}, dict, list).snapshot()
    assert shown["format"] == 1
    assert set(shown) >= {"version", "address", "max_sessions", "tls", "now", "up_s", "workers", "running", "ended",
                          "counts", "latency_s", "images", "spool", "certificates"}  # fmt: skip
    assert set(shown["workers"]) >= {"ready", "starting", "held"}
    assert set(shown["latency_s"]) >= {"n", "last", "median", "most"}


def test_a_moved_audit_continues_in_a_new_file_with_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.write("started", job="a")
    path.rename(tmp_path / "audit.jsonl.1")
    audit.write("ended", job="a")  # nothing is lost before the server has been told
    audit.reopen()
    audit.write("started", job="b")
    path.rename(tmp_path / "audit.jsonl.2")
    path.mkdir()
    with pytest.raises(ReconError, match="cannot open the audit file"):
        audit.reopen()
    audit.write("ended", job="b")
    audit.close()
    lines = [json.loads(t) for n in (1, 2) for t in (tmp_path / f"audit.jsonl.{n}").read_text().splitlines()]
    assert [(line["n"], line["job"]) for line in lines] == [(1, "a"), (2, "a"), (3, "b"), (4, "b")]


def test_a_server_takes_new_certificates_and_a_new_audit_file_and_lets_a_scan_end(
    server: Start, full: Recording, tmp_path: Path
) -> None:
    certificate, key = write(tmp_path, datetime.now(timezone.utc) + timedelta(days=9))
    one = server(f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n[limits]\ndrain_s = 300\n')
    wait_for(lambda: "server.pem (tls.certificate) expires on" in one.log())
    before = ssl.get_server_certificate(("127.0.0.1", one.port))
    assert before.split() == certificate.read_text().split()

    write(tmp_path, datetime.now(timezone.utc) + timedelta(days=365))
    (one.folder / "audit.jsonl").rename(one.folder / "audit.jsonl.1")
    one.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in one.log())
    assert ssl.get_server_certificate(("127.0.0.1", one.port)).split() == certificate.read_text().split()
    assert (one.folder / "audit.jsonl").exists()

    key.chmod(0o644)
    one.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "not reloaded, nothing has changed" in one.log())
    assert ssl.get_server_certificate(("127.0.0.1", one.port)) != before

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = Scanner(one.port, sock=context.wrap_socket(socket.create_connection(("127.0.0.1", one.port), 60)))
    client.send(session(full)[:20])
    wait_for(lambda: " started" in one.log())
    one.process.terminate()
    wait_for(lambda: "stopping: 1 session may continue for 300 s" in one.log())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", one.port), 5)
    assert len(client.send(session(full)[20:]).wait().images) == 1
    assert one.process.wait(60) == 0
    assert [line["state"] for line in one.audit() if line["event"] == "ended"] == ["done"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says which signals are caught")
def test_a_server_in_a_terminal_ends_with_it(tmp_path: Path) -> None:
    master, slave = os.openpty()
    command = [sys.executable, "-m", "recon", "serve", "--port", "0", "--audit", str(tmp_path / "audit.jsonl")]
    with subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stdout.readline().startswith("listening")
        status = Path(f"/proc/{one.pid}/status")
        wait_for(lambda: int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & 1)  # SIGHUP is caught
        one.send_signal(signal.SIGHUP)
        assert "reloaded" not in one.communicate(timeout=60)[1]
        assert one.returncode == 0
    os.close(slave)
    os.close(master)


def test_a_pacs_may_be_down_for_a_week() -> None:
    pacs = Pacs()
    waits = [*pacs.retry_minutes, *[pacs.retry_minutes[-1]] * pacs.tries][: pacs.tries - 1]
    assert sum(waits) > 7 * 24 * 60


@pytest.mark.parametrize("program", ["false", "/no/such/program"])
def test_a_sender_that_cannot_start_is_started_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sending.sys, "executable", program)
    monkeypatch.setattr(sending, "_AGAIN_S", 0.01)
    monkeypatch.setattr(sending, "_LONGEST_S", 0.04)
    said: list[str] = []
    ended = threading.Event()

    def log(line: str) -> None:
        said.append(line.rpartition(" in ")[2])
        if len(said) == 5:
            ended.set()

    sending._keep(Pacs(to="A@127.0.0.1:104", spool=str(tmp_path)), log, ended)
    assert said == ["0.01 s", "0.02 s", "0.04 s", "0.04 s", "0.04 s"]
