"""Filtered backprojection against ellipses whose attenuation and line integrals are known exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.operators import Fan, Parallel, Xray
from recon.solve.fbp import fbp, view_weights
from tests.operators.rays import BODY, integrals, picture

N, VOXEL = 96, 1.25
TRUTH = picture(BODY, N, VOXEL)


def angles(n: int, degrees: float, start: float = 0.3) -> Tensor:
    return start + torch.arange(n, dtype=torch.float64) * (math.radians(degrees) / n)


SCANS = {
    "half a turn": Parallel(angles(240, 180), 161, 0.8),
    "a turn, quarter offset": Parallel(angles(480, 360), 160, 0.8, 0.2),
    "flat": Fan(angles(480, 360), 180, 1.2, 250.0, 150.0, False, 0.3),
    "curved": Fan(angles(480, 360), 180, 1.2, 250.0, 150.0, True, 0.3),
    "flat, short": Fan(angles(400, 215), 180, 1.2, 250.0, 150.0),
    "curved, short": Fan(angles(400, 215), 180, 1.2, 250.0, 150.0, True),
    "curved, longer than short": Fan(angles(500, 290), 180, 1.2, 250.0, 150.0, True, 0.3),
    "curved, short, backwards": Fan(angles(400, 215).flip(0) - 2, 180, 1.2, 250.0, 150.0, True),
    "flat, shifted to one side": Fan(angles(480, 360), 130, 1.2, 250.0, 150.0, False, 36.0),
    "curved, shifted to the other": Fan(angles(480, 360), 130, 1.2, 250.0, 150.0, True, -36.0),
    "flat, three turns": Fan(angles(481, 1080), 180, 1.2, 250.0, 150.0),
}
each = pytest.mark.parametrize("name", SCANS)


exact = cache(lambda g: integrals(BODY, g))


def reconstructed(g: Parallel | Fan, window: str = "ramp") -> Tensor:
    return fbp(exact(g).clone(), Xray(g, (N, N), VOXEL), window)


def mean(x: Tensor, at_x: float, at_y: float, radius: float) -> float:
    c = (torch.arange(N) - (N - 1) / 2) * VOXEL
    inside = (c - at_x) ** 2 + (c[:, None] - at_y) ** 2 < radius**2
    return float(x[inside].mean())


@each
@pytest.mark.parametrize("window", ["ramp", "shepp-logan", "hann"])
def test_every_part_of_the_body_has_its_attenuation(name, window) -> None:
    x = reconstructed(SCANS[name], window)
    # 4e-5 are 2 HU, were the body water; the small disc has 13 pixels, over which ripples of the edges do not cancel.
    for at_x, at_y, radius, value in ((0, -30, 5, 0.02), (12, -14, 6, 0.025), (-20, 10, 5, 0.01), (15, 18, 2, 0.021)):
        assert mean(x, at_x, at_y, radius) == pytest.approx(value, abs=1e-4 if radius == 2 else 4e-5)
    assert mean(x, 40, 40, 5) == pytest.approx(0, abs=4e-5)
    assert float((x - TRUTH).square().mean().sqrt()) < (1.2e-3 if window == "hann" else 8e-4)


@pytest.mark.parametrize("name", [n for n in SCANS if "shifted" not in n])
def test_the_measurements_of_a_ray_count_as_one(name) -> None:
    A = Xray(SCANS[name], (N, N), VOXEL)
    w = view_weights(A).expand(-1, A.geometry.detectors)
    # Over a turn the shares of a ray and of its opposite add up to twice the angle of a half turn over the views.
    assert float(w.sum(0).mean()) == pytest.approx(math.pi, rel=0.01)


@pytest.mark.parametrize("name", [n for n in SCANS if "shifted" in n])
def test_a_shifted_detector_counts_once_what_it_sees_once_and_half_what_it_sees_twice(name) -> None:
    g = SCANS[name]
    w = view_weights(Xray(g, (N, N), VOXEL)).expand(-1, g.detectors)[0] / (2 * math.pi / 480)
    gamma = g.fan_angles
    other = torch.from_numpy(np.interp(-gamma.numpy(), gamma.numpy(), w.numpy(), 0, 0))
    inside = gamma.abs() < min(float(gamma[-1]), -float(gamma[0])) - 0.01
    assert torch.allclose((w + other)[inside], torch.ones(int(inside.sum()), dtype=torch.float64), rtol=0, atol=1e-3)
    assert torch.allclose(w[gamma.abs() > min(float(gamma[-1]), -float(gamma[0]))], torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("curved", [False, True])
def test_a_short_scan_gives_what_the_full_turn_gives(curved) -> None:
    full = Fan(angles(720, 360), 180, 1.2, 250.0, 150.0, curved)
    short = replace(full, angles=full.angles[100:540])
    assert short.angles[-1] - short.angles[0] < math.radians(220)
    a, b = reconstructed(full), reconstructed(short)
    assert float((a - b).norm() / a.norm()) < 0.01
    assert float((a - b).abs()[20:-20, 20:-20].max()) < 4e-4


def test_the_weights_of_a_short_scan_add_up_to_one_for_each_ray() -> None:
    g = Fan(angles(1200, 240), 101, 1.2, 250.0, 150.0, True)
    share = math.radians(240) / 1200
    w = view_weights(Xray(g, (N, N), VOXEL)) / share
    assert w.min() >= 0
    for u in (0, 13, 50, 77, 100):
        gamma = float(g.fan_angles[u])
        for v in range(1, 1199, 23):
            beta = float(g.angles[v] - g.angles[0])
            again = beta + math.pi - 2 * gamma, beta - math.pi - 2 * gamma
            views = [b / share for b in again if 0 < b < math.radians(239.8)]
            other = float(w[round(views[0]), 100 - u]) if views else 0.0
            assert float(w[v, u]) + other == pytest.approx(1, abs=0.02)


def test_the_order_and_the_spacing_of_angles_do_not_matter() -> None:
    g = SCANS["half a turn"]
    x = reconstructed(g)
    mixed = replace(g, angles=g.angles[torch.randperm(240, generator=torch.Generator().manual_seed(1))])
    assert torch.allclose(reconstructed(mixed), x, rtol=0, atol=1e-12)
    # Twice as dense over the first quarter turn, half of it pointing the other way.
    dense = replace(g, angles=torch.cat([g.angles, g.angles[:120] + math.pi / 480 + math.pi]))
    for at_x, at_y, radius in ((0, -30, 5), (12, -14, 6), (-20, 10, 5)):
        assert mean(reconstructed(dense), at_x, at_y, radius) == pytest.approx(mean(x, at_x, at_y, radius), abs=2e-5)


def test_a_gap_in_parallel_angles_is_not_filled() -> None:
    weights = view_weights(Xray(Parallel(angles(100, 100), 11, 1.0), (8, 8), 1.0))
    assert torch.allclose(weights, torch.full((100, 1), math.radians(1), dtype=torch.float64))


def test_stacks_single_precision_and_complex_values_pass() -> None:
    g = SCANS["flat, short"]
    A, y = Xray(g, (N, N), VOXEL), integrals(BODY, g)
    x = fbp(y, A)
    single = fbp(torch.stack([y, 2 * y])[:, None].float(), A)
    assert single.dtype == torch.float32
    assert single.shape == (2, 1, N, N)
    assert torch.allclose(single[1, 0].double(), 2 * x, rtol=0, atol=1e-5)
    assert torch.allclose(fbp(torch.complex(y, -3 * y), A), torch.complex(x, -3 * x), rtol=0, atol=1e-12)


def test_what_cannot_be_backprojected_is_refused_with_a_cure() -> None:
    g = SCANS["flat, short"]
    A = Xray(replace(g, angles=angles(300, 170)), (N, N), VOXEL)
    with pytest.raises(DataError, match=r"cover 169\.4° where .* needs 21\d\.\d°: use an iterative method"):
        fbp(torch.zeros(300, 180), A)
    with pytest.raises(DataError, match="choose one of ramp, shepp-logan, hann"):
        fbp(torch.zeros(400, 180), Xray(g, (N, N), VOXEL), "hamming")  # type: ignore[arg-type]
