"""Attributes shared by all slices of a DICOM series: patient, study, scanner, technique, and how the image was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon import __version__
from recon.data import Image, Patient, Study, System
from recon.io import dicom_values as dv
from recon.io.parts import Part, Scale, Volume
from recon.io.provenance import DICOM_CREATOR, DICOM_GROUP, as_json, describe, is_learned, series_description

if TYPE_CHECKING:
    from pydicom import Dataset

_POSITIONS = {"HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"}
_UNPAIRED = {"HEAD", "BRAIN", "SKULL", "NECK", "CSPINE", "TSPINE", "LSPINE", "SPINE", "CHEST", "HEART"}
_UNPAIRED |= {"ABDOMEN", "LIVER", "PELVIS", "PROSTATE", "UTERUS", "WHOLEBODY", "PHANTOM"}


@dataclass(frozen=True)
class Series:
    """The volumes of one series, the part of them that is written, its scale, and what distinguishes it from others."""

    part: Part
    volumes: Sequence[Volume]
    values: Sequence[NDArray[np.float32]]
    scale: Scale
    label: str


def series_header(image: Image, series: Series, study: str, content: str, derived: bool) -> Dataset:
    """The attributes that all slices of `series` share, without pixels and their own UIDs.

    `study` is the StudyInstanceUID; new UIDs follow from the digest `content`. Type 2 attributes that the scan does not
    state are empty, never invented; optional ones are absent.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    ct, when = image.units == "HU", made_at(image)
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = UID(dv.CT_IMAGE if ct else dv.MR_IMAGE)
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dv.sign(d.file_meta)
    d.SpecificCharacterSet = "ISO_IR 192"
    d.InstanceCreationDate = d.ContentDate = when.strftime("%Y%m%d")
    d.InstanceCreationTime = d.ContentTime = when.strftime("%H%M%S.%f")
    _patient(d, image.header.patient)
    _study(d, image.header.study, study)
    _scanner(d, image.header.system)
    d.Modality = "CT" if ct else "MR"
    d.SeriesDescription = series_description(image, series.part, series.label)
    d.FrameOfReferenceUID = _frame_of_reference(image, study, content)
    d.PositionReferenceIndicator = ""
    kind = {"magnitude": ["OTHER", "M"], "phase": ["PHASE MAP", "P"], "real": ["OTHER", "R"], "imag": ["OTHER", "I"]}
    d.ImageType = ["DERIVED" if derived else "ORIGINAL", "PRIMARY", *(["AXIAL"] if ct else kind[series.part])]
    if derived:
        d.DerivationDescription = dv.text(describe(image), "ST")
    if ct:
        d.KVP = ""
        d.RescaleType = "HU"
    else:
        _mr(d, image)
        d.RescaleType = "mrad" if series.part == "phase" else "US"
    _pixels(d, series.scale)
    d.BurnedInAnnotation, d.LossyImageCompression = "NO", "00"
    d.ImageComments = _comments(image, series)
    d.ContributingEquipmentSequence = [equipment(image, when)]
    block = d.private_block(DICOM_GROUP, DICOM_CREATOR, create=True)
    block.add_new(0x01, "UT", as_json(image, unit=series.scale.unit, part=series.part))
    return d


def _patient(d: Dataset, p: Patient) -> None:
    d.PatientName, d.PatientID = dv.person_name(p.name), dv.text(p.id)
    d.PatientBirthDate = dv.date(p.birth_date)
    d.PatientSex = sex if (sex := p.sex.strip().upper()[:1]) in {"M", "F", "O"} else ""
    if p.weight_kg is not None and math.isfinite(p.weight_kg) and p.weight_kg > 0:
        d.PatientWeight = dv.number(p.weight_kg)


def _study(d: Dataset, s: Study, uid: str) -> None:
    d.StudyInstanceUID, d.StudyID = uid, dv.text(s.id, "SH")
    d.StudyDate, d.StudyTime = dv.date(s.date), dv.time(s.time)
    d.AccessionNumber = dv.text(s.accession, "SH")
    d.ReferringPhysicianName = dv.person_name(s.referring_physician)
    _optional(d, "StudyDescription", dv.text(s.description))
    _optional(d, "SeriesDate", dv.date(s.series_date))
    _optional(d, "SeriesTime", dv.time(s.series_time))
    _optional(d, "AcquisitionDate", dv.date(s.series_date))
    _optional(d, "AcquisitionTime", dv.time(s.series_time))
    _optional(d, "ProtocolName", dv.text(s.protocol))
    _optional(d, "BodyPartExamined", dv.code(s.body_part))
    d.PatientPosition = s.patient_position if s.patient_position in _POSITIONS else ""
    if dv.code(s.body_part) not in _UNPAIRED:
        d.Laterality = ""


def _scanner(d: Dataset, system: System) -> None:
    d.Manufacturer = dv.text(system.vendor)
    _optional(d, "ManufacturerModelName", dv.text(system.model))
    _optional(d, "InstitutionName", dv.text(system.institution))
    _optional(d, "StationName", dv.text(system.station, "SH"))
    _optional(d, "DeviceSerialNumber", dv.text(system.device_id))


def _pixels(d: Dataset, scale: Scale) -> None:
    d.RescaleIntercept, d.RescaleSlope = "0", dv.number(scale.slope)
    # For values from c − 0.5 − (w − 1)/2 to c − 0.5 + (w − 1)/2 (PS3.3 C.11.2.1.2) to span low … high.
    low, high = scale.low, scale.high
    d.WindowCenter, d.WindowWidth = dv.number((low + high + 1) / 2), dv.number(max(high - low + 1, 1.0))
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, 16, 15
    d.PixelRepresentation = int(scale.signed)


def _mr(d: Dataset, image: Image) -> None:
    sequence, system = image.header.sequence, image.header.system
    d.ScanningSequence, d.SequenceVariant = _scanning_sequence(image), "NONE"
    d.ScanOptions = ""
    d.MRAcquisitionType = _acquisition_type(image)
    d.EchoTrainLength = ""
    _optional(d, "SequenceName", dv.text(sequence.name, "SH"))
    if system.field_T:
        d.MagneticFieldStrength = dv.number(system.field_T)
    if system.frequency_Hz:
        d.ImagingFrequency = dv.number(system.frequency_Hz / 1e6)
        # Protons precess at 42.58 MHz/T, and a magnet sold as 3 T may have 2.89 T. Fluorine is 6 % below; other nuclei
        # are not named here.
        if system.field_T and abs(system.frequency_Hz / system.field_T / 42.577e6 - 1) < 0.04:
            d.ImagedNucleus = "1H"


def equipment(image: Image, when: datetime) -> Dataset:
    """recon as an item of ContributingEquipmentSequence."""
    from pydicom import Dataset

    p, item = image.provenance, Dataset()
    item.PurposeOfReferenceCodeSequence = [dv.coded("109102", "Processing Equipment")]
    item.Manufacturer = item.ManufacturerModelName = dv.text(p.get("engine") or "recon")
    versions = [dv.text(p.get("version") or __version__)]
    # A SHA-256 and its name do not fit into 64 characters; ContributionDescription holds them.
    versions += [
        dv.text(f"{word} sha256:{str(p[key])[:40]}")
        for key, word in (("recipe_hash", "recipe"), ("weights_sha256", "weights"))
        if p.get(key)
    ]
    item.SoftwareVersions = versions
    item.ContributionDateTime = when.strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = dv.text(describe(image), "ST")
    return item


def _comments(image: Image, series: Series) -> str:
    words = [describe(image) + "."]
    words.append(dv.AI[0] if is_learned(image) else dv.RESEARCH)
    if not image.geometry.known:
        words.append("The orientation in the patient is unknown: directions are the array's axes.")
    if series.scale.unit != 1 and series.part != "phase":
        words.append(f"Pixel values are the reconstructed values times {series.scale.unit:g}.")
    p = image.header.patient
    if dv.one_line(p.id) != dv.text(p.id):
        words.append("The patient ID of the raw data is too long for DICOM and was cut.")
    return dv.text(" ".join([*words, *image.notes]), "LT")


def _frame_of_reference(image: Image, study: str, content: str) -> str:
    if not image.geometry.known:
        return dv.uid_of("frame of reference of one image", content)
    s = image.header.study
    return dv.uid(s.frame_of_reference_uid) or dv.uid_of("frame of reference", study, s.patient_position)


def _scanning_sequence(image: Image) -> list[str]:
    words = f"{image.header.sequence.type} {image.header.sequence.name}".lower()
    families = {
        "EP": ("epi", "echoplanar", "echo planar"),
        "SE": ("spinecho", "spin echo", "turbospinecho", "tse", "fse", "haste", "rare"),
        "GR": ("flash", "gradientecho", "gradient echo", "gre", "trufi", "ssfp", "spgr", "mprage"),
    }
    found = [code for code, names in families.items() if any(n in words for n in names)]
    # Research Mode is the standard's term for none of the others.
    return [*(found or ["RM"]), *(["IR"] if image.header.sequence.TI and found else [])]


def _acquisition_type(image: Image) -> str:
    stated = str(image.provenance.get("acquisition", ""))
    if stated in ("2D", "3D"):
        return stated
    g = image.geometry
    return "2D" if g.shape[0] == 1 or abs(g.voxel[2] / g.thickness - 1) > 0.01 else ""


def made_at(image: Image) -> datetime:
    """When the image was made, in local time; now, if its provenance does not say."""
    try:
        stated = datetime.fromisoformat(str(image.provenance.get("date", "")).replace("Z", "+00:00"))
        # DICOM states local time; a date without time zone is taken as such.
        return stated.astimezone() if stated.tzinfo else stated
    except ValueError:
        return datetime.now()


def _optional(d: Dataset, keyword: str, value: str) -> None:
    if value:
        setattr(d, keyword, value)
