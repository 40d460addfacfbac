"""CUDA sources run on the CPU: compiled by g++ against a header that stands for threads, barriers and shared memory."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from recon.kernels import bridge

HERE, CUDA = Path(__file__).parent, Path(bridge.__file__).parent / "cuda"

FAILURES = {
    1: "some threads wait at a barrier that others never reach",
    2: "more shared memory than there is",
    3: "shared memory was written beyond what was asked for",
}


class Emulator:
    """Stands for `bridge.run`; every source is compiled once into `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launches: list[str] = []
        # Compiled once for all sources: it costs half of what each of them does.
        self.header = folder / "emulation.h"
        shutil.copy(HERE / "emulation.h", self.header)
        self.compile("-x", "c++-header", "-o", f"{self.header}.gch", str(self.header))

    @lru_cache(maxsize=64)  # noqa: B019
    def library(self, source: str, options: tuple[str, ...] = ()) -> ctypes.CDLL:
        pattern = r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\('
        kernels = re.findall(pattern, self.text(source))
        assert kernels
        lines = [f'#include "{self.header}"', f'#include "{CUDA / source}.cu"']
        for name in kernels:
            lines.append(
                f'extern "C" int emulate_{name}(int grid, int block, long shared, void** args) '
                f"{{ return emulation::launch(&{name}, grid, block, shared, args); }}"
            )
        name = source + "".join(filter(str.isalnum, "".join(options)))
        code, made = self.folder / f"{name}.cpp", self.folder / f"{name}.so"
        code.write_text("\n".join(lines) + "\n")
        self.compile("-shared", *options, "-o", str(made), str(code))
        return ctypes.CDLL(str(made))

    def compile(self, *words: str) -> None:
        command = ["g++", "-std=c++17", "-O1", "-fPIC", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def text(self, source: str) -> str:
        return (CUDA / f"{source}.cu").read_text(encoding="utf-8")

    def run(
        self,
        source: str,
        kernel: str,
        grid: int,
        block: int,
        args: Sequence[Tensor | np.generic],
        shared: int = 0,
        options: tuple[str, ...] = (),
    ) -> None:
        """Launch a kernel over the whole grid."""
        self.launches.append(kernel)
        assert grid > 0
        assert all(a.is_contiguous() for a in args if isinstance(a, Tensor))
        held = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else np.atleast_1d(np.asarray(a)) for a in args]
        pointers = (ctypes.c_void_p * len(held))(
            *(a.ctypes.data if isinstance(a, np.ndarray) else ctypes.addressof(a) for a in held)
        )
        call = getattr(self.library(source, options), f"emulate_{kernel}")
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        failed = call(grid, block, shared, pointers)
        assert failed == 0, f"{kernel}: {FAILURES[failed]}"
