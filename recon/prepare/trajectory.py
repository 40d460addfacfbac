"""Where in k-space each sample lies: positions of a scan in one unit, and the standard trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Encoding, Flag, RawScan, flagged

Floats = NDArray[np.float64]
Units = Literal["auto", "fraction", "radians", "cycles", "encoded", "1/m"]

_MEANING = {
    "fraction": "fractions of the sampled range (−0.5 … 0.5)",
    "radians": "radians per voxel (−π … π)",
    "cycles": "cycles per field of view of the image (−N/2 … N/2)",
    "encoded": "cycles per encoded field of view (−N/2 … N/2 with the oversampled N)",
    "1/m": "cycles per metre",
}
#: Largest factor by which positions may miss the edge of k-space before their unit is in doubt.
_DOUBT = 1.8


def normalise(
    trajectory: NDArray[np.floating], encoding: Encoding, units: Units = "auto"
) -> tuple[Floats, tuple[str, ...]]:
    """Positions of a scan in cycles per field of view of the image, and sentences on how they were read.

    `trajectory` is (line, sample, dimension) in the order x, y(, z), as ISMRMRD stores it; the result is (line, sample,
    2) in the order (ky, kx), or (line, sample, 3) as (kz, ky, kx) where the encoded matrix has partitions. One cycle
    per field of view is the step of a Cartesian scan of `encoding.recon_fov`: the points fit a grid of that field of
    view, whatever the oversampling along the readout.

    The format states no unit. The edge of k-space lies at encoded_matrix / (2 encoded_fov) cycles per mm, and the unit
    is the one in which the largest |k| is nearest to it. Raises DataError if none is within a factor of 1.8.
    """
    k = np.asarray(trajectory, np.float64)
    if k.ndim != 3 or k.shape[-1] < 2:
        raise DataError(
            f"k-space positions of shape {k.shape} are not (line, sample, 2 or 3); store them in that shape"
        )
    if not np.isfinite(k).all():
        raise DataError("the k-space positions hold NaN or infinity; store them again or give them with --trajectory")
    notes = []
    volume = encoding.encoded_matrix[2] > 1
    ndim = 3 if volume and k.shape[-1] > 2 else 2
    if k.shape[-1] > ndim and np.any(k[..., ndim:]):
        notes.append(
            f"component {ndim + 1} of the k-space positions was ignored: the scan is encoded in {ndim} dimensions"
        )
    if volume and ndim == 2:
        notes.append("k-space positions are given in the plane, and partitions are Cartesian")
    k = k[..., :ndim]
    reach = np.abs(k).max(axis=(0, 1))
    scales = _scales(encoding, ndim)
    edge = scales["fraction"] / 2
    found = {name: _mismatch(reach * scale, edge) for name, scale in scales.items()}
    chosen = min(found, key=lambda name: found[name]) if units == "auto" else units
    if units == "auto" and not found[chosen] <= math.log(_DOUBT):
        raise DataError(
            f"k-space positions reach {_list(reach)} along {'xyz'[:ndim]}, which in no known unit fits a "
            f"matrix of {_list(2 * edge)}; give them in cycles per field of view (−N/2 … N/2) with --trajectory"
        )
    points = k * scales[chosen]
    filled = np.abs(points).max(axis=(0, 1)) / edge
    stated = "" if units == "auto" else " as asked"
    notes.insert(0, f"k-space positions reach {_list(reach)} and were read{stated} as {_MEANING[chosen]}")
    if filled.max() > 1.1 or filled.max() < 0.9:
        notes.append(f"k-space positions fill {filled.max():.0%} of the range that the encoded matrix states")
    return np.ascontiguousarray(points[..., ::-1]), tuple(notes)


def of_scan(
    scan: RawScan,
    rows: NDArray[np.intp],
    encoding: Encoding,
    *,
    standard: Literal["radial", "golden"] | None = None,
    units: Units = "auto",
) -> tuple[Floats, tuple[str, ...]]:
    """`normalise` of the positions stored with the given lines, or the `standard` trajectory by their counters.

    Line i of a standard radial scan is at the angle π i / lines, or i · 111.25° for "golden", with i its
    kspace_encode_step_1; its centre is at center_sample and its samples are 1 / encoded_fov apart. Raises DataError,
    with the three cures, if no positions are stored and no standard was chosen.
    """
    lines = scan.lines[rows]
    if standard is None:
        stored = scan.samples.trajectory(rows)
        if stored.shape[-1] and np.any(stored):
            return normalise(stored, encoding, units)
        raise DataError(
            f"the scan is {encoding.trajectory} but its lines hold no k-space positions; store them in the file, give "
            "them as an array (line, sample, dimension) with --trajectory positions.npy, or, if the scan is a standard "
            "one, choose --trajectory radial or --trajectory golden"
        )
    spoke = lines["kspace_encode_step_1"].astype(np.float64)
    limit = encoding.limits.get("kspace_encoding_step_1")
    count = limit.maximum - limit.minimum + 1 if limit is not None else int(spoke.max()) + 1
    samples = int(lines["number_of_samples"][0])
    centre = lines["center_sample"].astype(np.float64)[:, None]
    k: Floats = (np.arange(samples) - centre) * float(encoding.recon_fov[0] / encoding.encoded_fov[0])
    reverse = flagged(lines, Flag.REVERSE)
    k[reverse] *= -1
    angle: Floats = spoke * (GOLDEN if standard == "golden" else math.pi / count)
    note = f"the file holds no k-space positions: a standard {standard} trajectory of {count} lines was assumed"
    return _spokes(k, angle), (note,)


#: The golden angle π (√5 − 1) / 2 = 111.25° (Winkelmann et al., IEEE Trans Med Imaging 26:68, 2007).
GOLDEN = math.pi * (math.sqrt(5) - 1) / 2


def radial(spokes: int, samples: int, matrix: int, *, golden: bool = False) -> Floats:
    """Lines through the centre at the angles π i / spokes, or i · 111.25°: points (spoke, sample, 2) as (ky, kx).

    In cycles per field of view: `samples` steps over −matrix/2 … matrix/2, with 0 at samples // 2. Line 0 runs along
    +kx; angles run from kx to ky.
    """
    angle = np.arange(spokes, dtype=np.float64) * (GOLDEN if golden else math.pi / spokes)
    return _spokes(_readout(samples, matrix), angle)


def spiral(interleaves: int, samples: int, matrix: int, *, turns: float | None = None) -> Floats:
    """Archimedean spirals from the centre outwards: points (interleaf, sample, 2) as (ky, kx).

        k(ρ) = (matrix / 2) ρ exp(2πi (turns ρ + interleaf / interleaves)),
        ρ = 0 … 1

    in cycles per field of view, with equal steps along the curve. `turns` defaults to matrix / (2 interleaves), where
    neighbouring turns are one cycle apart.
    """
    a = 2 * math.pi * (matrix / (2 * interleaves) if turns is None else turns)
    fine = np.linspace(0, 1, 16 * samples)
    length = (fine * np.sqrt(1 + (a * fine) ** 2) + np.arcsinh(a * fine) / max(a, 1e-9)) / 2
    rho = np.interp(np.linspace(0, length[-1], samples), length, fine)
    angle = a * rho + 2 * math.pi * np.arange(interleaves)[:, None] / interleaves
    return np.stack([matrix / 2 * rho * np.sin(angle), matrix / 2 * rho * np.cos(angle)], axis=-1)


def kooshball(spokes: int, samples: int, matrix: int) -> Floats:
    """Lines through the centre that fill the sphere evenly in any number: points (spoke, sample, 3) as (kz, ky, kx).

    Spoke i points to z = frac(0.4656 i) at the azimuth 2π frac(0.6823 i), the golden means in two dimensions (Chan et
    al., Magn Reson Med 61:354, 2009). In cycles per field of view, as `radial`.
    """
    i = np.arange(spokes)
    z, azimuth = np.modf(i * 0.46557123)[0], 2 * math.pi * np.modf(i * 0.6823278)[0]
    rho = np.sqrt(1 - z**2)
    direction = np.stack([z, rho * np.sin(azimuth), rho * np.cos(azimuth)], axis=-1)
    return direction[:, None] * _readout(samples, matrix)[:, None]


def inside(points: Floats, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Which points lie within −N/2 … N/2 of a grid of `shape` along every axis; others would alias into it."""
    return np.asarray((np.abs(points) <= np.asarray(shape) / 2 + 1e-3).all(axis=-1))


def offcentre_phase(points: Floats, shift_voxels: Sequence[float], shape: Sequence[int]) -> NDArray[np.complex64]:
    """The factor of each sample that moves the image by `shift_voxels`: exp(−2πi Σ_d k_d shift_d / N_d).

    `points` is (..., ndim) in cycles per field of view; shift and shape have the same order, (y, x) or (z, y, x).
    """
    turns = np.asarray(points, np.float64) @ (np.asarray(shift_voxels, np.float64) / np.asarray(shape, np.float64))
    factor: NDArray[np.complex64] = np.exp(-2j * math.pi * turns).astype(np.complex64)
    return factor


def isocentre_shift(
    position: Sequence[float], directions: Sequence[Sequence[float]], voxel: Sequence[float]
) -> tuple[float, ...]:
    """Shift in voxels from an image around the isocentre to one around `position`: −(position · direction) / voxel.

    `position` in LPS millimetres; `directions` and `voxel` in the order of the points, (phase, read) for 2D and (slice,
    phase, read) for 3D. Pass the result to `offcentre_phase`.

    ISMRMRD does not record whether a scan needs this. Scanners move the field of view of Cartesian scans before they
    store the samples, but never that of spirals (ismrmrd#250). Radial scans differ by sequence; those played by Pulseq
    were moved. Samples are therefore not changed unless the recipe says so (`prepare.offcentre`).
    """
    p = np.asarray(position, np.float64)
    return tuple(float(-(p @ np.asarray(d, np.float64)) / v) for d, v in zip(directions, voxel))


def _scales(encoding: Encoding, ndim: int) -> dict[str, Floats]:
    """Factor along x, y(, z) of each unit to cycles per field of view of the image."""
    encoded, fov, image = (
        np.asarray(v[:ndim], np.float64) for v in (encoding.encoded_matrix, encoding.encoded_fov, encoding.recon_fov)
    )
    matrix = encoded * image / fov
    return {
        "fraction": matrix,
        "radians": matrix / (2 * math.pi),
        "cycles": np.ones(ndim),
        "encoded": image / fov,
        "1/m": image / 1000,
    }


def _mismatch(reach: Floats, edge: Floats) -> float:
    """Mean |log(reach / edge)| over the axes along which the trajectory extends."""
    used = reach > 1e-3 * (reach / edge).max() * edge
    return float(np.abs(np.log(reach[used] / edge[used])).mean()) if used.any() else math.inf


def _readout(samples: int, matrix: int) -> Floats:
    k: Floats = (np.arange(samples, dtype=np.float64) - samples // 2) * (matrix / samples)
    return k


def _spokes(k: Floats, angle: Floats) -> Floats:
    return np.stack([k * np.sin(angle)[:, None], k * np.cos(angle)[:, None]], axis=-1)


def _list(values: Floats) -> str:
    return " × ".join(f"{v:.4g}" for v in values)
