"""What a prompt or a notebook shows of a scan, an image and a measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import recon
from recon import simulation
from recon.data import Image, RawScan
from recon.io.png import sheet
from recon.simulation import Settings


@pytest.fixture(scope="module")
def scan() -> RawScan:
    return simulation.simulate(Settings((32, 24, 1), (240.0, 180.0, 5.0), repetitions=2, coils=3, sigma=0.02))


@pytest.fixture(scope="module")
def image(scan: RawScan) -> Image:
    return recon.reconstruct(scan, device="cpu")


def test_a_scan_is_one_line_without_the_patient(scan: RawScan) -> None:
    assert scan.header.patient.name
    assert (
        repr(scan)
        == "RawScan(simulation, 64 lines of 3 channels, cartesian, image 32×24×1 over 240×180×5 mm (x, y, z))"
    )
    assert repr(replace(scan, notes=("a", "b"), source="")).startswith("RawScan(made in memory, 64 lines of 3 channels")
    assert repr(replace(scan, notes=("a", "b"))).endswith("2 notes)")


def test_an_image_is_one_line_with_its_axes_and_units(image: Image) -> None:
    said = "Image(complex64 (repetition 2, z 1, y 24, x 32), voxel 7.5×7.5×5 mm, arbitrary units, combine, 2 notes)"
    assert repr(image) == said
    ct = Image(np.zeros((1, 4, 4), np.float32), replace(image.geometry, shape=(1, 4, 4)), units="HU")
    assert repr(ct) == "Image(float32 (z 1, y 4, x 4), voxel 7.5×7.5×5 mm, HU)"


def test_numpy_and_torch_take_an_image_for_its_voxels(image: Image) -> None:
    assert np.asarray(image) is image.data
    assert np.array_equal(np.abs(image), np.abs(image.data))
    assert np.array(image, copy=True) is not image.data
    assert np.asarray(abs(np.asarray(image)), np.float64).dtype == np.float64
    assert torch.equal(torch.as_tensor(np.asarray(image)), torch.from_numpy(image.data))


def test_an_image_that_must_not_be_copied_is_not(image: Image) -> None:
    assert image.__array__(copy=False) is image.data
    assert image.__array__(image.data.dtype, copy=False) is image.data
    with pytest.raises(ValueError, match="complex64 becomes complex128 only by a copy"):
        image.__array__(np.complex128, copy=False)


def test_scans_images_and_measurements_are_compared_by_identity(scan: RawScan, image: Image) -> None:
    """Comparing arrays has no single answer, so objects that hold them are equal only to themselves, and can be in a
    set.
    """
    (m,) = recon.measurements(scan, device="cpu")
    for one in (scan, image, m):
        assert one == one
        assert one != replace(one)
        assert {one, one} == {one}


def test_a_notebook_shows_the_sheet_that_is_written(image: Image, tmp_path: Path) -> None:
    recon.write(image, [tmp_path / "a.png"])
    with PIL.Image.open(tmp_path / "a.png") as written:
        assert np.array_equal(np.asarray(sheet(image)), np.asarray(written))


def test_a_measurement_is_one_line_with_the_shapes_of_its_tensors(scan: RawScan) -> None:
    (m,) = recon.measurements(scan, device="cpu")
    assert repr(m) == (
        "Measurement(y=complex64 2×3×1×24×32, A=Sense(maps=complex64 2×3×1×24×32, mask=float32 2×1×1×24×1, "
        "axes=(-3, -2), sets=False), sigma=1)"
    )


def test_a_name_is_completed_at_the_prompt() -> None:
    assert {"reconstruct", "measurements", "operators", "solve", "masks"} <= set(dir(recon))
    assert {"cg", "fista", "pdhg", "Solution"} <= set(dir(recon.solve))
    with pytest.raises(AttributeError, match="no attribute 'solver'"):
        _ = recon.solver
