from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.data import DataError
from recon.operators import fft, ifft
from recon.operators.whiten import Whiten
from recon.prepare import noise, quiet
from recon.prepare.noise import apply, covariance, estimate, whitener
from tests.prepare.noisy import ellipses, levels, mixing, white


def test_the_covariance_keeps_the_mean() -> None:
    x = white(3, 500) + 2
    direct = sum(torch.outer(x[:, i], x[:, i].conj()) for i in range(500)).to(torch.complex128) / 499
    torch.testing.assert_close(covariance(x), direct, rtol=1e-5, atol=1e-5)


def test_the_covariance_does_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    x = white(3, 1000)
    whole = covariance(x)
    monkeypatch.setattr(noise, "_CHUNK", 100)
    torch.testing.assert_close(covariance(x), whole)


@pytest.mark.parametrize(("dwell_noise", "dwell_data"), [(5.0, 5.0), (5.0, 12.0), (7.8, 2.1)])
@pytest.mark.parametrize("bandwidth", [0.793, 1.0])
def test_whitened_data_of_another_dwell_time_have_unit_noise(
    dwell_noise: float, dwell_data: float, bandwidth: float
) -> None:
    """Thermal noise of one density, sampled twice: its power is 1/dwell times what the filter lets pass."""
    coils, count = 5, 40000
    mix = mixing(coils)
    passed = torch.zeros(count)
    passed[: round(bandwidth * count)] = 1
    scan = fft(ifft(mix @ white(coils, count) / dwell_noise**0.5, (-1,)) * passed, (-1,))
    data = mix @ white(coils, count) / dwell_data**0.5

    found = whitener(scan, dwell_data_us=dwell_data, dwell_noise_us=dwell_noise, bandwidth=bandwidth)
    assert found.source == "noise scan"
    assert found.notes == ()
    y = apply(found.matrix, data[None])[0]
    torch.testing.assert_close(y.real.std(1), torch.ones(coils), rtol=0.02, atol=0)
    torch.testing.assert_close(y.imag.std(1), torch.ones(coils), rtol=0.02, atol=0)
    torch.testing.assert_close(covariance(y), 2 * torch.eye(coils, dtype=torch.complex128), rtol=0, atol=0.06)


def test_an_unknown_dwell_time_ignores_the_bandwidth_with_a_note() -> None:
    scan = mixing(4) @ white(4, 20000)
    found = whitener(scan, dwell_data_us=0, dwell_noise_us=5)
    torch.testing.assert_close(
        covariance(found.matrix @ scan).real, 2 * torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-3
    )
    assert "dwell time is unknown" in found.notes[0]


@pytest.mark.parametrize("broken", [0.0, float("nan")])
def test_a_dead_coil_is_left_out_and_cannot_spread(broken: float) -> None:
    scan, data = mixing(4) @ white(4, 20000), white(6, 4, 32)
    scan[2], data[:, 2] = broken, broken
    found = whitener(scan, dwell_data_us=1, dwell_noise_us=1)
    assert found.matrix.shape == (3, 4)
    assert "1 of 4 coils left out as dead: zero, NaN or infinite (2)" in " ".join(found.notes)
    assert bool(torch.isfinite(torch.view_as_real(apply(found.matrix, data))).all())
    alone = whitener(scan[[0, 1, 3]], dwell_data_us=1, dwell_noise_us=1)
    torch.testing.assert_close(apply(found.matrix, data), apply(alone.matrix, data[:, [0, 1, 3]]))


def test_only_dead_coils_is_an_error_with_a_cure() -> None:
    with pytest.raises(DataError, match="without prewhitening"):
        whitener(torch.zeros(3, 100, dtype=torch.complex64))
    with pytest.raises(DataError, match="no noise scan"):
        whitener(None)


def test_too_few_samples_scale_each_coil_separately() -> None:
    scan = mixing(8) @ white(8, 15)
    found = whitener(scan)
    assert "only 15 noise samples for 8 coils" in " ".join(found.notes)
    assert torch.count_nonzero(found.matrix) == 8
    power = (found.matrix @ scan).abs().square().sum(1) / 14
    torch.testing.assert_close(power, torch.full((8,), 2.0))


def test_a_repeated_coil_scales_each_coil_separately() -> None:
    scan = white(4, 5000)
    scan[3] = 2 * scan[1]
    found = whitener(scan)
    assert "singular" in " ".join(found.notes)
    assert torch.count_nonzero(found.matrix) == 4


def test_a_clipped_noise_scan_is_noticed_and_a_coarse_one_is_not() -> None:
    scan = white(3, 10000)
    coarse = torch.view_as_complex((torch.view_as_real(scan) * 4).round())
    assert not any("clipped" in note for note in whitener(coarse).notes)
    clipped = torch.view_as_real(scan).clone()
    clipped[1] = clipped[1].clamp(-1.5, 1.5)
    assert any("clipped in coils 1:" in note for note in whitener(torch.view_as_complex(clipped)).notes)


@pytest.mark.parametrize("coils", [1, 6])
@pytest.mark.parametrize("snr", [10, 30, 100, 1000])
@pytest.mark.parametrize(("shape", "tolerance"), [((256, 256), 0.1), ((192, 321), 0.1), ((128, 128), 0.15)])
def test_noise_is_estimated_within_ten_percent_without_a_noise_scan(
    shape: tuple[int, int], tolerance: float, snr: float, coils: int
) -> None:
    truth = torch.linspace(0.5, 1.5, coils + 2)[1:-1] / snr
    lines = ellipses(*shape, coils)
    found = estimate((lines + truth[:, None] * white(*lines.shape))[torch.randperm(len(lines))])
    torch.testing.assert_close(levels(found.matrix), truth, rtol=tolerance, atol=0)
    assert found.source == "estimate"
    assert re.match("noise was estimated from .*: there is no noise scan; the estimate is too high", found.notes[0])


def test_the_estimate_finds_correlated_noise() -> None:
    lines = ellipses(256, 256, 4)
    mix = mixing(4) / 20
    found = estimate(lines + mix @ white(*lines.shape))
    whitened = covariance(found.matrix @ mix @ white(4, 50000))
    torch.testing.assert_close(whitened, 2 * torch.eye(4, dtype=torch.complex128), rtol=0, atol=0.4)


@pytest.mark.parametrize("oversampling", [1.0, 2.0])
def test_ringing_of_a_strong_signal_passes_for_noise_in_no_combination_of_coils(oversampling: float) -> None:
    lines = ellipses(160, round(160 * oversampling), 8, span=1 / oversampling)
    mix = mixing(8) / 2000
    found = estimate(lines + mix @ white(*lines.shape), oversampling=oversampling)
    power = torch.linalg.eigvalsh(found.matrix @ mix @ mix.mH @ found.matrix.mH)
    assert float(power[0]) > 0.75
    assert float(power[-1]) < 1.3


def test_a_window_keeps_the_power_of_noise_and_joins_it_over_two_columns() -> None:
    k = quiet.hann(64) * white(4000, 64)
    x = ifft(k, (-1,))
    assert float(k.abs().square().mean()) == pytest.approx(2, rel=0.02)
    joined = [float((x[:, d:] * x[:, : 64 - d].conj()).mean().abs()) / 2 for d in range(5)]
    np.testing.assert_allclose(joined, [1, 2 / 3, 1 / 6, 0, 0], atol=0.01)


@pytest.mark.parametrize("filling", [0.0, 1e-4])
def test_zero_filled_k_space_does_not_pass_for_a_quiet_scan(filling: float) -> None:
    lines = ellipses(256, 256, 3)
    truth = torch.full((3,), 1 / 30)
    lines = lines + truth[:, None] * white(*lines.shape)
    padded = filling * white(384, 3, 400)
    padded[64:320, :, 72:328] = lines
    found = estimate(padded)
    torch.testing.assert_close(levels(found.matrix), truth, rtol=0.1, atol=0)
    if filling:
        assert sum("zero-filled by the scanner" in note for note in found.notes) == 2


def test_choosing_quiet_lines_does_not_make_noise_look_quieter() -> None:
    found = [float(levels(estimate(white(32, 1, 64)).matrix)) for _ in range(60)]
    assert np.mean(found) == pytest.approx(1, abs=0.025)


def test_scattered_samples_are_enough() -> None:
    truth = torch.tensor([0.5, 1.0, 1.5]) / 10
    lines = ellipses(256, 256, 3)
    lines = (lines + truth[:, None] * white(*lines.shape)) * (torch.rand(256, 1, 256) < 0.15)
    found = estimate(lines)
    # Only outer k-space is left to look at, where the weakest noise has signal beside it.
    torch.testing.assert_close(levels(found.matrix), truth, rtol=0.3, atol=0)
    assert any("exactly zero" in note for note in found.notes)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("snr", [3, 30, 300, 2000])
def test_of_one_channel_noise_that_filters_made_uneven_over_k_space_is_that_of_a_voxel(snr: float, every: int) -> None:
    filters = torch.linspace(1.5, 0.25, 192) * torch.linspace(-1, 1, 160).square().neg().exp()[:, None]
    lines = ellipses(160, 192, 1) + white(160, 1, 192) * filters[:, None] / snr
    found = estimate(lines[::every])
    voxel = filters[::every].square().mean().sqrt()[None] / snr
    torch.testing.assert_close(levels(found.matrix), voxel, rtol=0.12, atol=0)


@pytest.mark.parametrize("snr", [3, 10])
def test_an_object_as_wide_as_the_field_of_view_is_no_noise(snr: float) -> None:
    lines = ellipses(160, 192, 1, span=2.1)
    found = estimate(lines + white(160, 1, 192) / snr)
    assert float(levels(found.matrix)) * snr == pytest.approx(1, rel=0.15)
    assert "outer k-space" in found.notes[0]


def test_a_flat_signal_far_above_the_noise_is_no_noise() -> None:
    """The same noise in all channels scatters more from column to column than that of independent ones does."""
    for _ in range(8):
        data = 1000 * torch.polar(torch.ones(160, 4, 96), 6.28 * torch.rand(160, 4, 96))
        data[..., 64:] = white(160, 1, 32)
        found = quiet.quietest(data, torch.ones(160, 96, dtype=torch.bool), torch.ones(96, dtype=torch.bool), 2)
        assert float(found.abs().square().mean()) == pytest.approx(2, rel=0.2)


def test_a_stray_zero_is_a_sample_like_others() -> None:
    lines = ellipses(256, 256, 1) + white(256, 1, 256) / 30
    plain = estimate(lines)
    lines[7, 0, 9] = 0
    torch.testing.assert_close(estimate(lines).matrix, plain.matrix, rtol=0.01, atol=0)
    assert len(estimate(lines).notes) == 1


def test_a_dead_coil_is_left_out_of_the_estimate() -> None:
    lines = ellipses(128, 128, 3) + white(128, 3, 128) / 10
    lines[:, 1] = 0
    found = estimate(lines)
    assert found.matrix.shape == (2, 3)
    assert bool((found.matrix[:, 1] == 0).all())
    assert any("1 of 3 coils left out as dead: zero, NaN or infinite (1)" in note for note in found.notes)


def test_a_coil_below_the_smallest_step_of_its_receiver_spoils_no_other() -> None:
    # An unplugged element of integer samples: now and then a one, else zeros.
    lines = ellipses(128, 128, 4)
    lines = lines + 0.02 * white(*lines.shape)
    lines[:, 1] = torch.round(0.35 * white(128, 128).real) + 0j
    assert 0 < float((lines[:, 1] != 0).float().mean()) < 0.2
    found = estimate(lines)
    assert found.matrix.shape == (3, 4)
    assert not found.matrix[:, 1].any()
    torch.testing.assert_close(levels(found.matrix[:, [0, 2, 3]]), torch.full((3,), 0.02), rtol=0.15, atol=0)
    said = "1 of 4 coils left out, since most of the samples are exactly zero and show no noise (1)"
    assert found.notes[-1] == said


def test_the_estimate_is_the_same_twice_and_changes_nothing() -> None:
    lines = white(64, 2, 64)
    before = lines.clone()
    assert torch.equal(estimate(lines).matrix, estimate(lines).matrix)
    assert torch.equal(lines, before)
    assert torch.equal(whitener(None, lines=lines).matrix, estimate(lines).matrix)


def test_too_little_data_is_an_error_with_a_cure() -> None:
    with pytest.raises(DataError, match="give a noise scan"):
        estimate(white(4, 2, 64))
    with pytest.raises(DataError, match="zero or not finite"):
        estimate(torch.zeros(64, 2, 64, dtype=torch.complex64))


@pytest.mark.parametrize("name", ["bispmri_ulf055_fisp50", "bispmri_ulf055_tfisp50", "gpunufft_brain_t2_4ch"])
def test_on_real_scans_the_estimate_agrees_with_the_corners_of_the_image(data_dir: Path, name: str) -> None:
    k = torch.as_tensor(np.load(data_dir / f"public_test/{name}.npz")["kspace"])
    k = k[None] if name.startswith("gpunufft") else k[:, None]
    ny, nx = (n // 8 for n in k.shape[-2:])
    rows = ifft(k, (-2, -1))[..., [*range(ny), *range(-ny, 0)], :]
    air = rows[..., [*range(nx), *range(-nx, 0)]].transpose(0, 1).flatten(1)
    lines = k.transpose(1, 2).flatten(0, 1)
    corners = (air.abs().square().mean(1) / 2).sqrt()
    torch.testing.assert_close(levels(estimate(lines).matrix), corners, rtol=0.15, atol=0)


def test_apply_is_the_matrix_product_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, lines = white(2, 3), white(5, 7, 3, 11)
    whole = torch.einsum("dc,abcx->abdx", matrix, lines)
    before = lines.clone()
    torch.testing.assert_close(apply(matrix, lines), whole)
    monkeypatch.setattr(noise, "_CHUNK", 70)
    torch.testing.assert_close(apply(matrix, lines), whole)
    torch.testing.assert_close(apply(matrix, lines.transpose(0, 1)), whole.transpose(0, 1))
    assert torch.equal(lines, before)


def test_whiten_is_its_matrix_along_the_coil_axis() -> None:
    matrix, x = white(2, 4).to(torch.complex128), white(3, 4, 2, 5, 6).to(torch.complex128)
    y = white(3, 2, 2, 5, 6).to(torch.complex128)
    operator = Whiten(matrix)
    torch.testing.assert_close(operator(x), torch.einsum("dc,bczyx->bdzyx", matrix, x))
    torch.testing.assert_close(operator.H(y), torch.einsum("dc,bdzyx->bczyx", matrix.conj(), y))
    torch.testing.assert_close(operator.normal()(x), operator.H(operator(x)))
    torch.testing.assert_close(operator.normal(operator @ operator.H)(x), operator.H(operator(operator.H(operator(x)))))
    left, right = torch.vdot(operator(x).flatten(), y.flatten()), torch.vdot(x.flatten(), operator.H(y).flatten())
    assert abs(left - right) / abs(left) < 1e-12
    across = x.transpose(-1, -2)
    torch.testing.assert_close(operator(across), operator(across.contiguous()))
    assert torch.autograd.gradcheck(operator, x[0, :, :1, :2, :2].clone().requires_grad_())


def test_a_constant_in_the_noise_lines_is_reported_and_does_not_count_as_noise() -> None:
    noise = mixing(4) @ white(4, 4096)
    clean = whitener(noise, dwell_data_us=1, dwell_noise_us=1)
    dirty = whitener(noise + torch.tensor([3.0, 0, 0, 2j])[:, None], dwell_data_us=1, dwell_noise_us=1)
    torch.testing.assert_close(dirty.matrix, clean.matrix, rtol=0.01, atol=0.01)
    assert any("constant in coils 0, 3" in note for note in dirty.notes)
    assert not any("constant" in note for note in clean.notes)


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize(("snr", "step"), [(30.0, 1.0), (30.0, 2.0), (300.0, 8.0)])
def test_zeros_of_a_receiver_with_few_bits_are_samples(coils: int, snr: float, step: float) -> None:
    """Left out as not measured, they made the noise of one channel 1.4 to 3.5 times too high."""
    torch.manual_seed(1)
    exact = torch.view_as_real(ellipses(160, 192, coils) * snr + white(160, coils, 192))
    found = estimate(torch.view_as_complex((exact / step).round() * step))
    rounding = (1 + step**2 / 12) ** 0.5
    torch.testing.assert_close(levels(found.matrix), torch.full((coils,), rounding), rtol=0.06, atol=0)
    assert not any("exactly zero" in note for note in found.notes)


def test_samples_that_whole_numbers_leave_out_stay_left_out() -> None:
    torch.manual_seed(1)
    exact = torch.view_as_real(ellipses(160, 192, 1) * 30 + white(160, 1, 192))
    points = torch.rand(160, 1, 192) < 0.7
    found = estimate(torch.view_as_complex(exact.round()) * points)
    assert any("exactly zero and were left out" in note for note in found.notes)
