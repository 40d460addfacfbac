"""Enhanced CT, many frames in one DICOM object: each frame is presented as the header of a classic CT image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

#: Enhanced CT, and classic images that were converted into one object.
CLASSES = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")

#: Attributes of the object with its many frames that do not apply to one of them.
_OF_ALL = (
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence",
    "DimensionOrganizationSequence", "DimensionOrganizationType", "ConcatenationUID", "InConcatenationNumber",
    "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber", "SOPInstanceUIDOfConcatenationSource",
    "PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique", "PresentationLUTShape",
    "MultienergyCTAcquisition", "AcquisitionContextSequence",
)  # fmt: skip
#: Functional groups (DICOM PS3.3, C.7.6.16 and C.8.15.3) whose attributes have the same names in a classic CT image.
_GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameVOILUTSequence", "CTReconstructionSequence", "CTXRayDetailsSequence", "CTAcquisitionDetailsSequence",
    "UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence",
)  # fmt: skip
_SAME = (
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation",
    "ConvolutionKernel", "ReconstructionDiameter", "KVP", "FilterType", "RotationDirection", "GantryDetectorTilt",
    "TableHeight", "DataCollectionDiameter", "AcquisitionNumber", "PatientPosition", "BodyPartExamined",
)  # fmt: skip
#: Numbers that a classic image stores as integers under another name: group, name there, name here.
_WHOLE = (
    ("CTExposureSequence", "ExposureTimeInms", "ExposureTime"),
    ("CTExposureSequence", "XRayTubeCurrentInmA", "XRayTubeCurrent"),
    ("CTExposureSequence", "ExposureInmAs", "Exposure"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "AcquisitionNumber"),
    ("FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"),
)


def is_enhanced(d: Dataset) -> bool:
    """Whether an object holds many frames, each with its own position."""
    return str(d.get("SOPClassUID", "")) in CLASSES


def frames(d: Dataset) -> list[Dataset]:
    """A header as of a classic CT image for each frame, in the order of the object.

    `ReferencedFrameNumber` is the frame's number from 1; the SOP class and instance stay those of the object. Raises
    DataError for an object without functional groups.
    """
    from pydicom import Dataset as New

    common = New()
    for element in d:
        if element.keyword not in _OF_ALL and not element.tag.is_private:
            common.add(element)
    common.file_meta = d.file_meta
    shared = _one(d, "SharedFunctionalGroupsSequence")
    own = d.get("PerFrameFunctionalGroupsSequence") or []
    if len(own) != int(d.get("NumberOfFrames") or 0) or not len(own):
        raise DataError(
            f"an Enhanced CT object states {d.get('NumberOfFrames') or 'no number of'} frames and describes "
            f"{len(own)}: it is truncated or damaged; copy the series again"
        )
    return [_frame(common, shared, group, n) for n, group in enumerate(own, 1)]


def _frame(common: Dataset, shared: Dataset | None, own: Dataset, number: int) -> Dataset:
    from pydicom import Dataset as New

    out = New()
    out.update(common)
    out.file_meta = common.file_meta
    for groups in (shared, own):
        for name in _GROUPS:
            for element in _one(groups, name) or ():
                if element.keyword in _SAME:
                    out.add(element)
        for name, there, here in _WHOLE:
            value = (_one(groups, name) or {}).get(there)
            if value not in (None, ""):
                _put(out, here, str(round(float(value))))
        kind = (_one(groups, "CTImageFrameTypeSequence") or {}).get("FrameType")
        if kind:
            _put(out, "ImageType", list(kind))
        taken = str((_one(groups, "FrameContentSequence") or {}).get("FrameAcquisitionDateTime") or "")
        if len(taken) >= 14:
            _put(out, "AcquisitionDate", taken[:8])
            _put(out, "AcquisitionTime", taken[8:].split("+")[0].split("-")[0])
    for keyword in ("KVP", "AcquisitionNumber"):
        out.setdefault(keyword, None)
    _put(out, "InstanceNumber", str(number))
    _put(out, "ReferencedFrameNumber", str(number))
    return out


def _put(d: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute of one frame; existing ones belong to all frames."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    d.add_new(tag, dictionary_VR(tag), value)


def _one(groups: Dataset | None, name: str) -> Any:
    """The item of a sequence with exactly one; None if there is none."""
    found = groups.get(name) if groups is not None else None
    return found[0] if found else None


def pixels(path: Path, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Stored values of frames, numbered from 1, in the requested order; one is in memory at a time."""
    from pydicom.pixels.utils import iter_pixels

    for frame in iter_pixels(path, indices=[n - 1 for n in numbers], raw=True):
        yield np.asarray(frame)
