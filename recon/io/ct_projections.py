"""CT projections as HDF5, in the layout of docs/reference/formats.md: read, checked, written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import CTProjections, DataError
from recon.io import hdf5

#: Value of the root's attribute `format`.
FORMAT = "recon CT projections"
VERSION = 1
_BEAMS = ("parallel", "flat", "curved", "cone")
#: Line integrals beyond these are impossible: e^-30 of the photons, or more light behind the body than before it.
_LOW, _HIGH = -3.0, 30.0


def is_projections(file: Any) -> bool:
    """Whether an open HDF5 file has this layout, or is meant to."""
    return _text(file, "format") == FORMAT or "projections" in file


def read(path: Path) -> CTProjections:
    """The projections in a file; raises DataError, naming the entry, if one is missing or they make no scan."""
    with hdf5.opened(path) as file:
        return _checked(_read(file, path), path)


def write(scan: CTProjections, path: Path) -> None:
    """Write projections as HDF5, completely or not at all; the same scan gives the same bytes."""
    with hdf5.created(path, scan.values.nbytes) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION})
        data = file.create_dataset("projections", data=scan.values, chunks=(1, *scan.values.shape[1:]), compression=4)
        data.attrs.update({"kind": scan.kind})
        if scan.kind == "counts":
            data.attrs.update({"electronic_noise": scan.electronic_noise, "photons_per_count": scan.counts_per_unit})
            file["flat"] = scan.air
            if scan.dark is not None:
                file["dark"] = scan.dark
        file["angles"] = scan.angles
        file["angles"].attrs["units"] = "rad"
        geometry = {"beam": scan.beam, "detector_spacing_mm": scan.spacing, "detector_offset_mm": scan.offset}
        if scan.beam != "parallel":
            geometry |= {"source_to_axis_mm": scan.source_distance, "axis_to_detector_mm": scan.detector_distance}
        if scan.beam == "cone":
            geometry |= {"row_spacing_mm": scan.row_spacing, "row_offset_mm": scan.row_offset}
        file.create_group("geometry").attrs.update(geometry)
        image: dict[str, Any] = {"matrix": scan.matrix, "voxel_mm": scan.voxel, "water_per_mm": scan.water}
        if scan.positions:
            image["slice_positions_mm"] = scan.positions
        if scan.thickness:
            image["slice_thickness_mm"] = scan.thickness
        file.create_group("image").attrs.update(image)


def _read(file: Any, path: Path) -> CTProjections:
    if "projections" not in file:
        raise DataError(
            f"{path.name} lacks the data set projections (slice, view, detector); see Formats in the documentation"
        )
    data = hdf5.array(file, "projections")
    if data.dtype.kind not in "uif" or data.ndim not in (2, 3) or not data.size:
        raise DataError(
            f"{path.name}: projections are {data.dtype} {data.shape}, not real numbers (slice, view, detector)"
        )
    values = np.asarray(data, dtype=np.float32)
    values = values[None] if values.ndim == 2 else values
    kind = _text(data, "kind")
    if kind not in ("counts", "line integrals"):
        raise DataError(f"{path.name}: projections have kind {kind!r}; give it counts or line integrals")
    if "angles" not in file:
        raise DataError(f"{path.name} lacks the data set angles (view,); write one angle for each view")
    angles = np.asarray(hdf5.array(file, "angles", "uif"), dtype=np.float64)
    units = _text(file["angles"], "units", "rad")
    if units not in ("rad", "deg"):
        raise DataError(f"{path.name}: angles are in {units!r}; give their attribute units, rad or deg")
    geometry, image = (hdf5.group(file, n) if n in file else None for n in ("geometry", "image"))
    beam = _text(geometry, "beam")
    if beam not in _BEAMS:
        raise DataError(f"{path.name}: geometry has beam {beam!r}; give one of {', '.join(_BEAMS)}")
    needed = ["detector_spacing_mm"] + (["source_to_axis_mm", "axis_to_detector_mm"] if beam != "parallel" else [])
    needed += ["row_spacing_mm"] if beam == "cone" else []
    if beam == "cone" and data.ndim == 2:
        raise DataError(f"{path.name}: projections are {data.shape}, and a cone beam's are (row, view, detector)")
    missing = [name for name in needed if geometry is None or name not in geometry.attrs]
    if missing:
        raise DataError(f"{path.name}: geometry lacks {', '.join(missing)}, which a {beam} beam needs; write it in mm")
    matrix = hdf5.numbers(image, "matrix", (0, 0))
    if len(matrix) != 2 or not np.isfinite(matrix).all():
        raise DataError(f"{path.name}: the image's matrix is {matrix}, not two whole numbers; write rows and columns")
    # Each row of a fan's file is a slice; for a cone the slices are free to choose.
    slices = hdf5.numbers(image, "slice_positions_mm", () if beam == "cone" else np.arange(len(values)))
    return CTProjections(
        values=values,
        kind=kind,  # type: ignore[arg-type]
        angles=np.deg2rad(angles) if units == "deg" else angles,
        beam=beam,  # type: ignore[arg-type]
        spacing=_number(geometry, "detector_spacing_mm"),
        offset=_number(geometry, "detector_offset_mm"),
        source_distance=_number(geometry, "source_to_axis_mm"),
        detector_distance=_number(geometry, "axis_to_detector_mm"),
        air=_field(file, "flat", values.shape, path, beam == "cone"),
        dark=_field(file, "dark", values.shape, path, beam == "cone"),
        electronic_noise=_number(data, "electronic_noise"),
        counts_per_unit=_number(data, "photons_per_count", 1),
        water=_number(image, "water_per_mm"),
        matrix=(int(matrix[0]), int(matrix[1])),
        voxel=_number(image, "voxel_mm"),
        positions=tuple(slices.tolist()),
        thickness=_number(image, "slice_thickness_mm", 0 if beam == "cone" else 1),
        row_spacing=_number(geometry, "row_spacing_mm"),
        row_offset=_number(geometry, "row_offset_mm"),
        source="CT projections",
    )


def _field(file: Any, name: str, shape: tuple[int, ...], path: Path, cone: bool) -> NDArray[np.float32] | None:
    """A flat or dark field, the mean of its frames, shaped to broadcast over the projections."""
    if name not in file:
        return None
    field = np.asarray(hdf5.array(file, name, "uif"), dtype=np.float32)
    if cone and field.shape[-2:] == (shape[0], shape[2]) and field.shape != shape:
        # Exposures of the whole panel, one (row, detector) or several (frame, row, detector).
        return np.ascontiguousarray(field.reshape(-1, shape[0], shape[2]).mean(0)[:, None])
    # (frame, detector) are repeated exposures unless each belongs to a view.
    if field.ndim == 2 and field.shape[0] != shape[1] and field.shape[-1] == shape[2]:
        field = field.mean(0)
    try:
        np.broadcast_to(field, shape)
    except ValueError:
        raise DataError(
            f"{path.name}: {name} has the shape {field.shape}, which fits neither (detector,) nor (frame, detector) of "
            f"projections {shape}"
        ) from None
    return field


def _checked(scan: CTProjections, path: Path) -> CTProjections:
    """The scan, or a DataError for numbers that no scanner measures."""
    name, shape = path.name, scan.values.shape
    if scan.angles.shape != (shape[1],):
        raise DataError(f"{name}: {scan.angles.size} angles for {shape[1]} views; give one angle for each view")
    fields: dict[str, Any] = {"projections": scan.values, "angles": scan.angles, "flat": scan.air, "dark": scan.dark}
    for what, numbers in fields.items():
        bad = 0 if numbers is None else int(np.count_nonzero(~np.isfinite(numbers)))
        if bad:
            raise DataError(f"{name}: {bad} values of {what} are NaN or infinite; leave out those views or elements")
    cone = scan.beam == "cone"
    if not cone and len(scan.positions) != shape[0]:
        raise DataError(f"{name}: {len(scan.positions)} slice positions for {shape[0]} slices; give one for each slice")
    steps = np.diff(scan.positions)
    if len(steps) and (not steps.min() > 0 or np.ptp(steps) > 0.01 * steps.mean()):
        raise DataError(f"{name}: slice positions do not increase in equal steps; sort the slices")
    lengths = (scan.spacing, scan.counts_per_unit, scan.row_spacing if cone else 1.0)
    thin = scan.thickness < 0 if cone else not scan.thickness > 0
    if not all(math.isfinite(v) and v > 0 for v in lengths) or thin or not math.isfinite(scan.thickness):
        raise DataError(
            f"{name}: detector spacing, slice thickness and photons per count are not all above 0; correct them"
        )
    if not math.isfinite(scan.offset + scan.row_offset):
        raise DataError(f"{name}: the offset of the detector is not a number; correct it")
    if not (math.isfinite(scan.electronic_noise) and scan.electronic_noise >= 0):
        raise DataError(f"{name}: electronic noise cannot be {scan.electronic_noise:g} counts; give 0 or more")
    if not (0 <= scan.water < 1 and scan.voxel >= 0 and min(scan.matrix) >= 0):
        raise DataError(f"{name}: matrix, voxel or attenuation of water is negative, or water not in 1/mm; correct it")
    if scan.kind == "line integrals":
        low, high = float(scan.values.min()), float(scan.values.max())
        if low < _LOW or high > _HIGH:
            raise DataError(
                f"{name}: line integrals run from {low:.4g} to {high:.4g}, but those of a body run from 0 to "
                "about 10; mark counts as kind counts, and give lengths in mm"
            )
    elif scan.air is None:
        raise DataError(f"{name}: counts need the data set flat: the counts of each element without a body")
    return scan


def _text(item: Any, name: str, default: str = "") -> str:
    value = hdf5.attribute(item, name, default)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(item: Any, name: str, default: float = 0) -> float:
    value = hdf5.numbers(item, name, default)
    if len(value) != 1:
        raise DataError(f"{Path(item.file.filename).name}: {name} holds {len(value)} numbers; write one")
    return float(value[0])
