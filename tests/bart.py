"""BART as an independent reference: arrays in, arrays out, in recon's order of axes."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tools import need


def bart(command: str | Sequence[str], *arrays: Any, outputs: int = 1, threads: int = 1) -> Any:
    """Run `bart <command> in0 in1 … out0 …` and return its output array, or a tuple of them when `outputs` > 1.

    Arrays (NumPy or tensors) have BART's axes reversed: (…, maps, coil, z, y, x) here is x, y, z, coil, maps, … there,
    so that a C-ordered array here is the column-major file there. Outputs lose their leading axes of length 1 down to
    4 axes. BART's `fft` is unitary with `-u` only. A tool without an output takes `outputs=0`.
    """
    tool = need("bart")
    words = shlex.split(command) if isinstance(command, str) else list(command)
    with tempfile.TemporaryDirectory() as folder:
        inputs = [_write(Path(folder) / f"in{i}", np.asarray(a)) for i, a in enumerate(arrays)]
        results = [Path(folder) / f"out{i}" for i in range(outputs)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [tool, *words, *inputs, *map(str, results)], capture_output=True, text=True, env=environment, check=False
        )
        if done.returncode:
            raise RuntimeError(f"bart {' '.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")
        read = tuple(_read(path) for path in results)
    return read[0] if outputs == 1 else read


def _write(path: Path, array: NDArray[Any]) -> str:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
    np.ascontiguousarray(array, np.complex64).tofile(path.with_suffix(".cfl"))
    return str(path)


def _read(path: Path) -> NDArray[np.complex64]:
    lines = path.with_suffix(".hdr").read_text().splitlines()
    shape = [int(n) for n in lines[lines.index("# Dimensions") + 1].split()]
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape[::-1])
