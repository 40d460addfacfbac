"""The whole server: its processes, its limits, who may connect, and what it writes down."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest

from recon import simulation
from recon.data import ReconError
from recon.serve import settings
from recon.serve.audit import Audit
from tests.command import recon, refused
from tests.serve import scanner
from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, run, session

Start = Callable[..., Running]

#: For tests of a single session: no process that would wait for the next one is started beside it.
ONE = "max_sessions = 1\n"


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "recon", *words], capture_output=True, text=True, timeout=300, check=False
    )


def images_of(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["dataset/image_0/data"])


def workers(server: Running) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def wait_for(what: Callable[[], object], seconds: float = 60, every: float = 0.02) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(every)


def test_a_stream_gives_the_pixels_of_run_and_leaves_a_trace(server: Start, scan_file: Path, tmp_path: Path) -> None:
    one = server(ONE)
    streamed = command("stream", str(scan_file), "--to", f"127.0.0.1:{one.port}", "-o", str(tmp_path / "streamed.h5"))
    assert streamed.returncode == 0, streamed.stderr
    assert recon("run", scan_file, "-q", "-o", tmp_path / "run.h5").code == 0
    assert np.array_equal(images_of(tmp_path / "streamed.h5"), images_of(tmp_path / "run.h5"))

    # F42: who, when, what came, what was made of it.
    wait_for(lambda: len(one.audit()) == 2)
    started, ended = one.audit()
    assert (started["event"], started["peer"], ended["state"]) == ("started", "127.0.0.1", "done")
    assert started["job"] == ended["job"]
    assert (ended["n"], len(ended["images"])) == (2, 2)
    assert ended["made"]["method"] in ("sense", "unrolled")
    assert len(ended["images"][0]["sha256"]) == len(ended["scan_sha256"]) == 64
    assert ended["lines_received"] > 0
    assert (one.folder / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert "from last line to first image" in one.log()
    wait_for(lambda: f": done (2 images, {ended['lines']} lines, recipe auto)" in one.log())


def test_f40_the_patient_appears_in_no_log_text_or_audit(server: Start, full: Recording) -> None:
    marked = full.xml
    subject = b"<patientName>Zzyzx^Marked</patientName><patientID>PID-4711-X</patientID>"
    subject += b"<patientBirthdate>1931-07-23</patientBirthdate>"
    start, end = marked.index(b"<subjectInformation>"), marked.index(b"</subjectInformation>")
    marked = marked[: start + len(b"<subjectInformation>")] + subject + marked[end:]
    one = server()
    good = run(one.port, session(Recording(marked, full.lines)))
    bad = run(one.port, session(Recording(marked, full.lines[:20])))
    broken = run(one.port, session(Recording(marked[: marked.index(b"</subjectInformation>")], full.lines)))
    assert len(good.images) == 1
    assert bad.error()
    assert broken.error()
    assert one.stop() == 0
    said = one.log() + (one.folder / "audit.jsonl").read_text() + str([r.texts for r in (good, bad, broken)])
    said += "".join(i.attributes for i in good.images)
    for word in ("Zzyzx", "4711", "1931"):
        assert word not in said
    assert {p.name for p in one.folder.iterdir()} == {"site.toml", "audit.jsonl", "log"}


def test_f13_simultaneous_clients_get_their_own_images_and_others_get_busy(server: Start, tmp_path: Path) -> None:
    from recon.io.read import read
    from recon.pipeline import reconstruct

    recordings, truths = [], []
    for seed in range(2):
        path = tmp_path / f"{seed}.h5"
        simulation.simulate_to(path, simulation.preset(matrix=32, coils=2, seed=seed))
        recordings.append(scanner.load(path))
        truths.append(np.abs(reconstruct(read(path)).data))
    one = server("max_sessions = 2\n")
    clients = [Scanner(one.port).send(session(r)[:20]) for r in recordings]
    wait_for(lambda: one.log().count("started") == 2)
    for _ in range(3):
        told = run(one.port, [])
        assert told.texts == ["ERR busy: 2 sessions are running; try again later"]
        assert (told.closes, told.ended, told.images) == (1, True, [])
    for client, recording in zip(clients, recordings):
        client.send(session(recording)[20:])
    replies = [client.wait() for client in clients]
    for reply, truth in zip(replies, truths):
        assert np.array_equal(reply.images[0].pixels[0], truth)
    assert not np.array_equal(truths[0], truths[1])
    wait_for(lambda: one.log().count(": done") == 2)
    assert len(run(one.port, session(recordings[0])).images) == 1


def test_f13_twenty_clients_of_a_blocked_server_all_get_an_answer(server: Start, full: Recording) -> None:
    """None is reset without a word, or kept from connecting, however late the loop comes to take them in."""
    one = server("max_sessions = 1\n")
    wait_for(lambda: one.process.poll() is None and bool(psutil.Process(one.process.pid).children()))
    one.process.send_signal(signal.SIGSTOP)
    try:
        made = [socket.create_connection(("127.0.0.1", one.port), timeout=3) for _ in range(20)]
        clients = [Scanner(0, sock=sock).send(session(full)) for sock in made]
    finally:
        one.process.send_signal(signal.SIGCONT)
    replies = [c.wait() for c in clients]
    assert [(r.closes, r.broken) for r in replies] == [(1, "")] * 20
    assert sorted(len(r.images) for r in replies) == [0] * 19 + [1]
    assert sum("busy" in r.error() for r in replies) == 19


def gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_f16_a_stopped_server_ends_its_sessions_with_a_message(server: Start, full: Recording) -> None:
    one = server(ONE)
    client = Scanner(one.port).send(session(full)[:20])
    wait_for(lambda: "started" in one.log())
    processes = workers(one)
    began = time.monotonic()
    assert one.stop() == 0
    assert time.monotonic() - began < 5
    reply = client.wait()
    assert "the server is shutting down" in reply.error()
    assert (reply.closes, reply.images) == (1, [])
    assert not any(p.is_running() for p in processes)
    assert one.audit()[-1]["state"] == "failed"


def test_f16_a_killed_server_takes_its_workers_along_and_starts_again(server: Start, full: Recording) -> None:
    one = server(ONE)
    Scanner(one.port).send(session(full)[:20])
    wait_for(lambda: len(one.audit()) == 1)
    processes = workers(one)
    one.stop(signal.SIGKILL)
    # Whoever takes them over may be late to notice that they have ended.
    wait_for(lambda: all(map(gone, processes)))
    assert [entry["event"] for entry in one.audit()] == ["started"]
    audit = Audit(one.folder / "audit.jsonl")
    audit.write("started", job="next")
    audit.close()
    assert [entry["n"] for entry in one.audit()] == [1, 2]


def test_f31_a_session_that_hangs_or_dies_ends_well_and_the_next_one_works(server: Start, full: Recording) -> None:
    one = server("max_sessions = 3\nwarm = 3\nstatus_port = 0\n[limits]\nwall_s = 6\n")
    assert one.process.stdout is not None
    page = one.process.stdout.readline().split()[-1] + "status.json"
    wait_for(lambda: json.load(urllib.request.urlopen(page))["workers"]["ready"] == 3, 90)
    hung = Scanner(one.port).send(session(full)[:20])
    wait_for(lambda: "started" in one.log())
    wait_for(lambda: any(_connected(w, one.port) for w in workers(one)))
    (stuck,) = [w for w in workers(one) if _connected(w, one.port)]
    stuck.suspend()
    died = Scanner(one.port).send(session(full)[:20])
    wait_for(lambda: sum(_connected(w, one.port) for w in workers(one)) == 2)
    next(w for w in workers(one) if _connected(w, one.port) and w != stuck).kill()
    assert "ended unexpectedly" in died.wait(5).error()
    reply = hung.wait(10)
    assert "took more than 6 s" in reply.error()
    assert (reply.closes, reply.images) == (1, [])
    assert len(run(one.port, session(full)).images) == 1
    assert not stuck.is_running()


def _connected(process: psutil.Process, port: int) -> bool:
    return any(c.laddr.port == port for c in process.net_connections("tcp"))


def test_f15_a_port_in_use_is_one_line_and_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        end = recon("serve", "--port", port, "--audit", tmp_path / "a.jsonl")
    assert f"cannot listen on 127.0.0.1:{port}" in refused(end, 1)
    assert end.err.count("\n") == 1


def test_f41_other_addresses_need_an_allow_list(tmp_path: Path) -> None:
    end = recon("serve", "--host", "0.0.0.0", "--port", "0", "--audit", tmp_path / "a.jsonl")
    assert "--allow" in refused(end, 2)
    assert settings.Site().host == "127.0.0.1"
    site = settings.check(settings.Site(host="0.0.0.0", allow=("192.168.2.0/24",)))
    assert [str(n) for n in settings.networks(site)] == ["127.0.0.0/8", "::1/128", "192.168.2.0/24"]
    with pytest.raises(ReconError, match="everybody"):
        settings.check(settings.Site(host="0.0.0.0", allow=("everybody",)))


BAD = {
    'hosst = "127.0.0.1"': "unknown key hosst; did you mean host?",
    "[limits]\nidle = 3": "unknown key limits.idle",
    'port = "many"': "port = 'many'",
    "[limits]\nidle_s = -1": "limits.idle_s = -1",
    'password = "x"': "unknown key password",
    'device = "gpu"': "device is 'gpu'",
    "port = [": "is not a TOML file",
    '[recipes]\nfast = "none.toml"': "there is no recipe at",
}


@pytest.mark.parametrize("text", BAD)
def test_f43_settings_with_a_mistake_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(ReconError) as caught:
        settings.registered(settings.load(path))
    assert BAD[text] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_f43_settings_are_checked_without_a_server(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    (tmp_path / "fast.toml").write_text('[solve]\nmethod = "combine"\n')
    path.write_text('[recipes]\n"fast.xml" = "fast.toml"\n')
    assert settings.registered(settings.load(path))["fast.xml"].solve.method == "combine"
    done = recon("serve", "--check", path)
    assert (done.code, "fast.xml" in done.out) == (0, True)
    os.chmod(path, 0o666)
    assert "chmod" in refused(recon("serve", "--check", path), 2)
    assert "chmod" in refused(recon("serve", "--config", path), 2)


def test_the_audit_continues_after_an_incomplete_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"n": 41, "event": "ended"}\n{"n": 42, "ev')
    audit = Audit(path)
    audit.write("started")
    audit.close()
    assert path.read_text().splitlines()[2].startswith('{"n": 42,')


def probe(port: int, times: int) -> None:
    """What the port monitor of a hospital does: connect, and leave without a word."""
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass


def status(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}status.json", timeout=10) as answer:
        return dict(json.load(answer))


def test_f01_a_port_monitor_costs_no_process_and_no_line(server: Start, full: Recording) -> None:
    one = server("status_port = 0\n[limits]\nfirst_s = 1.5\n")
    assert one.process.stdout is not None
    url = one.process.stdout.readline().split()[-1]
    wait_for(lambda: status(url)["workers"]["ready"] == 1)
    (waiting,) = workers(one)
    probe(one.port, 70)  # more than wait at once
    silent = Scanner(one.port)
    wait_for(lambda: status(url)["counts"].get("no word") == 70)
    assert "no message came within 1.5 s" in silent.wait(20).error()
    assert workers(one) == [waiting]
    assert one.audit() == []
    assert one.log().count("\n") == one.log().count("was not served: no message came within 1.5 s") == 1
    assert len(run(one.port, session(full)).images) == 1


def test_f13_who_says_nothing_takes_no_place_of_a_scan(server: Start, full: Recording) -> None:
    one = server("max_sessions = 1\n[limits]\nfirst_s = 600\n")
    silent = [Scanner(one.port) for _ in range(70)]
    assert len(run(one.port, session(full)).images) == 1
    assert one.stop() == 0
    heard = [s.wait(10) for s in silent]
    assert {r.closes for r in heard} == {1}
    # Of more than 64 those that came first are let go; the others hear that the server is stopped.
    said = ["no message came" if "no message came" in r.error() else r.error() for r in heard]
    assert said.count("no message came") >= 6
    assert "shutting down" in said[-1]


def test_f16_a_server_stopped_before_its_workers_were_ready_ends_well(server: Start, full: Recording) -> None:
    one = server("max_sessions = 4\n[limits]\ngrace_s = 0.2\n")
    clients = [Scanner(one.port).send(session(full)[:5]) for _ in range(4)]
    wait_for(lambda: one.log().count("started") == 4, every=0.005)
    assert one.stop() == 0
    assert all("the server is shutting down" in c.wait(10).error() for c in clients)


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="only Linux chooses whom to end by a score")
def test_f31_out_of_memory_a_session_ends_before_the_server(server: Start, full: Recording) -> None:
    one = server()

    def likelihood(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    wait_for(lambda: workers(one) and all(likelihood(p.pid) >= 500 for p in workers(one)))
    assert likelihood(one.process.pid) < 500
