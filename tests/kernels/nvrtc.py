"""NVIDIA's compiler at run time, which needs no GPU: what CuPy hands its sources to."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@cache
def library() -> Any:
    """The compiler from the package nvidia-cuda-nvrtc-cu12; without it the test is skipped, or fails under CI=true."""
    found: list[Path] = []
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found += sorted(Path(folder).glob("lib/libnvrtc.so.*"))
    if not found:
        reason = "CUDA's compiler at run time is not installed: pip install nvidia-cuda-nvrtc-cu12"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return ctypes.CDLL(str(found[0]))


def compiled(source: str, architecture: str, options: Sequence[str]) -> bytes:
    """Machine code of a source for an architecture such as sm_80; raises ValueError with what the compiler says."""
    return _compiled(source, architecture, options)[0]


def spilled(source: str, architecture: str, options: Sequence[str]) -> dict[str, int]:
    """Bytes of each kernel of a source that a thread keeps in memory since its registers are not enough."""
    said = _compiled(source, architecture, (*options, "--ptxas-options=-v"))[1]
    names = re.findall(r"Compiling entry function '(\w+)'", said)
    found = [
        int(stack) + int(spill) for stack, spill in re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill", said)
    ]
    return dict(zip(names, found, strict=True))


def _compiled(source: str, architecture: str, options: Sequence[str]) -> tuple[bytes, str]:
    nvrtc, program = library(), ctypes.c_void_p()
    given = [o.encode() for o in (f"--gpu-architecture={architecture}", *options)]
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        said = _read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode()
        if failed:
            raise ValueError(said)
        return _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), said
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(program: ctypes.c_void_p, length: Any, content: Any) -> bytes:
    size = ctypes.c_size_t()
    assert length(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert content(program, buffer) == 0
    return buffer.raw
