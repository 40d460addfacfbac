"""Where a voxel is in the patient: millimetres in DICOM's LPS frame (+x left, +y posterior, +z head)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]

#: Which index of an axis of N samples lies at the position that the scanner states. "fft" is N // 2, where a centred
#: FFT has its zero phase; "centre" is (N - 1) / 2, the middle of the field of view. They differ by half a voxel for
#: even N. Gadgetron and mrpro use "fft" as well.
CENTRE: Literal["fft", "centre"] = "fft"

#: How far the length of a direction may differ from 1, and the cosine of two from 0.
_UNIT = 1e-3


class GeometryError(ValueError):
    """Directions or sizes that do not define a position in the patient."""


@dataclass(frozen=True)
class Geometry:
    """Position and size of a voxel grid (z, y, x) in the patient.

        x(i, j, k) = position + i·Δx·read_dir + j·Δy·phase_dir + k·(Δz·slice_dir + a·read_dir + b·phase_dir)

    `position` is the centre of voxel (0, 0, 0) in LPS millimetres. `voxel` is (Δx, Δy, Δz) in millimetres from centre
    to centre, `shape` is (nz, ny, nx), `thickness` the excited slice thickness in millimetres. `known` is False if the
    file gave no directions: the axes are then those of the array, and are not claimed to be the patient's. `shear` =
    (a, b) is the in-plane shift of each slice relative to the one before, in mm; it is not zero if the gantry of a CT
    was tilted. If slices are not evenly spaced, `steps` are the distances in mm along `slice_dir` from each slice to
    the next, Δz is the most common one, and k counts such steps; otherwise `steps` is ().
    """

    position: Vector
    read_dir: Vector
    phase_dir: Vector
    slice_dir: Vector
    voxel: Vector
    shape: tuple[int, int, int]
    thickness: float
    known: bool = True
    shear: tuple[float, float] = (0.0, 0.0)
    steps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_directions(self.read_dir, self.phase_dir, self.slice_dir)
        if self.steps and (len(self.steps) != self.shape[0] - 1 or not min(self.steps) > 0):
            raise GeometryError(
                f"{len(self.steps)} steps do not fit {self.shape[0]} slices; give one step less than there are slices"
            )
        if not all(math.isfinite(v) and v > 0 for v in (*self.voxel, self.thickness)):
            raise GeometryError(
                f"voxel size {self.voxel} mm with thickness {self.thickness} mm is not positive; correct the field of "
                "view in the header or give the size with --voxel x,y,z"
            )

    @property
    def normal(self) -> Vector:
        """r × c, the normal that DICOM derives from ImageOrientationPatient (slice_dir is ± this)."""
        return vector(np.cross(self.read_dir, self.phase_dir))

    def slice_position(self, k: int) -> NDArray[np.float64]:
        """Centre of the first voxel of slice k in LPS millimetres."""
        along = sum(self.steps[:k]) / self.voxel[2] if self.steps else k
        return np.asarray(affine_lps(self)[:3] @ (0, 0, along, 1))


def check_directions(read_dir: Sequence[float], phase_dir: Sequence[float], slice_dir: Sequence[float]) -> None:
    """Raise GeometryError unless the three directions are unit vectors, orthogonal, and slice = ±(read × phase)."""
    r, c, s = (np.asarray(v, dtype=np.float64) for v in (read_dir, phase_dir, slice_dir))
    if not all(np.isfinite(v).all() and abs(np.linalg.norm(v) - 1) <= _UNIT for v in (r, c, s)):
        raise GeometryError(f"directions read {read_dir}, phase {phase_dir}, slice {slice_dir} are not unit vectors")
    if abs(r @ c) >= _UNIT or abs(abs(np.cross(r, c) @ s) - 1) > 2 * _UNIT:
        raise GeometryError(f"directions read {read_dir}, phase {phase_dir}, slice {slice_dir} are not orthogonal")


def orientation(normal: Sequence[float]) -> str:
    """Axial, coronal or sagittal by the nearest axis of the patient, with the angle to it if it is at least 3°."""
    n = np.abs(np.asarray(normal))
    i = int(n.argmax())
    angle = float(np.degrees(np.arccos(min(1.0, float(n[i] / np.linalg.norm(n))))))
    return ("sagittal", "coronal", "axial")[i] + (f", oblique by {angle:.0f}°" if angle >= 3 else "")


def centre_index(n: int, convention: Literal["fft", "centre"] | None = None) -> float:
    """Index, of an axis of `n` samples, that lies at the position stated by the scanner (see CENTRE)."""
    return n // 2 if (convention or CENTRE) == "fft" else (n - 1) / 2


def from_centre(
    centre: Sequence[float],
    read_dir: Sequence[float],
    phase_dir: Sequence[float],
    slice_dir: Sequence[float],
    fov: Sequence[float],
    matrix: Sequence[int],
    *,
    thickness: float | None = None,
    known: bool = True,
) -> Geometry:
    """Geometry of a volume from its centre, as MRD and Siemens state it.

        position = centre − i₀·Δx·r − j₀·Δy·c − k₀·Δz·s,   Δ = fov / matrix,
        (i₀, j₀, k₀) = centre_index(matrix)

    `fov` in millimetres and `matrix` are in the order x, y, z; for one 2D slice matrix[2] is 1 and fov[2] the
    thickness. Raises GeometryError for directions that are not orthogonal unit vectors and sizes that are not positive.
    """
    nx, ny, nz = (int(n) for n in matrix)
    if min(nx, ny, nz) < 1:
        raise GeometryError(
            f"a matrix of {nx}×{ny}×{nz} voxels is empty; the header must give at least 1 for each axis"
        )
    r, c, s = (np.asarray(v, dtype=np.float64) for v in (read_dir, phase_dir, slice_dir))
    voxel = (float(fov[0]) / nx, float(fov[1]) / ny, float(fov[2]) / nz)
    first = np.asarray(centre, dtype=np.float64).copy()
    for n, step, direction in zip((nx, ny, nz), voxel, (r, c, s), strict=True):
        first -= centre_index(n) * step * direction
    return Geometry(
        vector(first), vector(r), vector(c), vector(s), voxel, (nz, ny, nx),
        float(thickness if thickness is not None else voxel[2]), known,
    )  # fmt: skip


def stack(slices: Sequence[Geometry], *, tolerance_mm: float = 0.05) -> tuple[Geometry, list[int]]:
    """Geometry of parallel, equally spaced slices and the order that sorts them along their slice direction.

    Each of `slices` is the geometry of one slice (nz = 1). The order is by position · normal, never by slice number,
    and keeps the orientation of the given slice_dir. Raises GeometryError if slices are not parallel, have different
    in-plane grids, coincide, are not equally spaced, or are staggered in the plane by more than `tolerance_mm`.
    """
    first = slices[0]
    if len(slices) == 1:
        return first, [0]
    s = np.asarray(first.slice_dir)
    for g in slices[1:]:
        same = np.allclose(g.read_dir, first.read_dir, atol=_UNIT) and np.allclose(
            g.phase_dir, first.phase_dir, atol=_UNIT
        )
        if not same:
            raise GeometryError("the slices are not parallel; reconstruct each orientation by itself with --stack N")
        if g.shape[1:] != first.shape[1:] or not np.allclose(g.voxel[:2], first.voxel[:2], rtol=1e-4):
            raise GeometryError("the slices differ in matrix or field of view; reconstruct each with --stack N")
    positions = np.array([g.position for g in slices])
    along = positions @ s
    order = [int(i) for i in np.argsort(along, kind="stable")]
    gaps = np.diff(along[order])
    step = float(gaps.mean())
    if gaps.min() < tolerance_mm:
        raise GeometryError(
            f"two slices lie within {gaps.min():.3f} mm of each other; the header repeats a position, so their order "
            "is unknown"
        )
    if np.abs(gaps - step).max() > tolerance_mm:
        raise GeometryError(
            f"the slices are not equally spaced ({gaps.min():.3f} to {gaps.max():.3f} mm): a slice is missing, or "
            "reconstruct each with --stack N"
        )
    line = positions[order] - positions[order[0]]
    if np.abs(line - np.outer(line @ s, s)).max() > tolerance_mm:
        raise GeometryError("the slices are shifted against each other in their plane; reconstruct each with --stack N")
    nz, (_, ny, nx) = len(slices), first.shape
    return replace(
        slices[order[0]], voxel=(first.voxel[0], first.voxel[1], step), shape=(nz, ny, nx), known=first.known
    ), order


def affine_lps(g: Geometry) -> NDArray[np.float64]:
    """4×4 matrix from voxel index (i, j, k, 1) to LPS millimetres: [Δx·r | Δy·c | Δz·s (+ shear) | position].

    If slices are not evenly spaced, it describes only the most common step: see `Geometry.slice_position`.
    """
    out = np.eye(4)
    for column, (direction, step) in enumerate(zip((g.read_dir, g.phase_dir, g.slice_dir), g.voxel, strict=True)):
        out[:3, column] = np.asarray(direction) * step
    for direction, shift in zip((g.read_dir, g.phase_dir), g.shear, strict=True):
        out[:3, 2] += shift * np.asarray(direction)
    out[:3, 3] = g.position
    return out


def affine_ras(g: Geometry) -> NDArray[np.float64]:
    """4×4 matrix from voxel index (i, j, k, 1) to NIfTI's RAS millimetres: diag(−1, −1, 1, 1) · affine_lps."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps(g))


def flip(g: Geometry, axis: Literal["x", "y", "z"]) -> Geometry:
    """Geometry of the same voxels after the array is reversed along `axis`: this direction flips, and voxel 0 moves."""
    i = "xyz".index(axis)
    names = ("read_dir", "phase_dir", "slice_dir")
    direction = np.asarray(getattr(g, names[i]))
    last = np.asarray(g.position) + (g.shape[2 - i] - 1) * affine_lps(g)[:3, i]
    if axis == "z":
        last = g.slice_position(g.shape[0] - 1)
    a, b = g.shear
    shear = {"x": (-a, b), "y": (a, -b), "z": (-a, -b)}[axis]
    changes: dict[str, Any] = {"position": vector(last), names[i]: vector(-direction), "shear": shear}
    if axis == "z":
        changes["steps"] = g.steps[::-1]
    return replace(g, **changes)


def vector(v: Sequence[float] | NDArray[np.float64]) -> Vector:
    """Three numbers as a tuple of floats."""
    x, y, z = (float(i) for i in v)
    return (x, y, z)
