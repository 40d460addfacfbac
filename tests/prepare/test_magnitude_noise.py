"""Noise of magnitude images and the part of k-space that was measured, against noise that was put in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.prepare import magnitude_noise


def magnitude(sigma: float, share: float = 1.0, size: int = 160, contrast: float = 1.0) -> torch.Tensor:
    """An ellipse with shading and waves, Rician noise, k-space beyond `share` of each axis filled with zeros."""
    y, x = (np.mgrid[:size, :size] - size / 2) / (size / 2)
    inside = 1 / (1 + np.exp((x**2 + 1.3 * y**2 - 0.75) / 0.02))
    truth = contrast * inside * (400 + 100 * x + 40 * np.sin(30 * y))
    rng = np.random.default_rng(1)
    noise = sigma / share * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    k = np.fft.fftshift(np.fft.fft2(truth + noise))
    far = np.abs(np.arange(size) - size // 2) > share * size / 2
    k[far], k[:, far] = 0, 0
    return torch.from_numpy(np.abs(np.fft.ifft2(np.fft.ifftshift(k))))[None].float()


@pytest.mark.parametrize("sigma", [5.0, 20.0, 60.0])
def test_the_noise_is_found_beside_edges(sigma: float) -> None:
    assert float(magnitude_noise.level(magnitude(sigma))) == pytest.approx(sigma, rel=0.08)


def test_the_noise_of_an_image_without_signal_is_found() -> None:
    assert float(magnitude_noise.level(magnitude(10.0, contrast=0.0))) == pytest.approx(10.0, rel=0.06)


def test_a_masked_background_is_ignored() -> None:
    image = magnitude(20.0)
    image[:, 30:130] = torch.where(image[:, 30:130] < 100, 0, image[:, 30:130])
    image[:, :30], image[:, 130:] = 0, 0
    assert float(magnitude_noise.level(image)) == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_zeros_around_k_space_are_found_and_the_noise_within(share: float) -> None:
    image = magnitude(15.0, share)
    found = magnitude_noise.filled(image)
    assert found == pytest.approx((share, share), abs=0.04)
    small = magnitude_noise.resized(image, magnitude_noise.measured(image.shape, found))
    assert float(magnitude_noise.level(small)) == pytest.approx(15.0, rel=0.1)


@pytest.mark.parametrize("sizes", [(21, 33), (40, 15)])
def test_a_coarser_grid_keeps_values_and_comes_back(sizes: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.arange(40) / 40, torch.arange(50) / 50, indexing="ij")
    wave = (3 + torch.cos(2 * torch.pi * (2 * y + 3 * x)))[None]
    small = magnitude_noise.resized(wave, sizes)
    v, u = torch.meshgrid(torch.arange(sizes[0]) / sizes[0], torch.arange(sizes[1]) / sizes[1], indexing="ij")
    assert torch.allclose(small[0], 3 + torch.cos(2 * torch.pi * (2 * v + 3 * u)), atol=1e-5)
    assert torch.allclose(magnitude_noise.resized(small, (40, 50)), wave, atol=1e-5)
