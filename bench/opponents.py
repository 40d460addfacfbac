"""BART's `pics` as an opponent that is favoured on purpose: its regularisation is tuned on the reference itself.

It gets what recon's solvers get, whitened lines of the same undersampled scan on the same grid, and makes its own maps
with `ecalib`. The image of the weight with the highest PSNR within the body counts, of 33 weights an eighth of a decade
apart; its time is that of this one weight. PSNR has a single maximum over the weight, so at most eight weights need to
be tried to find the best of the 33.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recon import pipeline
from recon.accuracy.compare import Answer, Reference, score
from recon.data import RawScan, ReconError
from recon.operators import fft
from recon.prepare import ghost, hybrid
from recon.prepare.finish import finish
from recon.recipe import Recipe

#: `pics` with a placeholder for the weight; flags name the axes that are not single.
WAVELET = "pics -S -e -i 100 -R W:{flags}:0:{weight}"
CG_SENSE = "pics -S -l2 -i 50 -r {weight}"
#: The weights, an eighth of a decade apart.
WEIGHTS = tuple(10.0**e for e in np.linspace(-4.5, -0.5, 33))


def bart(command: str, folder: Path) -> None:
    """Run a command of BART in a folder; raises ReconError if it fails."""
    done = subprocess.run(["bart", *command.split()], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReconError(f"bart {command.split()[0]} failed: {' '.join(done.stderr.split())[-200:]}")


def write_cfl(path: Path, array: NDArray[np.complex64]) -> None:
    """Write (coil, z, y, x) as cfl, whose axes are x, y, z, coil."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
    np.ascontiguousarray(array, np.complex64).tofile(path.with_suffix(".cfl"))


def read_cfl(path: Path, shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """Read an array of that shape from a cfl."""
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape)


class Scan:
    """The frames of a scan in a folder as BART's files: k-space and maps."""

    def __init__(self, scan: RawScan, stack: int, folder: Path) -> None:
        self.folder = folder
        self.job = pipeline.prepare(scan, Recipe(), torch.device("cpu"), None, stack)
        self.lines = hybrid.Lines(
            self.job.scan, self.job.encoding, self.job.whitening, hybrid.inner_columns(self.job.encoding)
        )
        self.keys = sorted(self.job.frames)
        started = time.perf_counter()
        for n, key in enumerate(self.keys):
            lines, _ = ghost.freed(self.lines, self.job.frames[key].rows)
            k = fft(hybrid.slab(lines, self.job.frames[key].rows).y, (-1,)).numpy()
            self.shape = k.shape[1:]
            write_cfl(folder / f"k{n}", k)
            if len(k) > 1:
                bart(f"ecalib -m1 k{n} maps{n}", folder)
            else:
                write_cfl(folder / f"maps{n}", np.ones_like(k))
        self.seconds = time.perf_counter() - started

    def solve(self, command: str) -> tuple[NDArray[np.float64], float]:
        """|x| (slice, y, x) on the image's own grid, and the seconds with those of the maps."""
        started, planes = time.perf_counter(), []
        for n in range(len(self.keys)):
            bart(f"{command} k{n} maps{n} x{n}", self.folder)
            x = torch.from_numpy(read_cfl(self.folder / f"x{n}", self.shape))
            slices = self.job.stack.geometry.shape
            planes.append(finish(x, self.job.encoding, slices if len(self.job.stack.slices) == 1 else (1, *slices[1:])))
        seconds = time.perf_counter() - started + self.seconds
        return np.abs(torch.cat(planes).numpy()).astype(np.float64), seconds


def top(quality: Callable[[int], float], count: int) -> int:
    """The position of the maximum among 0 … count − 1 for a quality with a single maximum (Kiefer, 1953).

    Each step compares two places a Fibonacci number from either end and drops the part beyond the worse one. If they
    are equal, the upper part is kept, because too small a weight changes nothing; but the lower one if both are −∞.
    """
    short, long = 1, 1  # of F(k), F(k + 1) with F(k + 1) > count: places 1 … F(k + 1) − 1 contain all
    while long <= count:
        short, long = long, short + long
    low = -1  # the places after it, of which `long` − 1 are left

    def at(n: int) -> float:
        return quality(n) if n < count else -np.inf

    while long > 2:
        lower, upper = low + long - short, low + short
        first, second = at(lower), at(upper)
        if first < second or (first == second > -np.inf):
            low = lower
        short, long = long - short, short
    return min(low + 1, count - 1)


def tuned(template: str) -> Callable[[RawScan, int, Reference], Answer]:
    """An opponent for `recon.accuracy.compare` that runs a command of BART with the best of all weights."""

    def run(scan: RawScan, stack: int, full: Reference) -> Answer:
        if shutil.which("bart") is None:
            raise ReconError("there is no program bart; apt-get install bart")
        with tempfile.TemporaryDirectory() as folder:
            made = Scan(scan, stack, Path(folder))
            flags = sum(1 << axis for axis, n in enumerate(made.shape[::-1]) if n > 1)
            tried: dict[int, tuple[float, Answer]] = {}

            def quality(n: int) -> float:
                if n not in tried:
                    weight = f"{WEIGHTS[n]:.3g}"
                    x, seconds = made.solve(template.format(flags=flags, weight=weight))
                    psnr = score(x, full)["psnr"] if np.isfinite(x).all() and x.any() else None
                    said = f"weight {weight}, the best for this reference"
                    tried[n] = (-np.inf if psnr is None else psnr, Answer(x, seconds, said))
                return tried[n][0]

            top(quality, len(WEIGHTS))
            return max(tried.values(), key=lambda t: t[0])[1]

    return run


OTHERS = {"bart wavelet, tuned": tuned(WAVELET), "bart CG-SENSE, tuned": tuned(CG_SENSE)}
