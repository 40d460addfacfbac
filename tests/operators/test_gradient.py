from __future__ import annotations

import pytest
import torch

from recon.operators.gradient import Gradient

CASES = [((-2, -1), None), ((-3, -2, -1), (3.0, 1.0, 1.5)), ((-1,), None)]


@pytest.mark.parametrize(("axes", "spacing"), CASES, ids=str)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.complex128, 1e-12), (torch.complex64, 1e-5)])
def test_dot_test(axes, spacing, dtype, limit) -> None:
    D = Gradient(axes, spacing)
    x = torch.randn(2, 3, 5, 8, dtype=dtype).transpose(1, 2)
    y = torch.randn(len(axes), *x.shape, dtype=dtype)
    left, right = torch.vdot(y.flatten(), D(x).flatten()), torch.vdot(D.H(y).flatten(), x.flatten())
    assert abs(left - right) < limit * x.norm() * y.norm()


def test_a_ramp_has_its_slope_everywhere_but_at_the_last_sample() -> None:
    x = torch.arange(5.0).reshape(1, 1, 5) + 10 * torch.arange(4.0).reshape(1, 4, 1)
    dy, dx = Gradient()(x)
    assert torch.equal(dy, torch.tensor([10.0, 10, 10, 0]).reshape(1, 4, 1).expand(1, 4, 5))
    assert torch.equal(dx, torch.tensor([1.0, 1, 1, 1, 0]).expand(1, 4, 5))


def test_thick_slices_weigh_less() -> None:
    x = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 2)
    dz = Gradient((-3, -2, -1), (4.0, 1.0, 1.0))(x)[0]
    assert torch.equal(dz[:3], torch.full((3, 2, 2), 0.25))


@pytest.mark.parametrize(("axes", "spacing"), CASES, ids=str)
def test_the_norm_stays_below_its_bound_and_comes_near(axes, spacing) -> None:
    D = Gradient(axes, spacing)
    shape = (6, 7, 8)
    columns = [D(e.reshape(shape)).flatten() for e in torch.eye(6 * 7 * 8, dtype=torch.float64)]
    largest = float(torch.linalg.matrix_norm(torch.stack(columns), 2)) ** 2
    assert 0.9 * D.squared_norm < largest <= D.squared_norm


def test_gradcheck() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(Gradient((-3, -1)), (x,))
    assert torch.autograd.gradcheck(
        Gradient((-3, -1)).adjoint, (torch.randn(2, 2, 3, 4, dtype=torch.complex128).requires_grad_(),)
    )
