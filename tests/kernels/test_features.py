"""Normalised and rectified features against their definition, on every level of vector instructions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.kernels import features
from tests.kernels.rays import levels, use

#: Channels that fill vectors, that do not, more than a block holds, one; images of several blocks and of one pixel.
SIZES = [(8, 96, 80), (18, 33, 31), (32, 16, 16), (17, 20, 9), (600, 5, 7), (1, 40, 70), (3, 1, 1)]


@pytest.fixture(params=levels())
def kernel(request, monkeypatch):
    return use(request.param, monkeypatch, features)


def sample(channels: int, h: int, w: int) -> Tensor:
    """Features whose channels have means and deviations of their own."""
    g = torch.Generator().manual_seed(channels)
    x = torch.randn(1, channels, h, w, generator=g) * (1 + 3 * torch.rand(channels, 1, 1, generator=g))
    return (x + 5 * torch.randn(channels, 1, 1, generator=g)).contiguous(memory_format=torch.channels_last)


def copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", SIZES)
def test_features_have_mean_zero_and_deviation_one_before_they_are_rectified(kernel, size) -> None:
    x = sample(*size)
    a = x.double().numpy()
    normal = (a - a.mean((2, 3), keepdims=True)) / np.sqrt(a.var((2, 3), keepdims=True) + 1e-5)
    expected = np.where(normal > 0, normal, 0.2 * normal)
    got = copy(x)
    assert features.serves(got)
    assert features.rectify(got, 0.2) is got
    assert np.abs(got.numpy() - expected).max() < 1e-5


def test_a_mean_far_above_the_deviation_costs_no_more_than_the_rounding_of_the_features(kernel) -> None:
    x = sample(4, 64, 64) + 1000
    a = x.double().numpy()
    normal = (a - a.mean((2, 3), keepdims=True)) / a.std((2, 3), keepdims=True)
    got = features.rectify(copy(x), 1.0).numpy()
    assert np.abs(got - normal).max() < 2e-4


@pytest.mark.parametrize("size", SIZES)
def test_joined_features_get_a_copy_beside_what_they_hold(kernel, size) -> None:
    channels, h, w = size
    joined = torch.full((1, 2 * channels + 3, h, w), 7.0).contiguous(memory_format=torch.channels_last)
    got = features.rectify(sample(*size), 0.2, joined, channels)
    assert torch.equal(joined[:, channels : 2 * channels], got)
    assert bool((joined[:, :channels] == 7).all())
    assert bool((joined[:, 2 * channels :] == 7).all())


@pytest.mark.parametrize("size", SIZES)
def test_the_bits_do_not_depend_on_threads(kernel, size, monkeypatch) -> None:
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        found.append(features.rectify(sample(*size), 0.2))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_features_that_do_not_fit_are_refused(kernel) -> None:
    x, joined = np.ones((6, 4), "float32"), np.ones((6, 8), "float32")
    for wrong, first in ((joined[:5], 0), (joined, 5), (joined, -1), (joined.astype("float64"), 0), (joined[:, :6], 0)):
        with pytest.raises((ValueError, TypeError), match=r"do not hold these|cast"):
            kernel.rectify(x, 1e-5, 0.2, wrong, first, 1)
    with pytest.raises(ValueError, match="some of each"):
        kernel.rectify(x[:0].copy(), 1e-5, 0.2, None, 0, 1)
    with pytest.raises(TypeError):
        kernel.rectify(x.astype("float64"), 1e-5, 0.2, None, 0, 1)
    assert (x == 1).all()


def test_features_in_another_order_or_precision_are_left_to_torch(kernel) -> None:
    x = sample(8, 6, 5)
    assert features.serves(x)
    assert not features.serves(x.contiguous())
    assert not features.serves(x.double())
    assert not features.serves(torch.cat([x, x]).contiguous(memory_format=torch.channels_last))
