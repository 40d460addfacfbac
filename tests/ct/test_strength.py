"""How much of what a denoiser takes away stays away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon import recipe as recipes
from recon.ct import denoise, strength
from recon.recipe import CT, Recipe, Solve


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
    assert f"{faint:.2f} to {strong:.2f} by the noise" in auto.notes[-1]


def test_auto_and_numbers_are_read_from_a_recipe_and_words_are_refused() -> None:
    assert recipes.parse({"ct": {"strength": 0.5}}).ct.strength == 0.5
    assert recipes.parse({"ct": {"strength": "auto"}}).ct.strength == "auto"
    for wrong in (1.5, "much"):
        with pytest.raises(recipes.ReconError, match=r"ct\.strength"):
            recipes.parse({"ct": {"strength": wrong}})
