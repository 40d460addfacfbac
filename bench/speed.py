"""Speed compared with the peers: one record per case and size, `ratio` = time of the fastest equally accurate peer over
recon's.

    make bench-peers                              # once: the peers' environment; BART comes from `apt-get install bart`
    python bench/speed.py --json bench/results/speed.json
    python bench/speed.py --quick                 # the 8-coil 256² cases, with whatever peers are installed
    python bench/speed.py --case espirit --case radial
    python bench/speed.py --json bench/results/speed.json --missing   # cases whose record lacks a peer, all of it again
    python bench/speed.py --case cg_sense --size 8x160x160x160 --limit 100    # what takes peers minutes, in ten of them

All get the same data, threads and warm-up, each in its own process, one after the other. A peer that fails, is missing,
or is too inaccurate to count is named with the reason. Run it on an otherwise idle machine: times on a busy one mean
nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from case import Case, measure

#: Files in `cases/`, in the order in which they run.
FAMILIES = (
    "sense_normal", "espirit", "cg_sense", "wavelet", "grappa", "radial", "projection", "fbp", "cone", "e2e_varnet",
    "whole_run",
)  # fmt: skip
CASES: dict[str, Case] = {c.name: c for family in FAMILIES for c in importlib.import_module(f"cases.{family}").CASES}


def row(record: dict[str, Any]) -> str:
    """A record as one line."""
    name = f"{record['case']:15} {record['size']['name']:15}"
    if record["ours_s"] is None:
        return f"{name} ours failed: {record['why_not']}"
    text = f"{name} ours {record['ours_s']:9.4f} s, error {record['ours_error']:.3g}"
    if record["peer"]:
        text += f"; {record['peer']} {record['peer_s']:.4f} s, error {record['peer_error']:.3g}"
    if record["ratio"]:
        text += f": {'at least ' if 'ratio_is_at_least' in record else ''}{record['ratio']:.2f}×"
    if "ratio_loop" in record:
        text += f" (plain loop {record['ratio_loop']:.2f}×)"
    reasons = [f"{n}: {p[k]}" for n, p in record["peers"].items() for k in ("why_not", "why_not_counted") if k in p]
    return "\n    ".join([text, *reasons])


def lacking(case: Case, label: str, records: list[dict[str, Any]]) -> list[str]:
    """Peers of a case without an entry in the record of a size: neither a time nor a reason.

    A missing package says nothing about a peer.
    """
    known = next((r["peers"] for r in records if (r["case"], r["size"]["name"]) == (case.name, label)), {})
    said = {n for n, p in known.items() if "s" in p or not p.get("why_not", "").startswith("ModuleNotFoundError")}
    return [n for n in case.peers if n not in said and (label, n) not in case.slow]


def store(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the records, replacing those of the same case and size; others in the file stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else []
    made = {(r["case"], r["size"]["name"]): r for r in [*kept, *records]}
    order = {name: n for n, name in enumerate(CASES)}
    path.write_text(json.dumps(sorted(made.values(), key=lambda r: order.get(r["case"], len(order))), indent=1) + "\n")


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the records here, beside those of other cases and sizes")
    parser.add_argument(
        "--quick", action="store_true", help="the 8-coil 256² cases alone, one repeat of what takes long"
    )
    parser.add_argument("--case", choices=CASES, action="append", help="this case alone; may be given again")
    parser.add_argument("--size", action="append", help="this size alone; may be given again")
    parser.add_argument("--peer", action="append", help="this peer alone; may be given again")
    parser.add_argument(
        "--missing", action="store_true", help="only cases and sizes whose record in the --json file lacks a peer"
    )
    parser.add_argument("--repeats", type=int, help="timed runs after one warm-up (default 5)")
    parser.add_argument(
        "--limit",
        type=float,
        default=1200,
        help="seconds for the runs of one program; who has not ended its first by then is recorded as slower than that",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="name cases, sizes and peers")
    options = parser.parse_args()
    chosen = [CASES[n] for n in options.case or CASES]
    stored = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    if options.list:
        for case in chosen:
            print(f"{case.name:15} {', '.join(case.sizes):45} {', '.join(case.peers)}")
        return
    # When ended by a signal, it ends the running peer, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    repeats = options.repeats or (1 if options.quick else 5)
    peers = tuple(options.peer) if options.peer else None
    records: list[dict[str, Any]] = []
    for case in chosen:
        for label in case.quick if options.quick else case.sizes:
            wanted = not options.missing or lacking(case, label, stored)
            if wanted and (options.size is None or label in options.size):
                more = {"repeats": repeats, "threads": options.threads, "peers": peers, "hurry": options.quick}
                more["limit"] = options.limit
                records.append(measure(case, label, **more))
                print(row(records[-1]), flush=True)
                if options.json:
                    store(options.json, records)


if __name__ == "__main__":
    main()
