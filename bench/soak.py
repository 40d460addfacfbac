"""A hundred sessions one after the other: memory, open files and threads of the server must stay constant.

    python bench/soak.py --json bench/results/soak.json --picture docs/pictures/soak.png      # about five minutes

Three of ten sessions are cancelled, break off, or ask for something missing. A line through the second half of the
numbers must not rise by more than one twentieth of their mean over all sessions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import Server, machine, scan, server

from recon import simulation
from recon.io.read import read
from recon.serve import client, words

#: What is counted, and how much it may rise from end to end as a share of its mean.
COUNTED = ("server_MiB", "server_files", "server_threads", "processes", "waiting_MiB")
MAY_RISE = 0.05


def count(one: Server) -> dict[str, float]:
    """The server's own process, and the workers that wait."""
    children = one.process.children()
    held = one.process.memory_info()
    waiting = [c.memory_info() for c in children]
    return {
        "server_MiB": (held.rss - held.shared) / 2**20,
        "server_files": one.process.num_fds(),
        "server_threads": one.process.num_threads(),
        "processes": len(children),
        "waiting_MiB": sum(m.rss - m.shared for m in waiting) / 2**20,
    }


def play(one: Server, messages: list[bytes], n: int) -> None:
    """One session: a whole scan, or one of three that end badly."""
    bad = n % 10
    if bad == 1:
        scan(one.port, [*messages[:20], words.close()])
    elif bad == 4:
        scan(one.port, messages[:20], close=False)
    elif bad == 7:
        scan(one.port, [words.config_file("nobody")])
    else:
        found = scan(one.port, messages)
        if not found.images or not found.closed:
            raise SystemExit(f"session {n} gave no image: {found.texts}")


def rise(values: list[float]) -> float:
    """Slope of the second half over all sessions, as a share of the mean."""
    half = np.asarray(values[len(values) // 2 :], float)
    slope = np.polyfit(np.arange(len(half)), half, 1)[0] if len(half) > 2 else 0.0
    return float(slope * len(values) / max(1e-9, half.mean()))


def soak(sessions: int, matrix: int, coils: int) -> dict[str, Any]:
    """Play the sessions and count after each, when its worker has gone and the next one waits."""
    with tempfile.TemporaryDirectory() as name, server("[limits]\nwall_s = 60\nready_MiB = 16\n") as one:
        path = Path(name) / "scan.h5"
        simulation.simulate_to(path, simulation.preset(matrix=matrix, coils=coils, accel=2))
        messages = list(client.session(read(path), "sense"))
        counted: dict[str, list[float]] = {key: [] for key in COUNTED}
        began = time.monotonic()
        for n in range(sessions):
            play(one, messages, n)
            until = time.monotonic() + 60
            while len(one.audit()) < 2 * (n + 1) or len(one.process.children()) != 1:
                if time.monotonic() > until:
                    raise SystemExit(f"session {n} did not end")
                time.sleep(0.02)
            one.ready()
            for key, value in count(one).items():
                counted[key].append(round(value, 2))
        seconds = round(time.monotonic() - began, 1)
        states = [line["state"] for line in one.audit() if line["event"] == "ended"]
    rises = {key: round(rise(values), 4) for key, values in counted.items()}
    return {
        "machine": machine(), "sessions": sessions, "seconds": seconds,
        "states": {state: states.count(state) for state in sorted(set(states))},
        "rise": rises, "flat": all(r <= MAY_RISE for r in rises.values()), "counted": counted,
    }  # fmt: skip


def picture(found: dict[str, Any], path: Path) -> None:
    """The counts over the sessions."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    shown = (("memory (MiB)", ("server_MiB", "waiting_MiB")), ("open files", ("server_files",)),
             ("threads and processes", ("server_threads", "processes")))  # fmt: skip
    for axis, (title, keys) in zip(axes, shown):
        for key in keys:
            axis.plot(range(1, found["sessions"] + 1), found["counted"][key], label=key.replace("_", ", ", 1))
        axis.set(title=title, xlabel="session", ylim=(0, None))
        axis.legend(frameon=False)
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Play, write, and exit 1 if anything rises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--matrix", type=int, default=64)
    parser.add_argument("--coils", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    found = soak(options.sessions, options.matrix, options.coils)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        picture(found, options.picture)
    print(f"{found['sessions']} sessions in {found['seconds']} s, {found['states']}; rise: {found['rise']}")
    sys.exit(0 if found["flat"] else 1)


if __name__ == "__main__":
    main()
