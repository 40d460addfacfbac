"""Derivatives in whatever an operator is made of: each is the finite difference, or is refused in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from recon import operators
from recon.data import DataError
from recon.operators import (
    Coils,
    Cone,
    ConeXray,
    Fan,
    Fourier,
    Linear,
    Nufft,
    Parallel,
    Sample,
    Scale,
    Sense,
    Toeplitz,
    Weight,
    Whiten,
    Xray,
)
from recon.operators.sense import SenseNormal
from recon.solve.fbp import fbp
from tests.operators.test_properties import (
    CASES,
    DOUBLE,
    SINGLE,
    Case,
    error,
    image,
    mask,
    numbers,
    positions,
)

MAPS, SETS = numbers(2, 1, 3, 4), numbers(2, 2, 1, 3, 4)
WEIGHTS, LINES, SAMPLED = numbers(3, 4, seed=3, real=True), mask(3, 1), mask(3, 4)
POINTS, OWN, SOLID = (positions(*n, 2, 3, grid=g) for n, g in (((), (3, 4)), ((2,), (3, 4)), ((), (3, 2, 4))))
KERNELS = numbers(4, 3, 4, seed=4)

#: Field of an operator → what it is, the operator around it, and the shape of an image.
ARGUMENTS: dict[tuple[str, str, str], tuple[Tensor, Callable[[Tensor], Linear], tuple[int, ...]]] = {
    ("Coils", "maps", ""): (MAPS, Coils, (1, 3, 4)),
    ("Coils", "maps", "sets"): (SETS, lambda t: Coils(t, True), (2, 1, 3, 4)),
    ("Sense", "maps", ""): (MAPS, lambda t: Sense(t, LINES, (-2,)), (1, 3, 4)),
    ("Sense", "maps", "weights beside zeros and ones"): (MAPS, lambda t: Sense(t, WEIGHTS), (1, 3, 4)),
    ("Sense", "mask", ""): (WEIGHTS, lambda t: Sense(MAPS, t), (1, 3, 4)),
    ("Sense", "mask", "that was even"): (torch.ones(3, 4, dtype=torch.float64), lambda t: Sense(MAPS, t), (1, 3, 4)),
    ("SenseNormal", "w", ""): (
        WEIGHTS[None, None], lambda t: SenseNormal(Sense(MAPS, SAMPLED), t), (1, 3, 4),
    ),
    ("Nufft", "points", ""): (POINTS, lambda t: Nufft(t, (3, 4)), (2, 1, 3, 4)),
    ("Nufft", "points", "one line"): (POINTS[0], lambda t: Nufft(t, (3, 4)), (1, 3, 4)),
    ("Nufft", "points", "of each slice"): (OWN, lambda t: Nufft(t, (3, 4)), (2, 3, 4)),
    ("Nufft", "points", "of a volume"): (SOLID, lambda t: Nufft(t, (3, 2, 4)), (3, 2, 4)),
    ("Toeplitz", "kernels", "complex"): (KERNELS, lambda t: Toeplitz(t, (3, 4)), (2, 3, 4)),
    ("Toeplitz", "kernels", "real, wider"): (KERNELS.real.clone(), lambda t: Toeplitz(t, (2, 3)), (2, 3)),
    ("Toeplitz", "kernels", "one for each"): (KERNELS[:, None], lambda t: Toeplitz(t, (3, 4)), (2, 3, 4)),
    ("Sample", "mask", ""): (SAMPLED, Sample, (1, 3, 4)),
    ("Weight", "w", ""): (numbers(3, 4), Weight, (1, 3, 4)),
    ("Whiten", "matrix", ""): (numbers(3, 2), Whiten, (2, 1, 3, 4)),
    ("Scale", "a", ""): (numbers(1)[0], Scale, (1, 3)),
}  # fmt: skip

#: Fields that are refused, as the geometry of a projection of an image of this shape.
REFUSED: dict[tuple[str, str], Callable[[Tensor], Linear]] = {
    ("Parallel", "angles"): lambda t: Xray(Parallel(t, 5, 1.0), (4, 3), 1.0),
    ("Fan", "angles"): lambda t: Xray(Fan(t, 5, 1.0, 9.0, 5.0), (4, 3), 1.0),
    ("Cone", "angles"): lambda t: ConeXray(Cone(t, 4, 5, 1.0, 1.0, 9.0, 5.0), (2, 4, 3), 1.0, 1.0),
}


def test_every_tensor_of_every_public_operator_is_in_the_list() -> None:
    found = {
        (name, f.name)
        for name in (*operators.__all__, "SenseNormal")
        if dataclasses.is_dataclass(kind := getattr(operators, name, SenseNormal))
        for f in dataclasses.fields(kind)
        if "Tensor" in str(f.type)
    }
    assert found == {(a, b) for a, b, _ in ARGUMENTS} | set(REFUSED)


@pytest.mark.parametrize("argument", ARGUMENTS, ids=" ".join)
def test_a_normal_operator_has_the_derivative_of_its_two_steps(argument) -> None:
    """Of a mask of zeros and ones m · m is m, and its derivative another."""
    held, make, shape = ARGUMENTS[argument]
    x, leaf = numbers(*shape, seed=5), held.clone().requires_grad_()
    op, z = make(leaf), numbers(*shape, seed=8)
    short, long = (torch.autograd.grad(y, leaf, z)[0] for y in (op.normal()(x), op.adjoint(op(x))))
    assert error(short, long) < 1e-9


@pytest.mark.parametrize("argument", ARGUMENTS, ids=" ".join)
def test_a_derivative_in_what_an_operator_holds_is_the_finite_difference_to_second_order(argument) -> None:
    held, make, shape = ARGUMENTS[argument]
    x = numbers(*shape, seed=5)
    y = numbers(*make(held)(x).shape, seed=6)
    inner = Weight(numbers(*y.shape[-2:], seed=7, real=True))
    for apply, given in (
        (lambda op, v: op.forward(v), x),
        (lambda op, v: op.adjoint(v), y),
        (lambda op, v: op.normal().forward(v), x),
        (lambda op, v: op.normal(inner).forward(v), x),
    ):

        def made(t: Tensor, v: Tensor, apply=apply) -> Tensor:
            return apply(make(t), v)

        both = held.clone().requires_grad_(), given.clone().requires_grad_()
        torch.testing.assert_close(made(*both), made(held, given), rtol=1e-9, atol=1e-9)
        assert gradcheck(made, both, fast_mode=True, check_forward_ad=True)
        assert gradgradcheck(made, both, fast_mode=True)


@pytest.mark.parametrize(
    "make", [lambda w: Nufft(POINTS, (3, 4)).normal(w), lambda w: Sense(MAPS, torch.ones(3, 4)).normal(w)]
)
def test_a_derivative_in_weights_of_samples_passes_through_the_normal_operator(make) -> None:
    x, w = numbers(1, 3, 4), numbers(*((2, 3) if "Toeplitz" in repr(make(None)) else (3, 4)), real=True)
    for weights in (w, w.abs()[:1, :1].expand_as(w).clone(), torch.polar(w.abs(), w)):
        assert gradcheck(lambda t: make(Weight(t))(x), weights.requires_grad_(), fast_mode=True, check_forward_ad=True)


@pytest.mark.parametrize("field", REFUSED, ids=" ".join)
def test_angles_that_are_learned_are_refused_with_the_cure(field) -> None:
    angles = torch.tensor([0.1, 0.9, 2.0], dtype=torch.float64)
    op = REFUSED[field](angles)
    x = torch.ones(op.shape, dtype=torch.float64)
    y = op(x)
    for ask in (
        lambda: REFUSED[field](angles.clone().requires_grad_()),
        lambda: torch.func.grad(lambda t: REFUSED[field](t)(x).sum())(angles),
        lambda: torch.func.jvp(lambda t: REFUSED[field](t)(x), (angles,), (angles,)),
        lambda: torch.vmap(lambda t: REFUSED[field](t)(x))(torch.stack([angles, angles])),
    ):
        with pytest.raises(DataError, match=r"give angles\.detach\(\)"):
            ask()
    angles.requires_grad_()  # when the operator is there already
    for f, given in ((op, x), (op.adjoint, y), (op.smear, y)):
        with pytest.raises(DataError, match=r"give angles\.detach\(\)"):
            f(given)


@pytest.mark.parametrize("name", [*(c.name for c in CASES if "xray" in c.name or "cone" in c.name)])
def test_what_is_smeared_has_its_derivative(name) -> None:
    op = next(c for c in CASES if c.name == name).make()
    y = numbers(2, *op(torch.zeros(op.shape)).shape, real=True).requires_grad_()
    assert gradcheck(op.smear, y, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(op.smear, y, fast_mode=True)
    single = y.detach().float()
    z = numbers(*op.smear(single).shape, seed=2, real=True).float()
    (back,) = torch.autograd.grad(op.smear(single.requires_grad_()), single, z)
    gap = float(((back * single).sum() - (op.smear(single) * z).sum()).detach())
    assert abs(gap) < 1e-4 * float(op.smear(single.detach()).norm() * z.norm())


def test_a_filtered_backprojection_has_the_gradient_of_its_data() -> None:
    A = Xray(Parallel(torch.linspace(0, 3, 6, dtype=torch.float64), 7, 1.0), (4, 5), 1.0)
    y = numbers(6, 7, real=True).requires_grad_()
    assert gradcheck(lambda v: fbp(v, A), y, fast_mode=True)


def test_points_that_an_optimiser_moves_in_place_are_followed() -> None:
    """Plans of the points where they were before are not used again."""
    points, x = POINTS.clone().requires_grad_(), numbers(1, 3, 4)
    op = Nufft(points, (3, 4))
    before = op(x)
    with torch.no_grad():
        points += 0.3
        assert error(op(x), Nufft(POINTS + 0.3, (3, 4))(x)) < 1e-10
        assert error(op(x), before) > 0.1


def test_a_gradient_finds_points_from_their_samples() -> None:
    """From 0.1 cycles beside them, as a measured trajectory is corrected."""
    true, x = positions(3, 8, grid=(12, 12)), numbers(4, 1, 12, 12)
    y = Nufft(true, (12, 12))(x)
    points = (true + 0.1 * torch.sin(torch.arange(48.0)).reshape(3, 8, 2)).requires_grad_()
    optimiser = torch.optim.LBFGS([points], lr=1, max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def misfit() -> Tensor:
        optimiser.zero_grad()
        loss = (Nufft(points, (12, 12))(x) - y).abs().square().sum()
        loss.backward()
        return loss

    optimiser.step(misfit)
    assert (points - true).abs().max() < 1e-4


each = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
precise = pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-10), (SINGLE, 1e-4)], ids=["double", "single"])


@each
@precise
def test_the_transforms_of_torch_func_pass_through_it(case: Case, dtype: torch.dtype, bound: float) -> None:
    op, x = case.make().to(dtype), image(case).to(dtype)
    for f, given in ((op, x), (op.adjoint, op(x)), (op.normal(), x)):
        items = torch.stack([given, 2 * given, given.flip(-1)], 1)
        assert error(torch.vmap(f, 1)(items), torch.stack([f(v) for v in items.unbind(1)])) < bound
        assert error(torch.func.jvp(f, (given,), (2j * given,))[1], 2j * f(given)) < bound
        y, pull = torch.func.vjp(f, given)
        z = numbers(*y.shape, seed=19).to(dtype)
        leaf = given.clone().requires_grad_()
        assert error(pull(z)[0], torch.autograd.grad(f(leaf), leaf, z)[0]) < bound


@pytest.mark.parametrize("name", ["sense along y 4x6", "nufft 4x6", "toeplitz, real 4x6", "xray, flat 4x6", "wavelet"])
def test_jacobians_of_both_directions_are_the_matrix_of_the_definition(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    op, x = case.make(), image(case).real.contiguous()
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        made = jacobian(lambda v, op=op: torch.view_as_real(op(v.to(DOUBLE)).resolve_conj()))(x)
        columns = torch.view_as_complex(made.movedim(made.ndim - x.ndim - 1, -1).contiguous())
        assert error(columns.flatten(-x.ndim).flatten(0, -2), case.matrix()) < 1e-9


@pytest.mark.parametrize("argument", [a for a in ARGUMENTS if a[0] != "Scale"], ids=" ".join)
def test_vmap_and_grad_reach_what_an_operator_holds(argument) -> None:
    held, make, shape = ARGUMENTS[argument]
    x, several = numbers(*shape, seed=5), torch.stack([held, held.flip(-1)])
    for f in (lambda t: make(t)(x), lambda t: make(t).normal()(x)):
        assert error(torch.vmap(f)(several), torch.stack([f(t) for t in several])) < 1e-9

        def loss(t: Tensor, f=f) -> Tensor:
            return f(t).abs().square().sum()

        found = torch.vmap(torch.func.grad(loss))(several)
        leaf = several.clone().requires_grad_()
        (expected,) = torch.autograd.grad(sum(loss(t) for t in leaf), leaf)
        assert error(found, expected) < 1e-9


def test_an_operator_within_a_chain_is_mapped_over_as_the_chain() -> None:
    A = Nufft(POINTS, (3, 4)) @ Fourier() @ Coils(MAPS)
    x = numbers(4, 1, 3, 4)
    assert error(torch.vmap(A)(x), A(x)) < 1e-10
    assert error(torch.vmap(A.normal())(x), A.normal()(x)) < 1e-10
