"""How fast the server answers a scanner: last line to first image byte, first and later scans, ingest, memory.

    python bench/latency.py --json bench/results/latency.json --page docs/server-speed.md      # about six minutes
    python bench/latency.py --quick --json latency.json                                      # less than four
    python bench/latency.py --small                                                           # seconds, for a test

A scan is played in real time: its lines are sent one by one, so that a slice takes about as long as on a scanner.
Measured is the time from a slice's last line, when it has been sent, to the first byte of its image. Targets on two
cores: 1 s for CG-SENSE of 8 coils × 256², 300 MB/s ingest. Ingest sends lines as fast as they are accepted and ends
without CLOSE, so that nothing is reconstructed; its rate is over the time until the server has reported the end.
Results are written after each case, so that an interrupted run keeps them; the page then says that it is incomplete.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving import Session, machine, peak, scan, server

from recon import simulation
from recon.io.read import read
from recon.serve import client, words
from recon.serve.settings import BUILT_IN, Limits

#: Seconds per slice, as in a fast sequence.
_SLICE_S = 1.6


@dataclass(frozen=True)
class Case:
    """A scan and the requested recipe: one that every server knows, or the name of a network's weights."""

    title: str
    coils: int
    matrix: int
    slices: int
    recipe: str
    scans: int

    @property
    def size(self) -> str:
        return f"{self.coils} coils × {self.matrix}²" + (f" × {self.slices} slices" if self.slices > 1 else "")


CASES = (
    Case("CG-SENSE", 8, 256, 1, "sense", 4),
    Case("CG-SENSE", 16, 320, 20, "sense", 1),
    *(
        Case(weights, *size, weights, scans)
        for weights in ("mri-base", "mri-small")
        for size, scans in (((8, 256, 1), 3), ((16, 320, 20), 1))
    ),
)
SMALL = (Case("CG-SENSE", 4, 32, 2, "sense", 2), Case("mri-small", 4, 32, 2, "mri-small", 1))
#: Coils and samples of the lines for measuring ingest, and MiB of them.
INGEST = ((8, 512, 1024), (16, 640, 1024))
SMALL_INGEST = ((8, 512, 16),)
#: Memory reserved by their server: touching a gigabyte takes seconds.
SMALL_READY_MIB = 16
#: Both sizes and both recipes in less time: the first scan and, for the small size, one more.
QUICK = tuple(replace(case, scans=min(case.scans, 2)) for case in CASES)
QUICK_INGEST = tuple((coils, samples, 256) for coils, samples, _ in INGEST)


def messages(case: Case, folder: Path) -> list[bytes]:
    """All messages of a simulated scan, accelerated four times."""
    path = folder / f"{case.coils}-{case.matrix}-{case.slices}.h5"
    if not path.exists():
        values = {"matrix": case.matrix, "coils": case.coils, "slices": case.slices, "accel": 4}
        simulation.simulate_to(path, simulation.preset(**values))  # type: ignore[arg-type]
    return list(client.session(read(path), case.recipe))


def last_lines(sent: Sequence[bytes]) -> dict[int, int]:
    """Number of the message that holds each slice's last line."""
    return {int.from_bytes(m[2 + 248 : 2 + 250], "little"): i for i, m in enumerate(sent) if m[:2] == b"\xf0\x03"}


def delays(session: Session, last: dict[int, int]) -> list[float]:
    """Seconds from the last line of each slice to the first byte of its image."""
    return [at - session.sent[last[number]] for at, number in zip(session.images, session.slices)]


def latency(case: Case, folder: Path, ready_MiB: int, pace: bool) -> dict[str, Any]:
    """Play the scan several times on a server with a warm worker, which has reserved some memory for raw data."""
    sent = messages(case, folder)
    last = last_lines(sent)
    pace_s = _SLICE_S * case.slices / len(sent) if pace else 0.0
    firsts, later, whole = [], [], []
    with server(f"max_sessions = 2\n{_recipes(case, folder)}{_ready(ready_MiB)}") as one, peak(one) as most:
        for _ in range(case.scans):
            one.ready()
            session = scan(one.port, sent, pace_s=pace_s)
            found = delays(session, last)
            if len(found) != case.slices:
                raise SystemExit(f"{len(found)} of {case.slices} images came back: {session.texts}")
            # The last image waits for CLOSE, which is sent with the last line.
            firsts.append(found[0])
            later += found
            whole.append(session.closed - session.sent[-1])
    return {
        "case": case.title, "size": case.size, "scans": case.scans, "messages": len(sent),
        "first_scan_s": round(firsts[0], 3), "next_scans_s": round(statistics.median(firsts[1:] or firsts), 3),
        "median_s": round(statistics.median(later), 3), "most_s": round(max(later), 3),
        "close_to_end_s": round(statistics.median(whole), 3), "peak_MiB": most[0],
    }  # fmt: skip


def _recipes(case: Case, folder: Path) -> str:
    """The section of a site's file that names a network's recipe, which is written into the folder."""
    if case.recipe in BUILT_IN:
        return ""
    path = folder / f"{case.recipe}.toml"
    path.write_text(f'[solve]\nmethod = "unrolled"\nweights = "{case.recipe}"\n')
    return f'[recipes]\n"{case.recipe}" = "{path}"\n'


def _ready(mebibytes: int) -> str:
    """The section of a site's file on the memory reserved by each waiting process."""
    return f"[limits]\nready_MiB = {mebibytes}\n"


def ingest(coils: int, samples: int, mebibytes: int, ready_MiB: int, folder: Path) -> dict[str, Any]:
    """Send one line repeatedly, this many MiB, and measure until the server has answered."""
    case = Case("ingest", coils, samples // 2, 1, "sense", 1)
    sent = messages(case, folder)
    line = sent[len(sent) // 2]  # neither noise nor the last of a slice, which would make the server look for an image
    n = mebibytes * 2**20 // len(line)
    block = line * 64
    # Limits that announce this many lines; otherwise the server would end a session that sends more than it may.
    head = sent[1][6:].rstrip(b"\0").replace(b"<maximum>0<", b"<maximum>999<")
    with server(_ready(ready_MiB) + "session_MiB = 65536\n") as one, peak(one) as most:
        one.ready()
        began = time.monotonic()
        session = scan(one.port, [sent[0], words.header(head), *[block] * (n // 64)], close=False)
        seconds = time.monotonic() - began
        while len(one.audit()) < 2:
            time.sleep(0.05)
        record = one.audit()[-1]
    if record["lines"] != n // 64 * 64:
        raise SystemExit(f"{record['lines']} of {n // 64 * 64} lines came: {session.texts}")
    return {
        "line": f"{coils} coils × {samples} samples", "lines": record["lines"], "seconds": round(seconds, 3),
        "lines_per_s": round(record["lines"] / seconds), "MB_per_s": round(record["lines"] * len(line) / seconds / 1e6),
        "peak_MiB": most[0],
    }  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The page of the results."""
    m = found["machine"]
    rows = [
        f"| {r['case']} | {r['size']} | {r['first_scan_s']:.2f} s | {r['next_scans_s']:.2f} s | "
        f"{r['median_s']:.2f} s | {r['most_s']:.2f} s | {_verdict(r)} | {r['peak_MiB']} MiB |"
        for r in found["latency"]
    ]
    taken = [
        f"| {r['line']} | {r['lines_per_s']} | {r['MB_per_s']} | {'met' if r['MB_per_s'] >= 300 else 'missed'} | "
        f"{r['peak_MiB']} MiB |"
        for r in found["ingest"]
    ]
    busy = "" if m["load_before"] < 0.5 else " Other programs used the machine, so the times are upper bounds."
    cut = "" if found["whole"] else " The run was stopped: what is missing below was not measured."
    return "\n".join(
        [
            "# How fast the server answers", "",
            f"Measured on {m['date']}, {m['processor']}, {m['cores']} cores, load average {m['load_before']} before."
            f"{busy}{cut} `python bench/latency.py` repeats the measurement. The scans are simulated, with R = 4; "
            f"their lines are sent one by one, {_SLICE_S} s per slice. Server and scanner run on the same machine.", "",
            "## Last line of a slice to the first byte of its image", "",
            "| recipe | scan | first scan | next scans | median of all images | slowest image | target 1 s | memory |",
            "|---|---|---|---|---|---|---|---|", *rows, "",
            "Each session has its own process, which was started and had imported everything before. "
            "Memory is the peak of server and workers together. Slices that arrive faster than they are "
            "reconstructed queue up: the slowest image shows for how long. The "
            "[tutorial](tutorials/scanner.md#5-images-of-a-network-within-seconds) helps to choose a network.", "",
            "## Ingest", "",
            "Lines are sent as fast as the server accepts them, and are kept in its memory.", "",
            "| line | acquisitions/s | MB/s | target 300 MB/s | memory |", "|---|---|---|---|---|", *taken, "",
        ]
    )  # fmt: skip


def soaked(path: Path) -> str:
    """The results of `soak.py`, for the same page; empty if it has not run."""
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())
    # Rounded, so that a tiny decrease does not become a negative rise.
    rises = ", ".join(f"{name.replace('_', ' ')} {round(value, 3) + 0.0:+.1%}" for name, value in found["rise"].items())
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    shown = (Path(__file__).parent.parent / "docs/pictures/soak.png").is_file()
    picture = "![Memory, open files, threads and processes over the sessions](pictures/soak.png)\n" if shown else ""
    return (
        f"\n## A hundred scans\n\n{found['sessions']} sessions in {found['seconds']:.0f} s: {states}. Three of ten are "
        "broken on purpose: CLOSE before the last line, a connection that ends before it, an unknown "
        f"recipe. Increase over all sessions: {rises}: {'flat' if found['flat'] else '**not flat**'}.\n\n" + picture
    )


def _verdict(r: dict[str, Any]) -> str:
    if (r["case"], r["size"]) != ("CG-SENSE", "8 coils × 256²"):
        return ""
    return "met" if max(r["first_scan_s"], r["most_s"]) <= 1 else "missed"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer scans and less data")
    parser.add_argument("--small", action="store_true", help="tiny scans, without the pace of a scanner")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server is stopped on the way out
    cases, lines = (
        (SMALL, SMALL_INGEST) if options.small else (QUICK, QUICK_INGEST) if options.quick else (CASES, INGEST)
    )
    ready_MiB = SMALL_READY_MIB if options.small else Limits().ready_MiB
    found: dict[str, Any] = {"machine": machine(), "latency": [], "ingest": [], "whole": False}

    def keep(kind: str, row: dict[str, Any]) -> None:
        found[kind].append(row)
        found["whole"] = (len(found["latency"]), len(found["ingest"])) == (len(cases), len(lines))
        print(row, flush=True)
        if options.json:
            _write(options.json, json.dumps(found, indent=1) + "\n")
        if options.page:
            _write(options.page, page(found) + soaked(Path(__file__).parent / "results/soak.json"))

    with tempfile.TemporaryDirectory() as name:
        for coils, samples, mebibytes in lines:
            keep("ingest", ingest(coils, samples, mebibytes, ready_MiB, Path(name)))
        for case in cases:
            keep("latency", latency(case, Path(name), ready_MiB, not options.small))


def _write(path: Path, text: str) -> None:
    """Write a file completely or not at all: a run may be interrupted at any time."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
