"""How far a session that allocates memory as fast as it can exceeds its limit before the server has ended it.

    python bench/overshoot.py --json bench/results/overshoot.json           # about a minute

A thread in the process of a session touches fresh memory at a given rate and records the amount in a file that outlives
it; the limit is 2 GiB (`--limit`). The memory of the process when it was killed, minus the limit, is the overshoot.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from serving import Server, machine, server

from recon.serve import words

#: Rates in MiB/s; 0 means as fast as possible.
RATES = (500, 1000, 2000, 0)
#: It stops here, so that a server which lets it grow does no harm.
MOST_MIB = 6144

#: Runs in every process that Python starts with its folder on PYTHONPATH; those of sessions grow when a file says so.
GROW = f"""
import mmap, os, pathlib, struct, sys, threading, time

STEP = 2**22

def grow():
    here = pathlib.Path(__file__).parent
    while True:
        try:
            os.rename(here / "rate", here / "taken")  # the next process does not grow
            break
        except OSError:
            time.sleep(0.005)
    rate = float((here / "taken").read_text()) * 2**20
    with open(here / "counted", "r+b") as file:
        counted = mmap.mmap(file.fileno(), 16)
    held = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
    memory = mmap.mmap(-1, {MOST_MIB} * 2**20)
    began = time.perf_counter()
    for start in range(0, len(memory), STEP):
        memory[start : start + STEP : 4096] = bytes(STEP // 4096)
        taken = time.perf_counter() - began
        counted[:16] = struct.pack("<qd", held + start + STEP, taken)
        if rate:
            time.sleep(max(0.0, (start + STEP) / rate - taken))

if "recon.serve" in sys.orig_argv:
    threading.Thread(target=grow, daemon=True).start()
"""


def overshoot(rate: int, limit: int) -> dict[str, Any]:
    """A session that grows at this rate in MiB/s, on a server with this limit in MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(GROW)
        (folder / "counted").write_bytes(bytes(16))
        os.environ["PYTHONPATH"] = name
        try:
            with server(f"max_sessions = 1\n[limits]\nprocess_MiB = {limit}\nready_MiB = 0\n") as one:
                one.ready()
                with socket.create_connection(("127.0.0.1", one.port)) as sock:
                    sock.sendall(words.config_file("auto"))
                    _wait(one, 1)
                    (folder / "new").write_text(str(rate))
                    os.rename(folder / "new", folder / "rate")
                    _wait(one, 2)
                reason = one.audit()[-1]["reason"]
        finally:
            del os.environ["PYTHONPATH"]
        raw = (folder / "counted").read_bytes()
    held, seconds = struct.unpack("<qd", raw)
    held /= 2**20
    if "was ended" not in reason:
        raise SystemExit(f"the session was not ended for its memory: {reason}")
    return {
        "asked_MiB_s": rate or None, "grew_s": round(seconds, 3), "limit_MiB": limit,
        "held_MiB": round(held), "beyond_MiB": round(held - limit),
    }  # fmt: skip


def _wait(one: Server, lines: int) -> None:
    while len(one.audit()) < lines:
        time.sleep(0.02)


def main() -> None:
    """Measure all rates and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rates", type=int, nargs="*", default=list(RATES))
    parser.add_argument("--limit", type=int, default=2048, help="MiB")
    args = parser.parse_args()
    rows = []
    for rate in args.rates:
        rows.append(overshoot(rate, args.limit))
        print(rows[-1], file=sys.stderr, flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
