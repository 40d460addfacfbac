"""The page of measured times from the records of `bench/speed.py`.

python bench/page.py bench/results/speed.json docs/performance.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What the cases are, for a reader.
TITLES = {
    "sense_normal": "SENSE normal operator",
    "espirit": "ESPIRiT maps",
    "cg_sense": "CG-SENSE to a residual of 1.6e-4",
    "l1_wavelet": "L1-wavelet, 50 iterations",
    "grappa": "GRAPPA, calibration and synthesis",
    "radial": "Radial CG-SENSE, 15 iterations",
    "projection": "Parallel-beam projection",
    "backprojection": "Exact backprojection",
    "fbp": "Filtered backprojection",
    "e2e_varnet": "End-to-End VarNet, one slice",
    "help": "`recon --help`",
    "cold_run": "`recon run` to NIfTI, from the start of the process",
    "run_to_dicom": "`recon run` to DICOM, from the start of the process",
}
#: What is to be measured on a CUDA GPU.
ON_GPU = (
    "SENSE normal operator beside the time of its memory traffic",
    "CG-SENSE, 320×320×20, 16 coils",
    "ESPIRiT maps, 320×320×20, 16 coils",
)


def seconds(s: float | None) -> str:
    """A time with two figures or three."""
    if s is None:
        return "failed"
    return f"{s * 1e3:.3g} ms" if s < 1 else f"{s:.3g} s"


def row(record: Mapping[str, Any]) -> str:
    """A line of the table."""
    cells = [TITLES.get(record["case"], record["case"]), record["size"]["name"].replace("x", "×")]
    cells += [seconds(record["ours_s"]), f"{record['peer']} {seconds(record['peer_s'])}" if record["peer"] else "none"]
    cells.append(f"**{record['ratio']:.2f}**" if record["ratio"] else "")
    target = f"{record['target']:g}" if record["target"] else ""
    cells.append(f"below {seconds(record['target_s'])}" if record["target_s"] else target)
    cells.append(" / ".join(f"{e:.3g}" for e in (record["ours_error"], record["peer_error"]) if e))
    counted = [n for n, p in record["peers"].items() if "s" in p and n != record["peer"]]
    cells.append(", ".join(f"{n} {seconds(record['peers'][n]['s'])}{_mark(record['peers'][n])}" for n in counted))
    cells.append(f"{record['ours_MiB']} MiB" if record["ours_MiB"] else "")
    return "| " + " | ".join(cells) + " |"


def _mark(peer: Mapping[str, Any]) -> str:
    return "\\*" if "why_not_counted" in peer else ""


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as markdown."""
    first = records[0]
    versions = {k: v for r in records for k, v in r["versions"].items()}
    lines = [
        "# Performance",
        "",
        f"Measured on {first['date']}, {first['machine']}, {first['threads']} threads, medians of {first['repeats']} "
        "runs after a warm-up, everybody in a process of its own with the same data. The ratio is the fastest equally "
        "accurate peer's time over ours; “loop” is a plain torch loop, which never counts as the fastest peer, and "
        "peers with a star are too inaccurate to count. `make bench-peers` and `python bench/speed.py` measure again.",
        "",
        "| case | size | recon | fastest peer | ratio | to reach | error, ours / peer | others | peak memory, ours |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(row, records),
        "",
        "What the error is:",
        "",
        *dict.fromkeys(f"- {TITLES.get(r['case'], r['case'])}: {r['error_is']}." for r in records),
        "",
    ]
    absent = [
        f"- {TITLES.get(r['case'], r['case'])}, {r['size']['name'].replace('x', '×')}: {n}: {p[key]}."
        for r in records
        for n, p in r["peers"].items()
        for key in ("why_not", "why_not_counted")
        if key in p
    ]
    if absent:
        lines += ["Peers without a time, and peers that do not count:", "", *absent, ""]
    if not any(r.get("device") == "cuda" for r in records):
        lines += ["| on a CUDA GPU | |", "|---|---|", *(f"| {name} | not measured |" for name in ON_GPU), ""]
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".", ""]
    return "\n".join(lines)


def main() -> None:
    """Write the page; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    options.page.write_text(page(json.loads(options.records.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
