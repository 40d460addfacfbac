"""Writer of the XML header of ISMRMRD, with the order and the types of its schema."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from recon.data import Encoding, Header
from recon.io.mrd_about import MEASUREMENT
from recon.io.mrd_header import COUNTERS, NAMESPACE, TRAJECTORIES

_POSITIONS = ("HFP", "HFS", "HFDR", "HFDL", "FFP", "FFS", "FFDR", "FFDL")
_MODES = ("embedded", "interleaved", "separate", "external", "other")

#: Proton resonance in Hz per tesla, for headers that state only the field strength.
_HZ_PER_TESLA = 42.577478518e6


def write(header: Header, encodings: tuple[Encoding, ...]) -> bytes:
    """The bytes of recon.io.mrd_header.build."""
    root = Element("ismrmrdHeader", xmlns=NAMESPACE)
    extra: dict[str, str] = {}
    _subject(root, header)
    _study(root, header, extra)
    _measurement(root, header, extra)
    _system(root, header)
    field_T = header.system.field_T or 0.0
    conditions = SubElement(root, "experimentalConditions")
    _add(conditions, "H1resonanceFrequency_Hz", round(header.system.frequency_Hz or field_T * _HZ_PER_TESLA))
    for encoding in encodings:
        _encoding(SubElement(root, "encoding"), encoding)
    _sequence(root, header)
    user = {k: v for k, v in header.user.items() if not k.startswith("measurementInformation/")}
    if user or extra:
        _user(SubElement(root, "userParameters"), {**user, **extra})
    indent(root, "\t")
    body: str = tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()


def _subject(root: Element, header: Header) -> None:
    p = header.patient
    if not any((p.name, p.id, p.birth_date, p.sex, p.weight_kg)):
        return
    e = SubElement(root, "subjectInformation")
    _texts(e, [("patientName", p.name)])
    if p.weight_kg:
        _add(e, "patientWeight_kg", p.weight_kg)
    _texts(e, [("patientID", p.id), ("patientBirthdate", _iso_date(p.birth_date))])
    _texts(e, [("patientGender", p.sex if p.sex in ("M", "F", "O") else "")])


def _study(root: Element, header: Header, extra: dict[str, str]) -> None:
    s = header.study
    number = re.fullmatch(r"-?\d{1,18}", s.accession, re.ASCII) is not None and str(int(s.accession)) == s.accession
    if s.accession and not number:
        extra["studyInformation/accessionNumber"] = s.accession
    values = [
        ("studyDate", _iso_date(s.date)),
        ("studyTime", _iso_time(s.time)),
        ("studyID", s.id),
        ("accessionNumber", s.accession if number else ""),
        ("referringPhysicianName", s.referring_physician),
        ("studyDescription", s.description),
        ("studyInstanceUID", s.uid),
        ("bodyPartExamined", s.body_part),
    ]
    if any(v for _, v in values):
        _texts(SubElement(root, "studyInformation"), values)


def _measurement(root: Element, header: Header, extra: dict[str, str]) -> None:
    s, user = header.study, header.user
    texts = {element: str(getattr(s, name)) for element, name in MEASUREMENT.items()}
    if s.patient_position not in _POSITIONS:
        extra.update({f"measurementInformation/{k}": v for k, v in texts.items() if v})
        return
    e = SubElement(root, "measurementInformation")
    prefix = "measurementInformation/"
    _texts(e, [("measurementID", texts["measurementID"])])
    _texts(e, [("seriesDate", _iso_date(s.series_date)), ("seriesTime", _iso_time(s.series_time))])
    _texts(e, [("patientPosition", s.patient_position)])
    _texts(e, [("initialSeriesNumber", str(user.get(prefix + "initialSeriesNumber", "")))])
    _texts(e, [("protocolName", texts["protocolName"]), ("sequenceName", header.sequence.name)])
    _texts(e, [("seriesDescription", texts["seriesDescription"])])
    for key, value in user.items():
        if key.startswith(prefix + "measurementDependency/"):
            kind = key[len(prefix + "measurementDependency/") :]
            _texts(SubElement(e, "measurementDependency"), [("dependencyType", kind), ("measurementID", str(value))])
    _texts(e, [("seriesInstanceUIDRoot", str(user.get(prefix + "seriesInstanceUIDRoot", "")))])
    _texts(e, [("frameOfReferenceUID", texts["frameOfReferenceUID"])])


def _system(root: Element, header: Header) -> None:
    s = header.system
    e = SubElement(root, "acquisitionSystemInformation")
    _texts(e, [("systemVendor", s.vendor), ("systemModel", s.model)])
    if s.field_T:
        _add(e, "systemFieldStrength_T", s.field_T)
    if s.noise_bandwidth:
        _add(e, "relativeReceiverNoiseBandwidth", s.noise_bandwidth)
    for number, name in enumerate(s.coil_labels):
        label = SubElement(e, "coilLabel")
        _add(label, "coilNumber", number)
        _add(label, "coilName", name)
    _texts(e, [("institutionName", s.institution), ("stationName", s.station), ("deviceID", s.device_id)])
    if len(e) == 0:
        root.remove(e)


def _encoding(e: Element, encoding: Encoding) -> None:
    for name, matrix, fov in (
        ("encodedSpace", encoding.encoded_matrix, encoding.encoded_fov),
        ("reconSpace", encoding.recon_matrix, encoding.recon_fov),
    ):
        space = SubElement(e, name)
        for child, values in (("matrixSize", matrix), ("fieldOfView_mm", fov)):
            block = SubElement(space, child)
            for axis, value in zip("xyz", values, strict=True):
                _add(block, axis, value)
    limits = SubElement(e, "encodingLimits")
    for name in COUNTERS:
        limit = encoding.limits.get(name)
        if limit is not None:
            block = SubElement(limits, name)
            for child in ("minimum", "maximum", "center"):
                _add(block, child, getattr(limit, child))
    _add(e, "trajectory", encoding.trajectory if encoding.trajectory in TRAJECTORIES else "other")
    if encoding.trajectory_name:
        description = SubElement(e, "trajectoryDescription")
        _add(description, "identifier", encoding.trajectory_name)
        _user(description, encoding.trajectory_parameters)
    if encoding.acceleration != (1, 1) or encoding.calibration_mode:
        parallel = SubElement(e, "parallelImaging")
        factors = SubElement(parallel, "accelerationFactor")
        for i, factor in enumerate(encoding.acceleration, start=1):
            _add(factors, f"kspace_encoding_step_{i}", factor)
        _texts(
            parallel, [("calibrationMode", encoding.calibration_mode if encoding.calibration_mode in _MODES else "")]
        )
    if encoding.echo_train_length is not None:
        _add(e, "echoTrainLength", encoding.echo_train_length)


def _sequence(root: Element, header: Header) -> None:
    s = header.sequence
    e = SubElement(root, "sequenceParameters")
    for name, values in (("TR", s.TR), ("TE", s.TE), ("TI", s.TI), ("flipAngle_deg", s.flip_deg)):
        for value in values:
            _add(e, name, value)
    _texts(e, [("sequence_type", s.type)])
    for value in s.echo_spacing:
        _add(e, "echo_spacing", value)
    if len(e) == 0:
        root.remove(e)


def _user(e: Element, values: Mapping[str, Any]) -> None:
    """User parameters, integers first, then floating point, then text, in the order of the schema."""
    items = [(k, v) for k, value in values.items() for v in (value if isinstance(value, tuple) else (value,))]
    for element, kind in (("userParameterLong", int), ("userParameterDouble", float), ("userParameterString", object)):
        for name, value in items:
            if isinstance(value, kind) and (kind is not object or not isinstance(value, (int, float))):
                block = SubElement(e, element)
                _add(block, "name", name)
                _add(block, "value", value)


def _texts(e: Element, items: Iterable[tuple[str, str]]) -> None:
    for name, text in items:
        if text:
            _add(e, name, text)


def _add(e: Element, name: str, value: Any) -> None:
    text = repr(float(value)) if isinstance(value, float) else str(value)
    SubElement(e, name).text = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)


def _iso_date(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if re.fullmatch(r"\d{8}", text, re.ASCII) else ""


def _iso_time(text: str) -> str:
    return f"{text[:2]}:{text[2:4]}:{text[4:]}" if re.fullmatch(r"\d{6}(\.\d+)?", text, re.ASCII) else ""
