"""CT images as DICOM: series of a folder, each sorted by position, in HU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import CTImages, CTSeries, DataError, Header, MissingPackage, Study, System, counted
from recon.geometry import Geometry, GeometryError
from recon.io import ct_enhanced

if TYPE_CHECKING:
    from pydicom import Dataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_NEEDED = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
#: Attributes that one series has in common; where they differ there is more than one grid of voxels.
_COMMON = ("Rows", "Columns", "PixelSpacing")
#: What tells reconstructions apart that were stored under one UID: passes of the scanner, kernels, energies, times.
#: Times may differ from slice to slice, so that they count only where each is that of a whole volume.
_APART = ("AcquisitionNumber", "ConvolutionKernel", "KVP", "TemporalPositionIdentifier", "AcquisitionTime")
#: Slices further from their place than this, in mm, are not where a regular series has them.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class _Slice:
    path: Path
    header: Dataset

    @property
    def name(self) -> str:
        """What a message may call it: its number, since names of files may hold the patient's."""
        number = self.header.get("InstanceNumber")
        kind = "frame" if ct_enhanced.is_enhanced(self.header) else "instance"
        return f"{kind} {number}" if number is not None else "an instance without number"

    @property
    def identity(self) -> tuple[str, str]:
        """What no other slice shares, and a copy does."""
        uid = str(self.header.get("SOPInstanceUID", self.path))
        return uid, str(self.header.get("ReferencedFrameNumber", ""))


@dataclass(frozen=True)
class _Files:
    """The voxels of a series, read slice by slice."""

    slices: tuple[_Slice, ...]

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """HU of the slices first … last − 1."""
        chosen = self.slices[first:last]
        d = chosen[0].header
        # Filled slice by slice: a list of them would take the memory of a second volume.
        out = np.empty((len(chosen), int(d.Rows), int(d.Columns)), np.float32)
        for k, hu in enumerate(_all_hu(chosen)):
            out[k] = hu
        return out


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's preamble and signature."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read(path: Path) -> CTImages:
    """The CT series in a DICOM file or a folder and all below it.

    Localizers, reports and objects that are no CT images are left out and counted in the notes; passes of the scanner
    or kernels that lie at the same places under one UID are series of their own. Raises DataError where there is no CT
    image, or one series holds several orientations, grids, gaps between its slices, or slices twice; no message holds a
    word of the patient or the name of a file.
    """
    found: dict[str, list[_Slice]] = {}
    others: dict[str, int] = {}
    files = 0
    for one in _headers(path):
        files += 1
        kind = _kind(one.header)
        if kind == "CT":
            found.setdefault(str(one.header.get("SeriesInstanceUID", "")), []).append(one)
        else:
            others[kind] = others.get(kind, 0) + 1
    what = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
    if not files:
        raise DataError(f"{path.name or path} holds no DICOM file; give the folder of a CT series")
    if not found:
        raise DataError(f"{path.name or path} holds no CT image in DICOM but {what}; give the folder of a CT series")
    placed = {uid: slices for uid, slices in found.items() if not all(_is_page(s.header) for s in slices)}
    pages = sum(map(len, found.values())) - sum(map(len, placed.values()))
    if placed and pages:
        what = ", ".join(v for v in (what, f"{pages} pages of a report") if v)
        found = placed
    # Slices without a series come first: a header that lost its UID is cut short, and says so.
    several = [part for uid in sorted(found) for part in _reconstructions(found[uid])]
    series = [_series(slices, len(several) > 1) for slices in several]
    series.sort(key=lambda s: (int(s.source[0].get("SeriesNumber") or 0), str(s.source[0].SeriesInstanceUID)))
    notes = (f"left out: {what}",) if what else ()
    return CTImages(tuple(series), "CT DICOM", notes)


def _headers(path: Path) -> Iterator[_Slice]:
    """Every DICOM object of a file or folder, without its pixels."""
    import pydicom

    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        if file.name == "DICOMDIR" or not is_dicom(file):
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            header.walk(_touch)
        except Exception as error:  # pydicom raises of all kinds for bytes that are no DICOM
            raise DataError(
                f"a DICOM file of the series cannot be read ({type(error).__name__}): it is cut short or damaged; "
                "copy the series again"
            ) from None
        several = ct_enhanced.frames(header) if ct_enhanced.is_enhanced(header) else [header]
        yield from (_Slice(file, one) for one in several)


def _touch(dataset: Dataset, element: Any) -> None:
    """Decode an element, so that a broken one shows here."""


def _kind(d: Dataset) -> str:
    """CT for a CT image, otherwise what the object is, in the plural."""
    modality = str(d.get("Modality", ""))
    # The name in front of the data set is there even where that is cut short.
    uid = str(d.get("SOPClassUID") or d.file_meta.get("MediaStorageSOPClassUID", ""))
    if (0x7029, 0x1010) in d or (0x7031, 0x1001) in d:
        raise DataError("the folder holds CT images and projections (DICOM-CT-PD); put each into a folder of its own")
    if not modality:
        raise DataError(
            "a DICOM file of the folder states no modality: it is cut short or damaged; copy the series again"
        )
    if uid != CT_IMAGE and not ct_enhanced.is_enhanced(d):
        return f"objects of modality {modality[:16]}"  # as long as the standard lets it be
    return "localizers" if "LOCALIZER" in (d.get("ImageType") or ()) else "CT"


def _is_page(d: Dataset) -> bool:
    """Whether an object is a picture of text (a dose report, a protocol) that its scanner stored as a CT image.

    It has pixels and a series, which the header of a slice that is cut short has not.
    """
    whole = bool(d.get("SeriesInstanceUID")) and bool(d.get("Rows"))
    placed = d.get("ImagePositionPatient") or d.get("ImageOrientationPatient")
    return whole and not placed and "SECONDARY" in (d.get("ImageType") or ())


def _reconstructions(slices: Sequence[_Slice]) -> list[list[_Slice]]:
    """The slices of one series UID, apart by pass or kernel where that explains why several lie at one place."""
    whole = list(slices)
    if not _twice(whole):
        return [whole]
    for keyword in _APART:
        parts: dict[str, list[_Slice]] = {}
        for s in whole:
            parts.setdefault(str(s.header.get(keyword, "")), []).append(s)
        whole_ones = len({_places(part) for part in parts.values()}) == 1
        if len(parts) > 1 and not any(map(_twice, parts.values())) and (whole_ones or keyword in _APART[:2]):
            return [parts[value] for value in sorted(parts)]
    return [whole]


def _twice(slices: Sequence[_Slice]) -> bool:
    """Whether different objects have one place."""
    return len(_places(slices)) < len({s.identity for s in slices})


def _places(slices: Sequence[_Slice]) -> frozenset[str]:
    return frozenset(str(s.header.get("ImagePositionPatient")) for s in slices)


def _series(slices: Sequence[_Slice], many: bool) -> CTSeries:
    first = slices[0].header
    label = f"series {first.get('SeriesNumber') or 'without number'}"
    for s in slices:
        _check(s, label)
    for keyword in _COMMON:
        values = {str(s.header[keyword].value) for s in slices}
        if len(values) > 1:
            raise DataError(f"{label} holds slices of {len(values)} different {keyword}; give slices of one grid")
    turns = np.array([[float(v) for v in s.header.ImageOrientationPatient] for s in slices])
    if np.abs(turns - turns[0]).max() > 1e-3:
        count = len(np.unique(turns.round(3), axis=0))
        raise DataError(f"{label} holds slices of {count} orientations; put each orientation into a folder of its own")
    ordered, notes = _sorted(slices, turns[0], label)
    geometry = _geometry(ordered, turns[0], label)
    notes += _sheared(geometry)
    lossy = sum(str(s.header.get("LossyImageCompression", "")) == "01" for s in ordered)
    if lossy:
        notes.append(f"{lossy} of {counted(len(ordered), 'slice')} came compressed with loss")
    return CTSeries(
        _Files(tuple(ordered)), geometry, _header(first), tuple(s.header for s in ordered), label if many else "",
        tuple(notes),
    )  # fmt: skip


def _check(s: _Slice, label: str) -> None:
    d = s.header
    samples, photometric = d.get("SamplesPerPixel", 1), str(d.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise DataError(f"{label}, {s.name}, is a colour image ({photometric}); give the CT images in HU")
    if int(d.get("NumberOfFrames") or 1) > 1:
        raise DataError(f"{label}, {s.name}, holds several frames; give classic CT images, one slice in each file")
    missing = [k for k in _NEEDED if not d.get(k)]
    if missing:
        raise DataError(
            f"{label}, {s.name}, lacks {', '.join(missing)}, so it is no image with a place, or cut short; leave it out"
        )
    scaled = all(d.get(k) not in (None, "") for k in ("RescaleSlope", "RescaleIntercept"))
    if not scaled or str(d.get("RescaleType") or "HU") != "HU":
        raise DataError(
            f"{label}, {s.name}, states no rescale to HU (RescaleSlope, RescaleIntercept, RescaleType); give a series "
            "in HU"
        )
    numbers = [*d.ImagePositionPatient, *d.ImageOrientationPatient, *d.PixelSpacing, d.RescaleSlope, d.RescaleIntercept]
    if len(numbers) != 13 or not all(math.isfinite(float(v)) for v in numbers) or float(d.RescaleSlope) == 0:
        raise DataError(f"{label}, {s.name}, has a place or a rescale that is no number; export the series again")


def _sorted(slices: Sequence[_Slice], turn: NDArray[np.float64], label: str) -> tuple[list[_Slice], list[str]]:
    """Slices along r × c, without those that are there twice."""
    notes = []
    single: dict[tuple[str, str], _Slice] = {}
    for s in slices:
        single.setdefault(s.identity, s)
    if len(single) < len(slices):
        notes.append(f"{counted(len(slices) - len(single), 'copy', 'copies')} of other files left out")
    normal = np.cross(turn[:3], turn[3:])
    along = {id(s): float(normal @ np.array(s.header.ImagePositionPatient, float)) for s in single.values()}
    ordered = sorted(single.values(), key=lambda s: (along[id(s)], int(s.header.get("InstanceNumber") or 0)))
    places = np.array([along[id(s)] for s in ordered])
    gaps = np.diff(places)
    same = np.nonzero(gaps < _TOLERANCE)[0]
    if len(same):
        pairs = ", ".join(f"{ordered[i].name} and {ordered[i + 1].name}" for i in same[:3])
        pairs += ", …" if len(same) > 3 else ""
        raise DataError(
            f"{label} holds {counted(len(same), 'slice')} twice at one place ({pairs}); "
            "put each pass of the scanner into a folder of its own"
        )
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2]) if len(gaps) else 0.0
    wide = np.nonzero(np.abs(gaps - step) > max(_TOLERANCE, 0.02 * step))[0]
    if len(wide):
        i = int(wide[0])
        lost = round(gaps[i] / step) - 1
        # A gap of whole steps is a slice that was lost; any other is another spacing.
        whole = lost > 0 and abs(gaps[i] / step - lost - 1) < 0.1
        what = f"{lost} missing" if whole else f"a step of {gaps[i]:.2f} mm where {step:.2f} mm is usual"
        raise DataError(
            f"{label} has {what} between {ordered[i].name} and {ordered[i + 1].name}; "
            + ("copy the series again whole" if whole else "put slices of one spacing into a folder of their own")
        )
    return ordered, notes


def _sheared(geometry: Geometry) -> list[str]:
    """What is said of slices that do not lie straight above each other.

    A gantry tilts about the axis from left to right, along which rows run: a shear along columns. One along rows comes
    of another cause, such as a stack that was cut out anew.
    """
    aside, along = (float(v) for v in geometry.shear)
    if not aside and not along:
        return []
    tilted = f"the gantry was tilted by {math.degrees(math.atan2(abs(along), geometry.voxel[2])):.1f}°"
    moved = f"each slice lies {abs(aside):.2f} mm further along its rows than the last, which no tilted gantry does"
    why = tilted if abs(aside) < 0.02 * abs(along) else moved
    return [
        f"{why}: slices stay as they were measured, and the affine of a NIfTI is sheared, which programs that read its "
        "quaternion alone do not see"
    ]


def _geometry(slices: Sequence[_Slice], turn: NDArray[np.float64], label: str) -> Geometry:
    """The grid of a sorted series."""
    d = slices[0].header
    r, c = turn[:3] / np.linalg.norm(turn[:3]), turn[3:] / np.linalg.norm(turn[3:])
    normal = np.cross(r, c)
    places = np.array([[float(v) for v in s.header.ImagePositionPatient] for s in slices])
    thickness = float(d.get("SliceThickness") or 0) or float(d.get("SpacingBetweenSlices") or 0) or 1.0
    shear, step = np.zeros(2), thickness
    if len(slices) > 1:
        way = (places[-1] - places[0]) / (len(slices) - 1)
        step, shear = float(way @ normal), np.array([way @ r, way @ c])
        off = np.abs(places - places[0] - np.outer(np.arange(len(slices)), way)).max()
        if off > 2 * _TOLERANCE:
            raise DataError(
                f"{label} holds slices that are shifted by up to {off:.2f} mm against a regular series; export it again"
            )
    if np.abs(shear).max() * len(slices) < _TOLERANCE:
        shear = np.zeros(2)
    spacing = [float(v) for v in d.PixelSpacing]
    try:
        geometry = Geometry(
            _vector(places[0]), _vector(r), _vector(c), _vector(normal), (spacing[1], spacing[0], step),
            (len(slices), int(d.Rows), int(d.Columns)), thickness, True, (float(shear[0]), float(shear[1])),
        )  # fmt: skip
    except GeometryError as error:
        raise DataError(f"{label}: {error}") from None
    return geometry


def _vector(v: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(v[0]), float(v[1]), float(v[2])


def _all_hu(slices: Sequence[_Slice]) -> Iterator[NDArray[np.float32]]:
    """HU of slices; frames of one object that follow each other are read in one go."""
    for path, several in groupby(slices, lambda s: s.path):
        part = list(several)
        if ct_enhanced.is_enhanced(part[0].header):
            numbers = [int(s.header.ReferencedFrameNumber) for s in part]
            try:
                for s, stored in zip(part, ct_enhanced.pixels(path, numbers), strict=True):
                    yield _scaled(s, stored)
            except (MemoryError, OSError, DataError):
                raise
            except Exception as error:
                raise _unreadable(part[0], error) from None
        else:
            yield from map(_hu, part)


def _hu(s: _Slice) -> NDArray[np.float32]:
    """HU of one slice in a file of its own."""
    import pydicom

    try:
        stored = pydicom.dcmread(s.path).pixel_array
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise _unreadable(s, error) from None
    return _scaled(s, stored)


def _scaled(s: _Slice, stored: NDArray[Any]) -> NDArray[np.float32]:
    """HU = stored · RescaleSlope + RescaleIntercept."""
    d = s.header
    if stored.ndim != 2 or stored.shape != (int(d.Rows), int(d.Columns)):
        raise DataError(f"{s.name} of the series is not one slice of the size that it states; export the series again")
    return np.asarray(stored * np.float64(d.RescaleSlope) + np.float64(d.RescaleIntercept), dtype=np.float32)


def _unreadable(s: _Slice, error: Exception) -> DataError | MissingPackage:
    words = str(error)
    if isinstance(error, (RuntimeError, NotImplementedError)) and ("plugin" in words or "decompress" in words.lower()):
        name = s.header.file_meta.TransferSyntaxUID.name
        packages = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        return MissingPackage(f"the series is compressed ({name}); to read it run pip install {packages}")
    if "PixelData" in words or isinstance(error, AttributeError):
        return DataError(f"{s.name} of the series holds no pixels, only its header; export the series with its images")
    return DataError(
        f"the pixels of {s.name} cannot be read ({type(error).__name__}): the file is cut short or damaged; copy the "
        "series again"
    )


def _header(d: Dataset) -> Header:
    """What NIfTI's side-car may know; the patient stays in the DICOM headers."""
    study = Study(
        series_description=str(d.get("SeriesDescription", "")),
        protocol=str(d.get("ProtocolName", "")),
        patient_position=str(d.get("PatientPosition", "")),
        body_part=str(d.get("BodyPartExamined", "")),
    )
    system = System(vendor=str(d.get("Manufacturer", "")), model=str(d.get("ManufacturerModelName", "")))
    return Header(study=study, system=system)
