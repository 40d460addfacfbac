"""CT images as DICOM: series of a folder, each sorted by position, in HU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.data import CTImages, CTSeries, DataError, Header, Study, System, counted
from recon.io import ct_enhanced, ct_passes, ct_places
from recon.io.atomic import is_litter
from recon.io.ct_slices import Files, Slice, filling, number, numbers, whole
from recon.io.dicom_values import CT_IMAGE

if TYPE_CHECKING:
    from pydicom import Dataset

_NEEDED = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")
#: Numbers that define a slice's position and the meaning of its pixels, with their count.
_COUNTS = {
    "Rows": 1, "Columns": 1, "PixelSpacing": 2, "ImageOrientationPatient": 6, "ImagePositionPatient": 3,
    "RescaleSlope": 1, "RescaleIntercept": 1,
}  # fmt: skip
#: The file that lists the files on a disc, under any name.
_DIRECTORY = "1.2.840.10008.1.3.10"
#: First bytes of a DICOM object without the preamble of a file: its meta information or its first attribute.
BARE = tuple(
    bytes(tag) for tag in ([2, 0, 0, 0], [8, 0, 0, 0], [8, 0, 1, 0], [8, 0, 5, 0], [8, 0, 8, 0], [8, 0, 22, 0])
)
#: Attributes that all slices of a series share; if they differ, there is more than one voxel grid.
_COMMON = ("Rows", "Columns", "PixelSpacing")


def files(path: Path) -> Iterator[Path]:
    """The DICOM files of a folder and its subfolders, ordered by name, or the single file `path`.

    A DICOMDIR does not count. Raises DataError for what cannot be read. At the end it also raises DataError for files
    that are cut short before they can be recognised as DICOM, or never can be: a missing slice at the end of a series
    leaves no gap.
    """
    kinds, short, bare = set[str](), list[str](), 0
    for file in [path] if path.is_file() else _below(path):
        if file.name.upper() == "DICOMDIR" or is_litter(file):
            continue
        try:
            with file.open("rb") as opened:
                start = opened.read(132)
        except OSError as error:
            raise _not_permitted(error) from None
        if start[128:] == b"DICM":
            kinds.add(file.suffix)
            yield file
        elif start.startswith(BARE):
            bare += 1
        elif len(start) < 132 and not file.name.startswith("."):
            short.append(file.suffix)
    if lost := sum(suffix in kinds for suffix in short):
        raise DataError(
            f"{counted(lost, 'file')} of the folder, named as its DICOM files are, {'ends' if lost == 1 else 'end'} "
            "before the first attribute; copy the series again"
        )
    if bare:
        raise DataError(
            f"{counted(bare, 'file')} of the folder {'is' if bare == 1 else 'are'} DICOM without preamble, as of old "
            "archives; write each anew by dcmconv, or leave it out"
        )


def _below(folder: Path) -> list[Path]:
    """The files below a folder, by name; raises DataError if one of its folders cannot be read."""

    def stop(error: OSError) -> None:
        raise _not_permitted(error) from None

    found = [Path(where, name) for where, _, names in os.walk(folder, onerror=stop) for name in names]
    return sorted(file for file in found if file.is_file())


def _not_permitted(error: OSError) -> DataError:
    return DataError(
        f"part of the folder cannot be read: {error.strerror or type(error).__name__}; ask its owner for "
        "permission, or look at the disk"
    )


def read(path: Path) -> CTImages:
    """The CT series in a DICOM file, or in a folder and its subfolders.

    Localizers, reports, maps and objects that are not CT images are left out and counted in the notes. Passes of the
    scanner, or kernels, that lie at the same positions under one UID are separate series. Raises DataError if there is
    no CT image, or if a series has several orientations or grids, or missing or duplicate slices. No message contains
    patient data or a file name.
    """
    found: dict[str, list[Slice]] = {}
    others: dict[str, int] = {}
    for one in _headers(path):
        kind = _kind(one.header)
        if kind == "CT":
            found.setdefault(str(one.header.get("SeriesInstanceUID", "")), []).append(one)
        else:
            others[kind] = others.get(kind, 0) + 1
    if not found and not others:
        raise DataError(f"{path.name or path} holds no DICOM file; give the folder of a CT series")
    if not found:
        raise DataError(
            f"{path.name or path} holds no CT image in DICOM but {_counted(others)}; give the folder of a CT series"
        )
    aside = {uid: _not_a_volume(slices) for uid, slices in found.items()}
    if not all(aside.values()):
        for uid, kind in aside.items():
            if kind:
                others[kind] = others.get(kind, 0) + len(found.pop(uid))
    what = _counted(others)
    # Slices without a series come first: a header that lost its UID is cut short, and the error says so.
    told = [ct_passes.volumes(found[uid]) for uid in sorted(found)]
    several = [(part, notes) for parts, notes in told for part in parts]
    series = [_series(slices, len(several) > 1, notes) for slices, notes in several]
    series.sort(key=lambda s: (whole(s.source[0], "SeriesNumber") or 0, str(s.source[0].SeriesInstanceUID)))
    notes = (f"left out: {what}",) if what else ()
    return CTImages(tuple(series), "CT DICOM", notes)


def _counted(others: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))


def _headers(path: Path) -> Iterator[Slice]:
    """Every DICOM object of a file or folder, without its pixels."""
    import pydicom

    for file in files(path):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's messages repeat the values
                header = pydicom.dcmread(file, stop_before_pixels=True)
                _drop_undecodable(header)
                header.walk(_touch)
                header.file_meta.walk(_touch)
        except Exception as error:  # pydicom raises many kinds of errors for bytes that are not DICOM
            raise DataError(
                f"a DICOM file of the series cannot be read ({type(error).__name__}): it is truncated or "
                "damaged; copy the series again"
            ) from None
        if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
            continue
        several = ct_enhanced.frames(header) if ct_enhanced.is_enhanced(header) else [header]
        yield from (Slice(file, one) for one in several)


def _drop_undecodable(header: Dataset) -> None:
    """Remove private elements whose length does not fit their type: some scanners write them; they are not needed."""
    for tag in filter(lambda tag: tag.is_private, list(header.keys())):
        try:
            header[tag]
        except Exception:  # pydicom raises many kinds of errors
            del header[tag]


def _touch(dataset: Dataset, element: Any) -> None:
    """Decode an element, so that a broken one raises here."""


def _kind(d: Dataset) -> str:
    """CT for a CT image, otherwise the kind of object, in the plural."""
    modality = str(d.get("Modality", ""))
    # The class in front of the data set is there even if the data set is cut short.
    uid = str(d.get("SOPClassUID") or d.file_meta.get("MediaStorageSOPClassUID", ""))
    if (0x7029, 0x1010) in d or (0x7031, 0x1001) in d:
        raise DataError("the folder holds both CT images and projections (DICOM-CT-PD); put each into its own folder")
    if not modality:
        raise DataError("a DICOM file in the folder has no Modality: it is truncated or damaged; copy the series again")
    if uid != CT_IMAGE and not ct_enhanced.is_enhanced(d):
        return f"objects of modality {modality[:16]}"  # as long as the standard allows
    return "localizers" if "LOCALIZER" in (d.get("ImageType") or ()) else "CT"


def _not_a_volume(slices: Sequence[Slice]) -> str:
    """Why the images of a series are not a volume in HU: report pages, colour, maps, rotating views; or empty."""
    if all(_is_page(s.header) for s in slices):
        return "pages of a report"
    if all((whole(s.header, "SamplesPerPixel") or 1) != 1 for s in slices):
        return "pictures in colour"
    if all("DERIVED" in (s.header.get("ImageType") or ()) for s in slices) and len(_orientations(slices)) > 1:
        return "derived images of several orientations"
    units = {_unit(s.header) for s in slices}
    return "" if "HU" in units else f"images in {'/'.join(sorted(units))} and not in HU"


def _orientations(slices: Sequence[Slice]) -> set[tuple[float, ...]]:
    """Orientations of slices, as far as they are stated."""
    stated = (numbers(s.header, "ImageOrientationPatient") for s in slices)
    return {tuple(np.round(turn, 2)) for turn in stated if turn}


def _unit(d: Dataset) -> str:
    """Unit of rescaled values; HU if none is stated (DICOM PS3.3, C.8.2.1.1.2)."""
    return str(d.get("RescaleType") or "HU").strip().upper()[:16]


def _is_page(d: Dataset) -> bool:
    """Whether an object is an image of text (a dose report, a protocol) that its scanner stored as a CT image.

    It has pixels and a series, unlike the header of a slice that is cut short.
    """
    whole = bool(d.get("SeriesInstanceUID")) and bool(d.get("Rows"))
    placed = d.get("ImagePositionPatient") or d.get("ImageOrientationPatient")
    return whole and not placed and "SECONDARY" in (d.get("ImageType") or ())


def _series(slices: Sequence[Slice], many: bool, said: Sequence[str]) -> CTSeries:
    first = slices[0].header
    label = f"series {first.get('SeriesNumber') or 'without number'}"
    for s in slices:
        _check(s, label)
    for keyword in _COMMON:
        # As numbers: one scanner may write 0.7 and 0.70.
        values = {tuple(np.atleast_1d(np.array(s.header[keyword].value, float)).round(5)) for s in slices}
        if len(values) > 1:
            raise DataError(f"{label} holds slices of {len(values)} different {keyword}; give slices of the same grid")
    turns = np.array([[float(v) for v in s.header.ImageOrientationPatient] for s in slices])
    if np.abs(turns - turns[0]).max() > ct_places.PARALLEL:
        count = len(np.unique(turns.round(3), axis=0))
        raise DataError(f"{label} holds slices of {count} orientations; put each orientation into its own folder")
    ordered, found = ct_places.in_order(slices, turns[0], label)
    geometry = ct_places.grid(ordered, turns[0], label)
    notes = [*said, *found, *ct_places.sheared(geometry)]
    lossy = sum(str(s.header.get("LossyImageCompression", "")) == "01" for s in ordered)
    if lossy:
        notes.append(f"{lossy} of {counted(len(ordered), 'slice')} had been compressed with loss")
    return CTSeries(
        Files(tuple(ordered)), geometry, _header(first), tuple(s.header for s in ordered), label if many else "",
        tuple(notes), tuple(sorted({f for s in ordered if (f := filling(s.header)) is not None})),
    )  # fmt: skip


def _check(s: Slice, label: str) -> None:
    d = s.header
    samples, photometric = d.get("SamplesPerPixel", 1), str(d.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise DataError(f"{label}, {s.name}, is a colour image ({photometric}); give the CT images in HU")
    if (whole(d, "NumberOfFrames") or 1) > 1:
        raise DataError(f"{label}, {s.name}, holds several frames; give classic CT images, one slice in each file")
    missing = [k for k in _NEEDED if not d.get(k)]
    if missing:
        raise DataError(
            f"{label}, {s.name}, lacks {', '.join(missing)}, so it has no position or is truncated; leave it out"
        )
    scaled = all(d.get(k) not in (None, "") for k in ("RescaleSlope", "RescaleIntercept"))
    if not scaled or _unit(d) != "HU":
        raise DataError(
            f"{label}, {s.name}, has no rescale to HU (RescaleSlope, RescaleIntercept, RescaleType); give a "
            "series in HU"
        )
    if any(len(numbers(d, k)) != n for k, n in _COUNTS.items()) or number(d, "RescaleSlope") == 0:
        raise DataError(
            f"{label}, {s.name}, has a size, position or rescale value that is not a number; export the series again"
        )


def _header(d: Dataset) -> Header:
    """What NIfTI's sidecar may contain; patient data stay in the DICOM headers."""
    study = Study(
        series_description=str(d.get("SeriesDescription", "")),
        protocol=str(d.get("ProtocolName", "")),
        patient_position=str(d.get("PatientPosition", "")),
        body_part=str(d.get("BodyPartExamined", "")),
    )
    system = System(vendor=str(d.get("Manufacturer", "")), model=str(d.get("ManufacturerModelName", "")))
    return Header(study=study, system=system)
