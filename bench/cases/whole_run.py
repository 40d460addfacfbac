"""The command line from the start of the process to files on disk, compared with BART doing the same steps.

Both get the same simulated scan, whiten it with its noise scan, remove oversampling, compress to 12 coils, make ESPIRiT
maps from 24 ACS lines, run 30 iterations of CG-SENSE on every slice and write. In BART's favour, it starts from sorted
k-space in memory files, while recon reads and sorts the ISMRMRD file, and its "proto-DICOM" has no geometry.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from case import Array, Case, Data, Settings
from launch import peak_run

RECIPE = "[solve]\nmethod = 'sense'\niterations = 30\ntolerance = 0.0\n"
SLICE: Settings = {"coils": 8, "matrix": 256, "slices": 1, "accel": 4, "lam": 1e-3}
STACK: Settings = {"coils": 16, "matrix": 320, "slices": 20, "accel": 4, "lam": 1e-3}


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    """The scan file, BART's files and the truth as seen by whitened coils (slice, y, x)."""
    from recon.simulation import noise_factor, preset, simulate_to
    from recon.simulation.reference import truth, truth_maps

    scan = preset(
        accel=settings["accel"], coils=settings["coils"], matrix=settings["matrix"], slices=settings["slices"]
    )
    simulate_to(folder / "scan.h5", scan)
    maps = truth_maps(scan)
    white = np.linalg.solve(noise_factor(scan), maps.reshape(len(maps), -1)).reshape(maps.shape)
    image = np.abs(truth(scan, band_limited=True).data * np.linalg.norm(white, axis=0)).astype(np.float32)
    _sorted_for_bart(folder, settings)
    (folder / "recipe.toml").write_text(RECIPE)
    return {"image": image}, settings


def _sorted_for_bart(folder: Path, settings: Settings) -> None:
    """K-space (x, y, 1, coil, …, slice) and noise as cfl files."""
    import torch

    from recon.io import cfl, ismrmrd
    from recon.prepare import place, sort

    scan = ismrmrd.read(folder / "scan.h5")
    kinds, encoding, coils = sort.kinds(scan), scan.encodings[0], settings["coils"]
    nx, ny = encoding.encoded_matrix[:2]
    out = np.zeros((settings["slices"], coils, ny, nx), np.complex64)
    for frame in sort.frames(scan, kinds.imaging):
        ky, kz, _ = sort.row_index(scan.lines[frame.rows], encoding)
        block = np.arange(len(frame.rows)), torch.from_numpy(scan.samples.read(frame.rows))
        out[frame.slice] = place.grid([block], ky, kz, (1, ny))[0][:, 0].numpy()
    # BART's dimensions are recon's reversed: x, y, z, coil, nine of length one, slice.
    cfl.write(folder / "ksp", out.reshape(settings["slices"], *(1,) * 9, coils, 1, ny, nx))
    noise = scan.samples.read(kinds.noise).transpose(1, 0, 2)
    cfl.write(folder / "noise", np.ascontiguousarray(noise.reshape(coils, 1, 1, -1)))


def nothing(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    return {}, settings


def _command() -> str:
    return str(Path(sys.executable).with_name("recon"))


def ours_help(data: Data, settings: Settings) -> Callable[[], Any]:
    def run() -> Any:
        seconds, peak = peak_run([_command(), "--help"])
        return np.zeros(0), seconds, peak

    return run


def ours_run(data: Data, settings: Settings) -> Callable[[], Any]:
    """To NIfTI, or to DICOM and once more, not timed, to NIfTI for the comparison."""
    folder = Path(settings["folder"])
    command = [_command(), "run", str(folder / "scan.h5"), "--recipe", str(folder / "recipe.toml"), "--quiet", "-o"]
    nifti, dicom = folder / "ours.nii.gz", folder / "dicom"
    if settings.get("to") == "dicom":
        peak_run([*command, str(nifti)])

    def run() -> Any:
        shutil.rmtree(dicom, ignore_errors=True)
        if settings.get("to") == "dicom":
            seconds, peak = peak_run([*command, f"{dicom}/"])
        else:
            nifti.unlink(missing_ok=True)
            seconds, peak = peak_run([*command, str(nifti)])
        return _image(nifti), seconds, peak

    return run


def _image(nifti: Path) -> Array:
    import nibabel

    return np.asarray(nibabel.load(nifti).dataobj, np.float32).transpose(2, 1, 0)


def no_error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return 0.0


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """‖x − t‖ / ‖t‖ in the body after the best scale."""
    truth = data["image"].reshape(result.shape)
    body = truth > 0.1 * truth.max()
    a, t = result[body].astype(np.float64), truth[body].astype(np.float64)
    a *= (a @ t) / (a @ a)
    return float(np.linalg.norm(a - t) / np.linalg.norm(t))


MEASURE = "relative error of the magnitude image in the body after the best scale"
CASES = (
    Case(
        name="help",
        task="help",
        module="cases.whole_run",
        function="ours_help",
        sizes={"help": {}},
        quick=("help",),
        target=None,
        target_s=0.3,
        peers=("bart", "sigpy", "mrpro"),
        data=nothing,
        error=no_error,
        measure="none: `recon --help` beside `bart version` and beside importing the package",
    ),
    Case(
        name="cold_run",
        task="whole_run",
        module="cases.whole_run",
        function="ours_run",
        sizes={"8x256x256": {**SLICE, "to": "nifti"}},
        quick=("8x256x256",),
        target=0.5,
        peers=("bart",),
        data=data,
        error=error,
        measure=MEASURE,
    ),
    Case(
        name="run_to_dicom",
        task="whole_run",
        module="cases.whole_run",
        function="ours_run",
        sizes={"8x256x256": {**SLICE, "to": "dicom"}, "20x16x320x320": {**STACK, "to": "dicom"}},
        quick=(),
        target=None,
        peers=("bart",),
        data=data,
        error=error,
        measure=MEASURE,
    ),
)
