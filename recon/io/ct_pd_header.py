"""The attributes of DICOM-CT-PD: private ones are read by tag, whatever value representation a file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from recon.data import Header, Patient, Study, System

if TYPE_CHECKING:
    from pydicom import Dataset

#: Name here → tag and type: f4 and u2 numbers, text for strings of numbers and words.
_TAGS: dict[str, tuple[tuple[int, int], str]] = {
    "modality": ((0x0008, 0x0060), "text"),
    "instance": ((0x0020, 0x0013), "text"),
    "stored_rows": ((0x0028, 0x0010), "u2"),
    "stored_columns": ((0x0028, 0x0011), "u2"),
    "bits": ((0x0028, 0x0100), "u2"),
    "frames": ((0x0028, 0x0008), "text"),
    "intercept": ((0x0028, 0x1052), "text"),
    "slope": ((0x0028, 0x1053), "text"),
    "column_spacing": ((0x7029, 0x1002), "f4"),
    "row_spacing": ((0x7029, 0x1006), "f4"),
    "detector_shape": ((0x7029, 0x100B), "text"),
    "rows": ((0x7029, 0x1010), "u2"),
    "columns": ((0x7029, 0x1011), "u2"),
    "angle": ((0x7031, 0x1001), "f4"),
    "position": ((0x7031, 0x1002), "f4"),
    "radius": ((0x7031, 0x1003), "f4"),
    "distance": ((0x7031, 0x1031), "f4"),
    "centre": ((0x7031, 0x1033), "f4"),
    "angular_shift": ((0x7033, 0x100B), "f4"),
    "axial_shift": ((0x7033, 0x100C), "f4"),
    "radial_shift": ((0x7033, 0x100D), "f4"),
    "focal_spot": ((0x7033, 0x100E), "text"),
    "per_turn": ((0x7033, 0x1013), "u2"),
    "spectrum": ((0x7033, 0x1063), "u2"),
    "type": ((0x7037, 0x1009), "text"),
    "geometry": ((0x7037, 0x100A), "text"),
    "log": ((0x7039, 0x1009), "text"),
    "water": ((0x7041, 0x1001), "text"),
    # Where versions of the format before 2018 store it.
    "water_before": ((0x0018, 0x0061), "text"),
}
#: A file with one of these is a projection.
PROJECTION = ((0x7029, 0x1010), (0x7031, 0x1001))
#: Attributes needed to decode the pixels, including compressed ones.
PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData"),
)
_KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientName", "PatientID"),
    *("PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "SeriesDescription", "ProtocolName", "PatientPosition", "BodyPartExamined"),
    *("Manufacturer", "ManufacturerModelName", "SpecificCharacterSet"),
)
#: What is read of each header.
WANTED: tuple[Any, ...] = (*(tag for tag, _ in _TAGS.values()), *_KEYWORDS)


def numbers(d: Dataset, name: str) -> tuple[float, ...] | None:
    """The numbers of an attribute, None if it is missing, empty or not numeric."""
    tag, kind = _TAGS[name]
    value = d[tag].value if tag in d else None
    if isinstance(value, (bytes, bytearray)) and kind != "text":
        size = np.dtype(kind).itemsize
        return (
            tuple(np.frombuffer(bytes(value[: len(value) // size * size]), f"<{kind}").astype(float).tolist()) or None
        )
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("latin-1")
    if isinstance(value, str):
        value = [part for part in value.replace("\0", " ").split("\\") if part.strip()]
    if value is None:
        return None
    try:
        return tuple(float(v) for v in (value if np.iterable(value) else [value])) or None
    except (TypeError, ValueError):
        return None


def number(d: Dataset, name: str) -> float | None:
    """The first number of an attribute, None if there is none."""
    found = numbers(d, name)
    return found[0] if found else None


def word(d: Dataset, name: str) -> str:
    """A word such as HELICAL; empty if there is none."""
    tag, _ = _TAGS[name]
    value = d[tag].value if tag in d else ""
    text = bytes(value).decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value or "")
    return text.replace("\0", " ").strip()


def of_ge(d: Dataset) -> bool:
    """Whether the projections are from a GE scanner, whose files differ from the format (docs/reference/formats.md)."""
    return str(d.get("Manufacturer") or "").strip().upper().startswith("GE")


def described(d: Dataset) -> Header:
    """Patient, study and scanner, for outputs of the scan."""

    def text(keyword: str) -> str:
        return str(d.get(keyword) or "")

    patient = Patient(text("PatientName"), text("PatientID"), text("PatientBirthDate"), text("PatientSex"))
    study = Study(
        uid=text("StudyInstanceUID"), id=text("StudyID"), date=text("StudyDate"), time=text("StudyTime"),
        description=text("StudyDescription"), accession=text("AccessionNumber"),
        referring_physician=text("ReferringPhysicianName"), series_description=text("SeriesDescription"),
        protocol=text("ProtocolName"), patient_position=text("PatientPosition").strip().upper(),
        body_part=text("BodyPartExamined"),
    )  # fmt: skip
    return Header(patient, study, System(vendor=text("Manufacturer"), model=text("ManufacturerModelName")))
