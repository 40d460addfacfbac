"""Which images of a folder are CT series: several of them, passes stored as one, and objects that are not a series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

import recon
from recon.data import CTImages, DataError
from recon.recipe import CT, Recipe
from tests.io import ct_files

KEEP = Recipe(ct=CT(strength=0))
HU = np.clip(ct_files.body(), -1024, None)


def read(folder: Path) -> CTImages:
    scan = recon.read(folder)
    assert isinstance(scan, CTImages)
    return scan


def test_several_series_in_one_folder_are_distinguished(tmp_path: Path) -> None:
    other = ct_files.body((3, 40, 48), seed=5)
    ct_files.write(tmp_path / "in", HU, number=4)
    ct_files.write(tmp_path / "in/below", other, series="other", number=2)
    scan = read(tmp_path / "in")
    assert [s.label for s in scan.series] == ["series 2", "series 4"]
    assert [len(s.source) for s in scan.series] == [3, 4]
    assert np.array_equal(recon.reconstruct(scan, KEEP, stack=1).data, HU)


def test_localizers_and_other_objects_are_left_out_and_counted(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", HU)

    def scout(d: pydicom.Dataset, k: int) -> None:
        d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    ct_files.write(tmp_path / "in", HU[:1], series="scout", change=scout)
    (tmp_path / "in/readme.txt").write_text("not DICOM")
    scan = read(tmp_path / "in")
    assert len(scan.series) == 1
    assert scan.notes == ("left out: 1 localizers",)


def test_a_dose_report_stored_as_ct_image_is_left_out_and_counted(tmp_path: Path) -> None:
    def page(d: pydicom.Dataset, k: int) -> None:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
            delattr(d, keyword)
        d.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]

    ct_files.write(tmp_path / "in", HU)
    ct_files.write(tmp_path / "in", HU[:1], series="report", number=999, change=page)
    scan = read(tmp_path / "in")
    assert [len(s.source) for s in scan.series] == [4]
    assert scan.notes == ("left out: 1 pages of a report",)
    ct_files.write(tmp_path / "alone", HU[:1], series="report", number=999, change=page)
    with pytest.raises(DataError, match=r"series 999, instance 1, lacks .* no position"):
        read(tmp_path / "alone")


KINDS = ["AcquisitionNumber", "ConvolutionKernel", "KVP", "TemporalPositionIdentifier", "AcquisitionTime"]


@pytest.mark.parametrize("keyword", KINDS)
def test_passes_and_kernels_stored_under_one_uid_are_distinguished(keyword: str, tmp_path: Path) -> None:
    def second(d: pydicom.Dataset, k: int) -> None:
        setattr(d, keyword, "101112" if keyword == "AcquisitionTime" else "2")
        d.SOPInstanceUID = generate_uid(entropy_srcs=["second", str(k)])

    ct_files.write(tmp_path / "in/a", HU)
    ct_files.write(tmp_path / "in/b", HU + 5, change=second)
    scan = read(tmp_path / "in")
    found = {float(s.voxels.read(0, 4).max()) for s in scan.series}
    assert found == {HU.max(), HU.max() + 5}
    outs = [recon.write(recon.reconstruct(scan, KEEP, stack=n), [tmp_path / f"out{n}"])[0] for n in (0, 1)]
    assert len({pydicom.dcmread(p).SeriesInstanceUID for p in outs}) == 2


def test_times_of_single_slices_do_not_divide_a_volume(tmp_path: Path) -> None:
    def timed(d: pydicom.Dataset, k: int, first: int) -> None:
        d.AcquisitionTime = f"1010{first + k:02d}"
        d.SOPInstanceUID = generate_uid(entropy_srcs=[str(first), str(k)])

    ct_files.write(tmp_path / "in/a", HU, change=lambda d, k: timed(d, k, 0))
    ct_files.write(tmp_path / "in/b", HU + 5, change=lambda d, k: timed(d, k, 4))
    with pytest.raises(DataError, match="slices twice at the same position"):
        read(tmp_path / "in")


def _blocks(folder: Path, second: Callable[[pydicom.Dataset], None], numbers: bool = True, first: int = 4) -> None:
    """Eight slices of one series, those from `first` on changed and of another acquisition."""

    def change(d: pydicom.Dataset, k: int) -> None:
        if k >= first:
            second(d)
            d.AcquisitionNumber = "2" if numbers else "1"

    ct_files.write(folder, np.concatenate([HU, HU + 5]), change=change)


def _tilted(d: pydicom.Dataset) -> None:
    d.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(0.3)), float(-np.sin(0.3))]
    x, y, z = d.ImagePositionPatient
    d.ImagePositionPatient = [x, y, f"{float(z) + 40:g}"]


def _moved(d: pydicom.Dataset) -> None:
    x, y, z = d.ImagePositionPatient
    d.ImagePositionPatient = [f"{float(x) + 8:g}", y, z]


@pytest.mark.parametrize("second", [_tilted, _moved])
def test_acquisitions_of_one_series_on_grids_of_their_own_are_each_an_image(
    second: Callable[[pydicom.Dataset], None], tmp_path: Path
) -> None:
    _blocks(tmp_path / "in", second)
    scan = read(tmp_path / "in")
    assert [len(s.source) for s in scan.series] == [4, 4]
    assert [float(s.voxels.read(0, 4).max()) for s in scan.series] == [HU.max(), HU.max() + 5]
    assert all("2 acquisitions of one series have different grids" in " ".join(s.notes) for s in scan.series)
    places = []
    for n in (0, 1):
        files = recon.write(recon.reconstruct(scan, KEEP, stack=n), [tmp_path / f"out{n}"])
        places += [tuple(map(float, pydicom.dcmread(f).ImagePositionPatient)) for f in files]
    given = [tuple(map(float, pydicom.dcmread(f).ImagePositionPatient)) for f in (tmp_path / "in").iterdir()]
    assert np.allclose(sorted(places), sorted(given), atol=1e-3)


@pytest.mark.parametrize(("numbers", "first", "says"), [
    (False, 4, "slices of 2 orientations"), (True, 6, "slices of 2 orientations"),
])  # fmt: skip
def test_tilts_that_no_acquisition_number_distinguishes_are_refused(
    numbers: bool, first: int, says: str, tmp_path: Path
) -> None:
    _blocks(tmp_path / "in", _tilted, numbers, first)
    with pytest.raises(DataError, match=says):
        read(tmp_path / "in")
