from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from recon import pipeline, recipe
from recon.data import Encoding, RawScan
from recon.io.samples import in_memory
from recon.prepare.units import averages, gain
from recon.simulation import Settings, simulate

HEAD = Settings(matrix=(64, 64, 1), coils=6, sigma=0.01, noise_lines=64)
VOLUME = replace(HEAD, matrix=(32, 32, 16), fov=(240, 240, 160), coils=3)
FULL = {
    "a plain scan": HEAD,
    "one coil": replace(HEAD, coils=1),
    "32 coils": replace(HEAD, coils=32),
    "no oversampling": replace(HEAD, oversampling=(1.0, 1.0, 1.0)),
    "phase oversampling": replace(HEAD, oversampling=(2.0, 1.5, 1.0)),
    "four averages": replace(HEAD, averages=4),
    "finer voxels": replace(HEAD, recon_matrix=(112, 96, 1)),
    "coarser voxels": replace(HEAD, recon_matrix=(48, 40, 1)),
    "a volume": replace(VOLUME, oversampling=(2.0, 1.0, 1.5)),
    "a coarser volume": replace(VOLUME, recon_matrix=(32, 32, 12)),
}


@cache
def scans(settings: Settings) -> tuple[RawScan, RawScan]:
    """A scan, and the same without noise."""
    return simulate(settings), simulate(replace(settings, sigma=0.0))


def noise_in_the_image(settings: Settings, method: str) -> np.ndarray:
    """Half the difference of two images whose scans differ in the sign of their noise, in the body and its phase."""
    noisy, clean = scans(settings)
    ahead = len(noisy.lines) - len(clean.lines)
    told = noisy.samples.read(np.arange(ahead))
    with_noise = noisy.samples.read(np.arange(ahead, len(noisy.lines)))
    signal = clean.samples.read(np.arange(len(clean.lines)))
    how = recipe.parse({"solve": {"method": method}, "prepare": {"coil_compression": "none"}})
    a, b = (
        pipeline.reconstruct(replace(noisy, samples=in_memory(told, data)), how, device="cpu").data
        for data in (with_noise, 2 * signal - with_noise)
    )
    body = np.abs(a) > 0.3 * np.abs(a).max()
    return ((a - b) / 2 * np.exp(-1j * np.angle(a + b)))[body]


@pytest.mark.parametrize("method", ["combine", "sense"])
@pytest.mark.parametrize("name", FULL)
def test_noise_of_a_full_scan_has_a_standard_deviation_of_one_in_the_image(name: str, method: str) -> None:
    noise = noise_in_the_image(FULL[name], method)
    assert noise.real.std() == pytest.approx(1, abs=0.06)
    if name != "finer voxels":  # whose phase is that of interpolated maps
        assert noise.imag.std() == pytest.approx(1, abs=0.06)


def test_an_image_that_half_of_the_lines_make_has_root_two_of_the_noise() -> None:
    noise = noise_in_the_image(replace(HEAD, acceleration=(2, 1), acs=16), "sense")
    share = 0.5 + 0.5 * 16 / 64
    assert 1 / np.sqrt(share) < noise.real.std() < 1.15 * np.sqrt(2)


def test_the_number_of_averages_is_that_of_most_rows() -> None:
    counts = np.full((1, 64), 4, np.int32)
    counts[0, :16] = 0
    counts[0, 30:34] = 8
    assert averages(counts) == 4
    assert averages(0 * counts) == 1


def test_rounded_millimetres_in_a_header_change_nothing() -> None:
    grid = Encoding((128, 64, 1), (480.0, 240.0, 5.0), (64, 64, 1), (240.01, 240.0, 5.0))
    assert gain(grid, 1) == 1
    assert gain(grid, 4) == pytest.approx(2)
