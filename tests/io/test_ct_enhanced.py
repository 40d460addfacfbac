"""Enhanced CT, many frames in one object, against what dcm2niix makes of the same file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless

import recon
from recon.data import CTImages, DataError
from recon.io import ct_enhanced
from recon.recipe import CT, Recipe
from tests.io import ct_files
from tests.io.validators import dcm2niix, differences, errors

KEEP = Recipe(ct=CT(strength=0))
HU = np.clip(ct_files.body((5, 40, 48)), -1024, None)
ORDER = (3, 0, 4, 1, 2)


def item(**values: object) -> Sequence:
    d = Dataset()
    for keyword, value in values.items():
        setattr(d, keyword, value)
    return Sequence([d])


def write(folder: Path, compress: str = "", rescale: int = 8) -> Path:
    """An Enhanced CT object as PS3.3, A.38 has it: frames out of order, intercepts of their own."""
    d = ct_files.dataset(HU[0], 0, 1, "enhanced", 3)
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = ct_enhanced.CLASSES[0]
    for keyword in ("RescaleIntercept", "RescaleSlope", "RescaleType", "PixelSpacing", "SliceThickness", "KVP",
                    "ConvolutionKernel", "WindowCenter", "WindowWidth"):  # fmt: skip
        delattr(d, keyword)
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    d.NumberOfFrames, d.InstanceNumber = len(HU), "1"
    d.PixelPresentation, d.VolumetricProperties = "MONOCHROME", "VOLUME"
    d.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=["0.8", "0.7"], SliceThickness="2.5"),
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        CTReconstructionSequence=item(ConvolutionKernel="B30", ReconstructionDiameter="33.6"),
        CTXRayDetailsSequence=item(KVP="120"),
        CTImageFrameTypeSequence=item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]),
        FrameVOILUTSequence=item(WindowCenter="40", WindowWidth="400"),
    )
    frames, stored = [], []
    for n, k in enumerate(ORDER):
        g = Dataset()
        g.FrameContentSequence = item(
            FrameAcquisitionNumber=1, FrameAcquisitionDateTime=f"20261101101{n}01.5", StackID="1",
            InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1],
        )  # fmt: skip
        g.PlanePositionSequence = item(ImagePositionPatient=[-100.5, -80.25, 30 + 2.5 * k])
        low = -1024 - rescale * k
        g.PixelValueTransformationSequence = item(RescaleIntercept=str(low), RescaleSlope="1", RescaleType="HU")
        g.CTExposureSequence = item(ExposureTimeInms=500.4, XRayTubeCurrentInmA=201.7, ExposureInmAs=100.9)
        frames.append(g)
        stored.append((HU[k] - low).astype("<u2"))
    d.PerFrameFunctionalGroupsSequence = Sequence(frames)
    d.DimensionOrganizationSequence = item(DimensionOrganizationUID=ct_files.FRAME)
    d.PixelData = np.stack(stored).tobytes()
    if compress:
        d.compress(compress, encoding_plugin="pylibjpeg")
    folder.mkdir(parents=True, exist_ok=True)
    d.save_as(folder / "one.dcm", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("compress", ["", JPEG2000Lossless])
def test_frames_are_sorted_by_place_each_in_hu_by_its_own_rescale(compress: str, tmp_path: Path) -> None:
    scan = recon.read(write(tmp_path / "in", compress=compress))
    assert isinstance(scan, CTImages)
    (series,) = scan.series
    assert np.array_equal(series.voxels.read(0, 5), HU)
    assert np.array_equal(series.voxels.read(1, 3), HU[1:3])
    assert series.geometry.position == (-100.5, -80.25, 30.0)
    assert series.geometry.voxel == pytest.approx((0.7, 0.8, 2.5))


def test_what_is_written_has_the_geometry_and_the_values_that_dcm2niix_finds(tmp_path: Path) -> None:
    # One rescale for all frames, since dcm2niix takes the first frame's.
    source = write(tmp_path / "in", rescale=0)
    image = recon.reconstruct(recon.read(source), KEEP)
    recon.write(image, [tmp_path / "out", tmp_path / "out.nii.gz"])
    before, after = (dcm2niix(d, tmp_path / f"nii-{d.name}") for d in (source, tmp_path / "out"))
    assert not differences(before["3"], after["1003"])
    assert not differences(before["3"], nib.load(tmp_path / "out.nii.gz"))


def test_each_frame_becomes_a_valid_ct_image_that_names_its_frame(tmp_path: Path) -> None:
    written = recon.write(recon.reconstruct(recon.read(write(tmp_path / "in")), KEEP), [tmp_path / "out"])
    source = pydicom.dcmread(tmp_path / "in/one.dcm")
    found = {}
    for path in written:
        assert not errors(path)
        d = pydicom.dcmread(path)
        assert d.SOPClassUID == d.file_meta.MediaStorageSOPClassUID == ct_files.CT_IMAGE
        assert "NumberOfFrames" not in d
        assert "PerFrameFunctionalGroupsSequence" not in d
        assert (d.KVP, d.ConvolutionKernel, d.Exposure, d.XRayTubeCurrent) == (120, "B30", 101, 202)
        assert str(d.PatientName) == ct_files.NAME
        assert d.AcquisitionTime == f"101{d.InstanceNumber - 1}01.5"
        reference = d.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == ct_enhanced.CLASSES[0]
        found[float(d.ImagePositionPatient[2])] = int(reference.ReferencedFrameNumber)
        assert d.InstanceNumber == reference.ReferencedFrameNumber
    assert found == {30 + 2.5 * k: n for n, k in enumerate(ORDER, 1)}


def test_objects_that_are_cut_short_or_lack_a_frame_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "in") / "one.dcm"
    whole = path.read_bytes()
    for length in (len(whole) - 100, len(whole) - 30_000, 1200, 900):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="truncated"):
            recon.reconstruct(recon.read(tmp_path / "in"), KEEP)
    path.write_bytes(whole)
    d = pydicom.dcmread(path)
    # The frame in the middle of the patient.
    del d.PerFrameFunctionalGroupsSequence[ORDER.index(2)]
    d.NumberOfFrames = 4
    d.save_as(path)
    with pytest.raises(DataError, match="lacks 1 slice between frame 1 and frame 4"):
        recon.read(tmp_path / "in")
