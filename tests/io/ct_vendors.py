"""CT series as scanners of several makers store them: scales, fillings, tables, names, encodings, what lies beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from tests.io import ct_files

#: HU of the circle that scanners fill: beyond it is no measurement.
SHAPE = (6, 64, 72)


@dataclass(frozen=True)
class Look:
    """How a series is stored: HU = stored · slope + intercept, stored `padding` outside of the circle, mm of a step."""

    intercept: float = -1024
    slope: float = 1
    signed: bool = False
    bits: int = 16
    padding: int | None = None
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    step: tuple[float, float, float] = (0, 0, 2.5)
    syntax: str = ExplicitVRLittleEndian
    values: Mapping[str, object] = field(default_factory=dict)
    more: Callable[[Dataset, int], None] | None = None


def tilted(degrees: float) -> dict[str, object]:
    """Orientation and step of a gantry that leans towards the feet, its table moving along z."""
    a = np.deg2rad(degrees)
    return {"orientation": (1, 0, 0, 0, round(np.cos(a), 8), round(-np.sin(a), 8)), "step": (0, 0, 2.5)}


def private(group: int, creator: str) -> Callable[[Dataset, int], None]:
    """Private elements of a maker, with a patient's name in them."""

    def add(d: Dataset, k: int) -> None:
        block = d.private_block(group, creator, create=True)
        block.add_new(0x01, "LO", ct_files.NAME)
        block.add_new(0x10, "OB", bytes(range(64)))

    return add


def no_place(d: Dataset, k: int) -> None:
    """Neither SliceLocation nor FrameOfReference's indicator nor a body part."""
    for keyword in ("SliceLocation", "PositionReferenceIndicator", "BodyPartExamined"):
        if keyword in d:
            delattr(d, keyword)


LOOKS = {
    "GE, signed, filled with -2000": Look(
        signed=True, padding=-2000, step=(0, 0, -1.25), more=private(0x0009, "GEMS_IDEN_01"),
        values={"Manufacturer": "GE MEDICAL SYSTEMS", "ManufacturerModelName": "Revolution", "PixelPaddingValue": -2000,
                "SliceThickness": "1.25", "GantryDetectorTilt": "0.000000", "ConvolutionKernel": "STANDARD",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "ScanOptions": "HELICAL MODE"},
    ),
    "GE, tilted gantry": Look(
        signed=True, padding=-2000, **tilted(15),
        values={"Manufacturer": "GE MEDICAL SYSTEMS", "GantryDetectorTilt": "15.000000", "ScanOptions": "AXIAL MODE"},
    ),
    "Siemens, 12 bits, several windows": Look(
        bits=12, syntax=ImplicitVRLittleEndian, more=private(0x0029, "SIEMENS CSA HEADER"),
        values={"Manufacturer": "SIEMENS", "ManufacturerModelName": "SOMATOM Definition AS+", "KVP": "100",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], "ConvolutionKernel": ["I30f", "3"],
                "WindowCenter": ["50", "-600"], "WindowWidth": ["350", "1200"],
                "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"]},
    ),
    "Siemens, extended scale from -8192": Look(
        intercept=-8192, step=(0, 0, -0.6),
        values={"Manufacturer": "Siemens Healthineers", "ManufacturerModelName": "NAEOTOM Alpha", "SliceThickness": "1",
                "ConvolutionKernel": ["Br40f", "3"]},
    ),
    "Philips, filling of 63536 as unsigned": Look(
        intercept=-1024, signed=True, padding=-2000, more=private(0x00E1, "ELSCINT1"),
        values={"Manufacturer": "Philips", "ManufacturerModelName": "iCT 256", "RescaleSlope": "1.00000000000000",
                "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"], "SliceThickness": "5"},
    ),
    "Philips, slope of 0.5": Look(intercept=-2048, slope=0.5, values={"Manufacturer": "Philips"}),
    "Hitachi, slope of 2": Look(intercept=-2000, slope=2, values={"Manufacturer": "Hitachi, Ltd."}),
    "Canon, scale from 0, feet first": Look(
        intercept=0, signed=True, step=(0, 0, -2.5), more=no_place, values={
            "Manufacturer": "TOSHIBA", "ManufacturerModelName": "Aquilion ONE", "PatientPosition": "FFS",
            "ConvolutionKernel": "FC08", "RescaleSlope": "1", "PixelPaddingValue": -1500}, padding=-1500,
    ),
    "United Imaging": Look(
        intercept=-8192, values={"Manufacturer": "UIH", "ManufacturerModelName": "uCT 760", "ConvolutionKernel":
        "B_SOFT_C", "SpacingBetweenSlices": "2.5"},
    ),
    "prone, head first": Look(orientation=(-1, 0, 0, 0, -1, 0), values={"PatientPosition": "HFP"}),
    "on the left side": Look(orientation=(0, 1, 0, -1, 0, 0), values={"PatientPosition": "HFDL"}),
    "overlapping slices": Look(step=(0, 0, 1.5), values={"SliceThickness": "3", "SpacingBetweenSlices": "1.5"}),
    "slices of 0.3 mm": Look(step=(0, 0, 0.3), values={"SliceThickness": "0.5", "PixelSpacing": ["0.15", "0.15"]}),
    "big endian": Look(syntax=ExplicitVRBigEndian),
    "deflated": Look(syntax=DeflatedExplicitVRLittleEndian),
    "RLE, signed": Look(signed=True, intercept=0, syntax=RLELossless, padding=-2000),
    "JPEG 2000, signed": Look(signed=True, intercept=0, syntax=JPEG2000Lossless, padding=-2000),
    "Japanese name": Look(values={"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName":
        "Yamada^Tarou=山田^太郎=やまだ^たろう", "SeriesDescription": "胸部 5mm", "InstitutionName": "東京病院"}),
    "Cyrillic name": Look(values={"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люкceмбypг^Анна",
        "SeriesDescription": "Грудная клетка"}),
    "Chinese name": Look(values={"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"}),
    "a coronal cut": Look(orientation=(1, 0, 0, 0, 0, -1), step=(0, 2.5, 0), values={"ImageType":
        ["DERIVED", "SECONDARY", "MPR"]}),
}  # fmt: skip


def body(seed: int = 0) -> np.ndarray:
    """HU (z, y, x) in steps that every look can store."""
    hu = np.clip(ct_files.body(SHAPE, seed=seed), -1000, 2000)
    return 2 * np.rint(hu / 2)


def circle() -> np.ndarray:
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    return (y - SHAPE[1] / 2) ** 2 + (x - SHAPE[2] / 2) ** 2 < (0.5 * SHAPE[1]) ** 2


def write(folder: Path, look: Look, **rest: object) -> np.ndarray:
    """A series of that look; gives its HU in the order of its instances, filling included."""
    hu = body()
    stored = np.rint((hu - look.intercept) / look.slope)
    if look.padding is not None:
        stored = np.where(circle(), stored, look.padding)

    def change(d: Dataset, k: int) -> None:
        d.InstanceNumber = str(k + 1)
        d.RescaleIntercept, d.RescaleSlope = f"{look.intercept:g}", f"{look.slope:g}"
        d.BitsStored, d.HighBit, d.PixelRepresentation = look.bits, look.bits - 1, int(look.signed)
        for keyword, value in look.values.items():
            setattr(d, keyword, value)
        d.file_meta.TransferSyntaxUID = look.syntax
        order = ">" if look.syntax == ExplicitVRBigEndian else "<"
        d.PixelData = stored[k].astype(f"{order}{'i' if look.signed else 'u'}2").tobytes()
        if look.more:
            look.more(d, k)
        if look.syntax in (RLELossless, JPEG2000Lossless):
            d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            d.compress(look.syntax, encoding_plugin="pydicom" if look.syntax == RLELossless else "pylibjpeg")
            d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["packed", str(k)])

    ct_files.write(folder, hu, orientation=look.orientation, step=look.step, change=change, **rest)  # type: ignore[arg-type]
    return stored * look.slope + look.intercept
