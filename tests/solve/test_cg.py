from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from recon.data import DataError, Measurement
from recon.kernels.vectors import dot
from recon.operators import Coils, Fourier, Linear, Sample
from recon.operators.sense import Sense
from recon.solve.cg import cg, noise_to_signal, sense
from recon.solve.power import largest_eigenvalue, squared_norm_bound


@dataclass(frozen=True, eq=False)
class Matrix(Linear):
    m: Tensor
    shape: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        return (self.m @ x.flatten(-3).unsqueeze(-1)).reshape(*x.shape[:-3], *self.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return (self.m.mH @ y.flatten(-3).unsqueeze(-1)).reshape(*y.shape[:-3], *self.shape)


def positive(n: int, batch: tuple[int, ...] = ()) -> Tensor:
    a = torch.randn(*batch, n + 3, n, dtype=torch.complex128)
    return a.mH @ a / n


def scene(batch: int = 2, shape: tuple[int, ...] = (1, 16, 15)) -> tuple[Sense, Tensor]:
    maps = torch.randn(batch, 4, *shape, dtype=torch.complex128)
    maps = maps / torch.linalg.vector_norm(maps, dim=-4, keepdim=True)
    mask = (torch.rand(1, 1, shape[1], 1) < 0.6).double()
    return Sense(maps, mask), torch.randn(batch, *shape, dtype=torch.complex128)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_it_solves_the_linear_system(lam: float) -> None:
    m, b = positive(24), torch.randn(2, 2, 3, 4, dtype=torch.complex128)
    expected = torch.linalg.solve(m + lam * torch.eye(24, dtype=torch.float64), b.reshape(2, 24, 1))
    got = cg(Matrix(m, (2, 3, 4)), b, lam=lam, iterations=200, tolerance=1e-12)
    torch.testing.assert_close(got.x.reshape(2, 24, 1), expected, rtol=0, atol=1e-9)
    assert (got.residual <= 1e-12).all()
    assert (got.iterations <= 60).all()


def test_each_problem_may_have_its_own_lambda_and_reference() -> None:
    m, b, ref = (
        positive(6),
        torch.randn(2, 1, 2, 3, dtype=torch.complex128),
        torch.randn(1, 2, 3, dtype=torch.complex128),
    )
    lam = torch.tensor([0.1, 2.0])
    got = cg(Matrix(m, (1, 2, 3)), b, lam=lam, reference=ref, iterations=100, tolerance=1e-13).x
    for i in range(2):
        right = b[i].flatten() + lam[i].double() * ref.flatten()
        expected = torch.linalg.solve(m + lam[i].double() * torch.eye(6), right)
        torch.testing.assert_close(got[i].flatten(), expected, rtol=0, atol=1e-7)


def test_a_problem_has_the_same_bits_alone_and_in_a_batch() -> None:
    maps = torch.randn(3, 4, 1, 15, 17, dtype=torch.complex64)
    mask = (torch.rand(1, 1, 15, 1) < 0.5).float()
    b = torch.randn(3, 1, 15, 17, dtype=torch.complex64)
    b[1] *= 100
    b[2] = 0
    x0 = torch.zeros_like(b)
    x0[0] = cg(Sense(maps[0], mask).normal(), b[0], lam=0.1, iterations=12).x
    batch = cg(Sense(maps, mask).normal(), b, x0=x0, lam=0.1, iterations=25, tolerance=1e-5)
    assert len(set(batch.iterations.tolist())) == 3
    for i in range(3):
        alone = cg(Sense(maps[i], mask).normal(), b[i], x0=x0[i], lam=0.1, iterations=25, tolerance=1e-5)
        assert torch.equal(alone.x, batch.x[i])
        assert alone.iterations == batch.iterations[i]
    assert not batch.x[2].any()


def test_several_sets_of_maps_are_one_problem() -> None:
    maps = torch.randn(2, 4, 1, 3, 4, dtype=torch.complex128)
    A = Sense(maps, torch.ones(1, 1, 1, 1, dtype=torch.float64), sets=True)
    truth = torch.randn(2, 1, 3, 4, dtype=torch.complex128)
    got = sense(Measurement(A(truth), A), lam=0.0, iterations=100, tolerance=1e-13, ndim=4)
    torch.testing.assert_close(got.x, truth, rtol=0, atol=1e-8)
    assert got.iterations.shape == ()


@pytest.mark.parametrize("lam", [-1.0, torch.tensor([0.1, -1.0])])
def test_a_lambda_below_zero_is_refused(lam: float | Tensor) -> None:
    A, x = scene()
    with pytest.raises(DataError, match="lam is -1 and must not be negative"):
        sense(Measurement(A(x), A), lam=lam)


def test_arguments_stay_as_they_are_and_iterates_are_shown() -> None:
    m, b, x0 = positive(6), torch.randn(1, 2, 3, dtype=torch.complex128), torch.randn(1, 2, 3, dtype=torch.complex128)
    kept, seen = (b.clone(), x0.clone()), []
    cg(Matrix(m, (1, 2, 3)), b, x0=x0, iterations=4, tolerance=0, callback=lambda k, x: seen.append((k, x.clone())))
    assert torch.equal(kept[0], b)
    assert torch.equal(kept[1], x0)
    assert [k for k, _ in seen] == [0, 1, 2, 3]
    assert not torch.equal(seen[0][1], seen[1][1])


def test_noise_free_data_give_back_the_image() -> None:
    A, truth = scene()
    A = Sense(A.maps, torch.ones_like(A.mask))
    got = sense(Measurement(A(truth), A), lam=0.0, tolerance=1e-12)
    torch.testing.assert_close(got.x, truth, rtol=0, atol=1e-10)


def test_the_natural_lambda_is_noise_over_signal_power_and_helps() -> None:
    maps = torch.ones(1, 1, 64, 64, dtype=torch.complex64)
    A = Sample(torch.ones(1, 1, 64, 64)) @ Fourier() @ Coils(maps)
    truth = 3 * torch.randn(1, 64, 64, dtype=torch.complex64)
    y = A(truth) + 2 * torch.randn(1, 1, 64, 64, dtype=torch.complex64) * 2**0.5
    lam = noise_to_signal(Measurement(y, A, 2.0))
    assert float(lam) == pytest.approx(8 / 9, rel=0.1)
    error = {v: float((sense(Measurement(y, A, 2.0), lam=v).x - truth).norm()) for v in (None, 0.0, 0.2, 4.0)}
    assert min(error, key=error.get) is None
    assert float(noise_to_signal(Measurement(0 * y, A, 2.0))) == 1.0


def test_dot_is_the_real_inner_product() -> None:
    a, b = torch.randn(2, 2, 3, 4, 5, dtype=torch.complex128), torch.randn(2, 2, 3, 4, 5, dtype=torch.complex128)
    torch.testing.assert_close(dot(a, b, 3), (a.conj() * b).real.sum((-3, -2, -1)))


def test_power_iteration_finds_the_largest_eigenvalue_of_each_problem() -> None:
    m = positive(12, (3,)) * torch.tensor([1.0, 5.0, 0.2]).reshape(3, 1, 1)
    like = torch.zeros(3, 1, 3, 4, dtype=torch.complex128)
    got = largest_eigenvalue(Matrix(m, (1, 3, 4)), like, iterations=500, tolerance=1e-9)
    torch.testing.assert_close(got, torch.linalg.eigvalsh(m)[:, -1], rtol=1e-4, atol=0)
    again = largest_eigenvalue(Matrix(m[1], (1, 3, 4)), like[1], iterations=500, tolerance=1e-9)
    torch.testing.assert_close(got[1], again, rtol=1e-6, atol=0)


@pytest.mark.parametrize("sets", [False, True])
def test_the_bound_read_off_the_parts_holds(sets: bool) -> None:
    maps = torch.randn(*((2,) if sets else ()), 3, 1, 8, 9, dtype=torch.complex128)
    mask = (torch.rand(1, 1, 8, 1) < 0.7).double()
    A = Sense(maps, mask, sets=sets)
    like = torch.zeros(*((2,) if sets else ()), 1, 8, 9, dtype=torch.complex128)
    true = float(largest_eigenvalue(A.normal(), like, iterations=300, tolerance=1e-8, ndim=4 if sets else 3))
    bound = squared_norm_bound(A)
    assert bound is not None
    assert true <= bound * (1 + 1e-9) < 3 * true
    assert squared_norm_bound(A.plain()) == pytest.approx(bound)
    unit = Sense(maps / torch.linalg.vector_norm(maps, dim=-4, keepdim=True), mask, sets=sets)
    assert sets or squared_norm_bound(unit) == pytest.approx(1)
    assert squared_norm_bound(Matrix(positive(2), (1, 1, 2))) is None


def test_an_empty_batch_has_an_empty_solution() -> None:
    A = Sense(torch.randn(3, 1, 6, 5, dtype=torch.complex64), torch.ones(1, 1, 6, 1), (-2,))
    y = torch.randn(0, 3, 1, 6, 5, dtype=torch.complex64)
    assert sense(Measurement(y, A, 1.0), lam=1e-2, iterations=3).x.shape == (0, 1, 6, 5)
