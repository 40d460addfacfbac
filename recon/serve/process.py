"""A worker as the server sees it: its process, the socket it reports over, and the session that it has."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from recon.serve.control import Listening, scratch
from recon.serve.outbox import Outbox


@dataclass
class Session:
    """A connection that a worker has, and what it reports of it."""

    name: str
    peer: str
    outbox: Outbox
    ends_at: float
    began: float
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Worker:
    """A process that waits for a session, or has one."""

    process: subprocess.Popen[bytes]
    control: Listening
    ready: bool = False
    held: bool = False
    session: Session | None = None

    def end(self, reason: str, ends_at: float) -> None:
        """Kill the process for this reason: its control socket ends, and with it the session."""
        assert self.session is not None
        self.session.reason, self.session.ends_at = reason, ends_at
        self.kill()

    def kill(self) -> None:
        """Kill the process and all that it started."""
        if self.process.returncode is None:  # until it is waited for, nobody else has its number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _group() -> dict[str, Any]:
    """A group of its own for a process and what it starts, in the server's session where that can be had.

    Linux shares the processor among sessions first: the next process, which only warms up, would get as much as one
    that reconstructs with all its threads.
    """
    return {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


def start(setup: bytes) -> Worker:
    """Start a worker, which reads `setup` and reports over its control socket."""
    ours, theirs = socket.socketpair()
    with theirs, scratch() as file:
        file.write(setup)
        file.seek(0)
        # Threads that wait in a loop for each other stand still where sessions share the cores.
        patient = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1", **os.environ}
        # What a library may print could hold something of the scan: it goes nowhere.
        process = subprocess.Popen(
            [sys.executable, "-m", "recon.serve", str(theirs.fileno())],
            stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env=patient, **_group(),
        )  # fmt: skip
    return Worker(process, Listening(ours))
