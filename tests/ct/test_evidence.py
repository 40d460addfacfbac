"""What speaks against a denoised CT slice: filters that blur, lesions that went, values that are no HU."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from recon.ct.evidence import BLUR, PATCH, Reason, blur, evidence, in_short, patch
from recon.prepare import image_noise
from recon.recipe import Trust

N = 192
Y, X = np.mgrid[:N, :N]


def anatomy() -> np.ndarray:
    """An elliptic body with organs, ribs and a lung, edges as sharp as a scanner's."""
    x = np.where(np.hypot((Y - 95) / 80, (X - 95) / 90) < 1, 40.0, -1000.0)
    for cy, cx, r, hu in ((70, 60, 22, -800), (70, 130, 22, -800), (130, 95, 14, 300), (110, 60, 12, 120)):
        x[np.hypot(Y - cy, X - cx) < r] = hu
    return ndimage.gaussian_filter(x, 0.8)


def noise(sigma: float, seed: int = 0) -> np.ndarray:
    """Noise as filtered backprojection leaves it: less of the coarse, less of the finest."""
    f = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N))
    white = np.random.default_rng(seed).standard_normal((N, N))
    n = np.fft.irfft2(np.fft.rfft2(white) * np.sqrt(f) * np.exp(-((f / 0.35) ** 2)), s=(N, N))
    return sigma * n / n.std()


def tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).float()


def judged(noisy: np.ndarray, x: np.ndarray, sigma: float) -> dict:
    return evidence(tensor(noisy), tensor(x), sigma, Trust(), (3.0, 160.0))


@pytest.mark.parametrize("sigma", [5.0, 10.0, 30.0, 60.0])
def test_a_filter_that_removes_only_noise_is_trusted_at_any_noise(sigma: float) -> None:
    clean = anatomy()
    for seed in range(3):
        n = noise(sigma, seed)
        # What leaves a tenth of the noise in, as networks do.
        found = judged(clean + n, clean + 0.1 * n, sigma)
        assert not found["reasons"]
        assert found["blur"] < 0.2


@pytest.mark.parametrize("sigma", [10.0, 30.0, 60.0])
@pytest.mark.parametrize("size", [0.8, 1.0, 1.5])
def test_a_blur_is_found_as_wide_as_it_is_beneath_much_noise(sigma: float, size: float) -> None:
    noisy = anatomy() + noise(sigma)
    found = judged(noisy, ndimage.gaussian_filter(noisy, size), sigma)
    assert found["blur"] == pytest.approx(size, rel=0.2)
    assert found["share"] == pytest.approx((BLUR / found["blur"]) ** 2)


@pytest.mark.parametrize("sigma", [10.0, 60.0])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("left", [0.1, 0.3, 0.5])
def test_noise_in_even_water_is_no_edge_that_could_be_blurred(sigma: float, times: int, left: float) -> None:
    far = np.hypot(Y - 95.5, X - 95.5)
    # Twice as strong in the middle as at the rim, as behind a bow-tie that suits no one.
    n = noise(sigma) * (2 - far / 85)
    water = ndimage.gaussian_filter(np.where(far < 85, 0.0, -1000.0), 0.8)
    water, n = (ndimage.zoom(v, times, order=3) if times > 1 else v for v in (water, n))
    assert judged(water + n, water + left * n, sigma)["share"] == 1


def test_the_blurred_rims_of_a_few_rods_in_water_are_detected() -> None:
    clean = np.where(np.hypot(Y - 95, X - 95) < 85, 0.0, -1000.0)
    for cy, cx, hu in ((60, 60, 900), (60, 130, -900), (130, 60, 120), (130, 130, -100)):
        clean[np.hypot(Y - cy, X - cx) < 8] = hu
    noisy = ndimage.gaussian_filter(clean, 0.8) + noise(20)
    blurred = noisy + 0.7 * (ndimage.gaussian_filter(noisy, 1.2) - noisy)
    found = judged(noisy, blurred, 20)
    assert found["blur"] == pytest.approx(1.0, rel=0.2)
    assert found["share"] < 1


def test_a_picture_made_of_much_noise_may_be_softer() -> None:
    for sigma, refused in ((90.0, True), (250.0, False)):
        noisy = anatomy() + noise(sigma)
        found = judged(noisy, ndimage.gaussian_filter(noisy, 1.0), sigma)
        assert (found["share"] < 1) == refused
    noisy = anatomy() + noise(250)
    assert judged(noisy, ndimage.gaussian_filter(noisy, 2.5), 250)["share"] < 1


@pytest.mark.parametrize("size", [0.8, 1.0, 1.5])
def test_what_stays_of_a_blur_spreads_a_point_as_far_as_the_limit(size: float) -> None:
    noisy = anatomy() + noise(20)
    share = judged(noisy, ndimage.gaussian_filter(noisy, size), 20)["share"]
    point = ((Y == 96) & (X == 96)).astype(float)
    written = point + share * (ndimage.gaussian_filter(point, size) - point)
    assert np.sqrt((written * (X - 96) ** 2).sum()) == pytest.approx(BLUR, rel=0.2)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("size", "refused"), [(0.4, False), (0.8, True)])
def test_the_limit_of_blur_is_of_the_scans_own_pixels_however_far_they_were_interpolated(
    times: int, size: float, refused: bool
) -> None:
    noisy = anatomy() + noise(20)
    blurred = ndimage.gaussian_filter(noisy, size)
    noisy, blurred = (ndimage.zoom(v, times, order=3) if times > 1 else v for v in (noisy, blurred))
    found = image_noise.measured(tensor(noisy)[None])
    width = image_noise.sharpness(found)
    assert width == pytest.approx(times, rel=0.2)
    told = evidence(tensor(noisy), tensor(blurred), float(found.level), Trust(), None, width)
    assert (told["share"] < 1) == refused


def test_a_median_that_rounds_corners_and_fills_gaps_is_refused() -> None:
    noisy = anatomy() + noise(10)
    assert judged(noisy, ndimage.median_filter(noisy, 7), 10)["reasons"]


def test_a_lesion_that_a_network_takes_away_is_named() -> None:
    clean = anatomy()
    lesion = 20.0 * (np.hypot(Y - 120, X - 130) < 6)
    for sigma, seen in ((5.0, True), (10.0, True), (60.0, False)):
        n = noise(sigma)
        found = judged(clean + lesion + n, clean + 0.1 * n, sigma)
        # Beneath much noise no evidence of a single slice could tell.
        assert (found["patch"] > PATCH) == seen
        assert any("patch of" in r for r in found["reasons"]) == seen


def test_the_evidence_does_not_depend_on_orientation_or_position() -> None:
    noisy = tensor(anatomy() + noise(20))
    x = tensor(ndimage.gaussian_filter(noisy.numpy(), 1))
    body = noisy > -900
    turned = [v.transpose(0, 1).flip(0) for v in (noisy - x, x, body)]
    assert blur(*turned) == pytest.approx(blur(noisy - x, x, body), rel=1e-3)
    assert patch(turned[0], turned[2]) == pytest.approx(patch(noisy - x, body), rel=1e-3)


@pytest.mark.parametrize(("hu", "patches"), [(3.0, False), (8.0, True)])
def test_a_patch_of_less_than_scanners_hold_water_to_is_no_lesion(hu: float, patches: bool) -> None:
    y, spot = anatomy() + noise(3), hu * (np.hypot(Y - 95, X - 95) < 5)
    taken = noise(0.6, 1) + spot
    found = evidence(tensor(y), tensor(y - taken), 3.0, Trust(), (3.0, 320.0))
    assert any("patch" in r for r in found["reasons"]) is patches


def test_values_that_are_no_hu_and_metal_are_kept_from_the_network() -> None:
    clean = anatomy()
    shifted = judged(clean + 1024, clean + 1024, 10)
    assert "may not be in HU" in shifted["reasons"][0]
    steel = clean.copy()
    steel[90:96, 90:96] = 3071
    assert "it contains metal" in judged(steel, steel, 10)["reasons"][0]
    assert not judged(clean, clean, 10)["reasons"]


def test_noise_beyond_the_training_is_not_touched() -> None:
    clean = anatomy()
    assert "above the training range" in judged(clean, clean, 400.0)["reasons"][0]


def test_a_slice_that_shows_next_to_nothing_and_one_that_is_not_finite_are_judged_too() -> None:
    air = np.full((9, 9), -1000.0)
    assert judged(air, air, 0.0)["reasons"] == ()
    broken = anatomy()
    broken[50, 50] = np.nan
    assert "NaN or infinite" in judged(anatomy(), broken, 10)["reasons"][0]


def test_reasons_that_differ_in_a_number_are_joined_into_one() -> None:
    words = "a patch of {} standard deviations"
    patches = [Reason(words, n) for n in ("10", "8", "13")]
    assert in_short([patches[0], patches[1], Reason("it is not finite"), patches[2]]) == [
        "a patch of 8 to 13 standard deviations",
        "it is not finite",
    ]
    assert in_short(patches[:1]) == patches[:1] == ["a patch of 10 standard deviations"]
    assert in_short([Reason(words, "8"), Reason(words, "8")]) == ["a patch of 8 standard deviations"]


def test_a_reason_is_a_sentence_in_every_output() -> None:
    reason = Reason("{} HU of noise", "31")
    assert json.loads(json.dumps([reason])) == ["31 HU of noise"]
    assert [again.number for again in (copy.deepcopy(reason), pickle.loads(pickle.dumps(reason)))] == ["31", "31"]
