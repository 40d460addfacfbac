"""Whether a DICOM file is valid for sending: readable, complete, with legal UIDs and the mandatory attributes."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from recon.errors import ReconError, counted
from recon.io.dicom_values import CT_IMAGE, MR_IMAGE
from recon.io.dicom_values import uid as legal

if TYPE_CHECKING:
    from pydicom import Dataset

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
#: Mandatory attributes of an image (type 1 of PS3.3, C.7), and attributes that must be present but may be empty.
_PIXELS = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
           "PixelRepresentation")  # fmt: skip
_ALWAYS = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
           "ReferringPhysicianName", "StudyID", "AccessionNumber")  # fmt: skip
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID")
#: Attributes that define the position of the pixels, and how many numbers each holds.
_NUMBERS = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_OWN = {
    MR_IMAGE: (*_PLACE, "ImageType", "ScanningSequence", "SequenceVariant"),
    CT_IMAGE: (*_PLACE, "ImageType", "RescaleIntercept", "RescaleSlope"),
}


@dataclass(frozen=True)
class Facts:
    """What a spool needs to know about a file: its UIDs, and SHA-256 of its pixels."""

    uid: str
    sop_class: str
    study: str
    series: str
    syntax: str
    pixels: str


def read(path: Path | BinaryIO) -> Dataset:
    """The DICOM file; raises ReconError, without its content, if it is not one."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's messages repeat the values
            dataset = dcmread(path)
            for _ in dataset.iterall():  # reads every value, so that errors appear here
                pass
            return dataset
    except InvalidDicomError:
        raise ReconError("it is not a DICOM file; leave it out") from None
    except OSError as e:
        raise ReconError(
            f"it cannot be read ({e.strerror or type(e).__name__}); check the disk and the permissions"
        ) from None
    except Exception as e:
        raise ReconError(f"it is damaged ({type(e).__name__}); write it again") from None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def check(dataset: Dataset) -> Facts:
    """What the spool needs to know about a DICOM object; raises ReconError, without patient data, if invalid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _check(dataset)
    except ReconError:
        raise
    except Exception as e:  # a value that no attribute of this kind may have
        raise ReconError(f"one of its attributes is damaged ({type(e).__name__}); write it again") from None


def _check(d: Any) -> Facts:
    for name in _UIDS:
        if not legal(str(d.get(name, ""))):
            raise ReconError(f"its {name} is missing or not a valid UID; write it again")
    meta = getattr(d, "file_meta", None) or {}
    syntax = legal(str(meta.get("TransferSyntaxUID", "")))
    if not syntax:
        raise ReconError("its file meta information names no transfer syntax; write it again")
    pairs = (("MediaStorageSOPInstanceUID", "SOPInstanceUID"), ("MediaStorageSOPClassUID", "SOPClassUID"))
    for outer, inner in pairs:
        if str(meta.get(outer, "")) != str(d[inner].value):
            raise ReconError(f"its {outer} differs from its {inner}; write it again")
    for name in _ALWAYS:
        if name not in d:
            raise ReconError(f"it has no {name}, not even an empty one; write it again")
    for name in ("Modality", *(_PIXELS if "PixelData" in d else ()), *_OWN.get(str(d.SOPClassUID), ())):
        if name not in d or d[name].is_empty:
            raise ReconError(f"it has no {name}; write it again")
    if "PixelData" not in d and (str(d.SOPClassUID) in _OWN or "Rows" in d):
        raise ReconError("it has no pixels; write it again")
    if "RescaleSlope" in d and not (math.isfinite(s := float(d.RescaleSlope)) and s != 0):
        raise ReconError("its RescaleSlope is 0 or not finite; write it again")
    for name, count in _NUMBERS.items():
        if name in d and not d[name].is_empty and not _placing(name, d[name].value, count):
            raise ReconError(
                f"its {name} is not {count} numbers{' above 0' if name == 'PixelSpacing' else ''}; write it again"
            )
    pixels = _pixels(d, syntax) if "PixelData" in d else b""
    names = {"uid": d.SOPInstanceUID, "sop_class": d.SOPClassUID, "study": d.StudyInstanceUID}
    return Facts(**{k: str(v) for k, v in names.items()}, series=str(d.SeriesInstanceUID), syntax=syntax,
                 pixels=hashlib.sha256(pixels).hexdigest())  # fmt: skip


def _placing(name: str, values: Any, count: int) -> bool:
    """Whether a position attribute holds this many finite numbers, and distances above 0."""
    try:
        numbers = [float(v) for v in ([values] if isinstance(values, str) else values)]
    except (TypeError, ValueError):
        return False
    least = 0.0 if name == "PixelSpacing" else -math.inf
    return len(numbers) == count and all(math.isfinite(v) and v > least for v in numbers)


def _pixels(d: Any, syntax: str) -> bytes:
    from pydicom.encaps import generate_frames
    from pydicom.uid import UID

    data: bytes = d["PixelData"].value
    frames = int(d.get("NumberOfFrames") or 1)
    if int(d.BitsAllocated) not in (1, 8, 16, 32, 64) or not 0 < int(d.BitsStored) <= int(d.BitsAllocated):
        raise ReconError("its BitsAllocated and BitsStored contradict each other; write it again")
    known = UID(syntax)
    if known.is_transfer_syntax and known.is_compressed:
        found = sum(1 for _ in generate_frames(data, number_of_frames=frames))
        if found != frames:
            raise ReconError(f"it holds {found} of {counted(frames, 'frame')}; write it again")
        return data
    subsampled = str(d.PhotometricInterpretation) in ("YBR_FULL_422", "YBR_PARTIAL_422")
    samples = int(d.Rows) * int(d.Columns) * frames * (2 if subsampled else int(d.SamplesPerPixel))
    needed = (samples * int(d.BitsAllocated) + 7) // 8
    needed += needed % 2
    if len(data) != needed:
        raise ReconError(f"it has {len(data)} bytes of pixels and should have {needed}; write it again")
    return data
