"""Which slices of a scan belong together, and where they lie in the patient."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding, RawScan
from recon.geometry import Geometry, GeometryError, check_directions, from_centre, stack


@dataclass(frozen=True)
class Stack:
    """Slice numbers in order of position along the slice direction, and the geometry of the volume they form.

    A 3D slab is a stack of one slice number. `notes` are sentences on irregularities.
    """

    slices: tuple[int, ...]
    geometry: Geometry
    notes: tuple[str, ...] = ()


def stacks(scan: RawScan, rows: NDArray[np.intp], encoding: Encoding) -> list[Stack]:
    """Groups of parallel, equally spaced slices among the imaging lines `rows`, in the order of their first slice.

    Slices of several orientations (a localiser) form several stacks; slices without regular spacing form one stack
    each. If the file gives no usable directions, the axes are the array's and `geometry.known` is False.
    """
    lines = scan.lines[rows]
    numbers, first = np.unique(lines["slice"], return_index=True)
    notes: list[str] = []
    unplaced = _unplaced(lines[first]) if encoding.encoded_matrix[2] == 1 else np.zeros(len(first), np.bool_)
    slices = {
        int(n): _slice_geometry(lines[i], encoding, int(k), not bool(unplaced[k]), notes)
        for k, (n, i) in enumerate(zip(numbers, first))
    }
    out = []
    for group in _parallel(slices):
        try:
            if encoding.encoded_matrix[2] > 1 and len(group) > 1:
                raise GeometryError("several 3D slabs become separate images")
            geometry, order = stack([slices[n] for n in group])
            out.append(Stack(tuple(group[i] for i in order), geometry, tuple(dict.fromkeys(notes))))
        except GeometryError as e:
            why = f"{len(group)} slices are written separately: {e}"
            out += [Stack((n,), slices[n], (*dict.fromkeys(notes), why)) for n in group]
    return out


def _unplaced(lines: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which slices, given one line each, lie at 0, 0, 0 like all others although one of these is parallel to them."""
    ways = np.concatenate([lines["read_dir"], lines["phase_dir"]], axis=1)
    same = (np.abs(ways[:, None] - ways[None]) < 1e-3).all(axis=2)
    several: NDArray[np.bool_] = same.sum(axis=1) > 1
    return several if not lines["position"].any() else np.zeros(len(lines), np.bool_)


def _slice_geometry(line: np.void, encoding: Encoding, index: int, placed: bool, notes: list[str]) -> Geometry:
    """Geometry of one slice, the `index`-th by number; `placed` says whether the file gives slice positions."""
    fov, matrix = encoding.recon_fov, encoding.recon_matrix
    if encoding.encoded_matrix[2] == 1:
        matrix = (matrix[0], matrix[1], 1)
    read, phase, normal = (tuple(float(v) for v in line[name]) for name in ("read_dir", "phase_dir", "slice_dir"))
    try:
        if not any((*read, *phase)):
            raise GeometryError("the file gives no directions")
        if not placed:
            raise GeometryError("the file gives the position 0, 0, 0 for all slices")
        if not any(normal):
            normal = tuple(float(v) for v in np.cross(read, phase))
            notes.append("the file gives no slice direction; read × phase is used")
        check_directions(read, phase, normal)
        read, phase, normal = _orthonormal(read, phase, normal)
        geometry = from_centre(line["position"].astype(np.float64), read, phase, normal, fov, matrix)
    except GeometryError as e:
        notes.append(f"the position in the patient is unknown ({e}); the axes are those of the array")
        axes = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
        centre = (0.0, 0.0, index * fov[2] if matrix[2] == 1 else 0.0)
        geometry = from_centre(centre, *axes, fov, matrix, known=False)
    # Some converters store the slice distance in reconSpace; the excited thickness is the smaller of the two.
    return replace(geometry, thickness=min(fov[2], encoding.encoded_fov[2])) if matrix[2] == 1 else geometry


def _orthonormal(
    read: tuple[float, ...], phase: tuple[float, ...], normal: tuple[float, ...]
) -> list[tuple[float, ...]]:
    """Directions accepted by `check_directions`, made exactly orthonormal as DICOM readers demand: files round."""
    r = np.asarray(read) / np.linalg.norm(read)
    c = np.asarray(phase) - (np.asarray(phase) @ r) * r
    c /= np.linalg.norm(c)
    s = np.cross(r, c)
    return [tuple(float(x) for x in v) for v in (r, c, s if s @ np.asarray(normal) > 0 else -s)]


def _parallel(slices: dict[int, Geometry]) -> list[list[int]]:
    """Slice numbers with equal directions, group by group."""
    groups: list[list[int]] = []
    for n, g in slices.items():
        for group in groups:
            other = slices[group[0]]
            if g.known == other.known and np.allclose(
                (*g.read_dir, *g.phase_dir), (*other.read_dir, *other.phase_dir), atol=1e-3
            ):
                group.append(n)
                break
        else:
            groups.append([n])
    return groups
