"""CT projections as DICOM (DICOM-CT-PD): one file per view, checked before any pixels are read.

B. Chen et al., Development and validation of an open data format for CT projection data, Med. Phys. 42, 6964 (2015);
T. R. Moen et al., Low-dose CT image and projection dataset, Med. Phys. 48, 902 (2021), table IV.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import CTViews, DataError
from recon.io.ct_dicom import files
from recon.io.ct_pd_header import PIXELS, PROJECTION, WANTED, described, number, numbers, of_ge, word

if TYPE_CHECKING:
    from pydicom import Dataset

#: What each projection must state, by name, and what all projections of a scan share.
_NEEDED = ("angle", "position", "radius", "distance", "rows", "columns", "row_spacing", "column_spacing", "centre")
_COMMON = ("radius", "distance", "rows", "columns", "row_spacing", "column_spacing", "centre")
#: How far positions of a helix may go back, in mm: they are stored rounded.
_JITTER = 0.06


@dataclass(frozen=True)
class _View:
    """One file: the attributes of its projection, by name."""

    path: Path
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """How a message names it, because file names may contain the patient's name."""
        return f"projection {self.values['instance']:.0f}"


@dataclass(frozen=True)
class _Files:
    """The pixels of a scan, read view by view; the digest of each view read is kept for the fingerprint.

    `turned` means that the files' first row is nearest to the table; in the format it is the farthest.
    """

    views: tuple[_View, ...]
    shape: tuple[int, int]
    turned: bool = False
    digests: dict[int, bytes] = field(default_factory=dict)

    def stored(self, first: int, last: int) -> NDArray[np.uint16]:
        """Projections first … last − 1 as stored, (view, row, column)."""
        out = np.empty((last - first, *self.shape), np.uint16)
        for i in range(first, last):
            pixels = _pixels(self.views[i], self.shape)
            out[i - first] = pixels[::-1] if self.turned else pixels
            self.digests[i] = hashlib.sha256(out[i - first].data).digest()
        return out

    def sha256(self) -> str:
        """Fingerprint of the pixels and of where they were measured; reads the pixels that have not been read yet."""
        for i in range(len(self.views)):
            if i not in self.digests:
                self.stored(i, i + 1)
        whole = hashlib.sha256()
        for i, view in enumerate(self.views):
            whole.update(self.digests[i])
            whole.update(repr([view.values[k] for k in ("angle", "position", "shift", "scale")]).encode())
        return whole.hexdigest()


def is_projection(path: Path) -> bool:
    """Whether a DICOM file is a projection of this format."""
    import pydicom

    try:
        d = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(PROJECTION))
    except Exception:  # pydicom raises many kinds of errors for bytes that are not DICOM
        return False
    return any(tag in d for tag in PROJECTION)


def read(path: Path) -> CTViews:
    """The projections of a folder, in the order of their instance numbers; pixels are read on request.

    Raises DataError if projections are missing, duplicate, cut short or from several series, and if geometry, angles or
    positions do not make a scan. No message contains patient data or a file name.
    """
    views: list[_View] = []
    others = Counter[str]()
    for file in files(path):
        d = _header(file)
        if any(tag in d for tag in PROJECTION):
            try:
                views.append(_view(file, d))
            except (DataError, OSError, MemoryError):
                raise
            except Exception as error:  # pydicom decodes an attribute on access
                raise _damaged(error) from None
        else:
            if not word(d, "modality"):
                raise DataError("a DICOM file in the folder has no Modality: it is truncated; copy the folder again")
            others[f"objects of modality {word(d, 'modality')[:16]}"] += 1
    if others:
        what = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        raise DataError(f"the folder holds {len(views)} projections and also {what}; put each into its own folder")
    _one_series(views)
    views.sort(key=lambda v: float(v.values["instance"]))
    _complete(views)
    for key in _COMMON:
        given = np.array([v.values[key] for v in views])
        if np.ptp(given, axis=0).max() > 0.01:
            raise DataError(
                f"the projections state different values of {key.replace('_', ' ')}; give the projections of "
                "one scan only"
            )
    return _scan(views, _header(views[0].path))


def _header(file: Path) -> Dataset:
    import pydicom

    try:
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(WANTED))
    except Exception as error:  # pydicom raises many kinds of errors for bytes that are not DICOM
        raise _damaged(error) from None


def _damaged(error: Exception) -> DataError:
    return DataError(
        f"a DICOM file of the folder cannot be read ({type(error).__name__}): it is truncated or damaged; copy "
        "the projections again"
    )


def _one_series(views: Sequence[_View]) -> None:
    series, spectra = (Counter(v.values[key] for v in views) for key in ("series", "spectrum"))
    if len(series) > 1 or len(spectra) > 1:
        what, counts = ("series", series) if len(series) > 1 else ("spectra", spectra)
        held = ", ".join(str(n) for n in counts.values())
        raise DataError(f"the folder holds projections of {len(counts)} {what} ({held}); put each into its own folder")
    modality = {v.values["modality"] for v in views} - {"", "CT"}
    if modality:
        raise DataError(
            f"the projections are of modality {', '.join(sorted(modality))[:20]}, not CT; give CT projections"
        )


def _view(file: Path, d: Dataset) -> _View:
    """The content of a header, checked; raises DataError if something is missing or is not a number."""
    instance = number(d, "instance")
    label = "a projection without number" if instance is None else f"projection {instance:.0f}"
    if instance is None:
        raise DataError(
            f"{label} has no number, so its order is unknown; export the projections again with InstanceNumber"
        )
    values: dict[str, Any] = {key: numbers(d, key) for key in _NEEDED}
    missing = [key.replace("_", " ") for key in _NEEDED if values[key] is None]
    if missing:
        raise DataError(f"{label} states no {', '.join(missing)}; export the projections again with their geometry")
    values = {key: v if key == "centre" else v[0] for key, v in values.items()}
    values["instance"] = instance
    values["shift"] = tuple(number(d, key) or 0.0 for key in ("angular_shift", "axial_shift", "radial_shift"))
    slope, intercept = number(d, "slope"), number(d, "intercept")
    if slope is None or intercept is None or slope == 0:
        raise DataError(f"{label} has no rescale to line integrals; export it with RescaleSlope and RescaleIntercept")
    values["scale"] = (slope, intercept)
    flat = [*(values[k] for k in _NEEDED if k != "centre"), *values["centre"], *values["shift"], slope, intercept]
    if len(values["centre"]) != 2 or not all(math.isfinite(v) for v in flat):
        raise DataError(
            f"{label} has an angle, a position or a size that is not a number; export the projections again"
        )
    rows, columns = int(values["rows"]), int(values["columns"])
    stored = (int(number(d, "stored_rows") or 0), int(number(d, "stored_columns") or 0))
    if rows < 1 or columns < 2 or stored not in ((rows, columns), (columns, rows)):
        raise DataError(
            f"{label} holds {stored[0]} × {stored[1]} pixels, but its detector has {rows} rows and {columns} "
            "columns; export the projections again"
        )
    if (number(d, "bits") or 16) != 16 or (number(d, "frames") or 1) > 1:
        raise DataError(f"{label} is not a single projection of 16 bits; export each projection into its own file")
    compressed = getattr(getattr(d.file_meta, "TransferSyntaxUID", None), "is_compressed", False)
    if not compressed and file.stat().st_size < 2 * rows * columns:
        raise DataError(f"{label} is truncated; copy it again")
    values |= {"series": str(d.get("SeriesInstanceUID", "")), "spectrum": number(d, "spectrum")}
    return _View(file, values | {"modality": word(d, "modality")})


def _complete(views: Sequence[_View]) -> None:
    """Raise DataError if a projection is missing or duplicate, naming it."""
    present = [round(v.values["instance"]) for v in views]
    twice = sorted(n for n, count in Counter(present).items() if count > 1)
    if twice:
        raise DataError(f"{len(twice)} projections appear twice ({_few(twice)}); give the projections of one scan only")
    lost = present[-1] - present[0] + 1 - len(present)
    if lost:  # named by the gaps: with absurd numbers a list of all would be endless
        gaps = [range(a + 1, b) for a, b in pairwise(present) if b > a + 1]
        some = [n for gap in gaps[:4] for n in gap[:4]][:4] + [gaps[-1][-1]] * (lost > 4)
        raise DataError(
            f"{lost} projections of {present[0]} to {present[-1]} are missing ({_few(some)}); copy the whole folder "
            "again"
        )


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (f", … {numbers[-1]}" if len(numbers) > 4 else "")


def _scan(views: Sequence[_View], first: Dataset) -> CTViews:
    v = views[0].values
    kind, shape, geometry = (word(first, key).upper() for key in ("type", "detector_shape", "geometry"))
    if shape not in ("CYLINDRICAL", "FLAT"):
        raise DataError(
            f"the detector is {shape[:20] or 'of no shape that is stated'}; only CYLINDRICAL and FLAT are supported"
        )
    if geometry not in ("", "FANBEAM", "CONEBEAM"):
        raise DataError(
            f"the projections are of geometry {geometry[:20]}; only FANBEAM (third-generation CT) is supported"
        )
    if word(first, "log").upper() == "NO":
        raise DataError(
            "the projections hold intensities (LogFlag NO), not line integrals; export them after the logarithm"
        )
    lengths = (v["radius"], v["distance"], v["row_spacing"], v["column_spacing"])
    if min(lengths) <= 0 or v["distance"] <= v["radius"]:
        raise DataError(
            f"the detector is {v['distance']:g} mm and the axis {v['radius']:g} mm from the source, elements "
            f"of {v['column_spacing']:g} × {v['row_spacing']:g} mm, which is not a possible scanner; export "
            "the projections again"
        )
    rows, columns = int(v["rows"]), int(v["columns"])
    angles = np.unwrap([float(view.values["angle"]) for view in views])
    positions = np.array([float(view.values["position"]) for view in views])
    helical = _path(views, angles, positions, kind, v["row_spacing"] * v["radius"] / v["distance"])
    water, notes = _water(first)
    if (rows == columns) and int(number(first, "stored_rows") or 0) == rows:
        notes.append("the detector has as many rows as columns, so its pixels were read row by row, as the format says")
    shifts, centre, header = (
        np.array([view.values["shift"] for view in views], float),
        (v["centre"][1] - 1, v["centre"][0] - 1),
        described(first),
    )
    turned = False
    if of_ge(first):
        centre = (centre[0], columns - 1 - v["centre"][0])
        turned = header.study.patient_position.startswith("FF")
        notes.append(
            "GE: the central column is counted from the other end of the detector"
            + (", and z and the rows increase towards the head" if turned else "")
        )
    if turned:
        positions, shifts, centre = -positions, shifts * (1, -1, 1), (rows - 1 - centre[0], centre[1])
    return CTViews(
        _Files(tuple(views), (rows, columns), turned), angles, positions, shifts,
        np.array([view.values["scale"] for view in views], float), v["radius"], v["distance"], (rows, columns),
        (v["row_spacing"], v["column_spacing"]), centre, shape == "CYLINDRICAL", helical, water, header,
        "CT projections, DICOM-CT-PD", tuple(notes),
    )  # fmt: skip


def _path(
    views: Sequence[_View], angles: NDArray[np.float64], positions: NDArray[np.float64], kind: str, row: float
) -> bool:
    """Whether the source moved along a helix; raises DataError, naming the place, for a path that no scanner has."""
    if len(views) < 16:
        raise DataError(f"{len(views)} projections are too few for a scan; give the folder with all of them")
    turns, moves = np.diff(angles), np.diff(positions)
    step = float(np.median(turns))
    helical = kind == "HELICAL" or (kind != "AXIAL" and float(np.mean(np.abs(moves) > 1e-4)) > 0.25)
    if step == 0 or abs(step) > 0.5:
        raise DataError(
            f"the gantry turns by {math.degrees(step):.1f}° between projections, which is not possible within "
            "one scan; give the projections of one scan only"
        )
    if helical:
        odd = np.nonzero((turns / step < 0.2) | (turns / step > 3))[0]
        if len(odd):
            i = int(odd[0])
            raise DataError(
                f"the gantry jumps by {math.degrees(turns[i]):.2f}° between {views[i].name} and "
                f"{views[i + 1].name}, where {math.degrees(step):.2f}° is usual; give the projections of one "
                "scan only"
            )
        way = np.sign(positions[-1] - positions[0])
        if abs(positions[-1] - positions[0]) < row:
            raise DataError(
                "the projections are labelled HELICAL, but the table does not move; give the projections of "
                "one scan only"
            )
        back = np.nonzero(way * moves < -max(_JITTER, 4 * float(np.abs(np.median(moves)))))[0]
    else:
        changes = moves[np.abs(moves) > 0.5 * row]
        way = np.sign(changes[0]) if len(changes) else 1.0
        back = np.nonzero(way * moves < -0.5 * row)[0]
    if len(back):
        i = int(back[0])
        raise DataError(
            f"the table moves backwards between {views[i].name} and {views[i + 1].name}; give the projections "
            "of one scan only"
        )
    return bool(helical)


def _water(d: Dataset) -> tuple[float, list[str]]:
    """Attenuation of water in 1/mm; some files state it in 1/cm."""
    water = number(d, "water") or number(d, "water_before")
    if water is None or water == 0:
        return 0.0, ["the projections do not give the attenuation of water; that at 70 keV is used"]
    if 0.012 <= water <= 0.05:
        return water, []
    if 0.12 <= water <= 0.5:
        return water / 10, ["the attenuation of water is stated in 1/cm"]
    raise DataError(
        f"the attenuation of water is given as {water:g}, which fits neither 1/mm nor 1/cm; set ct.water in the recipe"
    )


def _pixels(view: _View, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Stored values of a projection as (row, column), in whichever order the file has them."""
    import pydicom

    rows, columns = shape
    try:
        d = pydicom.dcmread(view.path, specific_tags=list(PIXELS))
        if d.file_meta.TransferSyntaxUID.is_compressed:
            flat = np.asarray(d.pixel_array).ravel()
        else:
            flat = np.frombuffer(d.PixelData, "<u2" if d.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
        if flat.size < rows * columns:
            raise ValueError
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise DataError(
            f"the pixels of {view.name} cannot be read ({type(error).__name__}): the file is truncated or "
            "damaged; copy the projections again"
        ) from None
    flat = flat[: rows * columns]
    # The format says row by row; scanners' exporters store the transpose and state it in Rows and Columns.
    turned = (int(d.Rows), int(d.Columns)) != (rows, columns)
    return np.asarray(flat.reshape(columns, rows).T if turned else flat.reshape(rows, columns), dtype=np.uint16)
