from __future__ import annotations

import pytest
import torch

from recon.operators import fft
from recon.prepare.readout import crop, inner_size, resample, to_hybrid


def gaussian(n: int, spacing: float, centre: float = 7.3, width: float = 9.0) -> torch.Tensor:
    """A smooth object at a known place in millimetres, sampled with index n // 2 at 0 mm."""
    r = (torch.arange(n, dtype=torch.float64) - n // 2) * spacing
    return (torch.exp(-0.5 * ((r - centre) / width) ** 2) * torch.exp(0.02j * r)).to(torch.complex128)


@pytest.mark.parametrize("n_in", [64, 65])
@pytest.mark.parametrize(
    ("n_out", "spacing_out"), [(128, 1.0), (101, 1.3), (200, 0.7), (50, 2.5), (31, 2.0), (90, 2.0)]
)
def test_an_object_stays_at_its_millimetre_on_any_grid(n_in: int, n_out: int, spacing_out: float) -> None:
    found = resample(gaussian(n_in, 2.0), -1, 2.0, spacing_out, n_out)
    expected = gaussian(n_out, spacing_out)
    r = (torch.arange(n_out) - n_out // 2) * spacing_out
    inside = (r > -n_in + 2) & (r < n_in - 4)
    assert (found - expected).abs()[inside].max() < 1e-3


def test_resampling_works_along_any_axis_and_leaves_its_input_alone() -> None:
    x = torch.stack([gaussian(64, 2.0), 2 * gaussian(64, 2.0)])
    before = x.clone()
    assert torch.allclose(resample(x.T, 0, 2.0, 1.0, 128).T, resample(x, 1, 2.0, 1.0, 128))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("n", "m"), [(512, 256), (511, 256), (512, 255), (9, 4)])
def test_cropping_keeps_the_centre_at_half(n: int, m: int) -> None:
    x = torch.zeros(n)
    x[n // 2] = 1
    assert crop(x, 0, m)[m // 2] == 1


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("wide", [64, 65])
def test_oversampling_is_removed_about_the_centre(n: int, wide: int) -> None:
    x = torch.randn(2, wide, dtype=torch.complex128)
    assert torch.allclose(to_hybrid(fft(x, (-1,)), n), crop(x, -1, n))


@pytest.mark.parametrize(("n_in", "low", "high"), [(8, -4.5, 3.5), (7, -3.5, 3.5)])
@pytest.mark.parametrize("spacing", [0.25, 0.5, 1.0])
def test_nothing_is_drawn_beyond_the_voxels_that_were_acquired(
    n_in: int, low: float, high: float, spacing: float
) -> None:
    found = resample(torch.ones(n_in, dtype=torch.complex128), -1, 1.0, spacing, 60)
    r = (torch.arange(60) - 30) * spacing
    expected = ((r >= low) & (r <= high)).to(torch.complex128)
    assert torch.allclose(found, expected, atol=1e-9)


def test_oversampling_removal_keeps_the_object_and_the_noise_white() -> None:
    wide = torch.zeros(3, 2, 256, dtype=torch.complex128)
    wide[..., 64:192] = torch.randn(3, 2, 128, dtype=torch.complex128)
    assert torch.allclose(to_hybrid(fft(wide, (-1,)), 128), wide[..., 64:192])
    noise = torch.randn(4000, 1, 64, dtype=torch.complex128)
    assert abs(float(to_hybrid(noise, 32).abs().square().mean()) - 1) < 0.02


def test_sizes_follow_the_fields_of_view() -> None:
    assert inner_size(512, 600.0, 300.0) == 256
    assert inner_size(512, 600.004, 300.0) == 256
    assert (160 * 254 / 300, inner_size(160, 300.0, 254.0)) == (pytest.approx(135.47, abs=0.01), 136), "none is cut off"
    assert inner_size(160, 300.0, 253.14) == 135, "millimetres are rounded"
    assert inner_size(128, 256.0, 300.0) == 128


@pytest.mark.parametrize("n_in", [12, 15, 16, 96, 100])
def test_a_coarser_grid_keeps_as_many_frequencies_as_it_has_samples(n_in: int) -> None:
    for n_out in range(max(2, n_in // 3), n_in):
        matrix = resample(torch.eye(n_in, dtype=torch.complex128), -1, 160 / n_in, 160 / n_out, n_out)
        assert int(torch.linalg.matrix_rank(matrix)) == n_out
