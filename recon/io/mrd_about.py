"""Patient, study, scanner, timing and user parameters in the XML header of ISMRMRD."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from recon.data import Header, Patient, Sequence, Study, System
from recon.io import mrd_values as values

#: XML name of each text in measurementInformation, and its field in Study. recon.io.mrd_xml writes with the same table.
MEASUREMENT = {
    "measurementID": "measurement_id",
    "protocolName": "protocol",
    "seriesDescription": "series_description",
    "frameOfReferenceUID": "frame_of_reference_uid",
}


def header(root: Element, notes: list[str]) -> Header:
    """The header of an element tree without namespace; irregularities are added to `notes`, without patient data."""
    user = user_parameters(root.find("userParameters"), "userParameters", notes)
    patient = _patient(_part(root, "subjectInformation"), notes)
    study = _study(_part(root, "studyInformation"), _part(root, "measurementInformation"), user, notes)
    system = _system(_part(root, "acquisitionSystemInformation"), _part(root, "experimentalConditions"), notes)
    return Header(patient, study, system, _sequence(_part(root, "sequenceParameters"), user, notes), user)


def _patient(subject: Element, notes: list[str]) -> Patient:
    sex = values.text(subject, "patientGender").upper()
    if sex not in ("", "M", "F", "O"):
        notes.append("subjectInformation/patientGender is not M, F or O; it is left empty")
        sex = ""
    return Patient(
        values.text(subject, "patientName"),
        values.text(subject, "patientID"),
        values.date(subject, "patientBirthdate", notes),
        sex,
        values.positive(subject, "patientWeight_kg", notes),
    )


def _study(study: Element, measurement: Element, user: dict[str, Any], notes: list[str]) -> Study:
    """Study and series; other parts of the measurement become user parameters named by their path."""
    texts = {
        name: values.text(measurement, element) or str(user.pop(f"measurementInformation/{element}", ""))
        for element, name in MEASUREMENT.items()
    }
    for element in ("initialSeriesNumber", "seriesInstanceUIDRoot", "sequenceName"):
        if values.text(measurement, element):
            user[f"measurementInformation/{element}"] = values.text(measurement, element)
    for dependency in measurement.findall("measurementDependency"):
        kind = values.text(dependency, "dependencyType")
        user[f"measurementInformation/measurementDependency/{kind}"] = values.text(dependency, "measurementID")
    return Study(
        uid=values.text(study, "studyInstanceUID"),
        id=values.text(study, "studyID"),
        date=values.date(study, "studyDate", notes),
        time=values.time(study, "studyTime", notes),
        description=values.text(study, "studyDescription"),
        accession=values.text(study, "accessionNumber") or str(user.pop("studyInformation/accessionNumber", "")),
        referring_physician=values.text(study, "referringPhysicianName"),
        body_part=values.text(study, "bodyPartExamined"),
        series_date=values.date(measurement, "seriesDate", notes),
        series_time=values.time(measurement, "seriesTime", notes),
        patient_position=values.text(measurement, "patientPosition"),
        **texts,
    )


def _system(system: Element, conditions: Element, notes: list[str]) -> System:
    labels = [
        (values.number(values.text(c, "coilNumber")) or 0, values.text(c, "coilName"))
        for c in system.findall("coilLabel")
    ]
    return System(
        vendor=values.text(system, "systemVendor"),
        model=values.text(system, "systemModel"),
        field_T=values.positive(system, "systemFieldStrength_T", notes),
        frequency_Hz=values.positive(conditions, "H1resonanceFrequency_Hz", notes),
        institution=values.text(system, "institutionName"),
        station=values.text(system, "stationName"),
        device_id=values.text(system, "deviceID"),
        noise_bandwidth=values.positive(system, "relativeReceiverNoiseBandwidth", notes),
        coil_labels=tuple(name for _, name in sorted(labels, key=lambda label: label[0])),
    )


def _sequence(timing: Element, user: dict[str, Any], notes: list[str]) -> Sequence:
    return Sequence(
        name=str(user.get("measurementInformation/sequenceName", "")),
        type=values.text(timing, "sequence_type"),
        TR=values.series(timing, "TR", notes),
        TE=values.series(timing, "TE", notes),
        TI=values.series(timing, "TI", notes),
        flip_deg=values.series(timing, "flipAngle_deg", notes),
        echo_spacing=values.series(timing, "echo_spacing", notes),
    )


def user_parameters(e: Element | None, path: str, notes: list[str]) -> dict[str, Any]:
    """User parameters by name; a name that occurs more than once has a tuple of its values."""
    out: dict[str, Any] = {}
    for item in () if e is None else e:
        if not item.tag.startswith("userParameter"):
            continue
        name, text = values.text(item, "name"), values.text(item, "value")
        value: Any = text
        if item.tag in ("userParameterLong", "userParameterDouble"):
            number = values.number(text)
            whole = number is not None and item.tag == "userParameterLong" and number == round(number)
            value = text if number is None else round(number) if whole else number
            if number is None:
                notes.append(f"a {item.tag} of {path} is not a number; it is kept as text")
        if name in out:
            before = out[name] if isinstance(out[name], tuple) else (out[name],)
            value = (*before, value)
        out[name] = value
    return out


def _part(root: Element, name: str) -> Element:
    found = root.find(name)
    return Element(name) if found is None else found
