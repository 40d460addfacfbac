"""BART: commands on files in memory, timed including start, reading and writing. Centred with `fft -u`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from launch import peak_run

Task = Callable[[], Any]
Data = dict[str, Any]

if shutil.which("bart") is None:
    raise ModuleNotFoundError("No program 'bart': `apt-get install bart`, or see https://mrirecon.github.io/bart")
VERSIONS = {"bart": subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip()}


def write(path: Path, array: Any, dims: dict[int, int]) -> None:
    """Array with reversed axes as cfl: `dims` gives the lengths of BART's dimensions."""
    full = [dims.get(d, 1) for d in range(16)]
    assert np.prod(full) == array.size
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, full)) + "\n")
    np.ascontiguousarray(array, np.complex64).tofile(path.with_suffix(".cfl"))


def read(path: Path) -> Any:
    """Cfl as an array with reversed axes."""
    dims = [int(n) for n in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(dims[::-1])


def _bart(*arguments: object, folder: str) -> tuple[float, float]:
    return peak_run(["bart", *map(str, arguments)], cwd=folder)


def _sense(data: Data, folder: str) -> int:
    """Files `maps0`, `maps1`, …, for each slice, `mask`, and `kspace0` … if given; number of slices.

    Slices are processed one by one, which takes half the time of all together, and without `-L`, whose iterations stop
    early.
    """
    slices, coils, nz, ny, nx = data["maps"].shape
    where, size = Path(folder), {0: nx, 1: ny, 2: nz}
    write(where / "mask", np.repeat(data["mask"][..., None], nx, -1), size)
    for s in range(slices):
        write(where / f"maps{s}", data["maps"][s], {**size, 3: coils})
        if "kspace" in data:
            write(where / f"kspace{s}", data["kspace"][s], {**size, 3: coils})
    return slices


def _pics(folder: str, iterations: list[int], *options: object) -> tuple[float, float]:
    """Seconds and MiB of `pics` with this many iterations for every slice, to `x0`, `x1`, …"""
    said = " ".join(map(str, options))
    script = "set -e; " + "; ".join(
        f"bart pics -w1 -S {said} -i{n} -p mask kspace{s} maps{s} x{s}" for s, n in enumerate(iterations)
    )
    return peak_run(["bash", "-c", script], cwd=folder)


def _images(folder: str, like: Any) -> Any:
    return np.concatenate([read(Path(folder) / f"x{s}").ravel() for s in range(len(like))]).reshape(like.shape)


def sense_normal(data: Data, settings: Data) -> Task:
    """BART has no command for it: a tenth of the time of ten more iterations of `pics`.

    The result comes from its `fmac` and `fft`, one by one, which takes longer.
    """
    folder = settings["folder"]
    slices = _sense(data, folder)
    _, _, nz, ny, nx = data["maps"].shape
    flags = 7 if nz > 1 else 3
    for s in range(slices):
        write(Path(folder) / "x", data["image"][s], {0: nx, 1: ny, 2: nz})
        for step in (
            ("fmac", "x", f"maps{s}", "a"),
            ("fft", "-u", flags, "a", "b"),
            ("fmac", "b", "mask", f"kspace{s}"),
            ("fft", "-u", "-i", flags, f"kspace{s}", "b"),
            ("fmac", "-C", "-s", 8, "b", f"maps{s}", f"x{s}"),
        ):
            _bart(*step, folder=folder)
    result = _images(folder, data["image"])

    def run() -> Any:
        few, more = (_pics(folder, [n] * slices, "-l2", "-r0.002") for n in (2, 12))
        return result, (more[0] - few[0]) / 10, more[1]

    return run


def cg_sense(data: Data, settings: Data) -> Task:
    return _reconstruction(data, settings, "-l2", f"-r{settings['lam']}")


def l1_wavelet(data: Data, settings: Data) -> Task:
    return _reconstruction(data, settings, "-e", f"-RW:3:0:{settings['lam']}")


def _reconstruction(data: Data, settings: Data, *options: str) -> Task:
    folder = settings["folder"]
    slices = _sense(data, folder)
    each = settings.get("iterations_of_slices") or [settings["iterations"]] * slices

    def run() -> Any:
        seconds, peak = _pics(folder, each, *options)
        return _images(folder, data["image"]), seconds, peak

    return run


def _result(run: Callable[[], tuple[float, float]], path: Path) -> Task:
    def task() -> Any:
        seconds, peak = run()
        return read(path), seconds, peak

    return task


def espirit(data: Data, settings: Data) -> Task:
    folder = settings["folder"]
    coils, nz, ny, nx = data["kspace"].shape
    write(Path(folder) / "kspace", data["kspace"], {0: nx, 1: ny, 2: nz, 3: coils})
    options = ["-m1", f"-r{settings['width']}", f"-k{settings['kernel']}", f"-t{settings['threshold'] ** 2}"]
    options.append(f"-c{settings['crop']}")
    return _result(lambda: _bart("ecalib", *options, "kspace", "maps", folder=folder), Path(folder) / "maps")


def radial(data: Data, settings: Data) -> Task:
    folder = Path(settings["folder"])
    coils, nz, ny, nx = data["maps"].shape
    _, spokes, samples = data["kspace"].shape
    points = np.zeros((spokes, samples, 3), np.float32)
    points[..., 0], points[..., 1] = data["points"][..., 1], data["points"][..., 0]
    write(folder / "points", points, {0: 3, 1: samples, 2: spokes})
    write(folder / "kspace", data["kspace"], {1: samples, 2: spokes, 3: coils})
    write(folder / "maps", data["maps"], {0: nx, 1: ny, 2: nz, 3: coils})
    options = ("-w1", "-S", "-l2", f"-r{settings['lam']}", f"-i{settings['iterations']}", "-t", "points")
    return _result(lambda: _bart("pics", *options, "kspace", "maps", "x", folder=str(folder)), folder / "x")


def help(data: Data, settings: Data) -> Task:
    def run() -> Any:
        seconds, peak = peak_run(["bart", "version"])
        return np.zeros(0), seconds, peak

    return run


def whole_run(data: Data, settings: Data) -> Task:
    """The same steps as a shell pipeline; the last is BART's own DICOM, because it writes no NIfTI."""
    folder, coils, matrix, slices = settings["folder"], settings["coils"], settings["matrix"], settings["slices"]
    virtual = min(12, coils)
    compress = (
        f"bart cc -p {virtual} -A white small" if coils > virtual else "cp white.cfl small.cfl; cp white.hdr small.hdr"
    )
    each = "; ".join(
        f"bart slice 13 {s} small one; bart ecalib -m 1 -r 24 one maps; "
        f"bart pics -S -l2 -r {settings['lam']} -i 30 one maps im{s}"
        for s in range(slices)
    )
    script = (
        f"set -e; bart fft -u -i 1 ksp a; bart resize -c 0 {matrix} a b; bart fft -u 1 b c; "
        f"bart whiten c noise white; {compress}; {each}; "
        "bart join 13 " + " ".join(f"im{s}" for s in range(slices)) + " all; bart toimg -d all proto"
    )

    def run() -> Any:
        seconds, peak = peak_run(["bash", "-c", script], cwd=folder)
        return np.abs(read(Path(folder) / "all")).astype(np.float32).reshape(slices, matrix, matrix), seconds, peak

    return run
