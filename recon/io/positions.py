"""k-space positions for a scan without them: from a separate array, or by the name of a standard trajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recon.data import ARRAYS, DataError, Encoding, RawScan, Samples, imaging
from recon.io import cfl
from recon.io.arrays import BROKEN


@dataclass(frozen=True, eq=False)
class Positioned:
    """Samples with other k-space positions: row i has `positions[of[i]]`, or those of the file if of[i] is −1."""

    samples: Samples
    positions: NDArray[np.float32]
    of: NDArray[np.intp]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        return self.samples.read(rows)

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        of = self.of[np.asarray(rows, np.intp)]
        return self.samples.trajectory(rows) if (of < 0).any() else self.positions[of]


def load(path: str | Path) -> NDArray[np.float32]:
    """Positions (line, sample, dimension) in a .npy file or a pair of BART's, 3 × sample × line of real numbers.

    Raises DataError for other files, for complex numbers and for NaN or infinity.
    """
    path = Path(path)
    array: NDArray[Any]
    if cfl.is_pair(path):
        return _finite(_of_bart(path), path)
    if not path.is_file():
        raise DataError(
            f"there is no file {path} with k-space positions; --trajectory takes radial, golden, a .npy or a .cfl"
        )
    try:
        array = np.load(path, allow_pickle=False)
    except BROKEN as error:
        raise DataError(
            f"{path.name} cannot be read as a NumPy array of k-space positions ({type(error).__name__}); save it with "
            "numpy.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path.name} holds {getattr(array, 'dtype', 'several arrays')}; k-space positions are one array of real "
            "numbers (line, sample, dimension), saved with numpy.save"
        )
    return _finite(array, path)


def _finite(array: NDArray[Any], path: Path) -> NDArray[np.float32]:
    if not np.isfinite(array).all() or not array.any():
        raise DataError(
            f"{path.name} holds k-space positions that are NaN, infinite, or all zero; save the real positions"
        )
    return array.astype(np.float32)


def _of_bart(path: Path) -> NDArray[np.float32]:
    """BART's trajectory with lines of all dimensions in one row; without kz if that is zero everywhere."""
    stored = cfl.load(path)
    if stored.shape[-1] != 3 or stored.imag.any():
        raise DataError(
            f"{path.name} has {stored.shape[-1]} entries in its first dimension or an imaginary part; a trajectory of "
            "BART is 3 × samples × lines of real numbers"
        )
    k = stored.real.reshape(-1, *stored.shape[-2:])
    return np.asarray(k if k[..., 2].any() else k[..., :2], np.float32)


def with_positions(scan: RawScan, positions: NDArray[np.floating]) -> RawScan:
    """The scan with the k-space positions (line, sample, dimension) of its imaging lines, in the order of the file.

    Dimensions are x, y(, z), in any unit that `recon.prepare.trajectory.normalise` accepts. If there are a multiple of
    imaging lines, the positions repeat: one set serves all slices and repetitions. A scan that was stored as an array
    gets a matrix that fits the positions. Raises DataError for an array of another shape.
    """
    rows = np.nonzero(imaging(scan.lines))[0]
    samples = sorted({int(n) for n in scan.lines["number_of_samples"][rows]})
    shape, n = np.shape(positions), len(rows)
    expected = f"({n} or a divisor of it, {' or '.join(map(str, samples))}, 2 or 3)"
    if len(shape) != 3 or 0 in shape or n % shape[0] or samples != [shape[1]] or shape[2] not in (2, 3):
        raise DataError(
            f"the k-space positions have shape {shape}, expected is (line, sample, dimension) = {expected}; transpose "
            "the array or give the positions of all imaging lines"
        )
    of = np.full(len(scan.lines), -1, np.intp)
    of[rows] = np.arange(n) % shape[0]
    lines = scan.lines.copy()
    lines["trajectory_dimensions"][rows] = shape[2]
    values = np.ascontiguousarray(positions, dtype=np.float32)
    reach = np.zeros(3)
    reach[: shape[2]] = np.abs(values).max(axis=(0, 1))
    changed = _restated(scan, "other", _matrix(reach, samples[0]))
    note = f"k-space positions of shape {shape} were given by --trajectory, for {n} imaging lines"
    return replace(changed, lines=lines, samples=Positioned(scan.samples, values, of), notes=(*changed.notes, note))


def with_standard(scan: RawScan, name: Literal["radial", "golden"]) -> RawScan:
    """The scan as radial, at equal or golden angles, whatever its file says about the trajectory.

    A scan that was stored as an array gets a square matrix of as many voxels as its lines have samples.
    """
    n = int(scan.lines["number_of_samples"].max())
    return _restated(scan, {"radial": "radial", "golden": "goldenangle"}[name], (n, n, 0))


def _restated(scan: RawScan, trajectory: str, matrix: Sequence[int]) -> RawScan:
    """The scan with encodings of another trajectory if they state a grid; `matrix` is that of an array's image."""
    encodings, notes = [], []
    for i, e in enumerate(scan.encodings):
        if scan.source in ARRAYS:
            e = _resized(e, matrix)
        elif e.on_grid:
            notes.append(f"encoding[{i}]/trajectory is {e.trajectory}; it is read as {trajectory}, as requested")
        encodings.append(replace(e, trajectory=trajectory) if e.on_grid else e)
    return replace(scan, encodings=tuple(encodings), notes=(*scan.notes, *notes))


def _resized(e: Encoding, matrix: Sequence[int]) -> Encoding:
    """An array's encoding with another matrix (x, y, z) of the same voxels; 0 keeps the array's partitions."""
    n = (matrix[0], matrix[1], matrix[2] or e.encoded_matrix[2])
    fov = [f / old * new for f, old, new in zip(e.encoded_fov, e.encoded_matrix, n)]
    space = (fov[0], fov[1], fov[2])
    return replace(e, encoded_matrix=n, recon_matrix=n, encoded_fov=space, recon_fov=space)


def _matrix(reach: NDArray[np.float64], samples: int) -> tuple[int, int, int]:
    """The matrix that fits the positions: twice their reach in cycles per field of view; in other units, the samples.

    Positions within ±π count as fractions or radians, since no image has six voxels.
    """
    plane = max(reach[0], reach[1])
    if plane <= math.pi:
        return samples, samples, samples if reach[2] else 0
    x, y, z = (2 * math.ceil(float(r) - 1e-3) for r in (plane, plane, reach[2]))
    return x, y, z
