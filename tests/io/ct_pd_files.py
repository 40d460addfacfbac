"""DICOM-CT-PD files of balls in a cylinder, made from the format's description with pydicom alone.

Positions as the format states them: a left-handed system seen from the table, φ = 0 at 12 o'clock, counter-clockwise,
x = −ρ sin φ, y = ρ cos φ, z from the table into the gantry; with the detector at six o'clock its leftmost column and
its farthest row are number 1; the focal spot is displaced against the detector's focal centre by (Δρ, Δφ, Δz).
GE's exports are made as PyTomography found two of them to be: column 443.25 of 888 stated as 444.75, z towards the
head where the feet came first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

NAME, ID = "MÜLLER^ANNA", "geheim-4711"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
WATER = 0.0192


@dataclass(frozen=True)
class Ball:
    """Middle in mm in the gantry's system, radius, and HU against what surrounds it."""

    middle: tuple[float, float, float]
    radius: float
    hu: float


@dataclass(frozen=True)
class Scanner:
    """A small scanner and the way of its table; `spots` are (Δφ, Δz, Δρ), taken in turn."""

    columns: int = 96
    rows: int = 12
    column_mm: float = 4.6
    row_mm: float = 3.0
    radius: float = 595.0
    distance: float = 1085.6
    centre: tuple[float, float] = (48.75, 6.5)
    views: int = 180
    pitch: float = 0.8
    start: float = 0.7
    sense: int = 1
    spots: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)
    circles: tuple[float, ...] = ()
    arc: float = 360.0
    flat: bool = False
    body: float = 100.0
    background: float = 0.0
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def row(self) -> float:
        return self.row_mm * self.radius / self.distance

    @property
    def feed(self) -> float:
        """Way of the table in one turn."""
        return self.pitch * self.rows * self.row


def path(s: Scanner, z: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """φ and z of the views: a helix from z[0] to z[1], or circles one after the other."""
    if s.circles:
        n = round(s.views * s.arc / 360)
        phi = np.concatenate([s.start + s.sense * 2 * math.pi * np.arange(n) / s.views for _ in s.circles])
        return phi, np.repeat(s.circles, n)
    count = round(abs(z[1] - z[0]) / s.feed * s.views) + 1
    turn = np.arange(count) / s.views
    return s.start + s.sense * 2 * math.pi * turn, z[0] + math.copysign(s.feed, z[1] - z[0]) * turn


def projection(s: Scanner, balls: Sequence[Ball], phi: float, z: float, spot: tuple[float, float, float]) -> np.ndarray:
    """Exact line integrals (row, column) of the balls, and of a cylinder of `body` mm radius about the axis."""
    rho = s.radius + spot[2]
    source = np.array([-rho * math.sin(phi + spot[0]), rho * math.cos(phi + spot[0]), z + spot[1]])
    centre = np.array([-s.radius * math.sin(phi), s.radius * math.cos(phi), z])
    along = (np.arange(1, s.columns + 1) - s.centre[0]) * s.column_mm
    inward, right = np.array([math.sin(phi), -math.cos(phi), 0]), np.array([math.cos(phi), math.sin(phi), 0])
    if s.flat:
        column = centre + s.distance * inward + along[:, None] * right
    else:
        g = along[:, None] / s.distance
        column = centre + s.distance * (np.cos(g) * inward + np.sin(g) * right)
    height = (s.centre[1] - np.arange(1, s.rows + 1)) * s.row_mm
    element = column[None] + height[:, None, None] * np.array([0, 0, 1.0])
    way = element - source
    length = np.linalg.norm(way, axis=-1)
    unit = way / length[..., None]
    out = np.zeros(length.shape)
    for ball in balls:
        to = np.array(ball.middle) - source
        near = unit @ to
        miss = np.maximum(0, ball.radius**2 - (to @ to - near**2))
        out += 2 * np.sqrt(miss) * ball.hu / 1000 * WATER
    if s.body:
        a = (unit[..., :2] ** 2).sum(-1)
        b = unit[..., :2] @ source[:2]
        inside = np.maximum(0, b**2 - a * (source[:2] @ source[:2] - s.body**2))
        out += 2 * np.sqrt(inside) / a * (1 + s.background / 1000) * WATER
    return out


def write(
    folder: Path,
    balls: Sequence[Ball],
    s: Scanner,
    z: tuple[float, float] = (-30.0, 30.0),
    *,
    position: str = "HFS",
    maker: str = "SIEMENS",
    implicit: bool = True,
    transposed: bool = True,
    series: str = "series",
    change: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """One file for each view, named in an order that is not theirs; `change` has the last word on each."""
    folder.mkdir(parents=True, exist_ok=True)
    phi, at = path(s, z)
    paths = []
    study, of_series = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=[series])
    for i in range(len(phi)):
        spot = s.spots[i % len(s.spots)]
        p = projection(s, balls, phi[i], at[i], spot)
        slope, intercept = 2e-4, -0.5
        stored = np.rint((p - intercept) / slope).astype("<u2")
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CT_IMAGE
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{of_series[:50]}.{i}"
        d.SeriesInstanceUID, d.StudyInstanceUID = of_series, study
        d.Modality, d.PatientName, d.PatientID = "CT", NAME, ID
        d.SpecificCharacterSet = "ISO_IR 192"
        d.InstanceNumber, d.PatientPosition, d.Manufacturer = i + 1, position, maker
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation = 15, 0
        d.RescaleSlope, d.RescaleIntercept = str(slope), str(intercept)
        as_ge = maker.startswith("GE")
        to_head = as_ge and position.startswith("FF")
        stored = stored[::-1] if to_head else stored
        image = stored.T if transposed else stored
        d.Rows, d.Columns = image.shape
        d.PixelData = np.ascontiguousarray(image).tobytes()
        wrapped = (phi[i] + math.pi) % (2 * math.pi) - math.pi
        column, row = s.columns - s.centre[0] if as_ge else s.centre[0], s.centre[1]
        if to_head:
            said = replace(s, centre=(column, s.rows + 1 - row))
            _private(d, said, wrapped, -at[i], (spot[0], -spot[1], spot[2]))
        else:
            _private(d, replace(s, centre=(column, row)), wrapped, at[i], spot)
        if change is not None:
            change(d, i)
        paths.append(folder / f"{(i * 7919) % 100003:06d}-{series}.dcm")
        d.save_as(paths[-1], enforce_file_format=True)
    return paths


def _private(d: Dataset, s: Scanner, phi: float, z: float, spot: tuple[float, float, float]) -> None:
    detector = d.private_block(0x7029, "DetectorSystemArrangementModule", create=True)
    detector.add_new(0x02, "FL", s.column_mm)
    detector.add_new(0x06, "FL", s.row_mm)
    detector.add_new(0x0B, "CS", "FLAT" if s.flat else "CYLINDRICAL")
    detector.add_new(0x10, "US", s.rows)
    detector.add_new(0x11, "US", s.columns)
    dynamics = d.private_block(0x7031, "DetectorDynamicsModule", create=True)
    dynamics.add_new(0x01, "FL", phi)
    dynamics.add_new(0x02, "FL", z)
    dynamics.add_new(0x03, "FL", s.radius)
    dynamics.add_new(0x31, "FL", s.distance)
    dynamics.add_new(0x33, "FL", list(s.centre))
    source = d.private_block(0x7033, "SourceDynamicsModule", create=True)
    source.add_new(0x0B, "FL", spot[0])
    source.add_new(0x0C, "FL", spot[1])
    source.add_new(0x0D, "FL", spot[2])
    source.add_new(0x0E, "CS", "FFSXYZ" if len(s.spots) > 1 else "FFSNONE")
    source.add_new(0x13, "US", s.views)
    kind = d.private_block(0x7037, "ProjectionDataDefinitions", create=True)
    kind.add_new(0x09, "CS", "AXIAL" if s.circles else "HELICAL")
    kind.add_new(0x0A, "CS", "FANBEAM")
    d.private_block(0x7039, "PreprocessingFlagsModule", create=True).add_new(0x09, "CS", "YES")
    d.private_block(0x7041, "WaterAttenuationModule", create=True).add_new(0x01, "DS", f"{WATER}")
