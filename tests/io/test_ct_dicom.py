"""CT series in, derived CT series out, against what other programs make of both."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import recon
from recon.data import CTImages, DataError
from recon.recipe import CT, Recipe
from tests.io import ct_files, ct_pd_files
from tests.io.validators import dcm2niix, differences
from tests.tools import need

KEEP = Recipe(ct=CT(strength=0))
HU = np.clip(ct_files.body(), -1024, None)
OBLIQUE = (0.9, 0.3, -0.31622777, -0.26, 0.95, 0.16)


def read(folder: Path) -> CTImages:
    scan = recon.read(folder)
    assert isinstance(scan, CTImages)
    return scan


def _in_order(d: pydicom.Dataset, k: int) -> None:
    d.InstanceNumber = str(k + 1)


def oblique() -> tuple[np.ndarray, np.ndarray]:
    """An orientation and its normal, orthonormal to the last digit that a file holds."""
    q, _ = np.linalg.qr(np.array([[0.9, 0.3, 0.1], [-0.2, 0.95, 0.3], [0.1, -0.3, 1]]))
    r, c = q[0], q[1]
    return np.concatenate([r, c]).round(8), np.cross(r, c)


def test_a_series_is_sorted_by_position_in_hu_where_it_was_in_the_patient(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", HU)
    (series,) = read(tmp_path / "in").series
    assert np.array_equal(series.voxels.read(0, 4), HU)
    assert np.array_equal(series.voxels.read(1, 3), HU[1:3])
    g = series.geometry
    assert g.position == (-100.5, -80.25, 30.0)
    assert g.voxel == pytest.approx((0.7, 0.8, 2.5))
    assert g.shape == HU.shape
    assert g.shear == (0, 0)


@pytest.mark.parametrize("kind", ["axial", "feet first", "oblique", "tilted gantry"])
def test_what_is_written_has_the_geometry_and_the_values_that_dcm2niix_finds(kind: str, tmp_path: Path) -> None:
    turn, normal = (np.array((1.0, 0, 0, 0, 1, 0)), np.array((0, 0, 1.0)))
    if kind == "oblique":
        turn, normal = oblique()
    step = {"feet first": -2.5 * normal, "tilted gantry": np.array((0, 0.6, 2.5))}.get(kind, 2.5 * normal)
    source = tmp_path / "in"
    # Instances count along the normal: counting against a tilt, dcm2niix misplaces the stack.
    ct_files.write(source, HU, orientation=turn, step=step, change=_in_order)
    image = recon.reconstruct(recon.read(source), KEEP)
    recon.write(image, [tmp_path / "out", tmp_path / "out.nii.gz"])
    before, after = (dcm2niix(d, tmp_path / f"nii-{d.name}") for d in (source, tmp_path / "out"))
    assert not differences(before["3"], after["1003"])
    assert not differences(before["3"], nib.load(tmp_path / "out.nii.gz"))


def test_a_tilted_gantry_puts_a_voxel_where_its_slice_says(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", HU, step=(0, 0.6, 2.5))
    image = recon.reconstruct(recon.read(tmp_path / "in"), KEEP)
    assert image.geometry.shear == pytest.approx((0, 0.6))
    assert any("tilted by 13.5°" in note for note in image.notes)
    recon.write(image, [tmp_path / "out.nii.gz"])
    nii = nib.load(tmp_path / "out.nii.gz")
    k, j, i = 3, 10, 20
    lps = np.array([-100.5 + 20 * 0.7, -80.25 + 10 * 0.8 + 3 * 0.6, 30 + 3 * 2.5])
    assert nii.affine @ (i, j, k, 1) == pytest.approx((-lps[0], -lps[1], lps[2], 1), abs=1e-4)
    assert int(nii.header["qform_code"]) == 0


def test_a_drift_along_the_rows_is_called_no_tilt_of_the_gantry(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", HU, step=(0.6, 0, 2.5))
    image = recon.reconstruct(recon.read(tmp_path / "in"), KEEP)
    assert image.geometry.shear == pytest.approx((0.6, 0))
    assert any("shifted by 0.60 mm along its rows" in note for note in image.notes)
    assert not any("tilted by" in note for note in image.notes)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_series_are_read(syntax: str, tmp_path: Path) -> None:
    def change(d: pydicom.Dataset, k: int) -> None:
        d.compress(syntax, encoding_plugin="pylibjpeg" if syntax != RLELossless else "pydicom")

    ct_files.write(tmp_path / "in", HU, change=change)
    assert np.array_equal(read(tmp_path / "in").series[0].voxels.read(0, 4), HU)


@pytest.mark.parametrize(("tool", "options"), [("dcmcjpeg", ["+e1"]), ("dcmcjpls", ["+el"])])
def test_series_compressed_by_dcmtk_are_read(tool: str, options: list[str], tmp_path: Path) -> None:
    import subprocess

    paths = ct_files.write(tmp_path / "raw", HU)
    (tmp_path / "in").mkdir()
    for p in paths:
        subprocess.run([need(tool), *options, str(p), str(tmp_path / "in" / p.name)], check=True)
    d = pydicom.dcmread(next((tmp_path / "in").iterdir()))
    assert d.file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read(tmp_path / "in").series[0].voxels.read(0, 4), HU)


def test_a_missing_decoder_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    paths = ct_files.write(tmp_path / "in", HU[:1])
    d = pydicom.dcmread(paths[0])
    d.file_meta.TransferSyntaxUID = JPEGLSLossless
    d.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    d["PixelData"].is_undefined_length = True
    d.save_as(paths[0])
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(recon.ReconError, match=r"compressed \(JPEG-LS.*pip install python-gdcm"):
        read(tmp_path / "in").series[0].voxels.read(0, 1)


def _second_place(d: pydicom.Dataset, k: int) -> None:
    if k == 2:
        d.ImagePositionPatient = ["-100.5", "-80.25", "32.5"]


def _turned(d: pydicom.Dataset, k: int) -> None:
    if k == 2:
        d.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def _without(*keywords: str):
    def change(d: pydicom.Dataset, k: int) -> None:
        for keyword in keywords:
            delattr(d, keyword)

    return change


def _set(**values: object):
    def change(d: pydicom.Dataset, k: int) -> None:
        for keyword, value in values.items():
            setattr(d, keyword, value)

    return change


def _text(keyword: str, text: str):
    """Characters that pydicom itself would not let in."""

    def change(d: pydicom.Dataset, k: int) -> None:
        if k == 1:
            d[keyword]._value = text

    return change


def _other_size(d: pydicom.Dataset, k: int) -> None:
    if k == 1:
        d.Rows, d.Columns = 48, 40


def _projection(d: pydicom.Dataset, k: int) -> None:
    d.private_block(0x7029, "DETECTOR", create=True).add_new(0x10, "US", 64)


BAD = {
    "projections without geometry": (_projection, r"projection \d states no angle"),
    "slice twice": (_second_place, "holds 1 slice twice at the same position .instance 2 and instance 3"),
    "two orientations": (_turned, "slices of 2 orientations"),
    "not CT": (
        _set(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
        "no CT image in DICOM but 4 objects of modality MR",
    ),
    "enhanced": (_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), "states no number of frames and describes 0"),
    "colour": (_set(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour image .RGB"),
    "no place": (_without("ImagePositionPatient"), "lacks ImagePositionPatient"),
    "no rescale": (_without("RescaleIntercept"), "no rescale to HU"),
    "no HU": (_set(RescaleType="US"), "no rescale to HU"),
    "two sizes": (_other_size, "2 different Rows"),
    "several frames": (_set(NumberOfFrames=2), "several frames"),
    "one number as place": (_text("ImagePositionPatient", "5"), "instance 3, has a size, position or rescale value"),
    "one number as directions": (_text("ImageOrientationPatient", "1"), "value that is not a number"),
    "one number as spacing": (_text("PixelSpacing", "0.7"), "value that is not a number"),
    "comma in the rescale": (_text("RescaleIntercept", "1,5"), "value that is not a number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_series_that_is_no_volume_is_refused_with_what_is_wrong(kind: str, tmp_path: Path) -> None:
    change, says = BAD[kind]
    ct_files.write(tmp_path / "in", HU, change=change)
    with pytest.raises(DataError, match=says) as error:
        read(tmp_path / "in")
    assert "\n" not in str(error.value)
    assert "geheim" not in str(error.value)


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path: Path) -> None:
    paths = ct_files.write(tmp_path / "in", ct_files.body((6, 40, 48)))
    paths[2].unlink()
    with pytest.raises(DataError, match="lacks 1 slice between instance 3 and instance 5; copy the whole series again"):
        read(tmp_path / "in")


def test_a_copy_of_a_slice_is_left_out(tmp_path: Path) -> None:
    paths = ct_files.write(tmp_path / "in", HU)
    (tmp_path / "in/copy.dcm").write_bytes(paths[1].read_bytes())
    (series,) = read(tmp_path / "in").series
    assert len(series.source) == 4
    assert "of the same slice left out" in series.notes[0]


def test_headers_without_pixels_and_files_cut_short_are_named(tmp_path: Path) -> None:
    paths = ct_files.write(tmp_path / "in", HU, change=_without("PixelData"))
    with pytest.raises(DataError, match="has a header but no pixels"):
        recon.reconstruct(read(tmp_path / "in"), KEEP)
    paths = ct_files.write(tmp_path / "cut", HU)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-500])
    with pytest.raises(DataError, match=r"instance 3 cannot be read .*truncated"):
        recon.reconstruct(read(tmp_path / "cut"), KEEP)
    paths[1].write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"lacks .* truncated"):
        read(tmp_path / "cut")


def test_a_last_slice_cut_short_anywhere_is_never_left_out(tmp_path: Path) -> None:
    # At the end of a series no gap tells of it.
    paths = ct_files.write(tmp_path / "in", HU)
    ends = [max(paths, key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))]
    whole = ends[0].read_bytes()
    for length in (*range(140, 1400, 23), len(whole) - 1):
        ends[0].write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pydicom's would repeat the values
            with pytest.raises(DataError) as error:
                recon.reconstruct(read(tmp_path / "in"), KEEP)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, 100, 131])
@pytest.mark.parametrize("of", ["images", "projections"])
def test_a_last_file_of_which_nearly_nothing_was_copied_is_never_left_out(of: str, length: int, tmp_path: Path) -> None:
    if of == "images":
        paths = ct_files.write(tmp_path / "in", HU)
    else:
        ct_pd_files.write(tmp_path / "in", (), ct_pd_files.Scanner(columns=24, rows=8, views=24), (-20.0, 20.0))
        paths = sorted((tmp_path / "in").iterdir())
    (tmp_path / "in" / "about.txt").write_text("one line")
    (tmp_path / "in" / ".done").touch()
    recon.read(tmp_path / "in")
    paths[-1].write_bytes(paths[-1].read_bytes()[:length])
    with pytest.raises(DataError, match="1 file of the folder, named as its DICOM files are, ends before"):
        recon.read(tmp_path / "in")


def test_a_file_that_may_not_be_read_is_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ct_files.write(tmp_path / "in", HU)
    usual = Path.open

    def closed(path: Path, *mode: str) -> object:
        if path == paths[-1]:
            raise PermissionError(errno.EACCES, "Permission denied")
        return usual(path, *mode)

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(DataError, match="part of the folder cannot be read: Permission denied; ask its owner"):
        read(tmp_path / "in")
