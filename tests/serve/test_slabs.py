"""Memory for lines: touched while a process is idle, available to the next session, used before any other."""

from __future__ import annotations

import socket
import threading

import numpy as np
import psutil
import pytest

from recon import plan
from recon.serve.slabs import SLAB, hold, slab
from recon.serve.streams import Incoming


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def test_a_process_that_waits_touches_its_memory_before_the_scan() -> None:
    before = resident()
    fresh = [slab(SLAB) for _ in range(4)]
    assert resident() - before < SLAB
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ready = hold(4 * SLAB, theirs)
    assert len(fresh) == len(ready) == 4
    assert resident() - before > 3 * SLAB


def test_a_scanner_that_comes_meanwhile_does_not_wait_for_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"x")
        assert len(hold(64 * SLAB, theirs)) == 1
        assert theirs.recv(1) == b"x"


def test_little_memory_is_reserved_if_little_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "budget", lambda limit: 33 * SLAB)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert len(hold(64 * SLAB, theirs)) == 2
        assert hold(0, theirs) == []


def test_bytes_go_through_ready_memory_in_their_order() -> None:
    sent = np.random.default_rng(0).integers(0, 256, 3 * SLAB, np.uint8)
    ready = [slab(SLAB), slab(SLAB)]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Thread(target=ours.sendall, args=(sent,), daemon=True).start()
        source = Incoming(theirs, 10, 10, ready)
        step = 1_000_003  # no divisor of a slab
        parts = [np.frombuffer(source.take(min(step, len(sent) - at)), np.uint8) for at in range(0, len(sent), step)]
    assert np.array_equal(np.concatenate(parts), sent)
    used = [any(np.shares_memory(np.frombuffer(piece, np.uint8), part) for part in parts) for piece in ready]
    assert used == [True, True]
