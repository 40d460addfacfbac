"""Networks that ship do not know where in a slice they are, nor how large it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from recon.ct import learned
from recon.nets import denoiser, weights
from recon.prepare import image_noise

#: Pixels at the borders that are left out: what lies beyond them differs.
RIM = 64


def scan() -> Tensor:
    """A slice (1, y, x) of tissue with vessels and bone in noise of filtered backprojection, wider than the rims."""
    draw = np.random.default_rng(3)
    y, x = np.mgrid[:208, :224]
    clean = np.where(np.hypot((y - 104) / 98, (x - 112) / 106) < 1, 40.0, -1000.0)
    for cy, cx, r, hu in zip(*draw.uniform(60, 150, (2, 30)), draw.uniform(2, 9, 30), draw.uniform(-60, 300, 30)):
        clean[np.hypot(y - cy, x - cx) < r] += hu
    white = draw.standard_normal(y.shape)
    noise = 30 * (white - ndimage.gaussian_filter(white, 2.0))
    return torch.from_numpy((ndimage.gaussian_filter(clean, 0.7) + noise).astype(np.float32))[None]


@pytest.fixture(scope="module", params=learned.shipped())
def network(request: pytest.FixtureRequest) -> weights.Loaded:
    return weights.load(request.param)


def rms(x: Tensor) -> float:
    return float(x[..., RIM:-RIM, RIM:-RIM].square().mean().sqrt())


def test_a_slice_that_is_moved_or_cut_is_denoised_to_the_same_picture_moved_or_cut(network: weights.Loaded) -> None:
    """To a hundredth of what is taken away where it is moved by what the network folds, to a quarter by one pixel."""
    y = scan()
    noise = image_noise.measured(y)
    fold = network.network.correction[0].multiple

    def denoised(x: Tensor) -> Tensor:
        return denoiser.denoised(network.network, x, noise.level, noise.texture)

    whole = denoised(y)
    taken = rms(whole - y)
    assert taken > 10

    def moved(pixels: int) -> float:
        back = denoised(y.roll((pixels, pixels), (-2, -1))).roll((-pixels, -pixels), (-2, -1))
        return rms(back - whole) / taken

    assert moved(fold) < 0.01
    assert moved(1) < 0.25
    cut = denoised(y[..., :-13, :-3])
    assert rms(torch.nn.functional.pad(cut - whole[..., :-13, :-3], (0, 3, 0, 13))) / taken < 0.01
