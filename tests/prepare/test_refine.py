"""Maps of completed k-space are closer to the truth than those of few calibration lines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recon.data import Measurement
from recon.learn.arrays import coil_maps
from recon.learn.draw import Draw
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.prepare.espirit import espirit
from recon.prepare.refine import refined
from recon.prepare.sensitivities import combine

SIZE, COILS, ACS = 96, 6, 10


def scan(seed: int) -> tuple[Measurement, Tensor, Tensor]:
    """A measurement with maps of 10 noisy ACS lines, the image of all lines with these maps, and true maps."""
    draw = Draw.seeded(seed)
    truth = coil_maps(draw, COILS, (SIZE, SIZE))[:, None]
    truth = truth / truth.abs().square().sum(0).sqrt()
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, SIZE),) * 2, indexing="ij")
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.5 * (draw.field((SIZE, SIZE), 2.0) > 0))
    k = fft(truth * (60 * body)[None].to(torch.complex64), (-2, -1)) + draw.complex_normal(COILS, 1, SIZE, SIZE)
    mask = torch.zeros(1, 1, SIZE, 1)
    mask[..., ::4, :] = 1
    middle = slice(SIZE // 2 - ACS // 2, SIZE // 2 + ACS // 2)
    mask[..., middle, :] = 1
    maps = espirit(k[..., middle, SIZE // 2 - 12 : SIZE // 2 + 12].contiguous(), (1, SIZE, SIZE)).maps
    weights = math.sqrt(0.5) * mask  # one of two averages
    m = Measurement(ifft(k, (-1,)) * weights, Sense(maps, weights, (-3, -2)), math.sqrt(0.5))
    return m, combine(ifft(k, (-2, -1)), maps), truth


def miss(maps: Tensor, truth: Tensor, image: Tensor) -> float:
    """Share of the signal in the body that lies across the maps: 1 − |Sᴴ S_true|²."""
    inside = image.abs() > 0.4 * image.abs().max()
    return float(1 - (maps.conj() * truth).sum(0).abs().square()[inside].mean())


@pytest.mark.parametrize("seed", [1, 2])
def test_an_image_makes_better_maps_than_ten_lines(seed: int) -> None:
    m, image, truth = scan(seed)
    better = refined(m, image)
    assert torch.equal(better.y, m.y)
    assert miss(better.A.maps, truth, image) < 0.3 * miss(m.A.maps, truth, image)
    batch = Measurement(m.y[None], replace(m.A, maps=m.A.maps[None]), m.sigma)
    assert torch.allclose(refined(batch, image[None]).A.maps[0], better.A.maps, atol=1e-5)


@pytest.mark.parametrize("how", [{"kernel": 4}, {"threshold": 0.2}, {"crop": 0.999}])
def test_the_kernel_the_threshold_and_the_crop_are_those_asked_for(how: dict[str, Any]) -> None:
    m, image, _ = scan(1)
    assert not torch.equal(refined(m, image, **how).A.maps, refined(m, image).A.maps)


def test_one_channel_and_two_sets_stay_as_they_are() -> None:
    m, image, _ = scan(1)
    alone = Measurement(m.y[:1], replace(m.A, maps=torch.ones_like(m.A.maps[:1])), m.sigma)
    assert refined(alone, image) is alone
    two = replace(m, A=Sense(torch.stack([m.A.maps, m.A.maps]), m.A.mask, m.A.axes, sets=True))
    assert refined(two, image) is two
