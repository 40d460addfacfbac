"""One slice of a CT series in DICOM: numbers of its header, and its pixels in HU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, MissingPackage
from recon.io import ct_enhanced

if TYPE_CHECKING:
    from pydicom import Dataset

#: Nothing attenuates less than air: a value below this in HU is padding, not a measurement.
FILLING = -1100.0


@dataclass(frozen=True)
class Slice:
    """A CT image, or a frame of an Enhanced CT object, by its header without pixels."""

    path: Path
    header: Dataset

    @property
    def name(self) -> str:
        """How a message names it: its number, because file names may contain the patient's name."""
        number = self.header.get("InstanceNumber")
        kind = "frame" if ct_enhanced.is_enhanced(self.header) else "instance"
        return f"{kind} {number}" if number is not None else "an instance without number"

    @property
    def identity(self) -> tuple[str, str]:
        """A value that only copies of this slice share."""
        uid = str(self.header.get("SOPInstanceUID", self.path))
        return uid, str(self.header.get("ReferencedFrameNumber", ""))

    @property
    def position(self) -> NDArray[np.float64]:
        """Centre of the first voxel in LPS millimetres."""
        return np.array([float(v) for v in self.header.ImagePositionPatient])


@dataclass(frozen=True)
class Files:
    """The voxels of a series, read slice by slice."""

    slices: tuple[Slice, ...]

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """HU of the slices first … last − 1."""
        chosen = self.slices[first:last]
        d = chosen[0].header
        # Filled slice by slice: a list would need the memory of a second volume.
        out = np.empty((len(chosen), int(d.Rows), int(d.Columns)), np.float32)
        for k, hu in enumerate(_all_hu(chosen)):
            out[k] = hu
        return out


def numbers(d: Dataset, keyword: str) -> list[float]:
    """The numbers of a header's attribute; empty if it is missing, empty, or one is not a number."""
    value = d.get(keyword)
    try:
        found = [float(v) for v in ([value] if isinstance(value, (str, int, float)) else value)]
    except (TypeError, ValueError, OverflowError):
        return []
    return found if all(map(math.isfinite, found)) else []


def number(d: Dataset, keyword: str) -> float | None:
    """A number of a header; None if it is missing, empty, or not a number ("2,5")."""
    found = numbers(d, keyword)
    return found[0] if len(found) == 1 else None


def whole(d: Dataset, keyword: str) -> int | None:
    """An integer of a header; None if it is missing, empty or not an integer."""
    value = number(d, keyword)
    return None if value is None or value != round(value) else round(value)


def filling(d: Dataset) -> float | None:
    """Padding value in HU that a header declares outside the scanner's circle; None for none, or for a possible HU.

    PixelPaddingValue is stored like the pixels; some scanners write it unsigned beside signed pixels (−2000 as 63536).
    """
    stored, slope, low = (number(d, k) for k in ("PixelPaddingValue", "RescaleSlope", "RescaleIntercept"))
    if stored is None or slope is None or low is None:
        return None
    signed, half = whole(d, "PixelRepresentation") == 1, 1 << (min(max(whole(d, "BitsAllocated") or 16, 1), 64) - 1)
    if signed and stored >= half:
        stored -= 2 * half
    elif not signed and stored < 0:
        stored += 2 * half
    hu = stored * slope + low
    return hu if hu < FILLING else None


def _all_hu(slices: Sequence[Slice]) -> Iterator[NDArray[np.float32]]:
    """HU of slices; consecutive frames of one object are read together."""
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


def _hu(s: Slice) -> NDArray[np.float32]:
    """HU of one slice in a separate file."""
    try:
        stored = _pixels(s.path)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise _unreadable(s, error) from None
    return _scaled(s, stored)


def _pixels(path: Path) -> NDArray[Any]:
    """Pixels of a file, right aligned.

    Older files have 12 bits in the upper part of 16 (HighBit ≥ BitsStored, which PS3.5, 8.1.1, no longer allows), above
    overlays. pydicom takes them for the lower part; decoders of compressed files align them.
    """
    import pydicom

    d = pydicom.dcmread(path)
    bits, high = whole(d, "BitsStored"), whole(d, "HighBit")
    compressed = d.file_meta.TransferSyntaxUID.is_compressed
    below = 0 if compressed or bits is None or high is None else max(0, high + 1 - bits)
    if below == 0:
        return np.asarray(d.pixel_array)
    d.BitsStored = d.HighBit + 1
    return np.asarray(d.pixel_array >> below)


def _scaled(s: Slice, stored: NDArray[Any]) -> NDArray[np.float32]:
    """HU = stored · RescaleSlope + RescaleIntercept."""
    d = s.header
    if stored.ndim != 2 or stored.shape != (int(d.Rows), int(d.Columns)):
        raise DataError(f"{s.name} of the series is not a single slice of the stated size; export the series again")
    return np.asarray(stored * np.float64(d.RescaleSlope) + np.float64(d.RescaleIntercept), dtype=np.float32)


def _unreadable(s: Slice, error: Exception) -> DataError | MissingPackage:
    words = str(error)
    if isinstance(error, (RuntimeError, NotImplementedError)) and ("plugin" in words or "decompress" in words.lower()):
        name = s.header.file_meta.TransferSyntaxUID.name
        return MissingPackage(f"the series is compressed ({name}); to read it run pip install python-gdcm")
    if "PixelData" in words or isinstance(error, AttributeError):
        return DataError(f"{s.name} of the series has a header but no pixels; export the series with its images")
    return DataError(
        f"the pixels of {s.name} cannot be read ({type(error).__name__}): the file is truncated or damaged; "
        "copy the series again"
    )
