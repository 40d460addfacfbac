"""CT volumes as NIfTI: place and values kept, what is no CT refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import recon
from recon.data import CTImages, DataError
from recon.recipe import CT, Recipe
from tests.io import ct_files

HU = ct_files.body().astype(np.float32)
AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.79, -0.2, -60], [0, 0.126, 2.5, 12.5], [0, 0, 0, 1]])


def save(path: Path, values: np.ndarray = HU, affine: np.ndarray = AFFINE) -> Path:
    image = nib.Nifti1Image(values.T, affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_a_volume_keeps_its_position(name: str, tmp_path: Path) -> None:
    scan = recon.read(save(tmp_path / name))
    assert isinstance(scan, CTImages)
    image = recon.reconstruct(scan, Recipe(ct=CT(strength=0)))
    assert image.units == "HU"
    recon.write(image, [tmp_path / "out.nii.gz"])
    out = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(out.dataobj), HU.T)
    assert np.allclose(out.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_a_volume_is_known_by_its_content_whatever_its_name(name: str, kind: type, tmp_path: Path) -> None:
    nib.save(kind(HU.T, AFFINE), tmp_path / name)
    for other in ("volume", "volume.bin", "volume.gz"):
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
        (series,) = recon.read(tmp_path / other).series
        assert np.array_equal(series.voxels.read(0, len(HU)), HU)


def test_a_volume_without_a_position_states_none(tmp_path: Path) -> None:
    image = nib.Nifti1Image(HU.T, None)
    nib.save(image, tmp_path / "ct.nii")
    scan = recon.read(tmp_path / "ct.nii")
    assert isinstance(scan, CTImages)
    assert not scan.series[0].geometry.known


@pytest.mark.parametrize(("low", "noted"), [(-1000, False), (-501, False), (-499, True), (-100, True)])
def test_a_volume_without_air_is_taken_with_a_note(low: float, noted: bool, tmp_path: Path) -> None:
    scan = recon.read(save(tmp_path / "ct.nii", HU.clip(low)))
    assert isinstance(scan, CTImages)
    assert any("no air around the body" in n for n in scan.series[0].notes) == noted


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.where(HU > 1900, np.nan, HU), "10 voxels that are NaN"),
        (HU + 1300, "values from .* subtract the shift"),
        (np.stack([HU, HU]), r"array of \(48, 40, 4, 2\)"),
    ],
)
def test_what_is_no_ct_volume_is_refused(values: np.ndarray, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        recon.read(save(tmp_path / "ct.nii.gz", values.astype(np.float32)))


def test_colour_and_a_file_cut_short_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(DataError, match="colour"):
        recon.read(tmp_path / "rgb.nii")
    whole = save(tmp_path / "ct.nii.gz").read_bytes()
    (tmp_path / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"ct\.nii\.gz is truncated"):
        recon.read(tmp_path / "ct.nii.gz")
