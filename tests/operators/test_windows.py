"""Means and extremes over windows, against the pooling of torch that goes over every pixel of each."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recon.operators.windows import box, highest

WIDTHS = (1, 3, 5, 7, 9, 15, 31, 45)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", [(2, 40, 33), (1, 3, 20), (1, 64, 1)])
def test_windows_are_those_of_every_pixel_in_a_square(width: int, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    kernel, half = torch.ones(1, 1, width, width, dtype=x.dtype), width // 2
    total = F.conv2d(x[:, None], kernel, padding=half)[:, 0]
    count = F.conv2d(torch.ones_like(x[:1, None]), kernel, padding=half)[:, 0]
    assert torch.allclose(box(x, width), total / width**2, atol=1e-13)
    assert torch.allclose(box(x, width, inside=True), total / count, atol=1e-13)
    reached = F.pad(x, (half,) * 4, value=-torch.inf).unfold(-2, width, 1).unfold(-2, width, 1).amax((-2, -1))
    assert torch.equal(highest(x, width), reached)


def test_means_over_windows_have_their_gradient() -> None:
    x = torch.randn(2, 9, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: box(v, 5), x)
    assert torch.autograd.gradcheck(lambda v: box(v, 7, inside=True), x)


def test_a_nan_pixel_affects_only_the_windows_that_contain_it() -> None:
    x = torch.zeros(1, 20, 20)
    x[0, 10, 4] = torch.nan
    assert int(box(x, 5).isnan().sum()) == 25


def test_large_values_do_not_add_up_to_rounding_errors() -> None:
    x = 2000 + torch.randn(1, 512, 512, generator=torch.Generator().manual_seed(0))
    assert float((box(x, 31, inside=True) - box(x.double(), 31, inside=True)).abs().max()) < 1e-3
