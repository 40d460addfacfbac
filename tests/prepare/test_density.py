"""Weights of trajectories, against objects whose transform is known and against a dense least-squares solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import j1

from recon.data import DataError
from recon.operators.nufft import Nufft
from recon.prepare import trajectory
from recon.prepare.density import pipe, ramp

N = 96
CENTRE, RADIUS = (5.0, -9.0), 22.0


def disc(points: NDArray[np.float64]) -> torch.Tensor:
    """Exact samples of a disc of height 1 (centre y, x and radius in voxels), unitary as the transforms are."""
    z = 2 * np.pi * RADIUS * np.linalg.norm(points / N, axis=-1)
    profile = np.where(z < 1e-6, 1.0, 2 * j1(np.maximum(z, 1e-9)) / np.maximum(z, 1e-9))
    y = np.pi * RADIUS**2 / N * profile * np.exp(-2j * np.pi * (points / N) @ np.array(CENTRE))
    return torch.from_numpy(y)[None]


def distance() -> NDArray[np.float64]:
    n = np.arange(N) - N // 2
    return np.hypot(n[:, None] - CENTRE[0], n[None] - CENTRE[1])


TRAJECTORIES = {
    "radial": trajectory.radial(152, 192, N),
    "golden": trajectory.radial(152, 192, N, golden=True),
    "golden, no sample at the centre": trajectory.radial(152, 192, N, golden=True)
    + 0.3 * np.diff(trajectory.radial(152, 192, N, golden=True)[:, :2], axis=1),
    "undersampled": trajectory.radial(48, 192, N, golden=True),
    "spiral": trajectory.spiral(24, 768, N),
}
CASES = [(name, rule) for name in TRAJECTORIES for rule in (pipe, ramp) if (name, rule) != ("spiral", ramp)]


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_a_disc_comes_back_at_its_height(name: str, rule: object) -> None:
    points = torch.from_numpy(TRAJECTORIES[name])
    w = pipe(points, (N, N)) if rule is pipe else ramp(points)
    image = Nufft(points, (N, N)).H(w * disc(points.numpy()))[0].numpy()
    inside, around = image[distance() < 16], image[(distance() > 28) & (distance() < 38)]
    assert abs(inside.mean() - 1) < 5e-3
    assert np.abs(around.mean()) < 5e-3
    assert inside.std() < 0.02


@pytest.mark.parametrize("rule", [pipe, ramp])
def test_the_point_spread_of_radial_sampling_is_a_point(rule: object) -> None:
    points = torch.from_numpy(TRAJECTORIES["radial"])
    w = pipe(points, (N, N)) if rule is pipe else ramp(points)
    spread = Nufft(points, (N, N)).H((w / N + 0j)[None])[0].numpy()
    n = np.arange(N) - N // 2
    r = np.hypot(n[:, None], n[None])
    assert spread[N // 2, N // 2].real == pytest.approx(np.pi / 4, rel=0.01)  # a disc of k-space, not the square
    airy = np.pi / 4 * np.where(r > 0, 2 * j1(np.pi * r) / np.maximum(np.pi * r, 1e-9), 1)
    assert np.abs(spread - airy)[r < N // 2 - 2].max() < 0.01


def test_the_weights_of_a_cartesian_grid_are_one() -> None:
    n = torch.arange(12, dtype=torch.float64) - 6
    points = torch.stack(torch.meshgrid(n, n, indexing="ij"), -1)
    torch.testing.assert_close(pipe(points, (12, 12)), torch.ones(12, 12, dtype=torch.float64), atol=1e-5, rtol=0)


def test_samples_measured_twice_share_their_weight() -> None:
    n = torch.arange(12, dtype=torch.float64) - 6
    points = torch.stack(torch.meshgrid(n, n, indexing="ij"), -1)
    w = pipe(torch.cat([points, points[3:4]]), (12, 12))
    torch.testing.assert_close(w[3] + w[12], torch.ones(12, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(w[3], w[12])


def test_samples_that_do_not_count_take_no_weight_from_their_neighbours() -> None:
    k = torch.from_numpy(trajectory.radial(20, 24, 16))
    keep = torch.rand(20, 24) > 0.3
    moved = torch.where(keep[..., None], k, torch.zeros_like(k))
    w = pipe(moved, (16, 16), keep=keep)
    assert bool((w[~keep] == 0).all())
    torch.testing.assert_close(w[keep], pipe(k[keep], (16, 16)), atol=1e-5, rtol=1e-5)


def test_pipe_comes_to_the_weights_of_least_squares() -> None:
    torch.manual_seed(3)
    points = (torch.rand(1, 40, 2, dtype=torch.float64) - 0.5) * torch.tensor([9.0, 8.0])
    y, x = (torch.arange(n) - n // 2 for n in (9, 8))
    grid = torch.stack(torch.meshgrid(y / 9, x / 8, indexing="ij"), -1).reshape(-1, 2).double()
    a = torch.exp(-2j * torch.pi * (points[0] @ grid.T)) / 72**0.5
    gram = (a @ a.mH).abs() ** 2
    w = pipe(points, (9, 8), iterations=400)[0]
    # min ‖Aᴴ diag(w) A − 1‖_F over w ≥ 0: the gradient vanishes wherever a weight is not at its bound.
    slope = gram @ w - 1
    assert bool((w > 0).all())
    assert float(slope[w > 0.05].abs().max()) < 3e-4
    assert float(slope.min()) > -3e-4


def test_each_slice_may_have_its_own_trajectory() -> None:
    one, two = (
        torch.from_numpy(trajectory.radial(20, 24, 16)),
        torch.from_numpy(trajectory.radial(20, 24, 16, golden=True)),
    )
    both = pipe(torch.stack([one, two]), (16, 16))
    torch.testing.assert_close(both, torch.stack([pipe(one, (16, 16)), pipe(two, (16, 16))]))


def test_a_ball_comes_back_at_its_height_in_three_dimensions() -> None:
    n, radius, centre = 24, 7.0, np.array([2.0, -1.0, 3.0])
    k = trajectory.kooshball(900, 48, n)
    z = 2 * np.pi * radius * np.linalg.norm(k / n, axis=-1)
    safe = np.maximum(z, 1e-2)
    profile = np.where(z < 1e-2, 1, 3 * (np.sin(safe) - safe * np.cos(safe)) / safe**3)
    y = 4 / 3 * np.pi * radius**3 / n**1.5 * profile * np.exp(-2j * np.pi * (k / n) @ centre)
    m = np.arange(n) - n // 2
    d = np.sqrt((m[:, None, None] - centre[0]) ** 2 + (m[:, None] - centre[1]) ** 2 + (m - centre[2]) ** 2)
    points = torch.from_numpy(k)
    for w in (pipe(points, (n,) * 3), ramp(points)):
        image = Nufft(points, (n,) * 3).H(w * torch.from_numpy(y)[None]).numpy()
        assert image[d < 4.5].mean() == pytest.approx(1, abs=0.02)
        assert abs(image[(d > 9.5) & (d < 11)].mean()) < 0.02


def test_each_line_represents_half_of_the_angles_beside_it() -> None:
    angle = np.radians([90.0, 0.0, 30.0])[:, None]
    r = np.arange(-8, 8)
    w = ramp(torch.from_numpy(np.stack([r * np.sin(angle), r * np.cos(angle)], -1)))
    np.testing.assert_allclose(w[:, 3], 5 * np.radians([75, 60, 45]))
    np.testing.assert_allclose(w[:, 8], np.radians([75, 60, 45]) / 6)


def test_lines_that_are_not_radial_have_no_ramp() -> None:
    with pytest.raises(DataError, match="pipe"):
        ramp(torch.from_numpy(trajectory.spiral(8, 64, 16)))
    half = torch.from_numpy(trajectory.radial(8, 33, 16)[:, 16:])
    with pytest.raises(DataError, match="equally spaced diameters"):
        ramp(half)
