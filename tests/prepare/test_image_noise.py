"""Noise that was added to analytic slices, found again: in bodies, lungs, and skulls that hold nothing but edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.ct import denoise
from recon.prepare import image_noise, series_noise
from recon.recipe import Recipe, Solve
from recon.simulation.ct_phantom import BODY, Ellipse, picture

N, VOXEL = 200, 1.9
RIM = Ellipse(0, 0, 80, 95, 0, 1900)
BRAIN = (RIM, Ellipse(0, 0, 74, 89, 0, -865), Ellipse(10, 20, 25, 15, 0, 12), Ellipse(-20, -30, 12, 20, 0, -25))
SKULL = (RIM, Ellipse(0, 0, 74, 89, 0, -1900))
SCALP = (Ellipse(0, 0, 86, 101, 0, 1040), Ellipse(0, 0, 80, 95, 0, 860), Ellipse(0, 0, 74, 89, 0, -1900))
LUNG = (Ellipse(0, 0, 140, 100, 0, 150), *(Ellipse(17 * k - 100, 9 * k % 50 - 20, 4, 2, k, 850) for k in range(12)))
BONES = (Ellipse(-30, 0, 20, 22, 0, 1050), Ellipse(-30, 0, 8, 8, 0, 600), Ellipse(30, 0, 15, 12, 0, 1700))


def slices(sigma: float, *kinds: tuple[Ellipse, ...], smooth: bool = False) -> np.ndarray:
    """Slices (z, y, x) with noise of a standard deviation in HU, white or of a smooth kernel, cut off at −1024."""
    clean = np.stack([picture(k, N, VOXEL, fine=2).numpy() for k in kinds])
    noise = np.random.default_rng(3).standard_normal(clean.shape)
    if smooth:
        f = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N))
        noise = np.fft.irfft2(np.fft.rfft2(noise) * f**0.5 * np.exp(-((f / 0.18) ** 2)), s=(N, N))
    return np.maximum(clean + sigma * noise / noise.std(), -1024).astype(np.float32)


def alone(volume: np.ndarray) -> list[image_noise.ImageNoise]:
    return [image_noise.measured(torch.from_numpy(v[None])) for v in volume]


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("sigma", [5.0, 30.0])
def test_slices_with_only_edges_take_the_noise_of_their_neighbours(sigma: float, smooth: bool) -> None:
    volume = slices(sigma, SKULL, SCALP, BRAIN, BRAIN, BRAIN, BONES, smooth=smooth)
    own = alone(volume)
    assert [bool(n.sure) for n in own] == [False, False, True, True, True, False]
    assert min(float(own[k].level) for k in (0, 1, 5)) > 3 * sigma
    found, taken = series_noise.of_series(own)
    assert taken == 3
    assert [float(n.level) for n in found] == pytest.approx([sigma] * 6, rel=0.3)
    assert float(np.ptp([float(n.texture[0, 0]) for n in found])) < 0.1


@pytest.mark.parametrize("sigma", [5.0, 30.0, 150.0])
def test_the_noise_of_bodies_and_lungs_is_trusted(sigma: float) -> None:
    own = alone(slices(sigma, BODY, BRAIN, LUNG))
    assert all(bool(n.sure) for n in own)
    assert [float(n.level) for n in own[1:]] == pytest.approx([sigma] * 2, rel=0.2)
    found, taken = series_noise.of_series(own)
    assert taken == 0
    assert all(a is b for a, b in zip(found, own, strict=True))


def test_the_nearest_slices_count_where_noise_changes_along_the_series() -> None:
    volume = np.concatenate([slices(10, SKULL, *[BRAIN] * 6), slices(60, *[BRAIN] * 6, SKULL)])
    found, taken = series_noise.of_series(alone(volume))
    assert taken == 2
    assert float(found[0].level) == pytest.approx(10, rel=0.12)
    assert float(found[-1].level) == pytest.approx(60, rel=0.12)


def test_a_series_without_a_place_to_measure_and_a_slice_that_is_cleaner_keep_their_own() -> None:
    bones = alone(slices(20, SKULL, BONES))
    assert series_noise.of_series(bones) == (bones, 0)
    air = alone(slices(20, (), BRAIN))
    found, taken = series_noise.of_series(air)
    assert taken == 0
    assert float(found[0].level) == 0


def test_only_slices_without_a_place_to_measure_take_the_noise_of_others_and_only_if_it_is_far_less() -> None:
    given = ((10, True), (35, True), (10, True), (12.5, False), (14, False), (6, False), (10, True))
    texture = torch.zeros(1, image_noise.BANDS)
    series = [image_noise.ImageNoise(torch.tensor([s]), texture, torch.tensor([k])) for s, k in given]
    found, taken = series_noise.of_series(series)
    assert [float(n.level) for n in found] == [10, 35, 10, 12.5, 10, 6, 10]
    assert taken == 1


@pytest.mark.parametrize(("side", "enough"), [(20, False), (40, True)])
def test_a_patch_of_one_material_counts_where_it_holds_enough_windows(side: int, enough: bool) -> None:
    # Across the rims of stripes of bone and air the mean is that of tissue.
    x = np.mgrid[:160, :160][1]
    image = np.where(x // 24 % 2, 1000.0, -1000.0)
    image[60 : 60 + side, 60 : 60 + side] = 20
    image += 10 * np.random.default_rng(0).standard_normal(image.shape)
    noise = image_noise.measured(torch.from_numpy(image).float()[None])
    assert bool(noise.sure) == enough
    assert float(noise.level) == pytest.approx(10, rel=0.15) if enough else float(noise.level) > 100
    assert (abs(float(noise.texture[0, 0])) < 0.1) == enough


def test_a_skull_at_the_end_of_a_series_keeps_its_edges() -> None:
    volume = slices(10, BRAIN, BRAIN, SKULL)
    recipe, cpu = Recipe(solve=Solve(method="tv", iterations=20)), torch.device("cpu")
    whole = denoise.denoise_images(volume, recipe, cpu, lambda *_: None)
    single = denoise.denoise_images(volume[2:], recipe, cpu, lambda *_: None)
    clean = picture(SKULL, N, VOXEL, fine=2).numpy()
    rim = (clean > -950) & (clean < 850)
    lost = [float(np.abs(v - clean)[rim].mean()) for v in (whole.data[2], single.data[0])]
    assert lost[0] < 15 < 60 < lost[1]
    assert any("1 of 3 slices have no soft tissue" in note for note in whole.notes)
    assert not any("have no soft tissue" in note for note in single.notes)
