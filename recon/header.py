"""What a scan file states besides its samples: patient, study, scanner and timing of the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Patient:
    """The patient as stated in the file. Only for DICOM: never for logs, messages or file names."""

    name: str = field(default="", repr=False)
    id: str = field(default="", repr=False)
    birth_date: str = field(default="", repr=False)
    sex: str = ""
    weight_kg: float | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Study:
    """Study, series and frame of reference; dates are YYYYMMDD, times HHMMSS(.ffffff), empty if unknown."""

    uid: str = ""
    id: str = ""
    date: str = ""
    time: str = ""
    description: str = ""
    accession: str = field(default="", repr=False)
    referring_physician: str = field(default="", repr=False)
    series_description: str = ""
    series_date: str = ""
    series_time: str = ""
    protocol: str = ""
    measurement_id: str = ""
    patient_position: str = ""
    frame_of_reference_uid: str = ""
    body_part: str = ""


@dataclass(frozen=True)
class System:
    """The scanner."""

    vendor: str = ""
    model: str = ""
    field_T: float | None = None
    frequency_Hz: float | None = None
    institution: str = ""
    station: str = ""
    device_id: str = ""
    noise_bandwidth: float | None = None
    coil_labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sequence:
    """Timing of the pulse sequence: times in milliseconds, one per contrast; flip angles in degrees."""

    name: str = ""
    type: str = ""
    TR: tuple[float, ...] = ()
    TE: tuple[float, ...] = ()
    TI: tuple[float, ...] = ()
    flip_deg: tuple[float, ...] = ()
    echo_spacing: tuple[float, ...] = ()


@dataclass(frozen=True)
class Header:
    """What a scan file states besides its samples."""

    patient: Patient = Patient()
    study: Study = Study()
    system: System = System()
    sequence: Sequence = Sequence()
    user: Mapping[str, Any] = field(default_factory=dict, repr=False)
