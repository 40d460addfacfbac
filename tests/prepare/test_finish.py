"""The solver's image on the grid that the header asks for, against bands that are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from recon.data import Encoding
from recon.prepare.finish import finish


def wave(n: int, spacing: float, cycles_per_mm: float) -> torch.Tensor:
    """exp(2πi f x) at the voxels of an axis, x = 0 at index N // 2."""
    x = (torch.arange(n, dtype=torch.float64) - n // 2) * spacing
    return torch.polar(torch.ones(n, dtype=torch.float64), 2 * math.pi * cycles_per_mm * x)


def test_a_slice_stays_as_it_is_whatever_the_header_says_of_its_thickness() -> None:
    """Of a 2D scan the third field of view is the slice: encoded 5 mm and reconstructed 4 mm is no resampling."""
    encoding = Encoding((64, 48, 1), (320.0, 240.0, 5.0), (32, 48, 1), (160.0, 240.0, 4.0), "cartesian", {})
    x = torch.randn(1, 48, 32, dtype=torch.complex64)
    assert torch.equal(finish(x, encoding, (1, 48, 32)), x)


@pytest.mark.parametrize("n_out", [12, 20, 24])
@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_each_axis_is_interpolated_by_its_own_fields_of_view(axis: int, n_out: int) -> None:
    """16 samples over 80, 160 or 96 mm become `n_out` over the same: a wave within both bands is that wave again."""
    fov = {-3: 96.0, -2: 160.0, -1: 80.0}
    encoding = Encoding((32, 16, 16), (160.0, 160.0, 96.0), (n_out, n_out, n_out), (80.0, 160.0, 96.0), "cartesian", {})
    frequency = 3 / fov[axis]
    shape = {a: [-1 if a == b else 1 for b in (-3, -2, -1)] for a in (-3, -2, -1)}
    x = wave(16, fov[axis] / 16, frequency).reshape(shape[axis]).expand(16, 16, 16)
    out = finish(x, encoding, (n_out, n_out, n_out))
    expected = wave(n_out, fov[axis] / n_out, frequency).reshape(shape[axis]).expand(out.shape)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_phase_oversampling_is_cut_about_the_middle() -> None:
    encoding = Encoding((16, 20, 1), (80.0, 100.0, 4.0), (16, 15, 1), (80.0, 75.0, 4.0), "cartesian", {})
    x = torch.zeros(1, 20, 16, dtype=torch.complex64)
    x[0, 10, 8], x[0, 3, 8], x[0, 17, 8] = 1, 2, 3
    out = finish(x, encoding, (1, 15, 16))
    assert out.shape == (1, 15, 16)
    assert out[0, 7, 8] == 1
    assert out[0, 0, 8] == 2
    assert out[0, 14, 8] == 3
