"""A worker from the server's view: its process, its control socket, and its session."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recon.serve.control import Listening, scratch
from recon.serve.outbox import Outbox

#: Seconds until a process that could not be started is tried again: the first time, and the longest.
_START_S, _LONGEST_S = 2.0, 60.0


@dataclass
class Session:
    """A worker's connection, and its reports on it."""

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
        """Kill the process for this reason: its control socket closes, and the session ends."""
        assert self.session is not None
        self.session.reason, self.session.ends_at = reason, ends_at
        self.kill()

    def kill(self) -> None:
        """Kill the process and all its children."""
        if self.process.returncode is None:  # its number is not reused until it has been waited for
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def _group() -> dict[str, Any]:
    """A separate process group for a process and its children, in the server's session if possible.

    Linux first divides the processor among sessions: otherwise the next process, which is only warming up, would get as
    much as one that reconstructs with all its threads.
    """
    return {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


class Starting:
    """Starts workers. Where the machine has no room for a process, sessions that run go on, and it is tried again.

    The pause before the next try doubles each time.
    """

    def __init__(self, setup: bytes, log: Callable[[str], None]) -> None:
        self._setup, self._log = setup, log
        self._pause_s, self._again = _START_S, math.inf

    def due(self) -> float:
        """The monotonic time of the next try, where the last one failed."""
        return self._again

    def look(self) -> None:
        """Let it be tried again where it is time."""
        if time.monotonic() >= self._again:
            self._again = math.inf

    def worker(self) -> Worker | None:
        """A new worker, or none."""
        if self._again < math.inf:
            return None
        try:
            worker = start(self._setup)
        except OSError as e:
            self._log(
                f"no process for a session could be started ({e.strerror}); next try in {self._pause_s:g} s; if this "
                "persists, raise TasksMax, LimitNOFILE or MemoryMax of the service"
            )
            self._again = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)
            return None
        self._pause_s = _START_S
        return worker


def start(setup: bytes) -> Worker:
    """Start a worker, which reads `setup` and reports over its control socket."""
    ours, theirs = socket.socketpair()
    with theirs, scratch() as file:
        file.write(setup)
        file.seek(0)
        # Spinning threads would stall each other when sessions share the cores.
        patient = {"OMP_WAIT_POLICY": "PASSIVE", "THP_MEM_ALLOC_ENABLE": "1", **os.environ}
        # Output of libraries could contain parts of the scan, so it is discarded.
        process = subprocess.Popen(
            [sys.executable, "-m", "recon.serve", str(theirs.fileno())],
            stdin=file, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env=patient, **_group(),
        )  # fmt: skip
    return Worker(process, Listening(ours))
