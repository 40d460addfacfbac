"""NVIDIA's compiler at run time, which needs no GPU: what CuPy hands its sources to."""

from __future__ import annotations

import ctypes
import importlib.util
import os
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
    nvrtc, program = library(), ctypes.c_void_p()
    given = [o.encode() for o in (f"--gpu-architecture={architecture}", *options)]
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        if failed:
            raise ValueError(_read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode())
        return _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(program: ctypes.c_void_p, length: Any, content: Any) -> bytes:
    size = ctypes.c_size_t()
    assert length(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert content(program, buffer) == 0
    return buffer.raw
