"""What can go wrong around the sessions: many scanners, broken weights, a full disk, a clock that jumps, a crash."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from recon import recipe as recipes
from recon.io.read import read
from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.pipeline import reconstruct
from recon.serve import audit as auditing
from recon.serve.audit import Audit
from tests.command import recon, refused
from tests.mri.test_pace import full_gpu
from tests.serve import scanner
from tests.serve.conftest import Local, Running
from tests.serve.scanner import CLOSE, Recording, Scanner, config, header, run, session
from tests.serve.test_server import ONE, wait_for, workers

Start = Callable[..., Running]
Within = Callable[..., Local]


def test_f13_of_twenty_scanners_at_once_all_are_answered(server: Start, full: Recording) -> None:
    one = server("max_sessions = 1\n")
    first = Scanner(one.port).send(session(full)[:9])
    wait_for(lambda: "started" in one.log())
    crowd = [Scanner(one.port) for _ in range(20)]
    replies = [c.wait(20) for c in crowd]
    assert {t for r in replies for t in r.texts} == {"ERR busy: 1 session is running; try again later"}
    assert all((r.closes, r.ended, r.images) == (1, True, []) for r in replies)
    assert len(first.send(session(full)[9:]).wait().images) == 1


def busy(one: Running) -> psutil.Process:
    """The worker that has the connection, once it has imported everything."""

    def found() -> list[psutil.Process]:
        return [p for p in workers(one) if any(c.laddr.port == one.port for c in p.net_connections("tcp"))]

    wait_for(found, 60, every=0.1)
    return found()[0]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "small"
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=30)), folder)
    return folder


def test_f27_the_scanner_gets_its_image_from_the_processor_where_the_gpu_is_full(
    local: Within, full: Recording, full_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.abs(reconstruct(read(full_file), device="cpu").data)
    full_gpu(monkeypatch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    server = local()
    (image,) = run(server.port, session(full)).images
    assert np.allclose(image.pixels[0], expected, atol=1e-3 * expected.max())
    assert "the GPU ran out of memory during the reconstruction" in image.attributes
    assert any("the GPU ran out of memory" in n for t in server.told for n in t.get("notes", []))
    assert [t["made"]["device"] for t in server.told if "made" in t] == ["cuda:0, then cpu"]


def test_f28_weights_that_are_not_what_was_recorded_are_refused_before_a_scan_comes(
    server: Start, network: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(network, broken)
    content = bytearray((broken / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(content)
    (tmp_path / "brain.toml").write_text(f'[solve]\nmethod = "unrolled"\nweights = "{broken}"\n')
    (tmp_path / "site.toml").write_text(f'[recipes]\nbrain = "{tmp_path}/brain.toml"\n')
    said = refused(recon("serve", "--check", tmp_path / "site.toml"), 1)
    assert "the recipe brain: " in said
    assert "SHA-256" in said
    one = server((tmp_path / "site.toml").read_text())
    assert one.process.wait(60) == 1
    assert "the recipe brain: " in one.log()
    assert one.log().count("\n") == 1


def test_f29_an_untrusted_network_image_is_replaced_and_the_audit_says_so(
    local: Within, recording: Recording, scan_file: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No scan is within this limit: the network's image is never good enough.
    strict = {"solve": {"method": "unrolled", "weights": str(network)}, "trust": {"added": 0.0}}
    known = {"auto": recipes.parse(strict)}
    monkeypatch.setattr("tests.serve.conftest.registered", lambda _: known)
    server = local()
    reply = run(server.port, session(recording))
    trust = [t["trust"] for t in server.told if "trust" in t]
    assert sum(t["fallbacks"] for t in trust) == len(reply.images) == 2
    assert all(t["reasons"] for t in trust)
    assert any("not trusted" in n for t in server.told for n in t.get("notes", []))
    image = reconstruct(read(scan_file), known["auto"])
    assert image.trust["fallbacks"] == 2
    assert np.array_equal(np.concatenate([i.pixels[0] for i in reply.images]), np.abs(image.data))
    assert all("<value>AI</value>" not in i.attributes or "not trusted" in i.attributes for i in reply.images)


def test_f32_a_disk_that_takes_no_audit_stops_no_scan_and_the_file_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    audit.write("started", job="a")
    write = os.write

    def full(file: int, data: Any) -> int:
        taken.append(len(data))
        if len(taken) == 1:
            return write(file, bytes(data)[:10])  # the disk's last bytes
        raise OSError(errno.ENOSPC, "No space left on device")

    taken: list[int] = []
    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            audit.write("ended", job="a")
    monkeypatch.setattr(os, "write", write)
    audit.write("started", job="b")
    audit.close()
    first, torn, last = path.read_text().splitlines()
    assert json.loads(first)["job"] == "a"
    assert torn == '{"n": 2, "'
    assert json.loads(last)["job"] == "b"


def test_f32_a_server_without_space_for_its_audit_continues_and_says_so(server: Start, full: Recording) -> None:
    one = server()
    wait_for(lambda: workers(one))
    path = one.folder / "audit.jsonl"
    path.write_text('{"n": 0}\n' * 10_000)
    full_at = path.stat().st_size + 20
    psutil.Process(one.process.pid).rlimit(resource.RLIMIT_FSIZE, (full_at, full_at))
    first = run(one.port, session(full))
    assert len(first.images) == 1
    wait_for(lambda: "the audit file could not be written" in one.log(), 20)
    assert len(run(one.port, session(full)).images) == 1
    assert one.stop() == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_f37_scans_without_a_signal_give_valid_pixels_or_a_sentence(
    local: Within, full: Recording, value: float
) -> None:
    lines = [b[:340] + np.full((len(b) - 340) // 4, value, "<f4").tobytes() for b in full.lines]
    reply = run(local(pixel="int16").port, session(Recording(full.xml, lines)))
    assert (reply.closes, reply.ended, reply.broken) == (1, True, "")
    assert bool(reply.images) != bool(reply.error())
    for image in reply.images:
        width = float(image.attributes.partition("<name>WindowWidth</name><value>")[2].partition("<")[0])
        assert width >= 1
        assert image.pixels.min() >= 0


def test_f38_names_that_are_no_names_change_nothing(local: Within, full: Recording, full_file: Path) -> None:
    evil = "A^B=C\\D\r\n../../etc/passwd " + "x" * 300
    xml = full.xml.replace(b"<subjectInformation>", f"<subjectInformation><patientName>{evil}</patientName>".encode())
    assert xml != full.xml
    server = local()
    (image,) = run(server.port, session(Recording(xml, full.lines))).images
    assert np.array_equal(image.pixels[0], np.abs(reconstruct(read(full_file)).data)[0:1])
    assert "passwd" not in image.attributes + str(server.told)


def test_f40_no_file_and_no_core_is_left_of_a_session(server: Start, full: Recording, tmp_path: Path) -> None:
    before = os.environ.get("TMPDIR")
    own = tmp_path / "tmp"
    own.mkdir(mode=0o700)
    os.environ["TMPDIR"] = str(own)
    try:
        one = server(ONE)
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
    client = Scanner(one.port).send(session(full)[:20])
    wait_for(lambda: "started" in one.log())
    for process in workers(one):
        wait_for(lambda p=process: p.rlimit(resource.RLIMIT_CORE) == (0, 0), 30)  # type: ignore[misc]
        assert all(f.mode == "r" for f in process.open_files())
    busy(one).send_signal(signal.SIGABRT)  # as a library does that has lost its way
    assert "ended unexpectedly" in client.wait().error()
    assert one.stop() == 0
    left = [p for p in own.rglob("*") if p.is_file()]
    assert left == []
    assert not list(Path.cwd().glob("core*"))


def test_f42_a_line_of_the_audit_names_what_was_made_of_what(server: Start, full: Recording, network: Path) -> None:
    (network.parent / "brain.toml").write_text(f'[solve]\nmethod = "unrolled"\nweights = "{network}"\n')
    one = server(f'[recipes]\nbrain = "{network.parent}/brain.toml"\n')
    assert len(run(one.port, session(full, "brain")).images) == 1
    wait_for(lambda: len(one.audit()) == 2)
    ended = one.audit()[1]
    assert ended["made"]["weights_sha256"] == (network / "SHA256").read_text().split()[0]
    assert set(ended["made"]) >= {"version", "method", "recipe_hash", "device", "versions"}
    assert (ended["state"], ended["recipe"], ended["lines_received"], ended["lines_expected"]) == (
        "done",
        "brain",
        32,
        32,
    )
    assert ended["trust"]["residual"] > 0
    # It survives SIGKILL: the line of the start is there, and the numbers continue.
    Scanner(one.port).send(session(full)[:9])
    wait_for(lambda: len(one.audit()) == 3)
    one.stop(signal.SIGKILL)
    assert one.audit()[2]["event"] == "started"


def test_f42_a_clock_that_jumps_does_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        year = 2030

        @classmethod
        def now(cls, zone: Any) -> Any:
            cls.year -= 5
            return auditing_datetime(cls.year, 1, 1, tzinfo=zone)

    auditing_datetime = auditing.datetime
    monkeypatch.setattr(auditing, "datetime", Clock)
    audit = Audit(tmp_path / "a.jsonl")
    for _ in range(3):
        audit.write("started")
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3]
    assert [line["time"][:4] for line in lines] == ["2025", "2020", "2015"]
    assert lines[0]["monotonic_s"] <= lines[1]["monotonic_s"] <= lines[2]["monotonic_s"]


def test_f44_a_crash_leaves_the_scanners_images_as_they_are(
    local: Within, full: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("the engine has a bug, and Zzyzx's name is in its message")

    monkeypatch.setattr("recon.pipeline.reconstruct", crash)
    own = np.arange(24).reshape(1, 2, 3, 4)
    messages = session(full)
    messages.insert(2, scanner.picture(own))
    reply = run(local().port, messages)
    assert len(reply.images) == 1
    assert np.array_equal(reply.images[0].pixels, own)
    assert (reply.closes, reply.ended) == (1, True)
    assert "unexpected error (ZeroDivisionError)" in reply.error()
    assert "Zzyzx" not in reply.error()


def test_f44_a_process_that_dies_leaves_them_too(server: Start, full: Recording) -> None:
    one = server("max_sessions = 1\n")
    own = np.arange(24).reshape(1, 2, 3, 4)
    client = Scanner(one.port).send([config(), header(full.xml), scanner.picture(own)])
    wait_for(lambda: client.reply.images, 30)
    busy(one).kill()
    reply = client.send([CLOSE]).wait()
    assert np.array_equal(reply.images[0].pixels, own)
    assert "ended unexpectedly" in reply.error()


def test_f30_the_same_scan_twice_has_the_same_bits(local: Within, recording: Recording) -> None:
    server = local()
    one, two = (sorted(run(server.port, session(recording)).images, key=lambda i: i.slice) for _ in range(2))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, two, strict=True))


def test_f11_images_wait_for_a_slow_scanner_and_none_is_lost(local: Within, recording: Recording) -> None:
    server = local(queue_MiB=1)
    picture = scanner.picture(np.arange(512 * 512).reshape(1, 1, 512, 512) % 4096)
    client = Scanner(server.port, reading=False)
    sending = threading.Thread(target=client.send, args=([config(), header(recording.xml), *[picture] * 12, CLOSE],))
    sending.start()
    sending.join(0.5)
    client.thread.start()
    reply = client.wait()
    sending.join(10)
    assert (len(reply.images), reply.closes, reply.error()) == (12, 1, "")
