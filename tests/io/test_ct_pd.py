"""DICOM-CT-PD: what a folder says is read whatever its encoding, and what is no scan is refused with what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from recon.data import CTViews, DataError
from recon.io.read import read, recognise
from tests import command
from tests.io import ct_files, ct_pd_files
from tests.io.ct_pd_files import Ball, Scanner

TINY = Scanner(
    columns=16, column_mm=26.0, rows=4, row_mm=4.0, views=24, centre=(8.25, 2.75), spots=((2e-4, 0, 0), (2e-4, -0.5, 4))
)
BALLS = (Ball((30, 20, 1), 25, 200),)
Z = (-5.0, 5.0)


def scan_of(folder: Path) -> CTViews:
    scan = read(folder)
    assert isinstance(scan, CTViews)
    return scan


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_every_encoding_of_a_scan_reads_the_same(implicit: bool, transposed: bool, tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path, BALLS, TINY, Z, implicit=implicit, transposed=transposed)
    assert recognise(tmp_path) == "DICOM-CT-PD"
    scan = scan_of(tmp_path)
    phi, z = ct_pd_files.path(TINY, Z)
    assert scan.angles - scan.angles[0] == pytest.approx(phi - phi[0], abs=1e-5)
    assert scan.angles[0] == pytest.approx(phi[0], abs=1e-6)
    assert scan.positions == pytest.approx(z, abs=1e-5)
    assert scan.shifts[1] == pytest.approx((2e-4, -0.5, 4))
    assert (scan.radius, scan.distance, scan.shape, scan.spacing) == (595, pytest.approx(1085.6), (4, 16), (4, 26))
    assert scan.centre == pytest.approx((1.75, 7.25))
    assert (scan.curved, scan.helical, scan.water) == (True, True, ct_pd_files.WATER)
    stored = scan.views.stored(7, 9)
    for k in (7, 8):
        exact = ct_pd_files.projection(TINY, BALLS, phi[k], z[k], TINY.spots[k % 2])
        assert stored[k - 7] * scan.scale[k, 0] + scan.scale[k, 1] == pytest.approx(exact, abs=2e-4)


def test_big_endian_words_are_the_same_numbers(tmp_path: Path) -> None:
    """Explicit VR Big Endian is retired, and archives hold it still."""

    def big(d: pydicom.Dataset, k: int) -> None:
        d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
        d.PixelData = np.frombuffer(d.PixelData, "<u2").astype(">u2").tobytes()

    ct_pd_files.write(tmp_path / "little", BALLS, TINY, Z, implicit=False)
    ct_pd_files.write(tmp_path / "big", BALLS, TINY, Z, implicit=False, change=big)
    little, other = scan_of(tmp_path / "little"), scan_of(tmp_path / "big")
    assert np.array_equal(little.views.stored(0, 16), other.views.stored(0, 16))
    assert np.array_equal(little.angles, other.angles)


def test_private_numbers_without_a_type_are_read_by_their_tags(tmp_path: Path) -> None:
    def unknown(d: pydicom.Dataset, k: int) -> None:
        for tag in ((0x7031, 0x1001), (0x7031, 0x1002), (0x7031, 0x1033), (0x7029, 0x1010)):
            value, kind = d[tag].value, "<u2" if tag[0] == 0x7029 else "<f4"
            del d[tag]
            d.add_new(tag, "UN", np.atleast_1d(np.array(value, kind)).tobytes())

    for name, change in (("a", None), ("b", unknown)):
        ct_pd_files.write(tmp_path / name, BALLS, TINY, Z, implicit=False, change=change)
    a, b = scan_of(tmp_path / "a"), scan_of(tmp_path / "b")
    assert a.angles == pytest.approx(b.angles)
    assert (a.centre, a.shape) == (b.centre, b.shape)


def test_water_in_1_per_cm_is_converted_with_a_note(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path, BALLS, TINY, Z, change=_private(0x7041, 0x01, "DS", "0.192"))
    scan = scan_of(tmp_path)
    assert scan.water == pytest.approx(0.0192)
    assert "1/cm" in " ".join(scan.notes)


def test_water_is_read_where_the_first_versions_of_the_format_state_it(tmp_path: Path) -> None:
    def older(d: pydicom.Dataset, k: int) -> None:
        del d[0x7041, 0x1001]
        d.add_new((0x0018, 0x0061), "DS", "0.0193")

    ct_pd_files.write(tmp_path, BALLS, TINY, Z, implicit=False, change=older)
    assert scan_of(tmp_path).water == pytest.approx(0.0193)


def test_the_central_column_of_ge_is_counted_from_the_other_end(tmp_path: Path) -> None:
    """PyTomography measured two scans of GE: the column of 444.75 among 888 is number 443.25, and 442.25 from 0."""
    s = replace(TINY, columns=888, column_mm=0.5, centre=(443.25, 2.75), views=16)
    for maker, column in (("GE MEDICAL SYSTEMS", 442.25), ("SIEMENS", 442.25)):
        ct_pd_files.write(tmp_path / maker, (), s, Z, maker=maker)
        scan = scan_of(tmp_path / maker)
        assert scan.centre == pytest.approx((1.75, column))
        assert any("GE: the central column" in n for n in scan.notes) == maker.startswith("GE")
    stated = pydicom.dcmread(sorted((tmp_path / "GE MEDICAL SYSTEMS").iterdir())[0])[0x7031, 0x1033].value
    assert np.frombuffer(stated, "<f4")[0] == pytest.approx(444.75)


@pytest.mark.parametrize("position", ["HFS", "FFS"])
def test_a_scan_of_ge_reads_as_that_of_another_maker(position: str, tmp_path: Path) -> None:
    s = replace(TINY, centre=(7.25, 2.0))
    scans = []
    for maker in ("GE MEDICAL SYSTEMS", "SIEMENS"):
        ct_pd_files.write(tmp_path / maker, BALLS, s, Z, position=position, maker=maker)
        scans.append(scan_of(tmp_path / maker))
    ge, other = scans
    for name in ("angles", "positions", "shifts", "scale"):
        assert getattr(ge, name) == pytest.approx(getattr(other, name), abs=1e-6)
    assert ge.centre == pytest.approx(other.centre)
    assert np.array_equal(ge.views.stored(3, 6), other.views.stored(3, 6))
    said = " ".join(ge.notes)
    assert ("increase towards the head" in said) == (position == "FFS")


def _private(group: int, element: int, vr: str, value: object, only: int | None = None):  # type: ignore[no-untyped-def]
    def change(d: pydicom.Dataset, k: int) -> None:
        if only is None or k == only:
            d[group, 0x1000 + element] = pydicom.DataElement((group, 0x1000 + element), vr, value)

    return change


def _set(only: int | None = None, **values: object) -> Callable[[pydicom.Dataset, int], None]:
    def change(d: pydicom.Dataset, k: int) -> None:
        for keyword, value in values.items():
            if only is None or k == only:
                setattr(d, keyword, value)

    return change


def _without(group: int, element: int) -> Callable[[pydicom.Dataset, int], None]:
    def change(d: pydicom.Dataset, k: int) -> None:
        if k == 5:
            del d[group, 0x1000 + element]

    return change


def _two_series(d: pydicom.Dataset, k: int) -> None:
    d.SeriesInstanceUID = f"1.2.{1 + k % 2}"


def _turned_back(d: pydicom.Dataset, k: int) -> None:
    if k >= 20:
        d[0x7031, 0x1002].value = 5.0 - d[0x7031, 0x1002].value


BAD = {
    "two series": (_two_series, r"projections of 2 series \(\d+, \d+\); put each into its own folder"),
    "two spectra": (_private(0x7033, 0x63, "US", 2, 5), r"projections of 2 spectra"),
    "not CT": (_set(Modality="MR"), "of modality MR, not CT"),
    "angle is NaN": (_private(0x7031, 0x01, "FL", float("nan"), 5), "projection 6 has an angle, a position"),
    "no angle": (_without(0x7031, 0x01), "projection 6 states no angle"),
    "no distance": (_without(0x7031, 0x31), "projection 6 states no distance"),
    "no rescale": (_set(5, RescaleSlope=None), "projection 6 has no rescale to line integrals"),
    "no number": (_set(5, InstanceNumber=None), "a projection without number"),
    "twice": (_set(5, InstanceNumber=5), r"1 projections appear twice \(5\)"),
    "absurd number": (
        _set(5, InstanceNumber=2_000_000_000),
        r"1 to 2000000000 are missing \(6, 25, 26, 27, … 1999999999\)",
    ),
    "another size": (_set(5, Rows=17), "projection 6 holds 17 × 4 pixels, but its detector has 4 rows and 16 columns"),
    "another place": (_private(0x7031, 0x03, "FL", 600.0, 5), "different values of radius"),
    "angle jumps": (_private(0x7031, 0x01, "FL", 3.0, 5), r"the gantry jumps by .* between projection [56] and"),
    "table back": (_turned_back, "the table moves backwards between projection 20 and projection 21"),
    "spherical": (_private(0x7029, 0x0B, "CS", "SPHERICAL"), "the detector is SPHERICAL"),
    "parallel": (_private(0x7037, 0x0A, "CS", "PARALLEL"), "of geometry PARALLEL"),
    "no logarithm": (_private(0x7039, 0x09, "CS", "NO"), "intensities .LogFlag NO"),
    "water": (_private(0x7041, 0x01, "DS", "7"), "attenuation of water is given as 7"),
    "detector before the axis": (_private(0x7031, 0x31, "FL", 500.0), "not a possible scanner"),
    "table stands": (_private(0x7031, 0x02, "FL", 1.0), "the table does not move"),
    "many frames": (_set(5, NumberOfFrames=2), "projection 6 is not a single projection"),
    "spots without a pattern": (
        lambda d, k: _private(0x7033, 0x0C, "FL", 0.1 * k)(d, k),
        "the focal spot has more than 8 positions",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_makes_no_scan_is_refused_in_one_sentence_without_the_patient(kind: str, tmp_path: Path) -> None:
    change, says = BAD[kind]
    small = replace(TINY, rows=4, views=16)
    ct_pd_files.write(tmp_path / "in", BALLS, small, Z, change=change)
    ended = command.recon("run", tmp_path / "in", "-o", tmp_path / "out.nii.gz", "-q")
    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert re.search(says, ended.err), ended.err
    assert not any(word in ended.err for word in ("geheim", "MÜLLER", ".dcm"))
    assert not list(tmp_path.glob("out*"))


def test_missing_projections_are_named(tmp_path: Path) -> None:
    paths = ct_pd_files.write(tmp_path, BALLS, TINY, Z)
    for k in (6, 7, 12):
        paths[k].unlink()
    with pytest.raises(
        DataError, match=r"3 projections of 1 to \d+ are missing \(7, 8, 13\); copy the whole folder again"
    ):
        read(tmp_path)


def test_a_projection_cut_short_is_named(tmp_path: Path) -> None:
    paths = ct_pd_files.write(tmp_path, BALLS, TINY, Z)
    paths[6].write_bytes(paths[6].read_bytes()[:-20])
    scan = scan_of(tmp_path)
    with pytest.raises(DataError, match="the pixels of projection 7 cannot be read"):
        scan.views.stored(0, 10)
    paths[8].write_bytes(paths[8].read_bytes()[:100])
    paths[9].write_bytes(paths[9].read_bytes()[:400])
    with pytest.raises(DataError, match=r"truncated|no Modality"):
        read(tmp_path)


def test_images_beside_projections_are_refused(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path / "in" / "projections", BALLS, TINY, Z)
    ct_files.write(tmp_path / "in" / "z", ct_files.body())
    with pytest.raises(DataError, match="projections and also 4 objects of modality CT"):
        read(tmp_path / "in")
    (tmp_path / "in" / "z").rename(tmp_path / "in" / "a")
    with pytest.raises(DataError, match="CT images and projections"):
        read(tmp_path / "in")


def test_a_folder_of_projections_becomes_slices_in_hu_with_their_place(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path / "in", BALLS, TINY, Z)
    told = command.recon("info", tmp_path / "in")
    assert told.code == 0
    assert "helical, curved detector" in told.out
    assert "flying focal spot: 2 positions" in told.out
    assert "geheim" not in told.out
    recipe = tmp_path / "r.toml"
    recipe.write_text("[ct]\nmatrix = 32\nthickness = 3.0\n")
    out = tmp_path / "out.nii.gz"
    ended = command.recon("run", tmp_path / "in", "-o", out, "-o", tmp_path / "dicom", "--recipe", recipe)
    assert ended.code == 0, ended.err
    image = nib.load(out)
    assert image.header.get_zooms()[2] == pytest.approx(3)
    at = np.linalg.inv(image.affine) @ [-30, 20, 1, 1]  # RAS of x = 30 to the left, y = 20 to the front
    i, j, k = np.rint(at[:3]).astype(int)
    assert image.get_fdata()[i, j, k] == pytest.approx(200, abs=60)
    assert image.get_fdata()[i, 31 - j, k] == pytest.approx(0, abs=60)
    slices = sorted((tmp_path / "dicom").rglob("*.dcm"))
    assert str(pydicom.dcmread(slices[0]).PatientID) == ct_pd_files.ID
    checked = command.recon("check", out)
    assert checked.code == 0
    assert "this installation would make the same image" in checked.out
