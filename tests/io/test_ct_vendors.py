"""CT series as scanners of several makers store them come back in their place, in HU, valid, with nothing added."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

import recon
from recon.data import CTImages, DataError
from recon.recipe import CT, Recipe, Solve
from tests.io import ct_files, ct_vendors
from tests.io.validators import dcm2niix, differences, errors

KEEP = Recipe(ct=CT(strength=0))
HU = ct_vendors.body()


def hounsfield(folder: Path) -> np.ndarray:
    """HU of a written series in the order of its instances."""
    files = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda d: int(d.InstanceNumber))
    return np.stack([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in files])


@pytest.mark.parametrize("name", ct_vendors.LOOKS)
def test_a_series_of_each_maker_comes_back_valid_in_its_place_and_in_hu(name: str, tmp_path: Path) -> None:
    look = ct_vendors.LOOKS[name]
    source, out = tmp_path / "in", tmp_path / "out"
    hu = ct_vendors.write(source, look)
    (*written,) = recon.write(recon.reconstruct(recon.read(source), KEEP), [out])
    assert np.array_equal(hounsfield(out), hu)
    assert not [e for path in written for e in errors(path)]
    first = pydicom.dcmread(next(source.iterdir()))
    assert str(pydicom.dcmread(written[0]).PatientName) == str(first.PatientName)
    assert not any(e.tag.is_private and e.tag.group != 0x0071 for e in pydicom.dcmread(written[0]) if e.VR == "LO"
                   and ct_files.NAME in str(e.value))  # fmt: skip
    if look.syntax != DeflatedExplicitVRLittleEndian:  # which dcm2niix does not read
        before, after = dcm2niix(source, tmp_path / "before"), dcm2niix(out, tmp_path / "after")
        assert not differences(before["3"], after["1003"])


@pytest.mark.parametrize("name", [n for n, look in ct_vendors.LOOKS.items() if look.padding is not None])
def test_what_fills_the_corners_is_neither_denoised_nor_forgotten(name: str, tmp_path: Path) -> None:
    hu = ct_vendors.write(tmp_path / "in", ct_vendors.LOOKS[name])
    image = recon.reconstruct(recon.read(tmp_path / "in"), Recipe(solve=Solve(method="tv", iterations=3)))
    recon.write(image, [tmp_path / "out"])
    filled = ~np.broadcast_to(ct_vendors.circle(), hu.shape)
    found = hounsfield(tmp_path / "out")
    assert np.array_equal(found[filled], hu[filled])
    assert (found[~filled] != hu[~filled]).mean() > 0.5


@pytest.mark.parametrize(("vr", "stated"), [("SS", -2000), ("US", 63536)])
def test_a_declared_filling_stays_declared_however_few_voxels_have_it(vr: str, stated: int, tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        stored = (HU[k] + 1024).astype("<i2")
        stored[0, 0] = -2000
        d.PixelRepresentation, d.PixelData = 1, stored.tobytes()
        d.add(DataElement(0x00280120, vr, stated))

    ct_files.write(tmp_path / "in", HU, change=change)
    image = recon.reconstruct(recon.read(tmp_path / "in"), Recipe(solve=Solve(method="tv", iterations=3)))
    assert (image.data[:, 0, 0] == -3024).all()
    for path in recon.write(image, [tmp_path / "out"]):
        d = pydicom.dcmread(path)
        assert d.pixel_array[0, 0] == d.PixelPaddingValue == -3024
        assert not errors(path)


@pytest.mark.parametrize(("keyword", "vr", "stated", "written"), [
    ("ExposureTime", "IS", "500.4", "500"), ("TableHeight", "DS", "123.45678901234567890", "123.456789012346"),
    ("Exposure", "IS", "n/a", "n/a"),
])  # fmt: skip
def test_numbers_in_characters_that_dicom_forbids_do_not_stop_a_series(
    keyword: str, vr: str, stated: str, written: str, tmp_path: Path
) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        tag, value = Tag(tag_for_keyword(keyword)), stated.encode() + b" " * (len(stated) % 2)
        d._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)

    ct_files.write(tmp_path / "in", HU, change=change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pydicom's would repeat the value
        (first, *_) = recon.write(recon.reconstruct(recon.read(tmp_path / "in"), KEEP), [tmp_path / "out"])
    raw = pydicom.dcmread(first).get_item(keyword)
    assert raw.value.decode().strip() == written
    assert bool(errors(first)) == (stated == written)


def test_a_thickness_with_a_comma_is_ignored(tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d._dict[Tag(0x00180050)] = RawDataElement(Tag(0x00180050), "DS", 4, b"2,5 ", 0, False, True)

    ct_files.write(tmp_path / "in", HU, change=change)
    (series,) = recon.read(tmp_path / "in").series
    assert series.geometry.thickness == 1


def _other(d: pydicom.Dataset, **values: object) -> None:
    for keyword, value in values.items():
        setattr(d, keyword, value)


BESIDE = {
    "images in US and not in HU": lambda d, k: _other(d, RescaleType="US"),
    "pictures in colour": lambda d, k: _other(d, SamplesPerPixel=3, PhotometricInterpretation="RGB"),
    "derived images of several orientations": lambda d, k: _other(
        d, ImageType=["DERIVED", "SECONDARY", "MPR"], ImageOrientationPatient=[0, 1, 0, 0, k, k - 1]
    ),
    "objects of modality SR": lambda d, k: _other(d, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_objects_beside_a_series_that_are_not_in_hu_are_counted(what: str, tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", HU)
    ct_files.write(tmp_path / "in", HU[:2], series="other", number=9, change=BESIDE[what])
    scan = recon.read(tmp_path / "in")
    assert isinstance(scan, CTImages)
    assert [len(s.source) for s in scan.series] == [6]
    assert scan.notes == (f"left out: 2 {what}",)


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "INDEX"])
def test_a_disc_with_its_directory_and_files_without_suffix_is_read(name: str, tmp_path: Path) -> None:
    raw = ct_files.write(tmp_path / "raw", HU)
    folder = tmp_path / "in/IMAGES"
    folder.mkdir(parents=True)
    for n, path in enumerate(raw):
        path.rename(folder / f"IM{n:06d}")
    d = pydicom.Dataset()
    d.file_meta = pydicom.dataset.FileMetaDataset()
    d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    d.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    d.FileSetID, d.DirectoryRecordSequence = "DISC", []
    d.save_as(tmp_path / "in" / name, enforce_file_format=True)
    scan = recon.read(tmp_path / "in")
    assert isinstance(scan, CTImages)
    assert len(scan.series[0].source) == 6
    assert not scan.notes


def test_a_scale_named_in_small_letters_and_spacings_of_other_digits_are_one_series(tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.RescaleType = "hu"
        d.PixelSpacing = ["0.8", "0.7"] if k % 2 else ["0.80", "0.700"]

    ct_files.write(tmp_path / "in", HU, change=change)
    assert len(recon.read(tmp_path / "in").series) == 1


@pytest.mark.parametrize("vr", ["FD", "UL", "US"])
def test_a_private_element_that_is_not_as_long_as_its_type_does_not_stop_a_series(vr: str, tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.private_block(0x0019, "ACME", create=True).add_new(0x02, "LO", "abcdef"[: 5 if vr == "US" else 6])

    for path in ct_files.write(tmp_path / "in", HU, change=change):
        whole = path.read_bytes()
        assert whole.count(b"\x19\0\x02\x10LO") == 1
        cut = whole.replace(b"\x19\0\x02\x10LO", b"\x19\0\x02\x10" + vr.encode())
        path.write_bytes(cut if vr != "US" else cut.replace(b"US\x06\0abcde ", b"US\x05\0abcde"))
    written = recon.write(recon.reconstruct(recon.read(tmp_path / "in"), KEEP), [tmp_path / "out"])
    assert np.array_equal(hounsfield(tmp_path / "out")[::-1], HU)
    assert not errors(written[0])


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_files_without_a_preamble_are_never_left_out(syntax: str, meta: bool, tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.file_meta.TransferSyntaxUID = syntax

    paths = ct_files.write(tmp_path / "in", HU, change=change)
    start = 132 if meta else 144 + pydicom.dcmread(paths[-1]).file_meta.FileMetaInformationGroupLength
    paths[-1].write_bytes(paths[-1].read_bytes()[start:])
    with pytest.raises(DataError, match=r"1 file of the folder is DICOM without preamble.*dcmconv"):
        recon.read(tmp_path / "in")
    with pytest.raises(DataError, match=r"is DICOM without preamble.*dcmconv"):
        recon.read(paths[-1])
    if tool := shutil.which("dcmconv"):
        subprocess.run([tool, str(paths[-1]), str(paths[-1])], check=True)
        assert np.array_equal(recon.read(tmp_path / "in").series[0].voxels.read(0, len(HU)), HU)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [15, 13])
def test_pixels_stored_above_overlay_bits_come_back_in_hu(signed: bool, high: int, tmp_path: Path) -> None:
    intercept = 0 if signed else -1024

    def above(d: pydicom.Dataset, k: int) -> None:
        d.BitsStored, d.HighBit, d.PixelRepresentation = 12, high, int(signed)
        d.RescaleIntercept = str(intercept)
        twelve = (HU[k].astype(int) - intercept) & 0xFFF
        overlay = 0xFFFF & ~(0xFFF << (high - 11))  # every other bit is set
        d.PixelData = ((twelve << (high - 11)) | overlay).astype("<u2").tobytes()

    ct_files.write(tmp_path, HU, change=above)
    scan = recon.read(tmp_path)
    assert isinstance(scan, CTImages)
    assert np.array_equal(scan.series[0].voxels.read(0, len(HU)), HU)
