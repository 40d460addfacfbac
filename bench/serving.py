"""A server in a separate process, and a scanner that records when each line was sent and each image began to arrive."""

from __future__ import annotations

import json
import platform
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

_IMAGE, _CLOSE, _TEXT = 1022, 4, 5
#: Bytes of an image's header, and the offsets of its matrix, channels and type.
_HEAD, _AT = 198, struct.Struct("<2xH12x3H12xH")
_BYTES = {1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 8, 7: 8, 8: 16}


@dataclass
class Server:
    """A running `recon serve`."""

    port: int
    process: psutil.Process
    folder: Path
    page: str

    def audit(self) -> list[dict[str, Any]]:
        """Lines of the audit file."""
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def ready(self, workers: int = 1) -> None:
        """Wait until this many workers have imported everything and reserved memory for raw data."""
        until = time.monotonic() + 300
        while json.load(urllib.request.urlopen(self.page, timeout=10))["workers"]["held"] < workers:
            if time.monotonic() > until:
                raise SystemExit("the server's workers do not start")
            time.sleep(0.02)

    def memory(self) -> int:
        """MiB of the server and its workers that are not shared; cheap to read, so that measuring slows nothing."""
        total = 0
        for p in (self.process, *self.process.children()):
            try:
                held = p.memory_info()
            except psutil.Error:
                continue
            total += held.rss - getattr(held, "shared", 0)
        return total // 2**20


@contextmanager
def peak(one: Server) -> Iterator[list[int]]:
    """Watch a server's memory; the list holds its largest MiB at the end."""
    seen, ended = [one.memory()], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen[0] = max(seen[0], one.memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


@contextmanager
def server(settings: str = "") -> Iterator[Server]:
    """Start a server on loopback with a site's settings (TOML), and stop it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "site.toml").write_text(f'port = 0\nstatus_port = 0\naudit = "audit.jsonl"\n{settings}')
        command = [sys.executable, "-m", "recon", "serve", "--config", str(folder / "site.toml")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline().rpartition(":")[2])
            page = process.stdout.readline().split()[-1] + "status.json"
            yield Server(port, psutil.Process(process.pid), folder, page)
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


@dataclass
class Session:
    """Times in seconds after the connection: lines sent, images begun, the server closed."""

    sent: list[float] = field(default_factory=list)
    images: list[float] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    closed: float = 0.0


def scan(port: int, messages: Sequence[bytes], *, pace_s: float = 0.0, close: bool = True) -> Session:
    """Play a scanner: send messages, `pace_s` apart, and receive the answers until CLOSE."""
    out, began = Session(), time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = threading.Thread(target=_read, args=(sock, out, began), daemon=True)
        reader.start()
        due = time.monotonic()
        for message in messages:
            due += pace_s
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            sock.sendall(message)
            out.sent.append(time.monotonic() - began)
        if not close:
            sock.shutdown(socket.SHUT_WR)
        reader.join(300)
    return out


def _read(sock: socket.socket, out: Session, began: float) -> None:
    stream = sock.makefile("rb", buffering=1 << 20)
    while head := stream.read(2):
        at, number = time.monotonic() - began, int.from_bytes(head, "little")
        if number == _CLOSE:
            out.closed = at
        elif number == _TEXT:
            out.texts.append(stream.read(int.from_bytes(stream.read(4), "little")).rstrip(b"\0").decode())
        elif number == _IMAGE:
            header = stream.read(_HEAD)
            kind, x, y, z, channels = _AT.unpack_from(header)
            stream.read(int.from_bytes(stream.read(8), "little"))
            stream.read(x * y * z * channels * _BYTES[kind])
            out.images.append(at)
            out.slices.append(int.from_bytes(header[98:100], "little"))
        else:
            raise ValueError(f"message {number}")


def machine() -> dict[str, Any]:
    """The machine of the measurement, and its load before."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text())):
        model = found[1]
    return {
        "processor": model,
        "cores": psutil.cpu_count(),
        "load_before": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
