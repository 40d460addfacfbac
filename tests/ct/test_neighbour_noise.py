"""Noise of CT slices, held against how they differ from their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from recon.prepare import image_noise, series_noise

CPU = torch.device("cpu")
SIGMA = 15.0
Body = Callable[[int, int], np.ndarray]


def crowded(slices: int = 4, size: int = 60) -> np.ndarray:
    """Slices (z, y, x) of soft tissue, bone and air in pieces of a few pixels, which drift from one to the next."""
    y, x = np.mgrid[:size, :size].astype(float)
    z = 0.1 * np.arange(slices)[:, None, None]
    waves = np.cos(1.1 * x + z) + np.cos(0.9 * y - z) + np.cos(0.7 * (x + y) + z)
    return (20 + 130 * waves).astype(np.float32)


def plain(slices: int = 4, size: int = 96) -> np.ndarray:
    """Slices of water in air."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return np.where(x**2 + y**2 < 0.8, 20.0, -1000.0).astype(np.float32)[None].repeat(slices, 0)


def drawn(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def levels(volume: np.ndarray) -> list[float]:
    return [float(n.level) for n in series_noise.of_volume(volume, CPU)[0]]


def alone(volume: np.ndarray) -> list[float]:
    return image_noise.measured(torch.from_numpy(volume)).level.tolist()


def test_structure_that_fills_slices_does_not_pass_for_noise() -> None:
    clean = crowded()
    noisy = clean + SIGMA * drawn(clean.shape)
    assert min(alone(noisy)) > 6 * SIGMA
    assert levels(noisy) == pytest.approx([SIGMA] * 4, rel=0.25)
    # Two slices are fewer witnesses, and structure that bends is in their difference.
    assert max(levels(noisy[:2])) < 2 * SIGMA


def bending(slices: int = 4, size: int = 120) -> np.ndarray:
    """Slices of soft tissue with more and more structure from left to right, which is another in each slice."""
    y, x = np.mgrid[:size, :size].astype(float)
    z = 0.7 * np.arange(slices)[:, None, None]
    waves = np.cos(1.1 * x + z) + np.cos(0.9 * y - z) + np.cos(0.7 * (x + y) + z)
    return (20 + 130 * x / size * waves).astype(np.float32)


def test_structure_that_bends_from_slice_to_slice_does_not_pass_for_noise() -> None:
    clean = bending()
    noisy = clean + SIGMA * drawn(clean.shape)
    assert min(alone(noisy)) > 4 * SIGMA
    assert levels(noisy) == pytest.approx([SIGMA] * 4, rel=0.1)


def test_noise_that_varies_over_a_body_does_not_pass_for_structure() -> None:
    noisy = plain(4, 160) + 7 * SIGMA * drawn((4, 160, 160)) * np.linspace(0.2, 1.8, 160, dtype=np.float32)
    assert levels(noisy) == pytest.approx(alone(noisy), rel=0.1)


@pytest.mark.parametrize("thick", [2, 3])
def test_noise_in_common_that_varies_over_a_body_does_not_pass_for_structure(thick: int) -> None:
    noise = drawn((6, 160, 160)) * np.linspace(0.1, 1.9, 160, dtype=np.float32)
    overlapping = np.stack([noise[k : k + thick].sum(0) for k in range(4)]) / np.float32(thick**0.5)
    noisy = plain(4, 160) + 3 * SIGMA * overlapping
    assert levels(noisy) == pytest.approx(alone(noisy), rel=0.1)
    assert levels(noisy[:2]) == pytest.approx(alone(noisy[:2]), rel=0.1)


@pytest.mark.parametrize("smooth", [False, True])
def test_noise_in_common_is_found_beneath_structure_that_leaves_some_of_a_slice_even(smooth: bool) -> None:
    noise = ndimage.gaussian_filter(drawn((6, 120, 120)), (0, 1.2, 1.2)) if smooth else drawn((6, 120, 120))
    noise *= 20 / noise.std()
    noisy = bending() + (noise[:4] + noise[1:5] + noise[2:6]) / np.float32(3**0.5)
    assert min(alone(noisy)) > 60
    assert levels(noisy) == pytest.approx([20] * 4, rel=0.2)


@pytest.mark.parametrize("value", [-150, 0, 200])
@pytest.mark.parametrize("kind", [plain, crowded])
def test_the_value_that_a_mask_left_outside_of_the_body_is_no_noise(kind: Body, value: int) -> None:
    noisy = kind(4, 120) + SIGMA * drawn((4, 120, 120))
    y, x = np.mgrid[-1:1:120j, -1:1:120j]
    masked = np.where(x**2 + y**2 < 0.6, noisy, np.float32(value))
    assert levels(masked) == pytest.approx([SIGMA] * 4, rel=0.1)


@pytest.mark.parametrize("around", [-1000, 0])
def test_slices_without_any_noise_show_none_whatever_is_around_them(around: int) -> None:
    assert alone(np.where(plain(1) > 0, np.float32(60), np.float32(around))) == [0]


def test_a_thin_plate_in_air_that_was_cut_off_is_no_slice_without_noise() -> None:
    plate = np.full((1, 96, 96), -1000, np.float32)
    plate[:, 44:52] = 20
    assert alone(np.maximum(plate + SIGMA * drawn(plate.shape), -1000))[0] > SIGMA


def test_variance_that_rises_with_slopes_is_read_off_where_these_end_and_never_falls_below_nothing() -> None:
    rng = np.random.default_rng(0)
    slopes, spread = rng.exponential(1, 3000), rng.chisquare(60, 3000) / 60
    flat = np.sort(slopes)[900] >= slopes

    def found(variance: np.ndarray) -> float:
        deviations = torch.from_numpy(np.sqrt(variance))[None].float()
        return float(series_noise.without_slopes(deviations, torch.from_numpy(slopes).float())[0])

    noise = 10 * float(np.sqrt(np.quantile(spread, 0.3)))
    assert found((100 + 400 * slopes) * spread) == pytest.approx(noise, rel=0.03)
    assert 0.1 * noise < found(400 * slopes * spread) < 0.2 * noise
    falling = 100 * (1.5 - np.minimum(slopes, 1.2)) * spread
    assert found(falling) == pytest.approx(float(np.sqrt(np.quantile(falling[flat], 0.3))), rel=0.01)


def test_noise_that_neighbours_have_in_common_is_found_nevertheless() -> None:
    clean, noise = plain(), drawn((6, 96, 96))
    overlapping = clean + SIGMA * (noise[:4] + noise[1:5] + noise[2:6]) / np.float32(3**0.5)
    assert levels(overlapping) == pytest.approx([SIGMA] * 4, rel=0.15)
    same = clean + SIGMA * noise[:1]
    assert levels(same) == alone(same)
    between = np.stack([same[0], clean[0] + SIGMA * noise[1]])
    between = np.stack([between[0], between.mean(0), between[1]])
    assert levels(between) == pytest.approx(alone(between), rel=0.15)


def test_noise_of_plain_slices_is_what_each_shows_by_itself() -> None:
    noisy = plain() + SIGMA * drawn((4, 96, 96))
    assert levels(noisy) == alone(noisy)
    assert levels(noisy[:1]) == alone(noisy[:1])


def test_texture_is_read_off_where_the_level_is() -> None:
    clean, noise = crowded(), torch.from_numpy(drawn((4, 60, 60)))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1).numpy()
    found = series_noise.of_volume(clean + 3 * SIGMA * smooth, CPU)[0][1].texture[0, 0]
    white = series_noise.of_volume(clean + SIGMA * noise.numpy(), CPU)[0][1].texture[0, 0]
    assert abs(float(white)) < 0.15
    assert float(found) < float(white) - 0.4
