"""What a derived CT series holds: its headers, the names of its sources, fillings, steps, numbers and UIDs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

import recon
from recon.ct.images import fillings
from recon.io import ct_dicom, provenance
from recon.recipe import CT, Recipe, Solve
from tests.io import ct_files
from tests.io.validators import errors

KEEP = Recipe(ct=CT(strength=0))
HU = np.clip(ct_files.body(), -1024, None)


def test_the_derived_series_is_valid_and_names_its_source(tmp_path: Path) -> None:
    paths = ct_files.write(tmp_path / "in", HU)
    before = {p: p.read_bytes() for p in paths}
    assert not errors(paths[0])
    image = recon.reconstruct(recon.read(tmp_path / "in"), Recipe(solve=Solve(method="tv", iterations=5)))
    written = recon.write(image, [tmp_path / "out"])
    assert {p: p.read_bytes() for p in paths} == before
    sources = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, paths)}
    seen = set()
    for path in written:
        assert not errors(path)
        d = pydicom.dcmread(path)
        s = sources[d.SourceImageSequence[0].ReferencedSOPInstanceUID]
        for same in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber", "KVP",
                     "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "InstanceNumber",
                     "Manufacturer",                     "WindowCenter", "AcquisitionTime"):  # fmt: skip
            assert d.get(same) == s.get(same), same
        assert str(d.PatientName) == ct_files.NAME
        assert d.SeriesInstanceUID != s.SeriesInstanceUID
        assert d.SOPInstanceUID not in sources
        assert d.SeriesNumber == 1003
        assert list(d.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
        assert "tv" in d.DerivationDescription
        assert d.ContributingEquipmentSequence[-1].Manufacturer == "recon"
        seen.add(d.SOPInstanceUID)
    assert len(seen) == len(paths)
    assert ct_files.ID not in str(image)
    assert ct_files.ID not in provenance.as_json(image)


def test_a_body_part_that_is_not_named_leaves_the_derived_series_valid(tmp_path: Path) -> None:
    paths = ct_files.write(tmp_path / "in", HU, change=lambda d, k: delattr(d, "BodyPartExamined"))
    assert errors(paths[0])
    (*written,) = recon.write(recon.reconstruct(recon.read(tmp_path / "in"), KEEP), [tmp_path / "out"])
    assert not errors(written[0])


def test_elements_that_describe_the_old_pixels_are_removed(tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.SmallestImagePixelValue = 3
        d.private_block(0x0029, "ACME CSA", create=True).add_new(1, "LO", "secret")
        d.add_new(0x60003000, "OW", b"\0\0")
        d.LossyImageCompression, d.LossyImageCompressionRatio = "01", "4"
        d.LossyImageCompressionMethod = "ISO_10918_1"

    ct_files.write(tmp_path / "in", HU, change=change)
    image = recon.reconstruct(recon.read(tmp_path / "in"), KEEP)
    assert any("with loss" in note for note in image.notes)
    d = pydicom.dcmread(recon.write(image, [tmp_path / "out"])[0])
    assert "SmallestImagePixelValue" not in d
    assert (0x0029, 0x1001) not in d
    assert (0x6000, 0x3000) not in d
    assert d.LossyImageCompression == "01"


def test_fillings_outside_of_the_circle_stay_as_they_are(tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.PixelRepresentation = 1
        stored = np.where(corner, -2000, HU[k] + 1024).astype("<i2")
        d.PixelPaddingValue = -2000
        d.PixelData = stored.tobytes()

    y, x = np.mgrid[:40, :48]
    corner = (y - 20) ** 2 + (x - 24) ** 2 > 24**2
    ct_files.write(tmp_path / "in", HU, change=change)
    image = recon.reconstruct(recon.read(tmp_path / "in"), Recipe(solve=Solve(method="tv", iterations=5)))
    assert (image.data[:, corner] == -3024).all()
    assert (image.data[:, ~corner] > -1200).all()
    recon.write(image, [tmp_path / "out"])
    assert np.array_equal(recon.read(tmp_path / "out").series[0].voxels.read(0, 4) == -3024, np.stack([corner] * 4))


@pytest.mark.parametrize(("peak", "source", "slope"), [
    (3000.0, 1.0, 1.0), (32767.0, 1.0, 1.0), (-32767.0, 1.0, 1.0), (32768.0, 1.0, None), (60000.0, 1.0, None),
    (-60000.0, 1.0, None), (3000.0, 0.25, 0.25), (9000.0, 0.25, None), (3000.0, 4.0, 1.0),
])  # fmt: skip
def test_values_that_16_bits_do_not_hold_in_steps_of_the_source_get_coarser_steps(
    peak: float, source: float, slope: float | None, tmp_path: Path
) -> None:
    """Metal on an extended scale: a number that runs over would come back as air."""
    ct_files.write(tmp_path / "in", HU, change=lambda d, k: setattr(d, "RescaleSlope", str(source)))
    image = recon.reconstruct(recon.read(tmp_path / "in"), KEEP)
    data = image.data.clip(-1000, 1000)
    data[..., 5, 7] = peak
    recon.write(replace(image, data=data), [tmp_path / "out"])
    back = recon.read(tmp_path / "out").series[0]
    step = float(back.source[0].RescaleSlope)
    assert step == pytest.approx(slope if slope else abs(peak) / 32767, rel=1e-3)
    assert np.abs(back.voxels.read(0, len(HU)) - data).max() <= 0.501 * step


@pytest.mark.parametrize(("given", "written"), [
    ([5, 4, 3, 2], [5, 4, 3, 2]), ([1, 1, 2, 3], [1, 2, 3, 4]), ([1, None, 2, 3], [1, 2, 3, 4]),
])  # fmt: skip
def test_derived_slices_keep_their_numbers_where_each_has_its_own(
    given: list[int | None], written: list[int], tmp_path: Path
) -> None:
    """Two slices of one number and series are one slice to some archives."""
    ct_files.write(tmp_path / "in", HU, change=lambda d, k: setattr(d, "InstanceNumber", given[k]))
    files = recon.write(recon.reconstruct(recon.read(tmp_path / "in"), KEEP), [tmp_path / "out"])
    d = sorted((pydicom.dcmread(f) for f in files), key=lambda x: float(x.ImagePositionPatient[2]))
    assert [int(x.InstanceNumber) for x in d] == written
    assert len({f.name for f in files}) == len(HU)


def test_uids_follow_from_what_was_done(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", HU)
    scan = recon.read(tmp_path / "in")
    uids = []
    for n, recipe in enumerate((KEEP, KEEP, Recipe(solve=Solve(method="tv", iterations=3)))):
        first = recon.write(recon.reconstruct(scan, recipe), [tmp_path / f"out{n}"])[0]
        uids.append(pydicom.dcmread(first).SeriesInstanceUID)
    assert uids[0] == uids[1] != uids[2]
    assert generate_uid() not in uids
    assert list(ct_dicom.files(first)) == [first]


def test_a_dark_streak_does_not_hide_the_filling_outside_of_the_circle() -> None:
    volume = HU.astype(np.float32)
    volume[:, :6] = -2000
    volume[0, 20, 20:24] = (-3000, -2500, -1200, -1150)
    assert np.array_equal(fillings(volume), volume == -2000)
    volume[:, :6] = -1000
    assert not fillings(volume).any()
