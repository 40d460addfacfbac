"""A worker as the server sees it: its process, the socket it reports over, and the session that it has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import IO, Any


@dataclass
class Session:
    """A connection that a worker has, and what it reports of it."""

    name: str
    peer: str
    connection: socket.socket
    ends_at: float
    began: float
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)


@dataclass
class Worker:
    """A process that waits for a session, or has one."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    buffer: bytes = b""
    ready: bool = False
    held: bool = False
    sending: bool = False
    session: Session | None = None

    def end(self, reason: str, ends_at: float) -> None:
        """Kill the process for this reason: its control socket ends, and with it the session."""
        assert self.session is not None
        self.session.reason, self.session.ends_at = reason, ends_at
        self.process.kill()


def start(setup: bytes) -> Worker:
    """Start a worker, which reads `setup` and reports over its control socket."""
    ours, theirs = socket.socketpair()
    with theirs, _scratch() as file:
        file.write(setup)
        file.seek(0)
        # Threads that wait in a loop for each other stand still where sessions share the cores.
        patient = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1", **os.environ}
        # What a library may print could hold something of the scan: it goes nowhere.
        process = subprocess.Popen(
            [sys.executable, "-m", "recon.serve.worker", str(theirs.fileno())],
            stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env=patient,
        )  # fmt: skip
    ours.setblocking(False)
    return Worker(process, ours)


def _scratch() -> IO[bytes]:
    """A file without a name: in memory where there is such a thing, since no session should hang on a full disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("setup"), "w+b")
    return tempfile.TemporaryFile()
