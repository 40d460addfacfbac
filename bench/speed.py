"""Time of a whole reconstruction, process start to files on disk, beside BART doing the same steps.

    python bench/speed.py [--case NAME] [--repeats 5] [--json FILE] [--work DIR]

Both get the same simulated scan, whiten it with its noise scan, remove oversampling, compress to 12 coils, make ESPIRiT
maps from 24 ACS lines, run 30 iterations of CG-SENSE on every slice and write DICOM. In BART's favour, it starts from
k-space that is sorted already and kept in memory files, while recon reads and sorts the ISMRMRD file; and its
"proto-DICOM" has no geometry. Run it on an otherwise idle machine: times of a busy one mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

RECIPE = "[solve]\nmethod = 'sense'\niterations = 30\ntolerance = 0.0\n"
LAMBDA = 1e-3


@dataclass(frozen=True)
class Case:
    """A simulated scan: coils, matrix (N×N), slices."""

    coils: int
    matrix: int
    slices: int
    accel: int = 4


CASES = {"slice": Case(8, 256, 1), "stack": Case(16, 320, 20)}


#: Runs a command from a small process: a child's peak memory is never less than that of the process it was forked from.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""


def peak_run(command: Sequence[str], **more: Any) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of a command, its largest process; raises CalledProcessError when it fails."""
    launched = [sys.executable, "-S", "-c", LAUNCHER, *command]
    done = subprocess.run(launched, capture_output=True, text=True, check=True, **more)
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak) / 1024


def simulate(case: Case, work: Path) -> tuple[Path, NDArray[np.float32]]:
    """The scan file and the truth as its whitened coils see it (slice, y, x)."""
    from recon.simulation import noise_factor, preset, simulate_to
    from recon.simulation.reference import truth, truth_maps

    settings = preset(accel=case.accel, coils=case.coils, matrix=case.matrix, slices=case.slices)
    path = work / f"scan_{case.coils}x{case.matrix}x{case.slices}.h5"
    if not path.exists():
        simulate_to(path, settings)
    maps = truth_maps(settings)
    white = np.linalg.solve(noise_factor(settings), maps.reshape(len(maps), -1)).reshape(maps.shape)
    return path, np.abs(truth(settings, band_limited=True).data * np.linalg.norm(white, axis=0)).astype(np.float32)


def ours(path: Path, work: Path) -> tuple[float, float, NDArray[np.float32]]:
    """`recon run` to DICOM: seconds, MiB and, from a second run to NIfTI, the image (slice, y, x)."""
    recipe, folder = work / "recipe.toml", work / "dicom"
    recipe.write_text(RECIPE)
    shutil.rmtree(folder, ignore_errors=True)
    run = [str(Path(sys.executable).with_name("recon")), "run", str(path), "--recipe", str(recipe), "--quiet"]
    seconds, peak = peak_run([*run, "-o", f"{folder}/"])
    nifti = work / "ours.nii.gz"
    if not nifti.exists():
        peak_run([*run, "-o", str(nifti)])
    return seconds, peak, np.asarray(nibabel.load(nifti).dataobj, np.float32).transpose(2, 1, 0)


def sorted_for_bart(path: Path, case: Case, work: Path) -> None:
    """K-space (x, y, 1, coil, …, slice) and noise as cfl files; not timed."""
    from recon.io import cfl, ismrmrd
    from recon.prepare import sort

    scan = ismrmrd.read(path)
    kinds, encoding = sort.kinds(scan), scan.encodings[0]
    out = np.zeros((case.slices, case.coils, encoding.encoded_matrix[1], encoding.encoded_matrix[0]), np.complex64)
    for frame in sort.frames(scan, kinds.imaging):
        ky, kz, _ = sort.row_index(scan.lines[frame.rows], encoding)
        out[frame.slice] = sort.grid(scan.samples.read(frame.rows), ky, kz, (1, out.shape[2]))[0][:, 0]
    # BART's dimensions are ours reversed: x, y, z, coil, nine of length one, slice.
    cfl.write(work / "ksp", out.reshape(case.slices, *(1,) * 9, case.coils, 1, *out.shape[2:]))
    noise = scan.samples.read(kinds.noise).transpose(1, 0, 2)
    cfl.write(work / "noise", np.ascontiguousarray(noise.reshape(case.coils, 1, 1, -1)))


def bart(case: Case, work: Path) -> tuple[float, float, NDArray[np.float32]]:
    """The same steps as a shell pipeline."""
    from recon.io import cfl

    virtual = min(12, case.coils)
    compress = (
        f"bart cc -p {virtual} -A white small"
        if case.coils > virtual
        else "cp white.cfl small.cfl; cp white.hdr small.hdr"
    )
    each = "; ".join(
        f"bart slice 13 {s} small one; bart ecalib -m 1 -r 24 one maps; "
        f"bart pics -S -l2 -r {LAMBDA} -i 30 one maps im{s}"
        for s in range(case.slices)
    )
    script = (
        "set -e; bart fft -u -i 1 ksp a; bart resize -c 0 " + str(case.matrix) + " a b; bart fft -u 1 b c; "
        "bart whiten c noise white; " + compress + "; " + each + "; "
        "bart join 13 " + " ".join(f"im{s}" for s in range(case.slices)) + " all; bart toimg -d all proto"
    )
    seconds, peak = peak_run(["bash", "-c", script], cwd=work, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    image = np.abs(np.squeeze(cfl.load(work / "all"))).astype(np.float32)
    return seconds, peak, image.reshape(case.slices, case.matrix, case.matrix)


def error(x: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """‖x − t‖ / ‖t‖ in the body after the best scale."""
    body = truth > 0.1 * truth.max()
    a, t = x[body].astype(np.float64), truth[body].astype(np.float64)
    a *= (a @ t) / (a @ a)
    return round(float(np.linalg.norm(a - t) / np.linalg.norm(t)), 4)


def measure(run: Callable[[], tuple[float, float, NDArray[np.float32]]], repeats: int) -> tuple[float, float, Any]:
    """Median seconds after one warm-up, largest peak, last image."""
    results = [run() for _ in range(repeats + 1)][1:]
    return statistics.median(r[0] for r in results), max(r[1] for r in results), results[-1][2]


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    base = Path(options.work or tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    records = []
    for name in options.case or CASES:
        case, work = CASES[name], base / name
        work.mkdir(parents=True, exist_ok=True)
        path, truth = simulate(case, work)
        our_s, our_peak, image = measure(lambda: ours(path, work), options.repeats)  # noqa: B023
        record: dict[str, Any] = {"case": f"recon run, CG-SENSE, {name}", "size": vars(case)}
        record |= {"ours_s": round(our_s, 2), "ours_MiB": round(our_peak), "ours_error": error(image, truth)}
        if shutil.which("bart"):
            sorted_for_bart(path, case, work)
            peer_s, peer_peak, theirs = measure(lambda: bart(case, work), options.repeats)  # noqa: B023
            record |= {"peer": "bart", "peer_s": round(peer_s, 2), "peer_MiB": round(peer_peak)}
            record |= {"peer_error": error(theirs, truth), "ratio": round(peer_s / our_s, 2)}
        record |= {"threads": os.cpu_count(), "repeats": options.repeats}
        record["versions"] = {p: importlib.metadata.version(p) for p in ("recon", "torch", "numpy")}
        record |= {"machine": platform.processor() or platform.machine(), "date": str(date.today())}
        records.append(record)
        print(json.dumps(record), flush=True)
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    if options.work is None:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
