"""The page of measured times, from the records of `bench/speed.py`, `bench/sweep.py` and `bench/gpu.py`.

python bench/page.py bench/results/speed.json docs/performance.md --gpu bench/results/gpu.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Descriptions of the cases.
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
    "cone_projection": "Cone-beam projection",
    "cone_backprojection": "Exact backprojection of a cone beam",
    "fdk": "Filtered backprojection of a cone beam (FDK)",
    "e2e_varnet": "End-to-End VarNet, one slice",
    "help": "`recon --help`",
    "cold_run": "`recon run` to NIfTI, from the start of the process",
    "run_to_dicom": "`recon run` to DICOM, from the start of the process",
    "recon_run": "`recon run` in one process, raw file to NIfTI",
    "unrolled": "Unrolled network, including its classical start",
}
#: The cases on a CUDA GPU.
ON_GPU = (
    "SENSE normal operator beside the time of its memory traffic",
    "CG-SENSE, 320×320×20, 16 coils",
    "ESPIRiT maps, 320×320×20, 16 coils",
)


def days(records: Sequence[Mapping[str, Any]]) -> str:
    """The days of records as words: "a", "a and b", "a, b and c"."""
    *first, last = sorted({str(r["date"]) for r in records})
    return f"{', '.join(first)} and {last}" if first else last


def seconds(s: float | None) -> str:
    """A time with two or three digits."""
    if s is None:
        return "failed"
    return f"{s * 1e3:.3g} ms" if s < 1 else f"{s:.3g} s"


def row(record: Mapping[str, Any], machines: Sequence[str] = ()) -> str:
    """A line of the table; daggers mark other `machines` than the first."""
    daggers = "†" * list(machines).index(record["machine"]) if machines else ""
    cells = [TITLES.get(record["case"], record["case"]) + daggers, record["size"]["name"].replace("x", "×")]
    cells += [seconds(record["ours_s"]), f"{record['peer']} {seconds(record['peer_s'])}" if record["peer"] else "none"]
    cells.append(f"**{_bound(record)}{record['ratio']:.2f}**" if record["ratio"] else "")
    target = f"{record['target']:g}" if record["target"] else ""
    cells.append(f"below {seconds(record['target_s'])}" if record["target_s"] else target)
    cells.append(" / ".join(f"{e:.3g}" for e in (record["ours_error"], record["peer_error"]) if e))
    counted = [n for n, p in record["peers"].items() if "s" in p and n != record["peer"]]
    cells.append(", ".join(f"{n} {seconds(record['peers'][n]['s'])}{_mark(record['peers'][n])}" for n in counted))
    cells.append(f"{record['ours_MiB']} MiB" if record["ours_MiB"] else "")
    return "| " + " | ".join(cells) + " |"


def _bounded(record: Mapping[str, Any]) -> bool:
    return bool(record.get("ratio_is_at_least"))


def _mark(peer: Mapping[str, Any]) -> str:
    return "\\*" if "why_not_counted" in peer else ""


def gpu_row(record: Mapping[str, Any]) -> str:
    """A line of the GPU's table."""
    cells = [TITLES.get(record["case"], record["case"]), record["size"]["name"].replace("x", "×")]
    cells.append(f"**{seconds(record['ours_s'])}**" if record["ours_s"] else "failed")
    cells.append(f"below {seconds(record['target_s'])}" if record.get("target_s") else "")
    busy = [
        (record.get(k), name)
        for k, name in (("compute_s", "computing"), ("to_gpu_s", "copying in"), ("idle_s", "idle"))
    ]
    cells.append(", ".join(f"{name} {seconds(s)}" for s, name in busy if s is not None and s >= 1e-5))
    graph = f"{seconds(record['graph_s'])} = {record['over_floor']:.1f} ×" if "over_floor" in record else ""
    cells.append(graph)
    cells.append(record.get("commit", ""))
    cells.append(f"{record['ours_error']:.2g}" if record["ours_error"] is not None else "")
    cells.append(f"{record['ours_MiB']} MiB" if record["ours_MiB"] else "")
    peers = record["peers"].items()
    timed = [f"{n} {seconds(p['s'])} ({p['error']:.2g}, {p['MiB']} MiB)" for n, p in peers if "s" in p]
    return (
        "| "
        + " | ".join([*cells, ", ".join([*timed, *(f"{n}: not measured" for n, p in peers if "s" not in p)])])
        + " |"
    )


def gpu_section(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The results on a CUDA GPU, or the statement that there are none."""
    if not records:
        return ["| on a CUDA GPU | |", "|---|---|", *(f"| {name} | not measured |" for name in ON_GPU), ""]
    first = records[0]
    rates = sorted({r["copy_bytes_per_s"] for r in records})
    rate = " to ".join(f"{r / 1e12:.2f}" for r in (rates if len(rates) < 2 else (rates[0], rates[-1])))
    versions = {k: v for r in records for k, v in r["versions"].items()}
    named = ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
    return [
        "## On a CUDA GPU",
        "",
        f"Measured on {first['date']} on an {first['card']}, with {named}. "
        "Times are medians of five or more calls after a warm-up (fewer for peers that take seconds). Each call is "
        "timed alone on an idle GPU, with the data already on it.",
        "",
        "- *One call*: how the time is spent according to the profiler; time that is neither computing nor copying "
        "is Python.",
        "- *In a graph*: the time without Python, and its ratio to reading maps and image once and writing the image "
        f"once at copy bandwidth ({rate} TB/s, read and written). The target is 1.5.",
        "- *Commit*: the version of the code that was measured. Later changes were not measured again unless there is "
        "a second row.",
        "- *Memory*: the peak of torch and CuPy, including the data.",
        "- *Others, same card*: in brackets are error and memory; “loop” is a plain torch loop, not a package.",
        "",
        "| case | size | recon | target | one call | in a graph | commit | error | memory | others, same card |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *map(gpu_row, records),
        "",
        "How the error is measured:",
        "",
        *dict.fromkeys(f"- {TITLES.get(r['case'], r['case'])}: {r['error_is']}." for r in records),
        "",
    ]


def growth_section(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The pictures of the sweep and their numbers; empty without a sweep."""
    if not records:
        return []
    from sweep import SWEPT, worst

    first, when = records[0], days(records)
    lines = [
        "## How time grows",
        "",
        f"Measured on {when} by `python bench/sweep.py`, {first['machine']}, {first['threads']} threads, medians of "
        f"{first['repeats']} runs, with the peers that are fastest in at least one case. Sides are even, odd and "
        "prime; coils range from 1 to 64. At some sizes only recon was measured. Waiting threads slept "
        "(`OMP_WAIT_POLICY=passive`) in this measurement.",
        "",
        "- *Ratio*: time of the fastest equally accurate peer over recon's, smallest and largest.",
        "- *Strided*: data with their axes in reversed order in memory.",
        "- *Worst*: recon's largest time per sample over the mean of its neighbours along an axis; 1 is even growth.",
        "- A triangle marks a peer that was stopped.",
        "",
    ]
    for name, axis in (("sweep.png", "coils"), ("sweep-ct.png", "views")):
        if any(SWEPT[r["case"]].axis == axis for r in records):
            lines += [f"![Time over side and over {axis}, recon and the fastest peers](pictures/{name})", ""]
    lines += ["| case | peers | points | ratio, least | at | most | at | strided over plain | worst |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(r["case"] for r in records):
        some = [r for r in records if r["case"] == name]
        told = sorted((r for r in some if r["ratio"]), key=lambda r: r["ratio"])
        ends = [f"{_bound(r)}{r['ratio']:.1f} | {r['size']['name']}" for r in (told[:1] + told[-1:])] or [" | "] * 2
        times = {r["size"]["axis"]: r["ours_s"] for r in some if r["size"]["at"] == _strided(some)}
        strided = f"{times['strided'] / times['side']:.1f}" if times.get("strided") and times.get("side") else ""
        asked = ", ".join(SWEPT[name].peers)
        lines.append(f"| {TITLES[name]} | {asked} | {len(some)} | {' | '.join(ends)} | {strided} | {worst(some):.1f} |")
    return [*lines, ""]


def _bound(record: Mapping[str, Any]) -> str:
    return "> " if _bounded(record) else ""


def _strided(records: Sequence[Mapping[str, Any]]) -> int | None:
    return next((r["size"]["at"] for r in records if r["size"]["axis"] == "strided"), None)


def page(
    records: Sequence[Mapping[str, Any]],
    gpu: Sequence[Mapping[str, Any]] = (),
    growth: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The whole page as markdown."""
    first = records[0]
    versions = {k: v for r in records for k, v in r["versions"].items()}
    # A shared machine is not equally fast every day: only ratios can be compared.
    machines = list(dict.fromkeys(r["machine"] for r in records))
    others = "".join(f"{'†' * n}: on {m}. " for n, m in enumerate(machines) if n)
    when = days(records)
    counts = sorted({r["repeats"] for r in records})
    runs = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    limits = [r["limit_s"] for r in records if "limit_s" in r]
    once = any(p.get("runs", r["repeats"]) < r["repeats"] for r in records for p in r["peers"].values())
    slow = f"Peers that need more than {min(limits):g} s made fewer runs, at least one. " if once and limits else ""
    ended = "With >, the fastest peer was stopped at this time. " if any(map(_bounded, records)) else ""
    lines = [
        "# Performance",
        "",
        f"Measured on {when}, {first['machine']}, {first['threads']} threads: medians of {runs} "
        "runs after a warm-up, each program in its own process with the same data. "
        f"{slow}{others}`make bench-peers` and `python bench/speed.py` repeat the measurement.",
        "",
        f"- *Ratio*: time of the fastest equally accurate peer over recon's. {ended}".rstrip(),
        "- “loop” is a plain torch loop, which never counts as the fastest peer.",
        "- Peers with a star are too inaccurate to count.",
        "",
        "| case | size | recon | fastest peer | ratio | target | error, recon / peer | others | peak memory, recon |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(r, machines) for r in records),
        "",
        "How the error is measured:",
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
        lines += ["Peers that were not measured, or do not count:", "", *absent, ""]
    lines += ["Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".", ""]
    lines += [*growth_section(growth), *gpu_section(gpu)]
    return "\n".join(lines)


def main() -> None:
    """Write the page; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("page", type=Path)
    results = Path(__file__).resolve().parent / "results"
    parser.add_argument("--gpu", type=Path, default=results / "gpu.json")
    parser.add_argument("--sweep", type=Path, default=results / "sweep.json")
    options = parser.parse_args()
    gpu, growth = (json.loads(p.read_text()) if p.exists() else [] for p in (options.gpu, options.sweep))
    made = page(json.loads(options.records.read_text()), gpu, growth)
    options.page.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
