"""How much of what a denoiser takes away stays away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from recon import recipe as recipes
from recon.ct import denoise, strength
from recon.recipe import CT, Recipe, Solve

#: All that a denoiser takes away stays away, but for what is coarse.
WHOLE = CT(strength=1.0, coarse=3.0)


def silent(stage: str, done: int, total: int) -> None:
    """No report."""


def series() -> np.ndarray:
    """Two slices of water in air, one with little noise and one with much."""
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    noise = np.random.default_rng(0).standard_normal((2, 96, 96)) * np.array([8.0, 200.0])[:, None, None]
    return (np.where(x**2 + y**2 < 0.8, 30.0, -1000.0) + noise).astype(np.float32)


def test_the_noise_that_is_blended_back_in_has_a_bound_and_faint_noise_keeps_its_share() -> None:
    for sigma in (0.0, 1.0, 10.0, 50.0, 100.0, 200.0, 1000.0):
        s = strength.share(CT(), sigma)
        assert strength.LEAST <= s < 1
        assert (1 - s) * sigma <= strength.LEFT + 1e-9
    assert strength.share(CT(), 10.0) == strength.LEAST
    assert strength.share(CT(), 200.0) == pytest.approx(1 - strength.LEFT / 200)


def test_a_strength_that_is_asked_for_is_that_whatever_the_noise() -> None:
    assert [strength.share(CT(strength=s), noise) for s in (0.0, 0.4, 1.0) for noise in (1.0, 500.0)] == [
        *(0.0, 0.0, 0.4, 0.4, 1.0, 1.0)
    ]


def test_each_slice_is_written_with_the_share_of_its_own_noise() -> None:
    y, cpu = series(), torch.device("cpu")

    def made(ct: CT) -> denoise.Denoised:
        return denoise.denoise_images(y, Recipe(solve=Solve(method="tv"), ct=ct), cpu, silent)

    whole, auto, fixed = made(CT(strength=1.0)), made(CT()), made(CT(strength=0.3))
    faint, strong = auto.provenance["strength"]
    assert faint == strength.LEAST < strong
    for k, s in enumerate((faint, strong)):
        assert np.abs(auto.data[k] - (y[k] + s * (whole.data[k] - y[k]))).max() < 0.5
    assert fixed.provenance["strength"] == [0.3, 0.3]
    assert np.allclose(fixed.data, 0.7 * y + 0.3 * whole.data, atol=1e-3)
    assert f"{faint:.2f} to {strong:.2f}, chosen by the noise" in auto.notes[-1]
    # White noise is finer than that of filtered backprojection: a sample takes one pixel.
    assert (
        "0% of what the denoiser would remove was left in, and so was all detail coarser than 3.0 pixels; "
        in whole.notes[-1]
    )
    assert whole.provenance["coarse_pixels"] == [3.0, 3.0]
    # The noisier slice keeps less: of what is coarse only a part is given back there.
    small, wide = (min(strength.kept(w, CT(), v) for v in auto.provenance["noise_HU"]) for w in strength.SPOTS)
    assert f"at least {small:.0%} (4 pixels across) and {wide:.0%} (10 pixels across)" in auto.notes[-1]


def test_what_is_coarse_counts_samples_of_a_slice_that_was_interpolated() -> None:
    white = np.random.default_rng(0).standard_normal((1, 96, 96))
    few = 30.0 + 60 * (ndimage.gaussian_filter(white, (0, 0.55, 0.55)) - ndimage.gaussian_filter(white, (0, 2, 2)))
    fine = ndimage.zoom(few, (1, 2, 2), order=3).astype(np.float32)
    recipe, cpu = Recipe(solve=Solve(method="tv"), ct=CT(strength=1.0)), torch.device("cpu")
    found, whole = (
        denoise.denoise_images(fine, replace(recipe, ct=replace(recipe.ct, coarse=c)), cpu, silent) for c in (3.0, 0.0)
    )
    (pixels,) = found.provenance["coarse_pixels"]
    assert 4.2 < pixels <= 6
    taken = torch.from_numpy(whole.data - fine)
    assert np.allclose(found.data, whole.data - strength.coarser(taken, pixels).numpy(), atol=0.05)
    assert f"all detail coarser than {pixels:.1f} pixels" in found.notes[-1]


def lost(taken: np.ndarray, ct: CT = WHOLE, noise: float = 10.0) -> np.ndarray:
    """What is written where a denoiser takes all of a picture away."""
    y = torch.from_numpy(taken.astype(np.float32))
    return strength.written(y, torch.zeros_like(y), ct, noise).numpy()


def test_a_wide_faint_lesion_that_a_denoiser_wipes_out_is_given_back() -> None:
    """In the middle of a disc of radius R a Gaussian σ leaves g = 1 − exp(−R²/2σ²); d − (1 − G)³ d = 3G − 3G² + G³,
    where the nth power is a Gaussian of σ√n."""
    y, x = np.mgrid[:97, :97] - 48
    lesion = np.where(np.hypot(y, x) < 8, 15.0, 0.0)
    once, twice, thrice = (1 - np.exp(-(8**2) / (2 * n * 3**2)) for n in (1, 2, 3))
    assert lost(lesion)[48, 48] == pytest.approx(15 * (3 * once - 3 * twice + thrice), rel=0.01)
    assert lost(lesion, CT(strength=1.0, coarse=0.0)).max() == 0


@pytest.mark.parametrize("settings", [CT(), CT(strength=1.0), CT(strength=0.4, coarse=5.0), CT(coarse=0.0)])
@pytest.mark.parametrize("noise", [10.0, 150.0])
def test_a_disc_that_a_denoiser_removes_keeps_the_stated_contrast(settings: CT, noise: float) -> None:
    fine = 8
    for width in (4, 10):
        # Drawn eight times as fine, so that a disc of four pixels is round.
        y, x = (np.mgrid[: 41 * fine, : 41 * fine] - (41 * fine - 1) / 2) / fine
        disc = np.where(np.hypot(y, x) <= width / 2, 15.0, 0.0)
        left = lost(disc, replace(settings, coarse=settings.coarse * fine), noise)[disc > 0].mean() / 15
        assert strength.kept(width, settings, noise) == pytest.approx(left, abs=0.01)


def test_little_noise_of_filtered_backprojection_is_given_back() -> None:
    """Of a spectrum |f| up to Nyquist h leaves √(∫ f² h² df / ∫ f² df), f from 0 to ½, h = 1 − (1 − exp(−2π²σ²f²))³."""
    n, sigma = 256, 3.0
    f = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    white = np.fft.rfft2(np.random.default_rng(0).standard_normal((n, n)))
    noise = np.fft.irfft2(white * np.sqrt(f) * (f <= 0.5), s=(n, n))
    kept = lost(noise)[32:-32, 32:-32]
    at = np.linspace(0, 0.5, 5001)
    h = 1 - (1 - np.exp(-2 * np.pi**2 * sigma**2 * at**2)) ** 3
    expected = np.sqrt((at**2 * h**2).sum() / (at**2).sum())
    assert expected < 0.08
    assert kept.std() / noise.std() == pytest.approx(expected, rel=0.1)


def test_what_is_given_back_at_the_border_is_what_is_there() -> None:
    assert np.allclose(lost(np.full((40, 9), 7.0)), 7.0, atol=1e-4)


def test_beneath_much_noise_only_a_part_of_what_is_coarse_is_given_back() -> None:
    assert [strength.back(v) for v in (0.0, 20.0, strength.FAINT, 2 * strength.FAINT)] == [1, 1, 1, 0.5]
    taken = np.full((40, 40), 7.0)
    assert np.allclose(lost(taken), 7.0, atol=1e-4)
    assert np.allclose(lost(taken, noise=2 * strength.FAINT), 3.5, atol=1e-4)
    # A slice of 300 HU of noise: what total variation takes away of a wide, faint disc is not all given back.
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    body = np.where(x**2 + y**2 < 0.8, 30.0, -1000.0)
    noise = 300 * np.random.default_rng(0).standard_normal((96, 96))
    scan, cpu = (body + noise).astype(np.float32)[None], torch.device("cpu")
    made, whole = (
        denoise.denoise_images(scan, Recipe(solve=Solve(method="tv"), ct=CT(strength=1.0, coarse=c)), cpu, silent).data
        for c in (3.0, 0.0)
    )
    d = torch.from_numpy(whole - scan)
    level = denoise.denoise_images(scan, Recipe(solve=Solve(method="tv")), cpu, silent).provenance["noise_HU"][0]
    expected = whole - strength.FAINT / level * strength.coarser(d, 3.0).numpy()
    assert np.allclose(made, expected, atol=0.1)


def test_auto_and_numbers_are_read_from_a_recipe_and_words_are_refused() -> None:
    assert recipes.parse({"ct": {"strength": 0.5}}).ct.strength == 0.5
    assert recipes.parse({"ct": {"strength": "auto"}}).ct.strength == "auto"
    for wrong in (1.5, "much"):
        with pytest.raises(recipes.ReconError, match=r"ct\.strength"):
            recipes.parse({"ct": {"strength": wrong}})
