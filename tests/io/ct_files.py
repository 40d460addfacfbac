"""CT series as a scanner would store them, made with pydicom alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

NAME, ID = "MÜLLER^ANNA", "geheim-4711"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
STUDY, FRAME = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame"])


def body(shape: tuple[int, int, int] = (4, 40, 48), noise: float = 20, seed: int = 0) -> np.ndarray:
    """HU of a body with a bone at the upper left, noisy, in air; slice k has k bright pixels in its first row."""
    nz, ny, nx = shape
    y, x = np.mgrid[:ny, :nx]
    hu = np.full(shape, -1000.0)
    hu[:, ((y - ny / 2) / (0.4 * ny)) ** 2 + ((x - nx / 2) / (0.4 * nx)) ** 2 < 1] = 40
    hu[:, (y - 0.35 * ny) ** 2 + (x - 0.35 * nx) ** 2 < (0.06 * nx) ** 2] = 800
    hu += noise * np.random.default_rng(seed).standard_normal(shape)
    for k in range(nz):
        hu[k, 0, : k + 1] = 2000
    return np.rint(hu)


def write(
    folder: Path,
    hu: np.ndarray,
    *,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    step: Sequence[float] = (0, 0, 2.5),
    change: Callable[[Dataset, int], None] | None = None,
    series: str = "series",
    number: int = 3,
) -> list[Path]:
    """One file for each slice, in an order of names that is not theirs in space; `change` has the last word on each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, pixels in enumerate(hu):
        d = dataset(pixels, k, len(hu), series, number)
        d.ImageOrientationPatient = list(orientation)
        d.ImagePositionPatient = [f"{v:.6g}" for v in np.array([-100.5, -80.25, 30.0]) + k * np.asarray(step)]
        if change is not None:
            change(d, k)
        paths.append(folder / f"{(k * 7) % 97:03d}-{series}.dcm")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that DICOM forbids are what some tests ask for
            d.save_as(paths[-1], enforce_file_format=True)
    return paths


def dataset(pixels: np.ndarray, k: int, count: int, series: str, number: int) -> Dataset:
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CT_IMAGE
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(k)])
    d.SpecificCharacterSet = "ISO_IR 100"
    d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = NAME, ID, "19500102", "F"
    d.StudyInstanceUID, d.StudyID, d.StudyDate, d.StudyTime = STUDY, "S1", "20261101", "101112"
    d.ReferringPhysicianName, d.AccessionNumber = "", "ACC1"
    d.Modality, d.SeriesInstanceUID, d.SeriesNumber = "CT", generate_uid(entropy_srcs=[series]), str(number)
    d.SeriesDescription, d.SeriesDate, d.SeriesTime = "Thorax nativ", "20261101", "101500"
    d.PatientPosition, d.FrameOfReferenceUID, d.PositionReferenceIndicator = "HFS", FRAME, ""
    d.Manufacturer, d.ManufacturerModelName, d.DeviceSerialNumber = "ACME", "Ring 64", "4711"
    d.InstanceNumber, d.AcquisitionNumber = str(count - k), "1"
    d.AcquisitionDate, d.AcquisitionTime, d.ContentDate, d.ContentTime = "20261101", "101501", "20261101", "101502"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.KVP, d.ConvolutionKernel, d.BodyPartExamined = "120", "B30", "CHEST"
    d.PixelSpacing, d.SliceThickness = ["0.8", "0.7"], "2.5"
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.Rows, d.Columns = pixels.shape
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = "-1024", "1", "HU"
    d.WindowCenter, d.WindowWidth = "40", "400"
    d.LossyImageCompression = "00"
    d.PixelData = (np.clip(pixels, -1024, None) + 1024).astype("<u2").tobytes()
    d["PixelData"].VR = "OW"
    return d
