from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import ReconError
from recon.metrics import best_scale, body, nmse, psnr, scores, ssim, ssim_map


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
        (np.ones((8, 8)), np.full((8, 8), -np.inf), "infinite"),
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


def test_scores_are_the_three_measures_of_what_the_mask_holds() -> None:
    x, r = pair()
    mask = np.hypot(*(np.mgrid[:20, :17] - np.array([8, 7])[:, None, None])) < 6
    found = scores(x, r, data_range=2, mask=mask)
    assert found.psnr == psnr(x, r, data_range=2, mask=mask)
    assert found.ssim == ssim(x, r, data_range=2, mask=mask)
    assert found.nmse == nmse(x, r, mask=mask)


@pytest.mark.parametrize(("slices", "told"), [(1, False), (7, False), (8, True)])
def test_few_slices_have_no_interval(slices: int, told: bool) -> None:
    x, r = pair((slices, 20, 17))
    assert bool(scores(x, r, data_range=2).intervals) is told


def test_slices_that_are_alike_leave_nothing_to_chance() -> None:
    x, r = (np.stack([one[0]] * 8) for one in pair())
    mask = np.zeros(x.shape, bool)
    mask[:, 3:15, 2:14] = True
    found = scores(x, r, data_range=2, mask=mask)
    for name in ("psnr", "ssim", "nmse"):
        assert found.intervals[name] == pytest.approx((getattr(found, name),) * 2), name


def test_slices_of_which_nothing_is_measured_are_not_drawn() -> None:
    x, r = pair((5, 20, 17))
    mask = np.ones(x.shape, bool)
    mask[[1, 4]] = False
    some = [0, 2, 3]
    assert scores(x, r, data_range=2, mask=mask, fewest=2) == scores(x[some], r[some], data_range=2, fewest=2)
    assert scores(x, r, data_range=2, mask=mask, fewest=3).intervals
    assert not scores(x, r, data_range=2, mask=mask, fewest=4).intervals


def test_the_interval_of_many_slices_is_that_of_their_mean() -> None:
    # Slices of equal energy: the NMSE of all is the mean of theirs, whose 95 % are 1.96 standard errors either way.
    r = np.ones((200, 9, 9))
    x = r + np.random.default_rng(7).uniform(0, 0.3, 200)[:, None, None]
    each = ((x - r) ** 2).mean((1, 2))
    low, high = scores(x, r, data_range=1).intervals["nmse"]
    assert (high - low) / 2 == pytest.approx(1.96 * each.std() / math.sqrt(200), rel=0.06)
    assert low < each.mean() < high


def test_the_best_scale_leaves_the_least_error() -> None:
    x, r = pair()
    a = best_scale(3 * x, r)
    for other in (0.99 * a, 1.01 * a):
        assert np.sum((a * 3 * x - r) ** 2) < np.sum((other * 3 * x - r) ** 2)
    assert best_scale(np.zeros((4, 4)), np.ones((4, 4))) == 1.0


def disc(radius: float, at: tuple[int, int] = (48, 48)) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    return np.hypot(y - at[0], x - at[1]) < radius


def test_the_body_is_what_is_brighter_than_half_of_what_parts_it_from_air() -> None:
    head = np.where(disc(36), 1.0, 0.0)
    # Tissue of 0.4 beside the head: what parts the two best lies at 0.7.
    assert body(np.where((head == 0) & disc(10, (48, 86)), 0.4, head))[disc(6, (48, 86))].all()
    # Between air and tissue nothing parts them better than their middle: a ghost of a tenth is air.
    ghost = disc(5, (10, 10))
    assert not body(np.where(ghost, 0.1, head))[ghost].any()
    found = body(head)
    assert abs(int(found.sum()) - int(disc(36).sum())) < 0.05 * disc(36).sum()


def test_holes_belong_to_the_body_and_small_pieces_do_not() -> None:
    head, hole = disc(30, (48, 34)), disc(8, (48, 34))
    hand, speck = disc(9, (48, 84)), disc(4, (6, 90))
    found = body(np.where((head & ~hole) | hand | speck, 1.0, 0.0))
    assert found[hole].all()
    assert found[hand].all()
    assert not found[speck].any()


def test_an_image_without_contrast_has_no_body() -> None:
    with pytest.raises(ReconError, match="no body is visible"):
        body(np.ones((8, 8)))
