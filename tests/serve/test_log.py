"""The server's log: a disk that takes no line of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.serve.scanner import Recording, run, session


def test_f32_a_log_on_a_full_disk_stops_no_scan(full: Recording, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('port = 0\naudit = "audit.jsonl"\n[limits]\nready_MiB = 0\n')
    command = [sys.executable, "-m", "recon", "serve", "--config", str(tmp_path / "site.toml")]
    with (
        open("/dev/full", "w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        try:
            for _ in range(2):
                reply = run(port, session(full, "sense"))
                assert (len(reply.images), reply.closes, reply.broken) == (1, 1, "")
            assert process.poll() is None
        finally:
            process.terminate()
    states = [json.loads(line).get("state") for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert states == [None, "done", None, "done"]
