"""DICOM is compared with what others make of it: dcm2niix, dciodvfy, dcentvfy, and formulas on pydicom's attributes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from recon.data import Header, Image, Patient, ReconError, Sequence, Study
from recon.geometry import affine_lps, from_centre
from recon.io.dicom import datasets, write_dicom, write_dicom_file
from recon.io.nifti import write_nifti
from recon.io.provenance import read_back
from tests.io.pictures import HEADER, RECIPE, geometry, picture, whole_numbers
from tests.tools import need

X, Y, Z = np.eye(3)
#: Axial, sagittal and coronal in several turns, and slices stacked in both directions.
ALIGNED = [(X, Y, Z), (X, Y, -Z), (Y, -Z, X), (Y, -Z, -X), (X, -Z, Y), (X, -Z, -Y), (-Y, X, Z), (-X, -Y, Z)]


def dcm2niix(folder: Path, out: Path) -> dict[str, nib.Nifti1Image]:
    out.mkdir()
    run = subprocess.run(
        [need("dcm2niix"), "-b", "n", "-f", "%s", "-o", str(out), str(folder)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    return {p.stem: nib.load(p) for p in sorted(out.glob("*.nii"))}


def errors(path: Path) -> list[str]:
    """Lines of dciodvfy that start with Error; its exit code says nothing."""
    run = subprocess.run([need("dciodvfy"), "-new", str(path)], capture_output=True)
    text = (run.stderr + run.stdout).decode(errors="replace")
    assert "MRImage" in text or "CTImage" in text, text
    return [line for line in text.splitlines() if line.startswith("Error")]


def differences(a: Any, b: Any) -> str:
    """Why two NIfTI images show different voxels or places, after turning both to the closest canonical axes."""
    a, b = nib.as_closest_canonical(a), nib.as_closest_canonical(b)
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    if not np.array_equal(np.asarray(a.dataobj, np.float32), np.asarray(b.dataobj, np.float32)):
        return "voxels"
    if np.abs(a.affine - b.affine).max() > 2e-3:
        return f"affine by {np.abs(a.affine - b.affine).max():.4f}"
    return ""


def compared(image: Image, folder: Path) -> str:
    write_dicom(image, folder / "series")
    write_nifti(image, folder / "ours.nii")
    (theirs,) = dcm2niix(folder / "series", folder / "nii").values()
    return differences(nib.load(folder / "ours.nii"), theirs)


@pytest.mark.parametrize("seed", range(24))
def test_dcm2niix_makes_our_nifti_from_our_dicom_for_any_oblique_stack(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1000 + seed)
    nz, ny, nx = int(rng.integers(2, 7)), int(rng.integers(9, 20)), int(rng.integers(9, 20))
    g = geometry(rng, (nz, ny, nx), hand=(-1) ** seed, gap=(1.0, 1.3)[seed // 2 % 2], volume=seed % 3 == 0)
    assert compared(picture(data=whole_numbers(rng, (nz, ny, nx)), geometry=g), tmp_path) == ""


@pytest.mark.parametrize("number", range(len(ALIGNED)))
def test_dcm2niix_makes_our_nifti_from_our_dicom_along_the_axes(number: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(number)
    g = geometry(rng, (4, 11, 14), axes=ALIGNED[number], gap=1.2)
    assert compared(picture(data=whole_numbers(rng, (4, 11, 14)), geometry=g), tmp_path) == ""


def _swap_spacing(d: Any, _: list[Any]) -> None:
    d.PixelSpacing = list(d.PixelSpacing)[::-1]


def _turn_columns(d: Any, _: list[Any]) -> None:
    o = [float(v) for v in d.ImageOrientationPatient]
    d.ImageOrientationPatient = [f"{v:.10f}" for v in (*o[:3], -o[3], -o[4], -o[5])]


def _half_a_voxel(d: Any, _: list[Any]) -> None:
    r = np.array(d.ImageOrientationPatient[:3], float)
    d.ImagePositionPatient = [f"{v:.8f}" for v in np.array(d.ImagePositionPatient, float) + r * d.PixelSpacing[1] / 2]


def _reverse_slices(d: Any, positions: list[Any]) -> None:
    d.ImagePositionPatient = positions[len(positions) - int(d.InstanceNumber)]


@pytest.mark.parametrize("fault", [_swap_spacing, _turn_columns, _half_a_voxel, _reverse_slices])
def test_a_fault_in_the_geometry_would_be_seen(fault: Callable[[Any, list[Any]], None], tmp_path: Path) -> None:
    image = picture((4, 11, 14))
    files = write_dicom(image, tmp_path / "series")
    positions = [pydicom.dcmread(f).ImagePositionPatient for f in files]
    for f in files:
        d = pydicom.dcmread(f)
        fault(d, positions)
        d.save_as(f)
    write_nifti(image, tmp_path / "ours.nii")
    (theirs,) = dcm2niix(tmp_path / "series", tmp_path / "nii").values()
    assert differences(nib.load(tmp_path / "ours.nii"), theirs)


@pytest.mark.parametrize("shape", [(5, 12, 10), (4, 11, 13)])
@pytest.mark.parametrize("hand", [1, -1])
def test_a_dot_is_found_at_its_place_in_the_patient(shape: tuple[int, int, int], hand: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    g = geometry(rng, shape, hand, gap=1.25)
    k, j, i = 3, 2, 7
    data = np.zeros(shape, np.float32)
    data[k, j, i] = 30000
    # The place by the sum of the steps, not by the matrix that the writers use.
    place = np.array(g.position) + sum(
        n * step * np.array(v)
        for n, step, v in zip((i, j, k), g.voxel, (g.read_dir, g.phase_dir, g.slice_dir), strict=True)
    )
    for f in write_dicom(picture(data=data, geometry=g), tmp_path / "series"):
        d = pydicom.dcmread(f)
        rows, columns = np.nonzero(d.pixel_array)
        if rows.size:
            # PS3.3 C.7.6.2.1.1: columns go along the first direction in steps of the second spacing.
            o = np.array(d.ImageOrientationPatient, float)
            found = np.array(d.ImagePositionPatient, float)
            found += o[:3] * d.PixelSpacing[1] * columns[0] + o[3:] * d.PixelSpacing[0] * rows[0]
            break
    assert np.abs(found - place).max() < 1e-3
    write_nifti(picture(data=data, geometry=g), tmp_path / "dot.nii.gz")
    nifti = nib.load(tmp_path / "dot.nii.gz")
    (index,) = np.argwhere(nifti.get_fdata())
    assert np.abs(nifti.affine @ [*index, 1] * [-1, -1, 1, 1] - [*place, 1]).max() < 1e-3


def test_attributes_of_place_follow_the_standard(tmp_path: Path) -> None:
    g = from_centre((1, 2, 3), X, Y, -Z, (200, 90, 12), (100, 60, 4), thickness=2.5)
    files = write_dicom(picture(data=np.ones((4, 60, 100), np.float32), geometry=g), tmp_path / "s")
    d = pydicom.dcmread(files[1])
    assert d.PixelSpacing == [1.5, 2.0]
    assert (d.Rows, d.Columns) == (60, 100)
    assert (d.SliceThickness, d.SpacingBetweenSlices) == (2.5, 3.0)
    assert d.ImagePositionPatient == [1 - 100, 2 - 45, 3 + 6 - 3]
    assert d.SliceLocation == 6
    assert affine_lps(g)[2, 2] == -3


# ---------------------------------------------------------------------------------------------- what validators say


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


# --------------------------------------------------------------------------------------------------- pixel values


def _values(image: Image, **options: Any) -> tuple[np.ndarray, list[Any]]:
    files = list(datasets(image, **options))
    return np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in files]), files


@pytest.mark.parametrize("kind", ["zero", "constant", "hot", "negative", "large", "noise"])
def test_values_come_back_through_the_rescale_slope(kind: str) -> None:
    rng = np.random.default_rng(5)
    data = rng.rayleigh(40, (3, 7, 6)).astype(np.float32)
    data = {
        "zero": data * 0,
        "constant": data * 0 + 77.7,
        "hot": np.where(np.arange(126).reshape(3, 7, 6) == 60, 1e6, data),
        "negative": data - 50,
        "large": data * 1e7,
        "noise": data,
    }[kind].astype(np.float32)
    found, files = _values(picture(data=data))
    assert len({(d.RescaleSlope, d.WindowWidth, d.PixelRepresentation) for d in files}) == 1
    d = files[0]
    assert np.abs(found - data).max() <= float(d.RescaleSlope) / 2 * (1 + 1e-5) + 1e-6 * np.abs(data).max()
    assert float(d.RescaleSlope) <= max(np.abs(data).max() / 29999, 1)
    assert float(d.WindowWidth) >= 1
    assert d.PixelRepresentation == (kind == "negative")
    assert all(len(str(v)) <= 16 for v in (d.RescaleSlope, d.WindowWidth, d.WindowCenter))


def test_a_tiny_image_is_lifted_by_a_power_of_ten_and_says_so(tmp_path: Path) -> None:
    data = picture().data * np.float32(1e-9)
    found, files = _values(picture(data=data))
    assert 100 <= float(files[0].WindowWidth) <= 1001
    assert "times 1e+07" in files[0].ImageComments
    write_dicom(picture(data=data), tmp_path / "s")
    unit = read_back(tmp_path / "s")["unit"]
    assert np.abs(found / unit - data).max() <= float(files[0].RescaleSlope) / unit * 0.51


def test_the_window_spans_zero_to_the_brightest_but_for_a_hot_voxel() -> None:
    data = np.random.default_rng(0).uniform(0, 1000, (3, 40, 40)).astype(np.float32)
    data[0, 0, 0] = 1e6
    d = next(datasets(picture(data=data, geometry=geometry(np.random.default_rng(0), (3, 40, 40)))))
    low = float(d.WindowCenter) - 0.5 - (float(d.WindowWidth) - 1) / 2
    high = float(d.WindowCenter) - 0.5 + (float(d.WindowWidth) - 1) / 2
    assert abs(low) < 1e-6
    assert 985 < high < 1000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float, tmp_path: Path) -> None:
    image = picture()
    image.data[1, 2, 3] = bad
    with pytest.raises(ReconError, match="1 of 126 voxels are NaN or infinite"):
        write_dicom(image, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_phase_is_a_series_of_its_own_in_milliradians(tmp_path: Path) -> None:
    phase = np.linspace(-np.pi, np.pi, 126, dtype=np.float64).reshape(3, 7, 6)
    image = picture(data=(100 * np.exp(1j * phase)).astype(np.complex64))
    files = write_dicom(image, tmp_path / "s", parts=("magnitude", "phase"))
    assert sorted({f.parent.name for f in files}) == ["SE01", "SE02"]
    d = [pydicom.dcmread(f) for f in files]
    found = np.stack([x.pixel_array * float(x.RescaleSlope) for x in d[3:]]) / 1000
    assert np.abs(np.exp(1j * found) - np.exp(1j * phase)).max() < 1e-4
    assert d[3].RescaleType == "mrad"
    assert d[3].SeriesInstanceUID != d[0].SeriesInstanceUID
    assert d[3].StudyInstanceUID == d[0].StudyInstanceUID
    assert d[3].FrameOfReferenceUID == d[0].FrameOfReferenceUID
    assert any(name.endswith("_ph") for name in dcm2niix(tmp_path / "s", tmp_path / "nii"))


def test_hounsfield_units_are_whole_numbers_in_a_ct_image() -> None:
    data = np.linspace(-1024, 3071, 126, dtype=np.float32).reshape(3, 7, 6)
    found, files = _values(picture(data=data, units="HU"))
    assert files[0].Modality == "CT"
    assert (files[0].RescaleSlope, files[0].RescaleType) == (1, "HU")
    assert np.array_equal(found, np.rint(data))


# ----------------------------------------------------------------------------------------------- several volumes


def test_repetitions_become_the_fourth_dimension_for_dcm2niix(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    image = picture(data=whole_numbers(rng, (4, 3, 7, 6)), axes=("repetition",))
    assert compared(image, tmp_path) == ""


def test_echoes_share_a_series_and_their_echo_times_part_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    header = replace(HEADER, sequence=replace(HEADER.sequence, TE=(5.0, 10.0)))
    image = picture(data=whole_numbers(rng, (2, 3, 7, 6)), axes=("contrast",), header=header)
    files = write_dicom(image, tmp_path / "s")
    d = [pydicom.dcmread(f) for f in files]
    assert len({x.SeriesInstanceUID for x in d}) == 1
    assert [(x.EchoNumbers, x.EchoTime) for x in d] == [(1, 5)] * 3 + [(2, 10)] * 3
    theirs = dcm2niix(tmp_path / "s", tmp_path / "nii")
    for n in (1, 2):
        write_nifti(picture(data=image.data[n - 1]), tmp_path / f"{n}.nii")
        assert differences(nib.load(tmp_path / f"{n}.nii"), theirs[f"1_e{n}"]) == ""


def test_contrasts_without_echo_times_of_their_own_and_sets_are_series_of_their_own() -> None:
    data = whole_numbers(np.random.default_rng(3), (2, 2, 3, 7, 6))
    d = list(datasets(picture(data=data, axes=("contrast", "set"))))
    assert len({x.SeriesInstanceUID for x in d}) == 4
    assert sorted({int(x.SeriesNumber) for x in d}) == [1, 2, 3, 4]
    assert len({x.RescaleSlope for x in d}) == 1
    assert d[-1].SeriesDescription == "t2_tse sense contrast 2 set 2"


def test_cardiac_phases_and_repetitions_count_one_time_axis() -> None:
    data = whole_numbers(np.random.default_rng(3), (3, 2, 1, 7, 6))
    image = picture(data=data, axes=("phase", "repetition"), geometry=replace(picture().geometry, shape=(1, 7, 6)))
    d = list(datasets(image))
    assert {int(x.NumberOfTemporalPositions) for x in d} == {6}
    assert sorted(int(x.TemporalPositionIdentifier) for x in d) == [1, 2, 3, 4, 5, 6]
    assert [int(x.InstanceNumber) for x in d] == [1, 2, 3, 4, 5, 6]


# ------------------------------------------------------------------------------------------------ identity, record


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
