"""The server's log: a disk that takes no line of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.serve.scanner import Recording, run, session


def test_f32_a_server_with_log_and_output_on_a_full_disk_serves_and_stops(full: Recording, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "site.toml").write_text(f'port = {port}\naudit = "audit.jsonl"\n[limits]\nready_MiB = 0\n')
    command = [sys.executable, "-m", "recon", "serve", "--config", str(tmp_path / "site.toml")]
    with open("/dev/full", "w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            until = time.monotonic() + 30
            while True:
                try:
                    reply = run(port, session(full, "sense"))
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < until, "the server does not listen"
                    time.sleep(0.1)
            for each in (reply, run(port, session(full, "sense"))):
                assert (len(each.images), each.closes, each.broken) == (1, 1, "")
            assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(20) == 0  # it was asked to stop, and did
    states = [json.loads(line).get("state") for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert states == [None, "done", None, "done"]


def test_f32_a_result_that_could_not_be_written_is_a_failure() -> None:
    with open("/dev/full", "w") as out:
        done = subprocess.run([sys.executable, "-m", "recon", "recipe"], stdout=out, stderr=out, check=False)
    assert done.returncode == 1
