"""The memory that the process of a session may hold: planned with, watched, and its end where it is exceeded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from recon import plan
from recon.data import ReconError
from recon.io.read import read
from recon.pipeline import reconstruct
from recon.serve import memory
from recon.serve.settings import Limits, MiB, Site, check
from tests.command import recon, refused
from tests.serve.conftest import Local, Running
from tests.serve.scanner import Recording, Scanner, run, session
from tests.serve.test_server import wait_for
from tests.serve.test_service_faults import busy

GiB = 2**30

#: Takes 800 MiB/s and ends at 3 GiB, so that a server which lets it grow fails the test and not the machine.
#: It says first which process it is: the one that started it may be ended before it could.
GROW = """
import os, pathlib, sys, time

asked = pathlib.Path(sys.argv[1])
asked.with_suffix(".child").write_text(str(os.getpid()))
held = []
while len(held) < 192:
    held.append(b"x" * 2**24)
    time.sleep(0.02)
asked.with_suffix(".all").touch()
time.sleep(600)
"""

#: Runs in every process that Python starts with its folder on PYTHONPATH: where a file asks for it, that of a session
#: holds 400 MiB and starts a process that grows.
LEAK = f"""
import os, pathlib, subprocess, sys, threading, time

def leak():
    asked = pathlib.Path(__file__).with_name(f"grow.{{os.getpid()}}")
    while not asked.exists():
        time.sleep(0.01)
    held = b"x" * (400 * 2**20)
    child = subprocess.Popen([sys.executable, "-c", {GROW!r}, str(asked)])
    time.sleep(600)

if "recon.serve" in sys.orig_argv:
    threading.Thread(target=leak, daemon=True).start()
"""


def test_f31_a_session_that_outgrows_its_memory_is_ended_and_the_others_go_on(
    server: Callable[..., Running], full: Recording, full_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = server("max_sessions = 2\nstatus_port = 0\n[limits]\nprocess_MiB = 1024\n")
    assert one.process.stdout is not None
    page = one.process.stdout.readline().split()[-1] + "status.json"
    grown = Scanner(one.port).send(session(full)[:20])
    process = busy(one)
    other = Scanner(one.port).send(session(full)[:20])
    wait_for(lambda: one.log().count("started") == 2)
    (tmp_path / f"grow.{process.pid}").touch()

    reply = grown.wait(30)
    assert "more than the 1024 MiB allowed for one" in reply.error()
    assert (reply.closes, reply.ended, reply.images) == (1, True, [])
    assert not (tmp_path / f"grow.{process.pid}").with_suffix(".all").exists()
    assert not process.is_running()
    child = int((tmp_path / f"grow.{process.pid}").with_suffix(".child").read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
    # The other session has its image, and the next one a process that waited.
    expected = np.abs(reconstruct(read(full_file)).data)
    assert np.array_equal(other.send(session(full)[20:]).wait().images[0].pixels[0], expected[0:1])
    wait_for(lambda: json.load(urllib.request.urlopen(page))["workers"]["ready"] == 1)
    assert len(run(one.port, session(full)).images) == 1

    ended = [line for line in one.audit() if line["event"] == "ended"]
    assert [line["state"] for line in ended] == ["failed", "done", "done"]
    assert "raise process_MiB" in ended[0]["reason"]
    assert 1024 < ended[0]["memory_MiB"] < 2048
    assert 100 < ended[1]["memory_MiB"] < 1024
    shown = json.load(urllib.request.urlopen(page))["ended"]
    assert (shown[-1]["reason"], shown[-1]["memory_MiB"]) == (ended[0]["reason"], ended[0]["memory_MiB"])
    assert "more than the 1024 MiB" in one.log()


def test_what_a_process_and_those_it_started_hold_is_seen() -> None:
    before = memory.held(os.getpid())
    block = b"x" * (200 * MiB)
    assert memory.held(os.getpid()) - before > 190 * MiB
    del block
    grow = [sys.executable, "-c", "x = b'x' * (200 << 20); print(flush=True); input()"]
    with subprocess.Popen(grow, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        assert memory.held(child.pid) > 200 * MiB
        assert memory.held(os.getpid()) - before > 190 * MiB
        child.stdin.close()
    gone = psutil.Popen(["true"])
    gone.wait()
    assert memory.held(gone.pid) == 0


def test_what_was_swapped_out_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process of two threads, each of which has started another, as the kernel writes of them (proc(5)).
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    processes: list[tuple[str, dict[str, str], str]] = [
        ("self", {}, ""),
        ("7", {"7": "8 ", "9": "10 "}, "Name:\tpython\nVmRSS:\t     100 kB\nVmSwap:\t      20 kB\n"),
        ("8", {"8": ""}, "VmRSS:\t       3 kB\nRssAnon:\t       2 kB\nVmSwap:\t       0 kB\n"),
        ("10", {"10": "11 "}, "VmSwap:\t       4 kB\n"),
        ("12", {"12": ""}, "VmRSS:\t       9 kB\n"),
    ]
    for pid, threads, lines in processes:
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "status").write_text(lines)
        for thread, children in threads.items():
            (tmp_path / pid / "task" / thread).mkdir(parents=True)
            (tmp_path / pid / "task" / thread / "children").write_text(children)
    assert memory.held(7) == (100 + 20 + 3 + 4) * 1024


def test_a_process_near_its_limit_is_looked_at_more_often() -> None:
    assert [memory.pause(room) for room in (64 * GiB, 0, -1)] == [0.1, 0.01, 0.01]
    assert 0.01 < memory.pause(200 * MiB) < 0.1


@pytest.mark.parametrize(
    ("set_MiB", "sessions", "expected"), [(0, 4, 0.225), (0, 1, 0.9), (6144, 4, 0.25), (10**6, 4, 1)]
)
def test_every_session_has_its_part_of_each_gpu(
    monkeypatch: pytest.MonkeyPatch, set_MiB: int, sessions: int, expected: float
) -> None:
    class Gpu:
        total_memory = 24 * GiB

    bounded: dict[int, float] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Gpu)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, i: bounded.update({i: part}))
    site = Site(max_sessions=sessions, limits=Limits(gpu_MiB=set_MiB))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    memory.bound_gpu(site)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory.bound_gpu(replace(site, device="cpu"))
    assert bounded == {}
    memory.bound_gpu(site)
    assert bounded == {0: pytest.approx(expected), 1: pytest.approx(expected)}


def test_a_session_bounds_its_gpu_before_it_reconstructs(
    local: Callable[..., Local], full: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[Site] = []
    monkeypatch.setattr(memory, "bound_gpu", bounded.append)
    assert len(run(local(gpu_MiB=100).port, session(full)).images) == 1
    assert bounded[0].limits.gpu_MiB == 100


@pytest.mark.parametrize(
    ("machine", "sessions", "set_MiB", "expected"),
    [
        (64 * GiB, 4, 0, 14.4 * GiB),
        (64 * GiB, 1, 0, 57.6 * GiB),
        (6 * GiB, 4, 0, 2 * GiB),  # a part too small to work with
        (1 * GiB, 4, 0, 0.9 * GiB),
        (64 * GiB, 4, 3000, 3000 * MiB),
    ],
)
def test_every_session_has_its_part_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: int, sessions: int, set_MiB: int, expected: float
) -> None:
    monkeypatch.setattr(plan, "machine", lambda: machine)
    site = Site(max_sessions=sessions, limits=Limits(process_MiB=set_MiB))
    assert abs(memory.limit(site) - expected) <= 1
    assert 0 <= memory.ready(site) <= memory.limit(site) // 8
    assert 0 <= memory.raw(site) < memory.limit(site)


def test_raw_data_and_reconstruction_together_stay_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "budget", lambda limit: 50 * GiB)
    site = Site(limits=Limits(process_MiB=4096, session_MiB=65536))
    for held in (0, 1 * GiB, memory.raw(site)):
        assert held + memory.work(site, held) <= 0.9 * 4 * GiB or memory.work(site, held) == 0
    assert memory.work(site, 0) > 3.5 * GiB
    assert memory.work(replace(site, limits=replace(site.limits, memory_MiB=500)), 0) == 500 * MiB
    monkeypatch.setattr(plan, "budget", lambda limit: 1 * GiB)  # what is free now
    assert memory.work(site, 0) == 1 * GiB


def test_a_scan_too_large_for_its_session_is_refused_naming_the_site_setting(
    local: Callable[..., Local], full: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "work", lambda site, held: 100 * MiB)
    for limits, deciding in (({}, "process_MiB"), ({"memory_MiB": 100}, "memory_MiB")):
        reply = run(local(**limits).port, session(full))
        assert f"are allowed; raise {deciding} in the site's file, or lower prepare.virtual_coils" in reply.error()
        assert "--memory" not in reply.error()
        assert (reply.closes, reply.images) == (1, [])


def test_the_check_says_what_a_session_may_hold(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("max_sessions = 2\n[limits]\nprocess_MiB = 2048\n")
    assert "each of 2 sessions may use 2048 MiB of this machine's" in recon("serve", "--check", path).out
    path.write_text(f"max_sessions = 2\n[limits]\nprocess_MiB = {plan.machine() // MiB}\n")
    assert "together they may use more than the machine has" in recon("serve", "--check", path).out
    path.write_text("[limits]\nprocess_MiB = 500\n")
    assert "process_MiB is 500" in refused(recon("serve", "--check", path), 2)
    with pytest.raises(ReconError, match="1024 or more"):
        check(Site(limits=Limits(process_MiB=1)))


def test_a_scan_that_sends_more_than_its_process_may_hold_is_ended_by_its_session(
    local: Callable[..., Local], full: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "raw", lambda site: 10_000)
    reply = run(local().port, session(full))
    assert "raise session_MiB and process_MiB" in reply.error()
    assert reply.images == []
