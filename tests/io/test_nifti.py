"""NIfTI is read back with nibabel and compared with independent formulas."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from recon.data import Image, Sequence
from recon.geometry import affine_ras, from_centre
from recon.io.nifti import write_nifti
from recon.io.provenance import read_back
from tests.io.pictures import HEADER, RECIPE, geometry, picture, whole_numbers


def test_voxels_and_affine_are_those_of_the_image(tmp_path: Path) -> None:
    g = from_centre((10, 20, 30), (1, 0, 0), (0, 1, 0), (0, 0, 1), (12, 21, 8), (6, 7, 2))
    data = whole_numbers(np.random.default_rng(0), (2, 7, 6)) / 7
    assert write_nifti(Image(data, g), tmp_path / "a.nii.gz") == [tmp_path / "a.nii.gz", tmp_path / "a.json"]
    nifti = nib.load(tmp_path / "a.nii.gz")
    assert nifti.shape == (6, 7, 2)
    assert nifti.get_data_dtype() == np.float32
    assert np.asarray(nifti.dataobj)[5, 0, 1] == data[1, 0, 5]
    # Left is −x and anterior +y in RAS: the corner at LPS (10 − 6, 20 − 9, 30 − 4) is written as (−4, −11, 26).
    expected = [[-2, 0, 0, -4], [0, -3, 0, -11], [0, 0, 4, 26], [0, 0, 0, 1]]
    assert np.allclose(nifti.affine, expected, atol=1e-5)
    assert np.allclose(nifti.get_qform(), expected, atol=1e-5)
    header = nifti.header
    assert (int(header["qform_code"]), int(header["sform_code"]), int(header["xyzt_units"])) == (1, 1, 10)
    raw = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert struct.unpack("<2f", raw[112:120]) == (1.0, 0.0)  # scl_slope and scl_inter


@pytest.mark.parametrize("seed", range(6))
def test_qform_and_sform_agree_for_both_hands(seed: int, tmp_path: Path) -> None:
    g = geometry(np.random.default_rng(seed), (3, 7, 6), hand=(-1) ** seed)
    write_nifti(picture(geometry=g), tmp_path / "a.nii")
    header = nib.load(tmp_path / "a.nii").header
    assert np.abs(header.get_qform() - header.get_sform()).max() < 1e-3
    assert int(header["pixdim"][0]) == (-1) ** seed
    assert np.sign(np.linalg.det(header.get_sform())) == (-1) ** seed


def test_the_same_image_gives_the_same_bytes_under_any_name_at_any_time(tmp_path: Path) -> None:
    write_nifti(picture(), tmp_path / "a.nii.gz")
    write_nifti(picture(provenance={**RECIPE, "date": "2031-01-01"}), tmp_path / "b.nii.gz")
    packed = (tmp_path / "a.nii.gz").read_bytes()
    assert packed == (tmp_path / "b.nii.gz").read_bytes()
    assert packed[3:8] == bytes(5)  # gzip's flags (no name) and time


def test_nothing_of_the_patient_is_in_the_files(tmp_path: Path) -> None:
    files = write_nifti(picture(), tmp_path / "a.nii")
    content = b"".join(f.read_bytes() for f in files)
    for secret in (b"Marked", b"SECRET-42", b"1970", b"ACC42", b"20240506", b"61.5"):
        assert secret not in content


def test_the_side_car_is_in_seconds_and_carries_the_record(tmp_path: Path) -> None:
    write_nifti(picture(trust={"residual": 1.25}), tmp_path / "a.nii")
    sidecar = json.loads((tmp_path / "a.json").read_text())
    assert (sidecar["EchoTime"], sidecar["RepetitionTime"], sidecar["FlipAngle"]) == (0.09, 4.0, 150.0)
    assert (sidecar["MagneticFieldStrength"], sidecar["ImagingFrequency"]) == (3.0, pytest.approx(123.2))  # T, MHz
    assert read_back(tmp_path / "a.nii")["trust"] == {"residual": 1.25}
    assert read_back(tmp_path / "a.nii")["provenance"] == RECIPE


def test_repetitions_are_the_fourth_dimension_with_tr_in_seconds(tmp_path: Path) -> None:
    data = whole_numbers(np.random.default_rng(0), (4, 3, 7, 6))
    write_nifti(picture(data=data, axes=("repetition",)), tmp_path / "a.nii")
    nifti = nib.load(tmp_path / "a.nii")
    assert nifti.shape == (6, 7, 3, 4)
    assert nifti.header.get_zooms()[3] == 4.0
    assert np.array_equal(nifti.get_fdata()[..., 2], data[2].T)


def test_an_unknown_tr_is_zero(tmp_path: Path) -> None:
    data = whole_numbers(np.random.default_rng(0), (4, 3, 7, 6))
    header = replace(HEADER, sequence=Sequence())
    write_nifti(picture(data=data, axes=("repetition",), header=header), tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").header.get_zooms()[3] == 0
    assert "RepetitionTime" not in json.loads((tmp_path / "a.json").read_text())


def test_other_counters_and_parts_get_files_of_their_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(2, 4, 2, 3, 7, 6)) + 1j).astype(np.complex64)
    header = replace(HEADER, sequence=Sequence(TE=(5.0, 10.0), TR=(20.0,)))
    image = picture(data=data, axes=("contrast", "repetition", "set"), header=header)
    write_nifti(image, tmp_path / "a.b.nii.gz", parts=("magnitude", "phase"))
    names = {p.name for p in tmp_path.iterdir()}
    expected = {f"a.b_echo-{e}_set-{s}_part-{p}" for e in (1, 2) for s in (1, 2) for p in ("mag", "phase")}
    assert names == {n + e for n in expected for e in (".nii.gz", ".json")}
    name = "a.b_echo-2_set-1_part-phase"
    nifti = nib.load(tmp_path / f"{name}.nii.gz")
    assert np.allclose(nifti.get_fdata()[..., 3], np.angle(data[1, 3, 0]).T, atol=1e-6)
    sidecar = json.loads((tmp_path / f"{name}.json").read_text())
    assert (sidecar["EchoTime"], sidecar["EchoNumber"], sidecar["Units"]) == (0.01, 2, "rad")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_ses-pre_run-1_T2starw", "sub-01_ses-pre_run-1_echo-{}_part-{}_T2starw"),
        ("sub-01_T2starw", "sub-01_echo-{}_part-{}_T2starw"),
        ("sub-01_run-1", "sub-01_run-1_echo-{}_part-{}"),
        ("a_sub-01_T2w", "a_sub-01_T2w_echo-{}_part-{}"),
    ],
)
def test_a_name_of_bids_keeps_its_suffix_last(tmp_path: Path, name: str, expected: str) -> None:
    image = picture(data=np.ones((2, 3, 7, 6), np.complex64), axes=("contrast",))
    write_nifti(image, tmp_path / f"{name}.nii.gz", parts=("magnitude", "phase"))
    names = {expected.format(echo, part) for echo in (1, 2) for part in ("mag", "phase")}
    assert {p.name for p in tmp_path.iterdir()} == {n + e for n in names for e in (".nii.gz", ".json")}


def test_complex_voxels_stay_complex_when_asked(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(3, 7, 6)) + 1j * rng.normal(size=(3, 7, 6))).astype(np.complex64)
    write_nifti(picture(data=data), tmp_path / "a.nii", complex_=True)
    found = np.asarray(nib.load(tmp_path / "a.nii").dataobj)
    assert found.dtype == np.complex64
    assert np.array_equal(found, data.T)


def test_an_unknown_geometry_has_codes_of_zero_and_keeps_its_voxel_size(tmp_path: Path) -> None:
    g = replace(picture().geometry, known=False)
    write_nifti(picture(geometry=g), tmp_path / "a.nii")
    header = nib.load(tmp_path / "a.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    assert np.allclose(header.get_zooms(), g.voxel)
    assert json.loads((tmp_path / "a.json").read_text())["recon"]["geometry_known"] is False


def test_nifti_is_written_without_importing_pydicom_which_others_find_afterwards() -> None:
    program = (
        "import sys; from recon.io import nifti\n"
        "made = nifti._nibabel()\n"
        "assert 'pydicom' not in sys.modules, 'pydicom was imported'\n"
        "import pydicom\n"
        "assert made.Nifti1Image and pydicom.dcmread\n"
        "assert nifti._nibabel() is made\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sheared_grid_is_stated_only_by_the_matrix(tmp_path: Path) -> None:
    """A quaternion has no shear, so that the qform of a tilted gantry's slices claims nothing (code 0)."""
    g = replace(geometry(np.random.default_rng(0), (3, 7, 6)), shear=(0.0, 0.8))
    write_nifti(picture(geometry=g), tmp_path / "a.nii")
    nifti = nib.load(tmp_path / "a.nii")
    assert (int(nifti.header["qform_code"]), int(nifti.header["sform_code"])) == (0, 1)
    assert np.allclose(nifti.affine, affine_ras(g), atol=1e-4)


def test_each_contrast_has_its_own_times_and_flip_angle_or_none(tmp_path: Path) -> None:
    """Of two contrasts the second has another TR; a number of flip angles that does not match gives none."""
    sequence = replace(HEADER.sequence, TR=(1000.0, 2500.0), TE=(5.0, 9.0), TI=(30.0,), flip_deg=(10.0, 20.0))
    data = whole_numbers(np.random.default_rng(0), (2, 4, 3, 7, 6))
    image = picture(data=data, axes=("contrast", "repetition"), header=replace(HEADER, sequence=sequence))
    write_nifti(image, tmp_path / "a.nii")
    for n, (TR, TE, flip) in enumerate([(1.0, 0.005, 10), (2.5, 0.009, 20)], start=1):
        assert nib.load(tmp_path / f"a_echo-{n}.nii").header["pixdim"][4] == TR
        told = json.loads((tmp_path / f"a_echo-{n}.json").read_text())
        assert (told["RepetitionTime"], told["EchoTime"], told["FlipAngle"], told["InversionTime"]) == (
            TR,
            TE,
            flip,
            0.03,
        )
    short = replace(HEADER, sequence=replace(sequence, flip_deg=(), TR=()))
    write_nifti(replace(image, header=short), tmp_path / "b.nii")
    told = json.loads((tmp_path / "b_echo-2.json").read_text())
    assert not {"FlipAngle", "RepetitionTime"} & set(told)
    assert nib.load(tmp_path / "b_echo-2.nii").header["pixdim"][4] == 0
    three = np.concatenate([data, data[:1]])
    write_nifti(replace(image, data=three), tmp_path / "c.nii")
    assert "FlipAngle" not in json.loads((tmp_path / "c_echo-3.json").read_text())


def test_the_same_record_in_another_order_gives_the_same_bytes(tmp_path: Path) -> None:
    write_nifti(picture(), tmp_path / "a.nii")
    write_nifti(picture(provenance=dict(reversed(RECIPE.items()))), tmp_path / "b.nii")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()
