"""Attributes, texts, identity and record of DICOM files, for dciodvfy and dcentvfy and by the standard."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from recon.data import Header, Image, Patient, ReconError, Sequence, Study
from recon.io import dicom_values
from recon.io.dicom import datasets, write_dicom, write_dicom_file
from recon.io.provenance import read_back
from tests.io.pictures import HEADER, RECIPE, geometry, picture, whole_numbers
from tests.io.validators import errors
from tests.tools import need


def test_no_file_of_any_kind_has_an_error_for_dciodvfy(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    g = geometry(rng, (2, 6, 5))
    complex_data = (rng.normal(size=(2, 2, 2, 6, 5)) + 1j * rng.normal(size=(2, 2, 2, 6, 5))).astype(np.complex64)
    echoes = replace(HEADER, sequence=Sequence(type="Flash", TR=(20.0,), TE=(5.0, 10.0), TI=(900.0,)))
    kinds: dict[str, tuple[Image, dict[str, Any]]] = {
        "plain": (picture(), {}),
        "bare": (Image(np.ones((1, 4, 4), np.float32), replace(geometry(rng, (1, 4, 4)), known=False)), {}),
        "parts": (
            Image(complex_data, g, ("contrast", "repetition"), header=echoes, provenance=RECIPE),
            {"parts": ("magnitude", "phase", "real", "imag")},
        ),
        "sets": (Image(complex_data, g, ("phase", "set"), header=HEADER), {}),
        "learned": (picture(provenance={**RECIPE, "weights_sha256": "cd" * 32}), {"derived": True}),
        "ct": (picture(data=whole_numbers(rng, (3, 7, 6)) / 10 - 1024, units="HU"), {}),
        "evil": (picture(header=_evil(), notes=("山" * 9000 + "\0\x1b\\",)), {}),
    }
    count = 0
    for name, (image, options) in kinds.items():
        files = write_dicom(image, tmp_path / name, **options)
        for f in files:
            assert errors(f) == [], name
            count += 1
        for folder in {f.parent for f in files}:
            run = subprocess.run([need("dcentvfy"), *map(str, sorted(folder.glob("*.dcm")))], capture_output=True)
            assert b"Error" not in run.stderr + run.stdout
    assert count == 3 + 1 + 32 + 8 + 3 + 3 + 3


def _evil() -> Header:
    name = "Ev^il\\na=me\r\n../../x\0^a^b^c^d^e=f=g" + "ü山" * 150
    study = Study(
        uid="XXXXXXXX", id="../" + "x" * 99, date="2024-13-99", time="25:00", accession="a\\b" * 30,
        description="\ud800\r\n\t" + "é" * 300, protocol="\\" * 99, body_part="knie/../é", patient_position="HEAD",
        referring_physician="=" * 20, series_description="山" * 99,
    )  # fmt: skip
    return Header(Patient(name=name, id=name, birth_date="yesterday", sex="??", weight_kg=float("nan")), study)


def test_evil_texts_are_cut_to_their_value_representation_and_never_name_a_file(tmp_path: Path) -> None:
    files = write_dicom(picture(header=_evil()), tmp_path / "s")
    assert [f.relative_to(tmp_path / "s").as_posix() for f in files] == ["IM0001.dcm", "IM0002.dcm", "IM0003.dcm"]
    d = pydicom.dcmread(files[0])
    for keyword, longest in {"PatientName": 64, "PatientID": 64, "StudyID": 16, "AccessionNumber": 16}.items():
        text = str(d[keyword].value)
        assert 0 < len(text.encode()) <= longest
        assert not set(text) & set("\\\r\n\0")
    assert str(d.PatientName).startswith("Ev^il/na=me ../../x^a^b^c^d e=f g")
    assert "was cut" in d.ImageComments
    empty = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "PatientPosition", "ReferringPhysicianName")
    assert not any(str(d[keyword].value or "") for keyword in empty)
    assert d.StudyInstanceUID.startswith("2.25.")


def test_a_name_in_three_scripts_comes_back_intact(tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    header = replace(HEADER, patient=replace(HEADER.patient, name=name))
    assert str(next(datasets(picture(header=header))).PatientName) == name


def test_what_the_scan_does_not_state_is_empty_and_not_invented() -> None:
    d = next(datasets(Image(np.ones((1, 4, 4), np.float32), replace(picture().geometry, shape=(1, 4, 4)))))
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "EchoTime",
        "Manufacturer",
    ):
        assert keyword in d
        assert not d[keyword].value
    assert "MagneticFieldStrength" not in d
    assert "PatientWeight" not in d
    assert d.ScanningSequence == "RM"


def test_an_unknown_geometry_claims_no_frame_of_reference_of_the_scanner() -> None:
    known = picture()
    unknown = replace(known, geometry=replace(known.geometry, known=False))
    a, b = next(datasets(known)), next(datasets(unknown))
    assert a.FrameOfReferenceUID == HEADER.study.frame_of_reference_uid
    assert b.FrameOfReferenceUID != a.FrameOfReferenceUID
    assert "unknown" in b.ImageComments
    assert "unknown" not in a.ImageComments


def _uids(image: Image, **options: Any) -> list[str]:
    return [str(d.SOPInstanceUID) for d in datasets(image, **options)]


def test_the_same_pixels_and_settings_give_the_same_uids_whenever_they_are_written() -> None:
    later = {**RECIPE, "date": "2031-01-01T00:00:00"}
    assert _uids(picture()) == _uids(picture(provenance=later))
    assert len(set(_uids(picture()))) == 3


@pytest.mark.parametrize("key", ["recipe_hash", "weights_sha256", "seed", "version", "job"])
def test_changed_settings_give_new_uids(key: str) -> None:
    assert not set(_uids(picture())) & set(_uids(picture(provenance={**RECIPE, key: "other"})))


def test_changed_pixels_place_label_or_patient_give_new_uids() -> None:
    image = picture()
    seen = set(_uids(image))
    data = image.data.copy()
    data[2, 6, 5] += 1
    others = [
        picture(data=data),
        picture(geometry=replace(image.geometry, position=(0.0, 0.0, 0.0))),
        picture(header=replace(HEADER, patient=Patient(id="another"))),
    ]
    for other in others:
        assert not seen & set(_uids(other))
    assert not seen & set(_uids(image, derived=True))
    # The same picture once more, in another series, is another object.
    assert not seen & set(_uids(image, series_number=2))


def test_two_patients_without_study_uid_get_studies_of_their_own() -> None:
    study = replace(HEADER.study, uid="", measurement_id="45_1")
    a = next(datasets(picture(header=replace(HEADER, study=study))))
    b = next(datasets(picture(header=replace(HEADER, study=study, patient=Patient(id="another")))))
    assert a.StudyInstanceUID != b.StudyInstanceUID
    assert all(pydicom.uid.UID(d.StudyInstanceUID).is_valid for d in (a, b))


def test_every_file_says_how_it_came_about(tmp_path: Path) -> None:
    image = picture(
        provenance={**RECIPE, "weights_sha256": "cd" * 32},
        trust={"residual": np.float32(1.5), "bad": np.nan},
        notes=("Line 3 was left out.",),
    )
    write_dicom(image, tmp_path / "s")
    record = read_back(tmp_path / "s")
    assert record["provenance"]["recipe_hash"] == "ab" * 32
    assert record["trust"] == {"residual": 1.5, "bad": None}
    d = pydicom.dcmread(tmp_path / "s" / "IM0001.dcm")
    (item,) = d.ContributingEquipmentSequence
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert item.SoftwareVersions[0] == "0.1.0"
    assert item.SoftwareVersions[2].startswith("weights sha256:cdcd")
    assert "cd" * 32 in item.ContributionDescription
    assert d.Manufacturer == "SIEMENS"
    assert "AI" in d.SeriesDescription.split()
    assert "AI-assisted" in d.ImageComments
    assert "Line 3 was left out." in d.ImageComments
    assert d.ImageType[0] == "ORIGINAL"
    assert item.ContributionDateTime == d.ContentDate + d.ContentTime
    place = datetime.fromisoformat(RECIPE["date"]).astimezone()  # type: ignore[arg-type]
    assert d.ContentDate + d.ContentTime == place.strftime("%Y%m%d%H%M%S.%f")


def test_one_dcm_file_holds_one_slice_and_names_the_cure_for_more(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match=r"can hold one slice, and the image has 3; .*scan/"):
        write_dicom_file(picture(), tmp_path / "scan.dcm")
    one = picture(data=picture().data[:1], geometry=replace(picture().geometry, shape=(1, 7, 6)))
    (path,) = write_dicom_file(one, tmp_path / "scan.dcm")
    assert errors(path) == []
    assert np.array_equal(pydicom.dcmread(path).pixel_array * float(pydicom.dcmread(path).RescaleSlope), one.data[0])


@pytest.mark.parametrize(("value", "legal"), [
    ("1." + "2" * 62, True), ("1." + "2" * 63, False), ("1.02.3", False), ("1.0.3", True), ("3.1", False), ("1", False),
    ("1.2.", False), (" 1.2.3 ", True),
])  # fmt: skip
def test_a_uid_has_64_characters_at_most_and_no_leading_zeros(value: str, legal: bool) -> None:
    """PS3.5, 9.1 and 6.2."""
    assert dicom_values.uid(value) == (value.strip() if legal else "")


@pytest.mark.parametrize(("field", "frequency", "nucleus"), [
    (3.0, 123.2e6, "1H"), (2.89, 123.25e6, "1H"), (0.055, 2.34e6, "1H"), (7.0, 78.6e6, None), (3.0, 120.2e6, None),
])  # fmt: skip
def test_the_imaging_frequency_is_in_megahertz_and_only_protons_are_named(
    field: float, frequency: float, nucleus: str | None
) -> None:
    """PS3.3 C.8.3.1; sodium at 7 T and fluorine at 3 T precess elsewhere, a magnet sold as 3 T may hold 2.89."""
    system = replace(HEADER.system, field_T=field, frequency_Hz=frequency)
    d = next(datasets(picture(header=replace(HEADER, system=system))))
    assert float(d.ImagingFrequency) == pytest.approx(frequency / 1e6, rel=1e-9)
    assert float(d.MagneticFieldStrength) == pytest.approx(field)
    assert d.get("ImagedNucleus") == nucleus


@pytest.mark.parametrize(("slices", "gap", "stated", "kind"), [
    (1, 1.0, "", "2D"), (3, 1.3, "", "2D"), (3, 1.0, "", ""), (3, 1.0, "3D", "3D"), (3, 1.3, "3D", "3D"),
    (3, 1.0, "2D", "2D"), (3, 1.0, "4D", ""),
])  # fmt: skip
def test_slices_with_gaps_are_2d_and_unknown_values_are_empty(slices: int, gap: float, stated: str, kind: str) -> None:
    """Contiguous slices may be a slab or not; the record of a run says which."""
    g = geometry(np.random.default_rng(0), (slices, 7, 6), gap=gap)
    d = next(datasets(picture((slices, 7, 6), geometry=g, provenance={**RECIPE, "acquisition": stated})))
    assert d.MRAcquisitionType == kind
