"""Noise of CT slices, held against how they differ from their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.prepare import image_noise

CPU = torch.device("cpu")
SIGMA = 15.0


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
    return [float(n.level) for n in image_noise.of_volume(volume, CPU)[0]]


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
    found = image_noise.of_volume(clean + 3 * SIGMA * smooth, CPU)[0][1].texture[0, 0]
    white = image_noise.of_volume(clean + SIGMA * noise.numpy(), CPU)[0][1].texture[0, 0]
    assert abs(float(white)) < 0.15
    assert float(found) < float(white) - 0.4
