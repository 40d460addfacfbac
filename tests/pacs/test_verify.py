"""Only files that are whole and legal leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from recon.data import ReconError
from recon.pacs import deliver, verify
from recon.pacs import spool as spools


def changed(brain: Path, out: Path, change: Callable[[pydicom.Dataset], Any]) -> Path:
    dataset = pydicom.dcmread(brain / "IM0001.dcm")
    change(dataset)
    dataset.save_as(out)
    return out


def drop(*names: str) -> Callable[[pydicom.Dataset], None]:
    def change(d: pydicom.Dataset) -> None:
        for name in names:
            del d[name]

    return change


def give(name: str, value: Any) -> Callable[[pydicom.Dataset], None]:
    def change(d: pydicom.Dataset) -> None:
        with pydicom.config.disable_value_validation():
            setattr(d, name, value)

    return change


def test_f36_a_file_of_ours_may_leave_and_its_facts_are_those_of_the_file(brain: Path) -> None:
    d = pydicom.dcmread(brain / "IM0001.dcm")
    facts = verify.check(verify.read(brain / "IM0001.dcm"))
    assert (facts.uid, facts.series, facts.study) == (d.SOPInstanceUID, d.SeriesInstanceUID, d.StudyInstanceUID)
    assert facts.sop_class == d.SOPClassUID
    assert facts.syntax == d.file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (drop("SeriesInstanceUID"), "SeriesInstanceUID"),
        (give("StudyInstanceUID", "XXXXXXXX"), "StudyInstanceUID"),
        (give("StudyInstanceUID", "1.02.3"), "StudyInstanceUID"),
        (give("SOPInstanceUID", "1.2.3"), "MediaStorageSOPInstanceUID"),
        (drop("PatientID"), "PatientID"),
        (drop("AccessionNumber"), "AccessionNumber"),
        (drop("ImagePositionPatient"), "ImagePositionPatient"),
        (drop("ScanningSequence"), "ScanningSequence"),
        (give("RescaleSlope", "0"), "RescaleSlope"),
        (give("PixelSpacing", None), "PixelSpacing"),
        (give("PixelSpacing", ["nan", "1"]), "its PixelSpacing is not 2 numbers above 0"),
        (give("PixelSpacing", ["0", "1"]), "its PixelSpacing is not 2 numbers above 0"),
        (give("PixelSpacing", "1"), "its PixelSpacing is not 2 numbers above 0"),
        (give("ImagePositionPatient", ["1", "inf", "2"]), "its ImagePositionPatient is not 3 numbers;"),
        (give("ImageOrientationPatient", ["1", "0", "0"]), "its ImageOrientationPatient is not 6 numbers;"),
        (drop("PixelData"), "pixels"),
        (give("Rows", 13), "bytes of pixels"),
        (give("NumberOfFrames", "2"), "bytes of pixels"),
        (lambda d: give("PixelData", d.PixelData[:-2])(d), "bytes of pixels"),
        (lambda d: give("PixelData", d.PixelData + b"\0\0")(d), "bytes of pixels"),
        (give("BitsStored", 17), "BitsStored"),
    ],
)
def test_f36_a_file_that_lacks_something_is_refused_by_name(
    brain: Path, tmp_path: Path, change: Callable[[pydicom.Dataset], Any], word: str
) -> None:
    path = changed(brain, tmp_path / "bad.dcm", change)
    with pytest.raises(ReconError, match=word) as e:
        verify.check(verify.read(path))
    assert "Marked" not in str(e.value)
    assert "SECRET" not in str(e.value)


@pytest.mark.parametrize("spacing", [b"abc\\1", b"1,5\\1,5 ", b"1\\", b"\\ "])
def test_f36_a_spacing_that_is_no_number_keeps_a_file_back(brain: Path, tmp_path: Path, spacing: bytes) -> None:
    whole = (brain / "IM0001.dcm").read_bytes()
    at = whole.index(b"\x28\0\x30\0DS") + 6
    end = at + 2 + int.from_bytes(whole[at : at + 2], "little")
    spacing += b" " * (len(spacing) % 2)
    (tmp_path / "bad.dcm").write_bytes(whole[:at] + len(spacing).to_bytes(2, "little") + spacing + whole[end:])
    with pytest.raises(ReconError, match="PixelSpacing"):
        verify.check(verify.read(tmp_path / "bad.dcm"))


@pytest.mark.parametrize("keep", [0, 100, 200, 700, 2000, -1, -100])
def test_f36_a_file_cut_anywhere_is_refused(brain: Path, tmp_path: Path, keep: int) -> None:
    whole = (brain / "IM0001.dcm").read_bytes()
    path = tmp_path / "cut.dcm"
    path.write_bytes(whole[:keep])
    with pytest.raises(ReconError):
        verify.check(verify.read(path))


def test_f36_one_bad_file_keeps_its_whole_series_out_of_the_spool(brain: Path, tmp_path: Path) -> None:
    bad = changed(brain, tmp_path / "bad.dcm", drop("PatientID"))
    spool = tmp_path / "spool"
    with pytest.raises(ReconError, match=r"second is not sent, and neither is any other"):
        spools.put(spool, [("first", brain / "IM0002.dcm"), ("second", bad)])
    assert not [p for name in ("incoming", "new", "tmp") for p in (spool / name).iterdir()]


def test_what_file_managers_leave_in_a_folder_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("IM0001.dcm", "._IM0001.dcm", ".DS_Store", "Thumbs.db", "deep/desktop.ini", "deep/2", "DICOMDIR"):
        (tmp_path / name).touch()
    assert [p.name for p in deliver.files([tmp_path])] == ["IM0001.dcm", "2"]


def test_a_compressed_image_is_counted_by_its_frames(brain: Path, tmp_path: Path) -> None:
    path = changed(
        brain, tmp_path / "rle.dcm", lambda d: d.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    )
    assert verify.check(verify.read(path)).syntax == pydicom.uid.RLELossless
    give("NumberOfFrames", "2")(d := pydicom.dcmread(path))
    d.save_as(path)
    with pytest.raises(ReconError, match=r"frames|damaged"):
        verify.check(verify.read(path))


@pytest.mark.parametrize(
    ("bits", "shape", "samples", "colours", "needed"),
    [
        (8, (3, 3), 1, "MONOCHROME2", 10),  # nine bytes, and one that makes their number even
        (1, (3, 6), 1, "MONOCHROME2", 4),  # 18 bits are three bytes
        (16, (3, 3), 1, "MONOCHROME2", 18),
        (8, (2, 4), 3, "RGB", 24),
        (8, (2, 4), 3, "YBR_FULL_422", 16),  # two pixels share their colour
    ],
)
def test_pixels_have_the_bytes_that_their_attributes_ask_for(
    brain: Path, bits: int, shape: tuple[int, int], samples: int, colours: str, needed: int
) -> None:
    d = pydicom.dcmread(brain / "IM0001.dcm")
    d.BitsAllocated = d.BitsStored = bits
    (d.Rows, d.Columns), d.SamplesPerPixel, d.PhotometricInterpretation = shape, samples, colours
    d.PixelData = bytes(needed)
    verify.check(d)
    for wrong in (needed - 2, needed + 2):
        d.PixelData = bytes(wrong)
        with pytest.raises(ReconError, match=f"{wrong} bytes of pixels and should have {needed};"):
            verify.check(d)


def test_an_image_of_any_class_has_pixels(brain: Path) -> None:
    d = pydicom.dcmread(brain / "IM0001.dcm")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture
    verify.check(d)
    del d.PixelData
    with pytest.raises(ReconError, match="no pixels"):
        verify.check(d)


def test_a_compressed_image_of_more_frames_than_it_says_is_refused(brain: Path) -> None:
    d = pydicom.dcmread(brain / "IM0001.dcm")
    d.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    (frame,) = pydicom.encaps.generate_frames(d.PixelData, number_of_frames=1)
    d.NumberOfFrames, d.PixelData = "2", pydicom.encaps.encapsulate([frame] * 3)
    with pytest.raises(ReconError, match="3 of 2 frames"):
        verify.check(d)


@pytest.mark.parametrize(("tag", "value"), [(b"\x28\x00\x10\x00US", b"SECRETS"), (b"\x20\x00\x13\x00IS", b"SECRET")])
def test_f36_a_damaged_value_is_repeated_neither_in_an_error_nor_in_a_warning(
    brain: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder, tag: bytes, value: bytes
) -> None:
    """Rows of seven bytes cannot be read, a number that is none can."""
    whole, path = (brain / "IM0001.dcm").read_bytes(), tmp_path / "damaged.dcm"
    at = whole.index(tag) + len(tag)
    size = int.from_bytes(whole[at : at + 2], "little")
    path.write_bytes(whole[:at] + len(value).to_bytes(2, "little") + value + whole[at + 2 + size :])
    recwarn.clear()
    try:
        verify.check(verify.read(path))
        said = ""
    except ReconError as e:
        said = str(e)
    assert ("it is damaged" in said) == (len(value) == 7)
    assert "SECRET" not in said + "".join(str(w.message) for w in recwarn)
