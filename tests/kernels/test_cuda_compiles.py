"""CUDA sources are compiled: by nvcc where it is, by the compiler at run time for old cards and new, without spills."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from recon.kernels import bridge, fourier
from tests.kernels import nvrtc
from tests.kernels.emulation import CUDA
from tests.tools import need

SOURCES = sorted(CUDA.glob("*.cu"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_nvcc_takes_the_source_without_a_warning(source: Path) -> None:
    """To PTX: the compiler at run time goes on to machine code below."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed: CUDA sources are compiled by the GPU's own compiler alone")
    command = ["nvcc", "-std=c++17", "-ptx", "-arch=sm_80", "-Werror=all-warnings", "-o", "/dev/null", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


#: Lengths of one, two and three passes that planned.h is compiled for, beside that which it holds by default.
COMPILED = (8, 320, 1024)


def held(n: int, rows: int) -> tuple[str, ...]:
    """Options for a length and columns of so many rows, as `launch` gives them for a square image."""
    c = fourier.compiled(n)
    assert c is not None
    return (*bridge.options(), *c.options(rows, n, 16))


@pytest.mark.parametrize("architecture", ["sm_70", "sm_90"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_compiler_at_run_time_takes_the_source_for_old_cards_and_new(source: Path, architecture: str) -> None:
    text = source.read_text(encoding="utf-8")
    kernels = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)", text)
    assert kernels
    lengths = COMPILED if architecture == "sm_90" else COMPILED[:1]
    for options in [held(n, n) for n in lengths] if "planned" in source.stem else [bridge.options()]:
        code = nvrtc.compiled(text, architecture, options)
        assert all(name.encode() in code for name in kernels)


@pytest.mark.parametrize("n", [128, 160, 256, 320, 384])
def test_the_kernels_compiled_for_one_length_need_no_memory_for_what_registers_hold(n: int) -> None:
    for source in ("planned", "planned_volume"):
        text = (CUDA / f"{source}.cu").read_text(encoding="utf-8")
        found = nvrtc.spilled(text, "sm_90", held(n, n))
        assert found
        assert not any(found.values()), found


def test_the_run_time_compiler_reports_a_broken_source() -> None:
    with pytest.raises(ValueError, match="undefined"):
        nvrtc.compiled('extern "C" __global__ void f(float* x) { x[0] = absent; }', "sm_80", bridge.options())


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_the_source_needs_no_header_but_its_own(source: Path) -> None:
    command = [need("g++"), "-E", "-nostdinc", "-nostdinc++", "-x", "c++", "-D__CUDACC__", "-D__CUDACC_RTC__"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the compiler at run time finds no headers of the system:\n{done.stderr}"
