"""Places and values of voxels in DICOM, for dcm2niix and by formulas on pydicom's attributes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from recon.data import Image, ReconError
from recon.geometry import affine_lps, from_centre
from recon.io.dicom import datasets, write_dicom
from recon.io.nifti import write_nifti
from recon.io.provenance import read_back
from tests.io.pictures import HEADER, geometry, picture, whole_numbers
from tests.io.validators import dcm2niix, differences

X, Y, Z = np.eye(3)
#: Axial, sagittal and coronal in several turns, and slices stacked in both directions.
ALIGNED = [(X, Y, Z), (X, Y, -Z), (Y, -Z, X), (Y, -Z, -X), (X, -Z, Y), (X, -Z, -Y), (-Y, X, Z), (-X, -Y, Z)]


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


def test_phase_is_a_separate_series_in_milliradians(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("TE", [(5.0, 5.0), (5.0,), ()])
def test_contrasts_without_different_echo_times_are_not_echoes_of_one_series(TE: tuple[float, ...]) -> None:
    """Two contrasts of one echo time in one series would lie at the same place under the same time."""
    header = replace(HEADER, sequence=replace(HEADER.sequence, TE=TE))
    data = whole_numbers(np.random.default_rng(3), (2, 3, 7, 6))
    d = list(datasets(picture(data=data, axes=("contrast",), header=header)))
    assert len({x.SeriesInstanceUID for x in d[:3]}) == len({x.SeriesInstanceUID for x in d[3:]}) == 1
    assert d[0].SeriesInstanceUID != d[3].SeriesInstanceUID


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_times_that_no_clock_shows_are_empty_or_absent(bad: float) -> None:
    """Converters write −1 for what they do not know; EchoTime and RepetitionTime are of type 2, the others optional."""
    header = replace(HEADER, sequence=replace(HEADER.sequence, TE=(bad,), TR=(bad,), TI=(bad,), flip_deg=(bad,)))
    d = next(datasets(picture(header=header)))
    assert d.EchoTime == ""
    assert d.RepetitionTime == ""
    assert not d.get("InversionTime")
    assert "FlipAngle" not in d


def test_cardiac_phases_and_repetitions_count_one_time_axis() -> None:
    data = whole_numbers(np.random.default_rng(3), (3, 2, 1, 7, 6))
    image = picture(data=data, axes=("phase", "repetition"), geometry=replace(picture().geometry, shape=(1, 7, 6)))
    d = list(datasets(image))
    assert {int(x.NumberOfTemporalPositions) for x in d} == {6}
    # All phases of the first repetition lie before those of the second; the file holds phase by phase.
    assert [int(x.AcquisitionNumber) for x in d] == [1, 2, 1, 2, 1, 2]
    assert [int(x.TemporalPositionIdentifier) for x in d] == [1, 4, 2, 5, 3, 6]
    assert [int(x.InstanceNumber) for x in d] == [1, 2, 3, 4, 5, 6]
