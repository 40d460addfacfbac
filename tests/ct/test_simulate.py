"""`recon simulate-ct`: projections of a volume that `run` gives back, shares of a dose, and what is refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import recon
from recon.recipe import CT, Recipe
from recon.simulation import ct_scan
from tests import command
from tests.io import ct_files


def test_the_verb_simulates_a_volume_that_run_gives_back(tmp_path: Path) -> None:
    hu = ct_files.body((3, 96, 96), noise=0)
    ct_files.write(tmp_path / "in", hu, change=lambda d, k: setattr(d, "PixelSpacing", [3, 3]))
    low, out = tmp_path / "low.h5", tmp_path / "o.nii.gz"
    options = ("--views", 300, "--photons", 1e6, "--slices", "2:3")
    end = command.recon("simulate-ct", tmp_path / "in", "-o", low, *options, "--seed", 4)
    assert end.code == 0, end.err
    assert command.recon("run", low, "-o", out, "-q").code == 0
    found = nib.load(out).get_fdata().T
    assert found.shape == (2, 96, 96)
    for value in (40, 800):
        where = hu[1:] == value
        assert found[where].mean() == pytest.approx(value, abs=0.06 * (1000 + value))
    # The bone is at the upper left: rows and columns are where they were.
    assert found[0, 34, 34] > 600 > found[0, 34, 62]
    # Slices 2 and 3 of a series are one and two steps from its first.
    assert recon.read(low).positions == pytest.approx((2.5, 5.0))  # type: ignore[union-attr]
    again, other = tmp_path / "again.h5", tmp_path / "other.h5"
    command.recon("simulate-ct", tmp_path / "in", "-o", again, *options, "--seed", 4)
    command.recon("simulate-ct", tmp_path / "in", "-o", other, *options, "--seed", 5)
    assert low.read_bytes() == again.read_bytes() != other.read_bytes()


def test_a_share_of_the_dose_adds_the_noise_that_the_source_lacks(tmp_path: Path) -> None:
    y, x = np.mgrid[:128, :128] - 63.5
    hu = np.where(x**2 + y**2 < 50**2, 0.0, -1000.0)[None].astype(np.float32)
    source = hu + 10 * np.random.default_rng(0).standard_normal(hu.shape).astype(np.float32)
    scan = ct_scan.Scan(dose=0.25, views=400, electronic=0)
    made = ct_scan.of_volume(source, 2.5, (0.0,), 2.5, scan)
    image = recon.reconstruct(made, Recipe(ct=CT(filter="hann")))
    inside = (x**2 + y**2 < 40**2) & (x**2 + y**2 > 5**2)
    # 4 times the variance, of which the source's own white noise loses some to the filter.
    assert 14 < float(image.data[0][inside].std()) < 23


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--photons", 0), "--photons takes a number above 0"),
        (("--photons", -3), "--photons takes a number above 0"),
        (("--dose", 2), "--dose takes a share"),
        (("--dose", 0.5, "--photons", 5), "both set the dose"),
        (("--dose", 0.5), "no noise, so no dose"),
        (("--beam", "helix"), "--beam takes"),
        (("--electronic", -1), "electronic noise"),
        (("--bow-tie", 3), "bow-tie"),
        (("--source-distance", 100), "within the body"),
        (("--source-distance", 1e9), "--source-distance takes up to"),
        (("--detector-distance", 1e9), "--detector-distance takes up to"),
        (("--arc", 1000), "--arc takes up to 360 degrees"),
        (("--arc", -5), "--arc takes up to 360 degrees"),
        (("--arc", "nan"), "--arc takes up to 360 degrees"),
        (("--elements", 1), "--elements takes at least 8"),
        (("--views", 1), "--views takes at least 2"),
        (("--rows", 5), "--rows is for a cone beam"),
        (("--beam", "cone", "--dose", 0.5), "no noise, so no dose"),
        (("--beam", "cone", "--source-distance", 90), "within the body"),
        (("--photons", "nan"), "--photons takes a number above 0"),
        (("--electronic", "inf"), "electronic noise"),
        (("--slices", "1:3"), "the phantom is one slice"),
    ],
)
def test_a_scan_that_cannot_be_simulated_is_refused(options: tuple[object, ...], says: str, tmp_path: Path) -> None:
    end = command.recon("simulate-ct", "phantom", "-o", tmp_path / "p.h5", "--matrix", 32, "--views", 10, *options)
    assert says in command.refused(end)
    assert not list(tmp_path.iterdir())
