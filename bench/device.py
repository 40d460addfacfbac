"""Time and memory on a device: a CUDA GPU, or the CPU for a dry run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Bytes of the copy that measures a GPU's bandwidth, and the fewest runs of everything that is timed.
COPY, RUNS = 4 << 30, 5

Run = Callable[[], Any]


def wait(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times(run: Run, device: torch.device, patience: float, repeats: int = RUNS) -> tuple[list[float], Any]:
    """Seconds of `repeats` calls after a warm-up, fewer if they would take longer than `patience`, and the result.

    Each call is timed separately, from an idle device to an idle device.
    """
    first = time.perf_counter()
    result = run()
    wait(device)
    first = time.perf_counter() - first
    found: list[float] = []
    while len(found) < repeats and (not found or sum(found) + found[-1] < patience):
        del result
        start = time.perf_counter()
        result = run()
        wait(device)
        found.append(time.perf_counter() - start)
        if found[-1] > patience / 2:
            break
    return found, result


def replayed(runs: Sequence[Run], device: torch.device, repeats: int = 20) -> float:
    """Seconds of one call in a CUDA graph of all `runs`, one after the other; medians of replays.

    The time of a call without Python. Several calls on different data keep a second-level cache from serving what a
    large problem would read from memory.
    """
    if device.type != "cuda":
        return statistics.median(times(runs[0], device, 10)[0])
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for run in runs:  # plans and proofs before the capture
            run()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        kept = [run() for run in runs]
    graph.replay()
    found = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    del kept
    return statistics.median(found) / len(runs)


def bandwidth(device: torch.device, count: int = COPY) -> float:
    """Bytes a second of a copy from the device's memory to itself, read and written ones counted.

    The faster of the driver's and a kernel's copy, after enough of them for the clocks to rise.
    """
    a = torch.randn(count // 4, device=device)
    b = torch.empty_like(a)
    best = 0.0
    for copy in (lambda: b.copy_(a), lambda: torch.neg(a, out=b)):
        for _ in range(20):
            copy()
        wait(device)
        found = []
        for _ in range(20):
            start, end = _marks(device)
            start.record()
            copy()
            end.record()
            wait(device)
            found.append(start.elapsed_time(end) / 1e3)
        best = max(best, 2 * count / statistics.median(found))
    return best


class _Clock:
    """Replacement of a CUDA event on the CPU."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: _Clock) -> float:
        return (end.at - self.at) * 1e3


def _marks(device: torch.device) -> tuple[Any, Any]:
    if device.type != "cuda":
        return _Clock(), _Clock()
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def forget(device: torch.device) -> None:
    """Release all unused memory of torch and CuPy, and reset the peak."""
    if device.type != "cuda":
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    pool = _cupy_pool()
    if pool is not None:
        pool.free_all_blocks()


def held(device: torch.device) -> int | None:
    """Peak memory of torch and CuPy on the device in MiB since `forget`, including the data."""
    if device.type != "cuda":
        return None
    pool = _cupy_pool()
    return round((torch.cuda.max_memory_reserved(device) + (pool.total_bytes() if pool else 0)) / 2**20)


def _cupy_pool() -> Any:
    try:
        import cupy
    except ImportError:
        return None
    return cupy.get_default_memory_pool()


def placed(data: dict[str, Any], device: torch.device, kind: str) -> dict[str, Any]:
    """NumPy arrays on the device as `torch` or `cupy` arrays; for sigpy on the CPU they are unchanged."""
    if kind == "cupy":
        if device.type != "cuda":
            return data
        import cupy

        return {k: cupy.asarray(v) for k, v in data.items()}
    return {k: torch.from_numpy(v).to(device) for k, v in data.items()}


def host(result: Any) -> Any:
    """The result as a NumPy array."""
    if isinstance(result, torch.Tensor):
        return result.cpu().numpy()
    return np.asarray(result.get() if hasattr(result, "get") else result)


def share(run: Run, device: torch.device, log: Path | None = None, title: str = "") -> dict[str, float]:
    """Where the time of one call is spent: total seconds, GPU computing, copying to it and back, and idle.

    Overlapping intervals count once, so that computing, idle and non-overlapping copies add up to the total.
    """
    if device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    wait(device)
    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        start = time.perf_counter()
        run()
        wait(device)
        whole = time.perf_counter() - start
    spans: dict[str, list[tuple[int, int]]] = {"compute": [], "to_gpu": [], "from_gpu": []}
    names: dict[str, list[float]] = {}
    for e in prof.profiler.kineto_results.events():  # type: ignore[union-attr]
        if "CUDA" not in str(e.device_type()):
            continue
        name, begin, lasts = e.name(), e.start_ns(), e.duration_ns()
        kind = "to_gpu" if "HtoD" in name else "from_gpu" if "DtoH" in name else "compute"
        spans[kind].append((begin, begin + lasts))
        names.setdefault(name[:90], []).append(lasts / 1e9)
    if log is not None:
        longest = sorted(names.items(), key=lambda kv: -sum(kv[1]))[:18]
        lines = [f"{sum(t) * 1e3:10.3f} ms {len(t):6d}×  {name}" for name, t in longest]
        with log.open("a") as f:
            f.write("\n".join([f"== {title}: {whole * 1e3:.2f} ms, {len(names)} kernels", *lines, ""]) + "\n")
    out = {f"{kind}_s": round(_covered(s), 6) for kind, s in spans.items()}
    busy = _covered([s for some in spans.values() for s in some])
    return {"profiled_s": round(whole, 6), **out, "idle_s": round(max(0.0, whole - busy), 6)}


def _covered(spans: list[tuple[int, int]]) -> float:
    """Seconds that intervals in nanoseconds cover together."""
    total, end = 0, 0
    for a, b in sorted(spans):
        total += max(0, b - max(a, end))
        end = max(end, b)
    return total / 1e9


def about(device: torch.device) -> dict[str, Any]:
    """The GPU, and the versions of the software on it."""
    import importlib.metadata

    names = ("torch", "cupy-cuda12x", "cupy-cuda13x", "sigpy", "mrpro", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device.type != "cuda":
        return {"card": "none, a dry run on the CPU", "versions": versions}
    p = torch.cuda.get_device_properties(device)
    driver = {"cuda": torch.version.cuda or ""}
    return {
        "card": f"{p.name}, {p.total_memory >> 30} GiB, {p.multi_processor_count} SM",
        "versions": versions | driver,
    }
