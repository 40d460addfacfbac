"""The plan's predicted peak memory compared with the measured peak of `recon run`, over methods, sizes and channels.

    python bench/memory.py --json bench/results/memory.json
    python bench/memory.py --case 2d-8x256 --method sense --memory 600M

Every run is a separate process, started from a small one; its peak is the largest resident set that the kernel saw. It
does not depend on the number of iterations, so there are few. It varies a little from run to run, and occasionally by
more: GRAPPA of four slices, 32 coils and 256², took 379 MiB in one run and 434 in another. A plan is right if it is
never below the measured peak and at most a fifth above it; of several runs the largest peak counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from case import machine
from launch import peak_run

#: Runs the verb in this process and writes down its plan: arguments are the file for it and those of `recon`.
CHILD = """
import json, sys
from recon import cli, plan
original = plan.plan
def seen(problem, budget):
    made = original(problem, budget)
    with open(sys.argv[1], "w") as f:
        json.dump({"peak": made.peak, "batch": made.batch, "columns": made.columns, "grid": problem.grid}, f)
    return made
counted = plan.cone
def seen_cone(rays, voxels, method, *, cut=False):
    made = counted(rays, voxels, method, cut=cut)
    with open(sys.argv[1], "w") as f:
        json.dump({"peak": made, "batch": 1, "columns": 0, "grid": [rays, voxels]}, f)
    return made
plan.plan, plan.cone = seen, seen_cone
sys.exit(cli.main(sys.argv[2:]))
"""

#: Options of `recon simulate`, and of `recon simulate-ct` for cones: pixels a side of the volume, views per turn.
SCANS: dict[str, list[str]] = {
    **{
        f"cone-{n}x{v}": ["phantom", "--beam", "cone", "--matrix", f"{n}", "--views", f"{v}"]
        for n, v in ((64, 180), (96, 360), (128, 180), (128, 360), (160, 90), (192, 360))
    },
    # For a body that extends beyond the detector: views are extrapolated.
    **{
        f"cone-cut-{n}x{v}": ["phantom", "--beam", "cone", "--matrix", f"{n}", "--views", f"{v}", "--elements", f"{e}"]
        for n, v, e in ((64, 180, 56), (96, 360, 84), (128, 180, 112))
    },
    "2d-1x128": ["--coils", "1", "--matrix", "128"],
    "2d-8x256": ["--coils", "8", "--matrix", "256"],
    "2d-8x8x192": ["--coils", "8", "--matrix", "192", "--slices", "8"],
    "2d-32x4x256": ["--coils", "32", "--matrix", "256", "--slices", "4"],
    "2d-20x16x320": ["--coils", "16", "--matrix", "320", "--slices", "20"],
    "2d-8x512": ["--coils", "8", "--matrix", "512"],
    "3d-8x64": ["--coils", "8", "--matrix", "64", "--slices", "64", "--volume"],
    "3d-8x96": ["--coils", "8", "--matrix", "96", "--slices", "96", "--volume"],
    "3d-16x96": ["--coils", "16", "--matrix", "96", "--slices", "96", "--volume"],
    "3d-8x128": ["--coils", "8", "--matrix", "128", "--slices", "128", "--volume"],
    "3d-8x160": ["--coils", "8", "--matrix", "160", "--slices", "160", "--volume"],
    "2d-4x16x320": ["--coils", "16", "--matrix", "320", "--slices", "4"],
    "radial-8x256": ["--coils", "8", "--matrix", "256", "--trajectory", "radial"],
}
METHODS = ("combine", "grappa", "sense", "cs", "tv", "unrolled")
OF_CONES = ("fbp", "sirt", "cgls", "tv", "unrolled")


def measured(scan: Path, method: str, memory: str | None) -> dict[str, Any]:
    """Predicted and measured MiB of one run, or why there are none."""
    folder = scan.parent
    recipe = folder / "recipe.toml"
    few = "" if method in ("grappa", "fbp") else "iterations = 3\n"
    recipe.write_text(f"[solve]\nmethod = '{method}'\n{few}")
    (folder / "out.nii.gz").unlink(missing_ok=True)
    out, told = folder / "out.nii.gz", folder / "plan.json"
    command = [sys.executable, "-c", CHILD, str(told), "run", str(scan), "--recipe", str(recipe), "--quiet"]
    command += ["--device", "cpu", "-o", str(out), *(["--memory", memory] if memory else [])]
    try:
        seconds, peak = peak_run(command)
    except RuntimeError as e:
        return {"why_not": str(e)[-200:]}
    plan = json.loads(told.read_text())
    predicted = plan["peak"] / 2**20
    row = {"predicted_MiB": round(predicted, 1), "measured_MiB": round(peak, 1), "ratio": round(predicted / peak, 3)}
    return row | {k: plan[k] for k in ("batch", "columns", "grid")} | {"s": round(seconds, 1)}


def _methods(case: str) -> tuple[str, ...]:
    return OF_CONES if "cone" in case else ("sense", "cs") if "radial" in case else METHODS


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the records here, beside those of other cases")
    parser.add_argument("--case", choices=SCANS, action="append", help="this scan alone; may be given again")
    every = sorted({*METHODS, *OF_CONES})
    parser.add_argument("--method", choices=every, action="append", help="this method alone; may be given again")
    parser.add_argument("--memory", help="what recon run is allowed, so that volumes are solved in parts")
    options = parser.parse_args()
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    rows = {(r["case"], r["method"], r["memory"]): r for r in kept}
    for case in options.case or SCANS:
        with tempfile.TemporaryDirectory() as folder:
            scan = Path(folder) / "scan.h5"
            recon = str(Path(sys.executable).with_name("recon"))
            how = ["simulate-ct"] if "cone" in case else ["simulate", "--accel", "2" if "3d" in case else "4"]
            peak_run([recon, *how, *SCANS[case], "-o", str(scan)])
            for method in options.method or _methods(case):
                row = {
                    "case": case,
                    "method": method,
                    "memory": options.memory,
                    **measured(scan, method, options.memory),
                }
                rows[case, method, options.memory] = row | {"machine": machine(), "date": str(date.today())}
                print(json.dumps(row), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
