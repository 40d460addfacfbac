"""One measurement in a separate process: loads arrays, warms up, repeats, writes times and the result.

    python bench/harness.py MODULE FUNCTION FOLDER OUT REPEATS THREADS LEADER hurry|calm LIMIT

recon and every peer run through this file, so that imports, threads and memory are counted alike. It needs numpy and
nothing of recon. FUNCTION(data, settings) prepares, untimed, and returns a callable that does the work once. Its return
value is the result, or a tuple (result, seconds, MiB) if a command measured itself. An attribute `witness` of the
callable is stored with the result. A task much slower than LEADER seconds is run once after its warm-up, or with
--hurry not again; a task that takes LONG is not repeated either. No run begins that would end later than LIMIT seconds
after the start of the first one; a file OUT.started records that time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

#: Packages whose versions are recorded if they are in use.
PACKAGES = """
torch numpy scipy recon sigpy mrpro deepinv mri-nufft finufft pygrappa fastmri espirit astra-toolbox odl scikit-image
torchkbnufft
""".split()  # noqa: SIM905


#: Seconds above which a task is not run again: the imports and allocations of a first run are then negligible.
LONG = 20.0


def versions() -> dict[str, str]:
    """Versions of those packages that this process has imported."""
    modules = {"mri-nufft": "mrinufft", "astra-toolbox": "astra", "scikit-image": "skimage"}
    return {p: importlib.metadata.version(p) for p in PACKAGES if modules.get(p, p) in sys.modules}


def timed(run: Any) -> tuple[Any, float, float | None]:
    """Result, seconds and, if the task measures it better than this process, MiB."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    return result if isinstance(result, tuple) else (result, seconds, None)


def main(
    module: str,
    function: str,
    folder: str,
    out: str,
    repeats: int,
    threads: int,
    leader: float,
    hurry: bool,
    limit: float = float("inf"),
) -> None:
    """Measure one task; see the module."""
    data = {p.stem: np.load(p) for p in sorted(Path(folder).glob("*.npy"))}
    settings = json.loads((Path(folder) / "settings.json").read_text())
    worker = importlib.import_module(module)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    run = getattr(worker, function)(data, {**settings, "folder": folder, "threads": threads})
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    Path(f"{out}.started").touch()
    begun = time.perf_counter()
    result, first, peak = timed(run)
    times, peaks = [first], [peak]
    if first < 0.2:
        repeats = max(repeats, 5)
    if first > 2 and first > 3 * leader:
        repeats = 1
    if first > LONG:
        repeats = 0
    if hurry and first > 0.5 and first > 1.5 * leader:
        repeats = 0
    warm = False
    for _ in range(repeats):
        if time.perf_counter() - begun + first > limit:
            break
        if not warm:
            warm, times, peaks = True, [], []
        result, seconds, peak = timed(run)
        times.append(seconds)
        peaks.append(peak)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peak = max((p for p in peaks if p is not None), default=own)
    np.save(f"{out}.npy", np.asarray(result))
    if getattr(run, "witness", None) is not None:
        np.save(f"{out}.witness.npy", np.asarray(run.witness))
    said = {
        "seconds": times,
        "warmed_up": warm,
        "MiB": round(peak),
        "versions": versions() | getattr(worker, "VERSIONS", {}),
    }
    Path(f"{out}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(
        *sys.argv[1:5],
        int(sys.argv[5]),
        int(sys.argv[6]),
        float(sys.argv[7]),
        sys.argv[8] == "hurry",
        float(sys.argv[9]),
    )
