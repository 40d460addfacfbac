from __future__ import annotations

import math

import pytest
import torch

from recon.data import Measurement
from recon.operators import Identity
from recon.operators.gradient import Gradient
from recon.operators.sense import Sense
from recon.solve.pdhg import pdhg, tv


def test_a_step_moves_by_lambda_over_its_lengths() -> None:
    y = torch.zeros(1, 1, 40, dtype=torch.float64)
    y[..., 10:] = 5
    s = tv(Measurement(y, Identity()), lam=1.5, balance=1.0, iterations=5000, tolerance=1e-11)
    expected = torch.full((1, 1, 40), 5 - 1.5 / 30, dtype=torch.float64)
    expected[..., :10] = 1.5 / 10
    torch.testing.assert_close(s.x, expected, rtol=0, atol=1e-7)


def test_a_disc_loses_two_lambda_over_its_radius() -> None:
    n, r, lam = 64, 14.0, 3.0
    at = torch.arange(n, dtype=torch.float64) - n / 2 + 0.5
    inside = (at[:, None] ** 2 + at**2 < r * r)[None]
    y = 10.0 * inside
    s = tv(Measurement(y, Identity()), lam=lam, balance=1.0, iterations=1000, tolerance=1e-8)
    background = lam * 2 * math.pi * r / (n * n - math.pi * r * r)
    assert float(10 - s.x[inside].mean()) == pytest.approx(2 * lam / r, rel=0.15)
    assert float(s.x[~inside].mean()) == pytest.approx(background, rel=0.15)


def test_complex_phase_is_kept_and_joined() -> None:
    y = torch.zeros(1, 1, 40, dtype=torch.complex128)
    y[..., 10:] = 5 * complex(math.cos(1), math.sin(1))
    s = tv(Measurement(y, Identity()), lam=1.5, balance=1.0, iterations=5000, tolerance=1e-11)
    assert float(s.x[..., -1].abs()) == pytest.approx(5 - 1.5 / 30)
    assert float(s.x[..., -1].angle()) == pytest.approx(1)


def test_the_answer_fulfils_the_conditions_of_the_minimum() -> None:
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 1, 14, 13, dtype=torch.complex128, generator=g)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    A = Sense(maps, (torch.rand(1, 1, 14, 1, generator=g) < 0.7).double())
    truth = torch.zeros(1, 14, 13, dtype=torch.complex128)
    truth[:, 3:9, 4:10] = 2
    y = A(truth) + 0.1 * A.mask * torch.randn(3, 1, 14, 13, dtype=torch.complex128, generator=g)
    lam, D = 0.2, Gradient()
    x = tv(Measurement(y, A), lam=lam, iterations=2000, tolerance=1e-9, balance=1.0).x

    def objective(v: torch.Tensor) -> float:
        return float(0.5 * (A(v) - y).norm() ** 2 + lam * torch.linalg.vector_norm(D(v), dim=0).sum())

    least = objective(x)
    drawn = [torch.randn(1, 14, 13, dtype=torch.complex128, generator=g) for _ in range(20)]
    for v in (*drawn, x - truth, torch.ones_like(x), x):
        for size in (1e-1, 1e-2, 1e-3):
            assert objective(x + size * v / v.norm()) >= least - 1e-5
            assert objective(x - size * v / v.norm()) >= least - 1e-5
    torch.testing.assert_close((A.H(A(x) - y)).sum(), torch.zeros((), dtype=torch.complex128), rtol=0, atol=1e-5)


def test_constraints_hold() -> None:
    y = torch.randn(1, 12, 12, dtype=torch.complex128)
    real = tv(Measurement(y, Identity()), lam=0.1, constraint="real", iterations=50).x
    positive = tv(
        Measurement(y, Identity()), lam=0.1, constraint="nonnegative", balance=1.0, iterations=3000, tolerance=1e-11
    ).x
    assert not real.imag.any()
    assert real.real.min() < 0
    assert not positive.imag.any()
    assert positive.real.min() >= 0
    numbers = tv(
        Measurement(y.real, Identity()),
        lam=0.1,
        constraint="nonnegative",
        balance=1.0,
        iterations=3000,
        tolerance=1e-11,
    ).x
    torch.testing.assert_close(numbers, positive.real, rtol=0, atol=1e-7)


def test_thick_slices_bind_less_than_thin_ones() -> None:
    y = torch.zeros(2, 1, 20, dtype=torch.float64)
    y[1] = 5
    thick = tv(
        Measurement(y, Identity()),
        lam=2.0,
        axes=(-3, -1),
        spacing=(4.0, 1.0),
        balance=1.0,
        iterations=5000,
        tolerance=1e-10,
    ).x
    thin = tv(Measurement(y, Identity()), lam=2.0, axes=(-3, -1), balance=1.0, iterations=5000, tolerance=1e-10).x
    torch.testing.assert_close(thick[1], torch.full((1, 20), 4.5, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(thin[1], torch.full((1, 20), 3.0, dtype=torch.float64), rtol=0, atol=1e-6)


def test_lambda_zero_is_least_squares_and_problems_do_not_touch() -> None:
    y = torch.randn(2, 1, 9, 8, dtype=torch.complex128)
    torch.testing.assert_close(
        tv(Measurement(y, Identity()), lam=0.0, iterations=500, tolerance=1e-12).x, y, rtol=0, atol=1e-9
    )
    y[1] *= 50
    both = tv(Measurement(y, Identity()), lam=0.5, iterations=300, tolerance=1e-4)
    for i in range(2):
        one = tv(Measurement(y[i], Identity()), lam=0.5, iterations=300, tolerance=1e-4)
        assert torch.equal(one.x, both.x[i])
        assert one.iterations == both.iterations[i]


def test_an_iteration_is_that_of_condat_and_vu() -> None:
    y = torch.randn(1, 3, 4, dtype=torch.complex128)
    D, s = Gradient(), 0.5 / 8**0.5
    tau, x, p = 1 / (0.5 + 8 * s), torch.zeros_like(y), torch.zeros(2, 1, 3, 4, dtype=torch.complex128)
    for _ in range(5):
        new = x - tau * (x - y + D.H(p))
        p = 0.8 * (p + s * D(2 * new - x))
        x = new
    got = pdhg(Identity(), y, D, lambda q, _: 0.8 * q, bound=1.0, K_bound=8.0, balance=0.5, iterations=5, tolerance=0.0)
    torch.testing.assert_close(got.x, x)
