"""CT images derived from a DICOM series: patient, study, position and technique of the source, new pixels and UIDs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import Image, ReconError
from recon.io import dicom_values as dv
from recon.io.ct_slices import filling, whole
from recon.io.dicom_header import equipment, made_at
from recon.io.provenance import DICOM_CREATOR, DICOM_GROUP, as_json, describe, is_learned, series_description

if TYPE_CHECKING:
    from pydicom import Dataset

#: Attributes that belong to the pixels or the file of the source and not to the derived image.
_GONE = (
    "PixelData", "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries", "PixelPaddingValue", "PixelPaddingRangeLimit", "VOILUTSequence", "ModalityLUTSequence",
    "IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence", "DataSetTrailingPadding",
    "SourceImageSequence", "ReferencedImageSequence", "DerivationCodeSequence", "PixelDataProviderURL",
    "ReferencedPerformedProcedureStepSequence", "ImageComments", "ReferencedFrameNumber",
)  # fmt: skip
#: A derived series has the source's number plus this.
NUMBER = 1000


def datasets(image: Image, content: str, *, series_number: int = 1) -> Iterator[Dataset]:
    """The DICOM objects of an image with a `source`, slice by slice; UIDs follow from the digest `content`.

        HU = stored · slope,
        slope 1, or the source's where that is finer; nothing is clipped

    Patient, study, frame of reference, technique and position of each slice are copied from the source. Series and
    instances get new UIDs, ImageType says DERIVED, each slice refers to its source slice, and recon is listed as
    contributing equipment. Private elements, overlays and signatures of the source are left out, because their
    statements on the pixels are no longer valid. Frames of Enhanced CT become classic CT images. The series has the
    source's number + 1000, or `series_number` if that is not 1. Raises ReconError for values that do not fit into 16
    bits.
    """
    from pydicom.uid import UID

    values = image.data.reshape(-1, *image.data.shape[-3:])
    if len(values) != 1 or len(image.source) != len(values[0]):
        raise ReconError(
            "the image and the DICOM series that it was made from have different slices; write it as .nii.gz"
        )
    slope = min([1.0, *(abs(float(d.RescaleSlope)) for d in image.source)])
    slope = float(dv.number(slope))
    peak = float(max(-values.min(), values.max()))  # without an array of magnitudes as large as the volume
    if peak / slope > 32767:
        slope = float(dv.number(peak / 32767 * 1.0001))
    uid = dv.uid_of("derived series", content, str(image.source[0].get("SeriesInstanceUID", "")), str(series_number))
    numbers = [whole(d, "InstanceNumber") for d in image.source]
    kept = None not in numbers and len(set(numbers)) == len(numbers)
    for k, (source, pixels) in enumerate(zip(image.source, values[0])):
        d = _dataset(source, image, np.rint(pixels / slope).astype(np.int16), slope)
        d.InstanceNumber = str(numbers[k] if kept else k + 1)
        d.SeriesInstanceUID = uid
        d.SeriesNumber = str((whole(source, "SeriesNumber") or 0) + NUMBER if series_number == 1 else series_number)
        d.SOPInstanceUID = UID(dv.uid_of("derived", uid, str(k)))
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
        yield d


def _dataset(source: Dataset, image: Image, stored: NDArray[np.int16], slope: float) -> Dataset:
    from pydicom.dataset import Dataset as New
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    d, when = _copied(source), made_at(image)
    d.file_meta = FileMetaDataset()
    # A frame of an Enhanced CT object is written as a separate image.
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = UID(dv.CT_IMAGE)
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dv.sign(d.file_meta)
    for keyword in ("InstanceCreation", "Content", "Series"):
        setattr(d, f"{keyword}Date", when.strftime("%Y%m%d"))
        setattr(d, f"{keyword}Time", when.strftime("%H%M%S.%f"))
    # PRIMARY stays: the image belongs to this examination, and viewers sort SECONDARY with screenshots.
    kind = [str(v) for v in source.get("ImageType") or ()]
    d.ImageType = ["DERIVED", kind[1] if len(kind) > 1 else "PRIMARY", kind[2] if len(kind) > 2 else "AXIAL"]
    d.SeriesDescription = series_description(image)
    d.DerivationDescription = dv.text(describe(image), "ST")
    d.DerivationCodeSequence = [dv.coded("113087", "Smoothing")]
    reference = New()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if "ReferencedFrameNumber" in source:
        reference.ReferencedFrameNumber = source.ReferencedFrameNumber
    reference.PurposeOfReferenceCodeSequence = [dv.coded("121322", "Source image for image processing operation")]
    reference.SpatialLocationsPreserved = "YES"
    d.SourceImageSequence = [reference]
    d.ContributingEquipmentSequence = [*(d.get("ContributingEquipmentSequence") or []), equipment(image, when)]
    learned = dv.AI[1] if is_learned(image) else dv.RESEARCH
    d.ImageComments = dv.text(" ".join([describe(image) + ".", learned, *image.notes]), "LT")
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = stored.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = "0", dv.number(slope), "HU"
    if str(d.get("LossyImageCompression", "")) != "01":
        d.LossyImageCompression = "00"
    d.setdefault("FrameOfReferenceUID", dv.uid_of("frame of reference", str(source.get("SeriesInstanceUID", ""))))
    d.setdefault("PositionReferenceIndicator", "")
    if not d.get("BodyPartExamined") and "ImageLaterality" not in d:
        # Without a body part it is unknown whether it is paired: the attribute must be present, but may be empty.
        d.setdefault("Laterality", "")
    filled = filling(source)
    if filled is not None and filled / slope == round(filled / slope) >= -32768:
        d.add_new(0x00280120, "SS", round(filled / slope))  # PixelPaddingValue, as pixels are stored here
    block = d.private_block(DICOM_GROUP, DICOM_CREATOR, create=True)
    block.add_new(0x01, "UT", as_json(image, part="magnitude"))
    little = stored.astype("<i2").tobytes()
    d.add_new("PixelData", "OW", little + b"\0" * (len(little) % 2))
    return d


def _copied(source: Dataset) -> Dataset:
    """The source's elements as UTF-8, without those on its pixels."""
    d = copy.deepcopy(source)
    d.decode()
    d.SpecificCharacterSet = "ISO_IR 192"
    # A big-endian source (older Philips and Siemens) is decoded by now, and pydicom would refuse to swap its bytes.
    d.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    d.remove_private_tags()
    for keyword in _GONE:
        if keyword in d:
            delattr(d, keyword)
    for one in (d, *_items(d)):
        for element in list(one):
            _shorten(element)
    # Overlays and curves are drawn over pixels that are gone; group lengths count bytes that are gone.
    for tag in [e.tag for e in d if 0x5000 <= e.tag.group <= 0x60FF or e.tag.element == 0]:
        del d[tag]
    return d


def _items(d: Dataset) -> Iterator[Dataset]:
    """The items of all sequences, at any depth."""
    for element in d:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _shorten(element: Any) -> None:
    """Rewrite numbers with too many or illegal characters: decimals with more than 16, integers with a point."""
    if element.VR not in ("DS", "IS") or element.value in (None, ""):
        return
    many = not isinstance(element.value, (str, int, float))
    words = [str(v) for v in (element.value if many else [element.value])]
    try:
        made = [_number(w, element.VR) for w in words]
    except ValueError:
        return
    if made != words:
        element.value = made if many else made[0]


def _number(word: str, vr: str) -> str:
    if vr == "DS":
        return word if len(word) <= 16 else dv.number(float(word))
    return word if not word or "." not in word else str(round(float(word)))
