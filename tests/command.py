"""The command line within the test's process, and files for it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from recon import cli
from recon.data import RawScan
from recon.io import ismrmrd
from recon.io.samples import join
from recon.simulation import simulate
from recon.simulation.settings import Settings

SMALL = Settings(matrix=(48, 48, 1), fov=(240, 240, 5), coils=4, sigma=0.01)


@dataclass(frozen=True)
class Ended:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str

    @property
    def wrote(self) -> list[Path]:
        return [Path(line.removeprefix("wrote ")) for line in self.out.splitlines() if line.startswith("wrote ")]


def recon(*arguments: object) -> Ended:
    """Run `recon` with the given arguments."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        cli.main([str(a) for a in arguments])
    assert isinstance(end.value.code, int)
    return Ended(end.value.code, out.getvalue(), err.getvalue())


def refused(end: Ended, code: int | None = None) -> str:
    """The sentence of a command that failed as it should: exit code 1 or 2, one line on standard error."""
    assert end.code in ((1, 2) if code is None else (code,)), end
    lines = end.err.splitlines()
    assert lines, end
    assert lines[-1].startswith("recon: "), end.err
    # At most the progress and the notes of a reconstruction that could not be written come before it.
    assert all(line.startswith(("  ", "reconstruct ")) for line in lines[:-1]), end.err
    assert "Traceback" not in end.err
    assert "unexpected error" not in end.err, end.err
    assert not end.wrote
    return lines[-1]


def scan_file(path: Path, settings: Settings = SMALL) -> Path:
    """A simulated scan."""
    ismrmrd.write(path, simulate(settings))
    return path


def localiser(path: Path, settings: Settings = SMALL) -> Path:
    """A scan of three slices: axial, sagittal and coronal."""
    axes = np.eye(3)
    parts = []
    for n, (read, phase) in enumerate(((0, 1), (1, 2), (0, 2))):
        directions = [tuple(v) for v in (axes[read], axes[phase], np.cross(axes[read], axes[phase]))]
        scan = simulate(
            replace(settings, read_dir=directions[0], phase_dir=directions[1], slice_dir=directions[2], seed=n)
        )
        keep = np.nonzero(scan.lines["number_of_samples"] == scan.lines["number_of_samples"][-1])[0]
        lines = scan.lines[keep].copy()
        lines["slice"] = n
        parts.append((lines, Chosen(scan, keep)))
    lines, samples = join(*parts)
    encoding = scan.encodings[0]
    limits = {k: v for k, v in encoding.limits.items() if k != "slice"}
    ismrmrd.write(path, replace(scan, lines=lines, samples=samples, encodings=(replace(encoding, limits=limits),)))
    return path


@dataclass(frozen=True, eq=False)
class Chosen:
    """Samples of some rows of a scan, in another order."""

    scan: RawScan
    rows: np.ndarray

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.scan.samples.read(self.rows[rows])

    def trajectory(self, rows: np.ndarray) -> np.ndarray:
        return self.scan.samples.trajectory(self.rows[rows])


def chosen(scan: RawScan, rows: np.ndarray) -> RawScan:
    """The scan with these of its rows, in this order."""
    return replace(scan, lines=scan.lines[rows].copy(), samples=Chosen(scan, rows))
