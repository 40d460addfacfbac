"""A case of the benchmark, and one measurement of it: recon and the peers, one after the other."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
#: The environment created by `make bench-peers`.
PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"

Array = NDArray[Any]
Data = dict[str, Array]
Settings = Mapping[str, Any]

#: A peer counts as equally accurate if its error is at most this many times recon's, or below the case's floor.
SLACK = 1.25


@dataclass(frozen=True)
class Case:
    """A task with sizes, common data, recon's function and the peers.

    `module` holds recon's `function(data, settings)`; each peer's file holds a function for the case's `task`.
    `data(size, folder)` makes the arrays that all of them read, and the settings. `error(data, settings, result,
    witness)` measures the error of a result, and `measure` describes it in words; `more` adds figures. Errors below
    `floor` count as equal. Peers are listed from the one expected to be fastest to the slowest; `slow` says which are
    left out at a size, and why. `target` is the ratio to reach, `target_s` the seconds.
    """

    name: str
    task: str
    module: str
    sizes: Mapping[str, Settings]
    quick: tuple[str, ...]
    target: float | None
    peers: tuple[str, ...]
    data: Callable[[Settings, Path], tuple[Data, Settings]]
    error: Callable[[Data, Settings, Array, Array | None], float]
    measure: str
    floor: float = 0.0
    target_s: float | None = None
    function: str = "ours"
    slow: Mapping[tuple[str, str], str] = field(default_factory=dict)
    more: Callable[[Data, Settings, Array], dict[str, float]] | None = None


#: Peers that are much slower with two BLAS threads, because of their many small linear systems: they get one.
ONE_THREAD = ("pygrappa", "pygrappa_grappa")


def python_of(peer: str) -> str:
    """The interpreter that runs a peer: that of the peers' environment, or recon's if there is none."""
    return sys.executable if peer == "ours" or not PEERS_PYTHON.exists() else str(PEERS_PYTHON)


def environment(threads: int) -> dict[str, str]:
    """The same environment for every program: a fixed number of threads, otherwise the shell's own variables."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA", "VECLIB_MAXIMUM")
    return {**os.environ, **{f"{n}_NUM_THREADS": str(threads) for n in names}}


#: Seconds that a worker may take for imports and preparation, untimed.
PREPARING = 1200.0


def worker(
    peer: str,
    module: str,
    function: str,
    folder: Path,
    *,
    repeats: int,
    threads: int,
    leader: float,
    hurry: bool,
    limit: float,
) -> dict[str, Any]:
    """Seconds, MiB, versions, result and witness of one worker; {why_not} if it failed.

    A first run that is not finished after `limit` seconds is ended, and `more_than_s` states how long it had run.
    """
    out = folder / f"result_{peer}"
    threads = 1 if peer in ONE_THREAD else threads
    command = [python_of(peer), str(HERE / "harness.py"), module, function, str(folder), str(out)]
    command += [str(repeats), str(threads), str(leader), "hurry" if hurry else "calm", str(limit)]
    with tempfile.TemporaryFile("w+", errors="replace") as said_last:
        ran = bounded(command, Path(f"{out}.started"), limit, stderr=said_last, env=environment(threads))
        said_last.seek(0)
        lines = [line for line in said_last.read().strip().splitlines() if line.strip()]
    if isinstance(ran, dict):
        return ran
    if ran:
        words = lines[-1].strip()[:300] if lines else f"exit status {ran}"
        missing = peer != "ours" and words.startswith("ModuleNotFoundError")
        return {"why_not": words + ("; run `make bench-peers`" if missing else "")}
    said: dict[str, Any] = json.loads(Path(f"{out}.json").read_text())
    witness = Path(f"{out}.witness.npy")
    said["result"] = np.load(f"{out}.npy")
    said["witness"] = np.load(witness) if witness.exists() else None
    for path in folder.glob(f"{out.name}.*"):
        path.unlink()
    return said


def bounded(command: list[str], started: Path, limit: float, **more: Any) -> int | dict[str, Any]:
    """Exit status of a command; if it was ended, how long it had run since it created the file `started`.

    Its child processes are ended, too: a peer's command that kept running would slow down the next peer.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, **more)
    began = time.monotonic()
    try:
        while True:
            try:
                return process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                gone = time.time() - started.stat().st_mtime if started.exists() else None
            if gone is not None and gone > limit:
                return {"more_than_s": round(gone, 1), "why_not": f"not done after {gone:.0f} s"}
            if gone is None and time.monotonic() - began > PREPARING:
                return {"why_not": f"not begun after {PREPARING:.0f} s"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def scratch() -> Path:
    """A new folder, in memory if possible."""
    return Path(tempfile.mkdtemp(prefix="recon-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def machine() -> str:
    """Processor, number of cores and the widest vectors: one name is sold with and without AVX-512."""
    name, wide = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        said = [line.split(":", 1) for line in info.read_text().splitlines() if ":" in line]
        found = {key.strip(): value.strip() for key, value in said}
        name = found.get("model name", name)
        flags = found.get("flags", "").split()
        wide = next((f", {told}" for flag, told in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    return f"{name}, {os.cpu_count()} cores{wide}"


def measure(
    case: Case,
    label: str,
    *,
    repeats: int = 5,
    threads: int = 2,
    peers: tuple[str, ...] | None = None,
    hurry: bool = False,
    limit: float = 1200,
) -> dict[str, Any]:
    """One record: recon, every peer with its time, error and memory or the reason for its absence, and the ratio.

    With `hurry`, peers that are much slower than another are run once, without a warm-up. `limit` bounds the seconds of
    each one's runs.
    """
    folder = scratch()
    try:
        data, settings = case.data(case.sizes[label], folder)
        for name, array in data.items():
            np.save(folder / f"{name}.npy", array)
        (folder / "settings.json").write_text(json.dumps(dict(settings)))
        versions: dict[str, str] = {}
        rows: dict[str, dict[str, Any]] = {}
        leader = float("inf")
        for who in ("ours", *(case.peers if peers is None else [p for p in case.peers if p in peers])):
            if (label, who) in case.slow:
                rows[who] = {"why_not": case.slow[label, who]}
                continue
            module, function = (case.module, case.function) if who == "ours" else (f"peers.{who}", case.task)
            said = worker(
                who,
                module,
                function,
                folder,
                repeats=repeats,
                threads=threads,
                leader=leader,
                hurry=hurry,
                limit=limit,
            )
            rows[who] = said if "why_not" in said else _judged(case, data, settings, said)
            versions |= rows[who].pop("versions", {})
            if who != "ours" and "s" in rows[who]:
                leader = min(leader, rows[who]["s"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    size = {k: v for k, v in case.sizes[label].items() if isinstance(v, (int, str, list, tuple, float))}
    return record(case, label, size, rows, versions) | {"threads": threads, "repeats": repeats, "limit_s": limit}


def _judged(case: Case, data: Data, settings: Settings, said: dict[str, Any]) -> dict[str, Any]:
    result, witness = said.pop("result"), said.pop("witness")
    seconds = said.pop("seconds")
    row = {"s": statistics.median(seconds), "runs": len(seconds), **said}
    row["error"] = float(f"{case.error(data, settings, result, witness):.4g}")
    if case.more is not None:
        row |= case.more(data, settings, result)
    return row


def record(
    case: Case, label: str, size: Settings, rows: dict[str, dict[str, Any]], versions: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of a record; `ratio` is the median time of the fastest equally accurate peer over recon's.

    If a peer was ended before it finished, and no other had finished, the ratio uses its time so far, and
    `ratio_is_at_least` says that it may be higher. "loop" is a plain torch loop rather than a package: it has a
    separate ratio and never counts as the fastest peer.
    """
    ours, peers = rows["ours"], {n: r for n, r in rows.items() if n != "ours"}
    out: dict[str, Any] = {"case": case.name, "size": {"name": label, **size}, "device": "cpu"}
    out |= {"ours_s": ours.get("s"), "ours_error": ours.get("error"), "ours_MiB": ours.get("MiB")}
    out |= {k: v for k, v in ours.items() if k not in ("s", "error", "MiB", "runs", "warmed_up", "why_not")}
    limit = max(case.floor, SLACK * ours.get("error", float("inf")))
    for row in peers.values():
        if "why_not" not in row and not row["error"] <= limit:
            row["why_not_counted"] = f"error {row['error']:.3g} above {limit:.3g}"
    counted = {n: r for n, r in peers.items() if "s" in r and "why_not_counted" not in r and n != "loop"}
    best = min(counted, key=lambda n: counted[n]["s"], default=None)
    ratio = counted[best]["s"] / ours["s"] if best and "s" in ours else None
    bounds = [r["more_than_s"] for n, r in peers.items() if "more_than_s" in r and n != "loop"]
    at_least = bool(bounds) and (ratio is None or min(bounds) < counted[best or ""]["s"])
    if at_least and "s" in ours:
        ratio = min(bounds) / ours["s"]
    out |= {"peer": best, "peer_s": counted[best]["s"] if best else None}
    out |= {"peer_error": counted[best]["error"] if best else None, "ratio": round(ratio, 3) if ratio else None}
    if at_least and ratio:
        out["ratio_is_at_least"] = True
    if "s" in peers.get("loop", {}) and "s" in ours:
        out["ratio_loop"] = round(peers["loop"]["s"] / ours["s"], 3)
    if best and "s" in ours:
        out["as_accurate"] = bool(ours["error"] <= max(case.floor, SLACK * counted[best]["error"]))
    if "why_not" in ours:
        out["why_not"] = ours["why_not"]
    out |= {"target": case.target, "target_s": case.target_s, "error_is": case.measure, "peers": peers}
    return out | {"versions": dict(versions), "machine": machine(), "date": str(date.today())}
