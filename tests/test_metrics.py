from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import ReconError
from recon.metrics import nmse, psnr, ssim, ssim_map


def pair(shape: tuple[int, ...] = (3, 20, 17), noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    reference = np.broadcast_to(np.hypot(y - 8, x - 7) < 6, shape) * np.linspace(1, 2, shape[-1])
    return reference + noise * rng.standard_normal(shape), reference


def test_nmse_is_the_hand_computed_ratio() -> None:
    assert nmse([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 14)


def test_psnr_is_the_hand_computed_value() -> None:
    # mean square error 1/100, range 2: 10 log10(4 / 0.01)
    assert psnr(np.full((4, 4), 0.6), np.full((4, 4), 0.5), data_range=2.0) == pytest.approx(10 * math.log10(400))


def test_equal_images_are_perfect() -> None:
    _, r = pair()
    assert nmse(r, r) == 0
    assert psnr(r, r, data_range=1) == math.inf
    assert ssim(r, r, data_range=2) == pytest.approx(1, abs=1e-12)


def loops_ssim(x: np.ndarray, r: np.ndarray, peak: float, w: int = 7) -> float:
    """SSIM by its definition, one window after another, with numpy's own sample covariance."""
    values = []
    for a, b in zip(x, r):
        for i in range(a.shape[0] - w + 1):
            for j in range(a.shape[1] - w + 1):
                p, q = a[i : i + w, j : j + w].ravel(), b[i : i + w, j : j + w].ravel()
                c = np.cov(p, q)
                c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
                luminance = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
                values.append(luminance * (2 * c[0, 1] + c2) / (c[0, 0] + c[1, 1] + c2))
    return float(np.mean(values))


@pytest.mark.parametrize("peak", [0.5, 2.0, 30.0])
def test_ssim_is_its_definition_window_by_window(peak: float) -> None:
    x, r = pair()
    assert ssim(x, r, data_range=peak) == pytest.approx(loops_ssim(x, r, peak), abs=1e-10)


def test_ssim_is_that_of_the_fastmri_loss_with_its_box_convolution() -> None:
    # The challenge's training loss in torch: box filters by valid convolution, covariance norm N/(N−1).
    import torch
    import torch.nn.functional as F

    x, r = pair((1, 33, 40), 0.3)
    peak = float(r.max())
    box = torch.ones(1, 1, 7, 7, dtype=torch.float64) / 49
    a, b = (torch.from_numpy(np.ascontiguousarray(v))[None] for v in (x, r))
    ma, mb, maa, mbb, mab = (F.conv2d(v, box) for v in (a, b, a * a, b * b, a * b))
    n = 49 / 48
    va, vb, vab = n * (maa - ma * ma), n * (mbb - mb * mb), n * (mab - ma * mb)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    s = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert ssim(x, r, data_range=peak) == pytest.approx(float(s.mean()), abs=1e-10)


def test_ssim_depends_on_the_data_range() -> None:
    x, r = pair()
    assert ssim(x, r, data_range=2) < ssim(x, r, data_range=20)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_the_data_range_must_be_given(metric: object) -> None:
    x, r = pair()
    with pytest.raises(TypeError, match="data_range"):
        metric(x, r)  # type: ignore[operator]


def test_a_volume_is_the_mean_of_its_slices() -> None:
    x, r = pair()
    each = [ssim(a, b, data_range=2) for a, b in zip(x, r)]
    assert ssim(x, r, data_range=2) == pytest.approx(np.mean(each))


def test_the_mask_leaves_out_what_it_excludes() -> None:
    x, r = pair()
    mask = np.hypot(*(np.mgrid[:20, :17] - np.array([8, 7])[:, None, None])) < 6
    spoiled = np.where(mask, x, x + 100)
    assert nmse(spoiled, r, mask=mask) == pytest.approx(np.sum((x - r)[:, mask] ** 2) / np.sum(r[:, mask] ** 2))
    assert psnr(spoiled, r, data_range=2, mask=mask) == pytest.approx(
        10 * math.log10(4 / np.mean((x - r)[:, mask] ** 2))
    )
    values, inside = ssim_map(x, r, data_range=2)
    assert ssim(x, r, data_range=2, mask=mask) == pytest.approx(values[inside & mask].mean())


@given(st.floats(1e-6, 1e6))
@settings(max_examples=20, deadline=None)
def test_scaling_images_and_range_together_changes_nothing(scale: float) -> None:
    x, r = pair()
    assert nmse(scale * x, scale * r) == pytest.approx(nmse(x, r))
    assert psnr(scale * x, scale * r, data_range=2 * scale) == pytest.approx(psnr(x, r, data_range=2))
    assert ssim(scale * x, scale * r, data_range=2 * scale) == pytest.approx(ssim(x, r, data_range=2))


def test_integer_images_are_compared_without_wrapping() -> None:
    a, b = np.array([[0, 200]], np.uint8), np.array([[100, 0]], np.uint8)
    assert nmse(a, b) == pytest.approx(5)


@pytest.mark.parametrize(
    ("x", "r", "said"),
    [
        (np.ones((8, 8), complex), np.ones((8, 8)), "magnitudes"),
        (np.ones((8, 8)), np.ones((8, 9)), "one grid"),
        (np.full((8, 8), np.nan), np.ones((8, 8)), "NaN"),
        (np.ones((0, 8)), np.ones((0, 8)), "empty"),
        (np.array([["a"]]), np.array([["b"]]), "numbers"),
    ],
)
def test_bad_images_are_refused_with_the_cure(x: np.ndarray, r: np.ndarray, said: str) -> None:
    for metric in (nmse, lambda a, b: psnr(a, b, data_range=1), lambda a, b: ssim(a, b, data_range=1)):
        with pytest.raises(ReconError, match=said):
            metric(x, r)


def test_bad_options_are_refused_with_the_cure() -> None:
    x, r = pair()
    for peak in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ReconError, match="maximum of the reference"):
            psnr(x, r, data_range=peak)
    for window in (2, 4, 1, 19):
        with pytest.raises(ReconError, match="odd"):
            ssim(x, r, data_range=1, window=window)
    with pytest.raises(ReconError, match="zero everywhere"):
        nmse(x, np.zeros_like(r))
    with pytest.raises(ReconError, match="no pixel"):
        nmse(x, r, mask=np.zeros(r.shape, bool))
    with pytest.raises(ReconError, match="bool"):
        nmse(x, r, mask=np.ones(r.shape))
    with pytest.raises(ReconError, match="same grid"):
        nmse(x, r, mask=np.ones((3, 3), bool))
    border = np.zeros(r.shape, bool)
    border[:, 0] = True
    with pytest.raises(ReconError, match="border"):
        ssim(x, r, data_range=1, mask=border)
