from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from recon.data import Measurement
from recon.operators import Identity, Linear, Sample
from recon.operators.sense import Sense
from recon.operators.wavelet import Wavelet
from recon.solve.cg import Solution
from recon.solve.fista import fista, l1_wavelet, shrink, step_size
from recon.solve.pdhg import tv


def scene(seed: int = 0, shape: tuple[int, ...] = (1, 24, 24), sigma: float = 0.05) -> tuple[Measurement, Tensor]:
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(4, *shape, dtype=torch.complex128, generator=g)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    mask = (torch.rand(1, 1, shape[1], 1, generator=g) < 0.6).double()
    truth = torch.zeros(shape, dtype=torch.complex128)
    truth[..., 5:15, 8:20] = 1 + 1j
    A = Sense(maps, mask)
    noise = sigma * 2**0.5 * torch.randn(4, *shape, dtype=torch.complex128, generator=g)
    return Measurement(A(truth) + A.mask * noise, A, sigma), truth


def test_the_answer_fulfils_the_conditions_of_the_minimum() -> None:
    measurement, _ = scene()
    W = Wavelet((-2, -1), "db2")
    lam = 2.0
    s = l1_wavelet(measurement, lam=lam, p=1, wavelet="db2", cycle_spin=False, iterations=3000, tolerance=1e-14)
    slope = W(measurement.A.H(measurement.y) - measurement.A.normal()(s.x))
    c, limit = W(s.x), lam * measurement.sigma
    approximation = W.coarse(slope).clone()
    W.coarse(slope).zero_()
    W.coarse(c).zero_()
    zero = c.abs() < 1e-9
    assert approximation.abs().max() < 1e-8
    assert (slope[zero].abs() <= limit * (1 + 1e-6)).all()
    torch.testing.assert_close(slope[~zero], limit * c[~zero] / c[~zero].abs(), rtol=0, atol=1e-7)
    assert 0 < int(zero.sum()) < zero.numel()


def test_it_reaches_the_objective_of_a_long_plain_descent_sooner() -> None:
    measurement, _ = scene()
    W, limit = Wavelet((-2, -1), "db4"), 0.1
    N, b = measurement.A.normal(), measurement.A.H(measurement.y)

    def prox(v: Tensor, step: float, k: int) -> Tensor:
        return W.H(shrink(W(v), step * limit))

    def objective(x: Tensor) -> float:
        return float(0.5 * (measurement.A(x) - measurement.y).norm() ** 2 + limit * W(x).abs().sum())

    x, early = torch.zeros_like(b), 0.0
    for k in range(1500):
        x = prox(x - (N(x) - b), 1.0, k)
        early = objective(x) if k == 11 else early
    fast = objective(fista(N, b, prox, step=1.0, iterations=12).x)
    assert fast < early
    assert fast == pytest.approx(objective(x), rel=1e-3)


def test_denoising_is_one_shrink() -> None:
    y = torch.randn(1, 32, 32, dtype=torch.complex128)
    W = Wavelet((-2, -1), "db2", levels=2)
    s = l1_wavelet(Measurement(y, Identity()), lam=0.7, p=1, wavelet="db2", levels=2, cycle_spin=False, iterations=60)
    c = W(y)
    kept = W.coarse(c).clone()
    c = c * (1 - 0.7 / c.abs()).clamp_min(0)
    W.coarse(c).copy_(kept)
    torch.testing.assert_close(s.x, W.H(c), rtol=0, atol=1e-10)


def test_random_shifts_beat_a_fixed_grid() -> None:
    measurement, truth = scene(sigma=0.15)
    error = {
        spin: float((l1_wavelet(measurement, lam=1.0, p=1, wavelet="db1", cycle_spin=spin).x - truth).norm())
        for spin in (True, False)
    }
    assert error[True] < 0.95 * error[False]


def test_a_falling_threshold_starts_at_its_multiple() -> None:
    y = 3 * torch.randn(1, 32, 32, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    l1_wavelet(
        Measurement(y, Identity()), lam=0.2, p=1, wavelet="db2", levels=1, cycle_spin=False, iterations=10,
        continuation=8.0, callback=lambda k, x: seen.append(x.clone()),
    )  # fmt: skip
    W = Wavelet((-2, -1), "db2", levels=1)
    c = W(y)
    kept = W.coarse(c).clone()
    c = c * (1 - 1.6 / c.abs()).clamp_min(0)
    W.coarse(c).copy_(kept)
    torch.testing.assert_close(seen[0], W.H(c), rtol=0, atol=1e-10)


def test_a_falling_threshold_ends_at_the_same_one() -> None:
    y = torch.randn(1, 32, 32, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    plain, falling = (
        l1_wavelet(Measurement(y, Identity()), lam=0.7, p=1, cycle_spin=False, iterations=60, continuation=c).x
        for c in (1.0, 10.0)
    )
    torch.testing.assert_close(falling, plain, rtol=0, atol=1e-10)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    measurement, _ = scene()
    one, two, other = (l1_wavelet(measurement, iterations=10, seed=s).x for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("solve", [l1_wavelet, tv])
def test_rounding_of_the_maps_of_one_problem_does_not_reach_its_neighbour(solve: Callable[..., Solution]) -> None:
    """Slices whose maps differ in their last bits: each has the same bits alone and beside the other."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 4, 1, 32, 32, dtype=torch.complex64, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[1] *= 1 + 3e-7
    y = torch.randn(2, 4, 1, 32, 32, dtype=torch.complex64, generator=generator)
    mask = torch.ones(2, 1, 1, 32, 1)
    both = solve(Measurement(y, Sense(maps, mask), 0.05), lam=0.3, iterations=20).x
    for i in range(2):
        alone = solve(
            Measurement(y[i : i + 1], Sense(maps[i : i + 1], mask[i : i + 1]), 0.05), lam=0.3, iterations=20
        ).x
        assert torch.equal(both[i], alone[0])


def test_a_problem_is_the_same_alone_and_in_a_batch() -> None:
    a, b = scene(1)[0], scene(2)[0]
    both = Sense(torch.stack([a.A.maps, b.A.maps]), torch.stack([a.A.mask, b.A.mask]))
    batch = l1_wavelet(Measurement(torch.stack([a.y, b.y]), both, 0.05), iterations=30, tolerance=2e-3)
    for i, one in enumerate((a, b)):
        alone = l1_wavelet(one, iterations=30, tolerance=2e-3)
        torch.testing.assert_close(batch.x[i], alone.x, rtol=0, atol=1e-12)
        assert batch.iterations[i] == alone.iterations


def test_sets_of_maps_share_their_threshold() -> None:
    x = torch.tensor([3.0, 0.5]).reshape(2, 1, 1, 1) * torch.tensor([4.0, 0.5]).reshape(1, 1, 1, 2)
    got = shrink(x, 1.0, joint=-4)
    size = torch.linalg.vector_norm(x, dim=0)
    torch.testing.assert_close(got, x * (1 - 1 / size).clamp_min(0))
    maps = torch.randn(2, 4, 1, 20, 20, dtype=torch.complex64)
    A = Sense(maps, torch.ones(1, 1, 1, 1), sets=True)
    truth = torch.zeros(2, 1, 20, 20, dtype=torch.complex64)
    truth[0, :, 5:12, 6:15] = 1
    got = l1_wavelet(Measurement(A(truth), A, 0.001), lam=1.0, iterations=300, ndim=4).x
    assert (got - truth).norm() < 0.02 * truth.norm()


def test_mixing_the_sets_of_maps_mixes_the_answer_alike() -> None:
    maps = torch.randn(2, 4, 1, 20, 20, dtype=torch.complex128)
    mix, _ = torch.linalg.qr(torch.randn(2, 2, dtype=torch.complex128))
    mask = (torch.rand(1, 1, 20, 1) < 0.6).double()
    y = mask * torch.randn(4, 1, 20, 20, dtype=torch.complex128)
    mixed = torch.einsum("ab,bczyx->aczyx", mix.conj(), maps)
    one = Measurement(y, Sense(maps, mask, sets=True))
    two = Measurement(y, Sense(mixed, mask, sets=True))
    for solve in (l1_wavelet, tv):
        expected = torch.einsum("ab,bzyx->azyx", mix, solve(one, iterations=20, ndim=4).x)
        torch.testing.assert_close(solve(two, iterations=20, ndim=4).x, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_shrinkage_takes_less_from_large_values_the_smaller_p_is(p: float) -> None:
    x = torch.tensor([0.5, 1.0, 2.0, -100.0], dtype=torch.float64)
    got = shrink(x, 1.0, p=p)
    expected = torch.tensor([0.0, 0.0, 2 - 2 ** (p - 1), -100 + 100 ** (p - 1)], dtype=torch.float64)
    torch.testing.assert_close(got, expected)


@dataclass(frozen=True, eq=False)
class Unknown(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    adjoint = forward


def test_the_step_is_read_off_the_parts_or_found_by_power_iteration() -> None:
    x = torch.randn(1, 16, 16, dtype=torch.complex128)
    known, unknown = Sample(torch.full((1, 1, 1), 2.0)), Unknown()
    assert step_size(known, known.normal(), x) == pytest.approx(1 / 4)
    assert step_size(unknown, unknown.normal(), x) == pytest.approx(1 / 4.2)


def test_a_threshold_may_be_learned_on_an_image_that_is_given() -> None:
    x, limit = torch.randn(1, 16, 16, dtype=torch.complex64), torch.tensor(0.5, requires_grad=True)
    shrink(x, limit).abs().sum().backward()
    assert float(limit.grad) == -float((x.abs() > 0.5).sum())


def test_the_forward_derivative_of_shrinkage_is_that_in_double_precision() -> None:
    x, tangent = torch.randn(2, 1, 16, 16, dtype=torch.complex64)
    found = []
    for dtype in (torch.complex64, torch.complex128):
        with forward_ad.dual_level():
            given = forward_ad.make_dual(x.to(dtype), tangent.to(dtype))
            found.append(forward_ad.unpack_dual(shrink(given, 0.5)).tangent)
    torch.testing.assert_close(found[0].to(torch.complex128), found[1], rtol=1e-4, atol=1e-5)


def test_threshold_zero_changes_nothing_and_zeros_stay_zero() -> None:
    x = torch.randn(1, 4, 4, dtype=torch.complex64)
    assert torch.equal(shrink(x, 0.0), x)
    assert torch.equal(shrink(torch.zeros(3), 0.5), torch.zeros(3))
