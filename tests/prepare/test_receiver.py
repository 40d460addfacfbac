"""Noise of scans with readout oversampling, whose receiver may take it away beside the field of view."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from recon.io.read import read
from recon.operators import fft, ifft
from recon.prepare import quiet, sort
from recon.prepare.noise import estimate
from tests.prepare.noisy import ellipses, levels, white


@pytest.mark.parametrize("snr", [10, 100, 1000])
def test_the_oversampled_margin_is_used_and_the_slope_of_the_filter_is_not(snr: float) -> None:
    truth = torch.tensor([0.5, 1.0, 1.5]) / snr
    lines = ellipses(160, 400, 3, span=0.5)
    x = (torch.arange(400) - 200).abs() / 200
    slope = ((1 - x) / 0.12).clamp(0, 1)
    hybrid = ifft(lines + truth[:, None] * white(*lines.shape), (-1,)) * slope
    found = estimate(fft(hybrid, (-1,)), oversampling=2.0)
    torch.testing.assert_close(levels(found.matrix), truth, rtol=0.1, atol=0)
    assert "oversampled margin" in found.notes[0]


def received(lines: Tensor, truth: Tensor, b: float = -2.5) -> Tensor:
    """Lines with noise of `truth` in the middle of the field of view, through a filter of |H|² = exp(b u⁴)."""
    nx = lines.shape[-1]
    u = (torch.arange(nx) - nx // 2).abs() / (nx / 2)
    return fft(ifft(lines + truth[:, None] * white(*lines.shape), (-1,)) * (b / 2 * u**4).exp(), (-1,))


@pytest.mark.parametrize(("ny", "nx"), [(160, 320), (80, 160), (184, 640)])
@pytest.mark.parametrize("span", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("snr", [10, 1000])
def test_a_receiver_whose_filter_falls_off_over_all_of_the_margin_does_not_make_noise_look_quieter(
    ny: int, nx: int, span: float, snr: float
) -> None:
    truth = torch.tensor([0.5, 1.0, 1.5]) / snr
    found = estimate(received(ellipses(ny, nx, 3, span=span), truth), oversampling=2.0)
    torch.testing.assert_close(levels(found.matrix), truth, rtol=0.2, atol=0)


def test_without_such_a_filter_all_columns_beside_the_field_of_view_give_the_noise() -> None:
    """A tenth of the columns would tell it within 0.76 to 1.44 over the combinations of channels."""
    for _ in range(4):
        lines = ellipses(160, 320, 8, span=0.5)[::3]
        found = estimate(lines + white(*lines.shape) / 30, oversampling=2.0)
        power = torch.linalg.eigvalsh(found.matrix @ found.matrix.mH) / 30**2
        assert 0.8 < float(power[0]) < float(power[-1]) < 1.28


@pytest.mark.parametrize("b", [0.0, -2.5])
@pytest.mark.parametrize("coils", [1, 3, 8])
@pytest.mark.parametrize("span", [1.3, 1.4])
def test_the_few_columns_that_a_body_leaves_free_in_a_short_readout_tell_the_noise(
    span: float, coils: int, b: float
) -> None:
    """Behind the receiver's filter one channel had 0.35 of its noise, and without it several had 2.7 times theirs."""
    for snr in (10, 30, 100, 1000):
        truth = torch.linspace(0.5, 1.5, coils) / snr if coils > 1 else torch.ones(1) / snr
        found = estimate(received(ellipses(80, 160, coils, span=span), truth, b), oversampling=2.0)
        ratio = (levels(found.matrix) / truth).log().mean().exp()
        assert 0.8 < float(ratio) < 1.25


@pytest.mark.parametrize("part", [4, 3])
@pytest.mark.parametrize("snr", [10, 100])
def test_one_channel_with_an_asymmetric_readout_has_the_noise_of_a_full_one(snr: float, part: int) -> None:
    """The quietest of the columns behind the filter had down to 0.7 of the noise."""
    lines = received(ellipses(80, 160, 1, span=1.0), torch.ones(1) / snr)
    lines[..., : 160 // part] = 0
    assert float(levels(estimate(lines, oversampling=2.0).matrix)) * snr == pytest.approx(1, rel=0.12)


def test_an_object_that_reaches_beyond_the_margin_is_no_noise() -> None:
    for snr in (10, 1000):
        truth = torch.full((2,), 1.0) / snr
        found = estimate(received(ellipses(80, 160, 2, span=1.3), truth), oversampling=2.0)
        assert 0.4 < float(levels(found.matrix).mean() * snr) < 1.15


@pytest.mark.parametrize("span", [1.6, 2.0])
def test_a_body_that_reaches_to_the_ends_of_the_receivers_band_leaves_noise_to_the_outer_lines(span: float) -> None:
    truth = torch.tensor([0.5, 1.0, 1.5]) / 10
    found = estimate(received(ellipses(160, 320, 3, span=span), truth), oversampling=2.0)
    torch.testing.assert_close(levels(found.matrix), truth, rtol=0.1, atol=0)


def test_where_signal_reaches_all_of_the_margin_the_note_says_that_the_noise_may_be_larger() -> None:
    truth = torch.tensor([0.5, 1.0, 1.5]) / 100
    found = estimate(received(ellipses(160, 320, 3, span=1.6), truth), oversampling=2.0)
    assert 0.3 < float((levels(found.matrix) / truth).mean()) < 0.7
    assert "all of which signal reaches" in found.notes[0]
    assert "the estimate may be as low as a third of the true noise, or above it" in found.notes[0]
    assert "too high" not in found.notes[0]


def test_a_body_that_ends_beside_the_field_of_view_is_not_taken_for_a_filter() -> None:
    truth = torch.tensor([0.5, 1.0, 1.5]) / 30
    found = estimate(received(ellipses(160, 320, 3, span=1.4), truth, b=0), oversampling=2.0)
    assert float((levels(found.matrix) / truth).max()) < 1.4


@pytest.mark.parametrize("b", [0.0, -1.0, -2.5])
def test_the_ends_of_the_band_show_how_steep_a_filter_is(b: float) -> None:
    inside = (torch.arange(320) - 160).abs() < 80
    lines = received(torch.zeros(160, 3, 320, dtype=torch.complex64), torch.tensor([0.5, 1.0, 1.5]), b)
    outer = quiet.quietest(lines, torch.ones(160, 320, dtype=torch.bool), torch.ones(320, dtype=torch.bool))
    assert quiet.steepest(ifft(lines * quiet.hann(320), (-1,)), inside, outer) == pytest.approx(b, abs=0.3)


@pytest.mark.parametrize(("edge", "sharp"), [(0.5, 30), (0.5, 200), (0.6, 30), (0.6, 200), (0.7, 200)])
def test_equal_signal_of_all_spokes_beside_the_field_of_view_is_not_noise(edge: float, sharp: float) -> None:
    truth, x = torch.full((2,), 0.01), torch.linspace(-1, 1, 320)
    spokes = fft((torch.sigmoid((edge - x.abs()) * sharp) / 2).to(torch.complex64).expand(100, 2, 320), (-1,))
    found = estimate(received(spokes, truth), oversampling=2.0)
    torch.testing.assert_close(levels(found.matrix), truth, rtol=0.4, atol=0)


@pytest.mark.parametrize(("name", "columns"), [("gre", (60, 76)), ("epi", (24, 30))])
def test_on_a_siemens_phantom_the_estimate_agrees_with_lines_that_hold_no_signal(
    data_dir: Path, name: str, columns: tuple[int, int]
) -> None:
    """The power between the phantom and the ends of the readout's band, in the quarter of the lines that is weakest."""
    pytest.importorskip("twixtools")
    scan = read(data_dir / f"formats/siemens_twix_{name}_phantom.dat")
    rows = sort.kinds(scan).imaging
    lines = torch.from_numpy(scan.samples.read(rows))
    x = ifft(lines * quiet.hann(lines.shape[-1]), (-1,))
    x = x[x.abs().square().sum((1, 2)).argsort()[: len(x) // 4]]
    beside = torch.cat([x[..., columns[0] : columns[1]], x[..., -columns[1] : -columns[0]]], -1)
    shown = (beside.abs().square().mean((0, 2)) / 2).sqrt()
    told = levels(estimate(lines, oversampling=2.0).matrix)
    assert bool((told > 0.95 * shown).all())
    assert bool((told < 1.4 * shown).all())
