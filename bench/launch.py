"""Commands timed from a small separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

#: Runs a command from a small process: a child's peak memory is never below that of the process it was forked from.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""


def peak_run(command: Sequence[str], **more: Any) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a command (its largest process); raises RuntimeError with its output.

    Python keeps compiled files, as an installed package has them after `pip install`, whatever the environment says.
    """
    launched = [sys.executable, "-S", "-c", LAUNCHER, *command]
    more["env"] = {k: v for k, v in (more.get("env") or os.environ).items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(launched, capture_output=True, text=True, errors="replace", **more)
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise RuntimeError(f"{' '.join(command)[:60]} failed: {said or f'exit status {done.returncode}'}")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak) / 1024
