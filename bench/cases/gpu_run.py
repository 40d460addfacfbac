"""`recon run` on a GPU within one process: raw file to NIfTI, and where the time is spent.

The error is the difference from the same run on the CPU, which other tests compare with truth and double precision.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    f"{method}-20x16x320x320": {"coils": 16, "matrix": 320, "slices": 20, "accel": 4, "method": method}
    for method in ("sense", "cs", "unrolled")
}


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    from recon.simulation import preset, simulate_to

    scan = preset(accel=4, coils=settings["coils"], matrix=settings["matrix"], slices=settings["slices"])
    simulate_to(folder / "scan.h5", scan)
    made = _run({**settings, "folder": str(folder), "device": "cpu"}, {})()
    return {"by_cpu": made}, settings


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    stages: dict[str, float] = {}
    run = _run(settings, stages)
    run.figures = stages  # type: ignore[attr-defined]
    return run


def _run(settings: Settings, stages: dict[str, float]) -> Callable[[], Array]:
    from dataclasses import replace

    import recon
    from recon import pipeline
    from recon.recipe import Recipe

    recipe = Recipe()
    recipe = replace(recipe, solve=replace(recipe.solve, method=settings["method"]))
    source, out = Path(settings["folder"]) / "scan.h5", Path(settings["folder"]) / f"{settings['device'][:4]}.nii.gz"

    def run() -> Array:
        at = [time.perf_counter()]
        scan = recon.read(source)
        at.append(time.perf_counter())
        image = pipeline.reconstruct(scan, recipe, device=settings["device"])
        at.append(time.perf_counter())
        recon.write(image, [out])
        at.append(time.perf_counter())
        stages.update(zip(("read_s", "reconstruct_s", "write_s"), (b - a for a, b in itertools.pairwise(at))))
        return np.asarray(image.data)

    return run


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return cartesian.relative(result, data["by_cpu"])


CASES = (
    Case(
        name="recon_run",
        task="gpu_run",
        module="cases.gpu_run",
        sizes=SIZES,
        quick=(),
        target=None,
        peers=(),
        data=data,
        error=error,
        measure="relative difference from the same run on the CPU",
        floor=1e-3,
    ),
)
