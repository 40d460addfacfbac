"""Unevenly spaced slices stay where they were; missing slices are named; time points are distinguished."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

import recon
from recon.data import DataError, ReconError
from recon.geometry import flip
from recon.recipe import CT, Recipe, Solve
from tests import command
from tests.io import ct_files
from tests.io.validators import errors

KEEP = Recipe(ct=CT(strength=0))
HU = np.clip(ct_files.body((6, 40, 48)), -1024, None)
BLOCKS, JITTER = [0, 2.5, 5, 7.5, 12.5, 17.5], [0, 1.1, 1.9, 3.2, 4.0, 5.05]


def write(folder: Path, places: Sequence[float], numbers: Sequence[int] = range(1, 7), tilt: float = 0) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.InstanceNumber = str(numbers[k])
        d.ImagePositionPatient = ["-100.5", f"{-80.25 + tilt * places[k]:g}", f"{30 + places[k]:g}"]

    ct_files.write(folder, HU, change=change)


@pytest.mark.parametrize("tilt", [0, 0.24])
@pytest.mark.parametrize("places", [BLOCKS, JITTER])
def test_uneven_slices_are_denoised_and_written_where_they_were_measured(
    places: list[float], tilt: float, tmp_path: Path
) -> None:
    write(tmp_path / "in", places, tilt=tilt)
    image = recon.reconstruct(recon.read(tmp_path / "in"), Recipe(solve=Solve(method="tv", iterations=3)))
    assert any("unevenly spaced" in note and "instance" in note for note in image.notes)
    for k, z in enumerate(places):
        assert image.geometry.slice_position(k) == pytest.approx((-100.5, -80.25 + tilt * z, 30 + z), abs=1e-3)
    written = {str(d.SourceImageSequence[0].ReferencedSOPInstanceUID): d
               for d in map(pydicom.dcmread, recon.write(image, [tmp_path / "out"]))}  # fmt: skip
    for path in (tmp_path / "in").iterdir():
        source = pydicom.dcmread(path)
        assert written[str(source.SOPInstanceUID)].ImagePositionPatient == source.ImagePositionPatient
    assert not errors(next((tmp_path / "out").iterdir()))


def test_uneven_slices_turned_round_lie_where_they_were(tmp_path: Path) -> None:
    write(tmp_path / "in", BLOCKS)
    g = recon.read(tmp_path / "in").series[0].geometry
    turned = flip(g, "z")
    for k in range(6):
        assert turned.slice_position(5 - k) == pytest.approx(g.slice_position(k))


def test_a_format_of_one_spacing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "in", BLOCKS)
    run = command.recon("run", tmp_path / "in", "-o", tmp_path / "out", "-o", tmp_path / "out.nii.gz")
    assert run.code == 1
    assert "2.50 mm apart but 5.00 mm between slices 4 and 5 of 6; write DICOM" in run.err
    assert len(run.err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    image = recon.reconstruct(recon.read(tmp_path / "in"), KEEP)
    with pytest.raises(ReconError, match="equally spaced"):
        recon.write(image, [tmp_path / "out.h5"])


@pytest.mark.parametrize(("numbers", "lost"), [
    ([1, 2, 3, 6, 7, 8], 2), ([8, 7, 6, 3, 2, 1], 2), ([1, 2, 3, 5, 6, 7], 1),
   ([1, 2, 3, 4, 5, 6], 0), ([4, 1, 5, 2, 6, 3], 2),
])  # fmt: skip
def test_instance_numbers_distinguish_a_missing_slice_from_a_measured_gap(
    numbers: list[int], lost: int, tmp_path: Path
) -> None:
    write(tmp_path / "in", [0, 2.5, 5, 12.5, 15, 17.5], numbers)
    if lost:
        low, high = sorted(numbers[2:4])
        slices = f"{lost} slice{'s' if lost > 1 else ''}"
        with pytest.raises(DataError, match=f"lacks {slices} between instance {low} and instance {high}; copy"):
            recon.read(tmp_path / "in")
    else:
        assert recon.read(tmp_path / "in").series[0].geometry.steps == pytest.approx((2.5, 2.5, 7.5, 2.5, 2.5))


@pytest.mark.parametrize("order", ["time by time", "place by place"])
def test_time_points_without_an_attribute_are_distinguished_by_instance_numbers(order: str, tmp_path: Path) -> None:
    for t in range(3):

        def change(d: pydicom.Dataset, k: int, t: int = t) -> None:
            d.InstanceNumber = str(1 + (t * len(HU) + k if order == "time by time" else 3 * k + t))
            d.AcquisitionTime = f"1010{int(d.InstanceNumber):02d}"
            d.SOPInstanceUID = generate_uid(entropy_srcs=[str(t), str(k)])

        ct_files.write(tmp_path / f"in/{t}", HU + t, change=change)
    scan = recon.read(tmp_path / "in")
    assert all(
        "3 volumes of one series could be separated only by their instance numbers" in s.notes for s in scan.series
    )
    assert [float(s.voxels.read(0, 6).max()) for s in scan.series] == [2000, 2001, 2002]
