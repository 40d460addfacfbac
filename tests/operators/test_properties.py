"""What every linear operator must be: the same list of properties for each, and its definition written as a matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from recon.operators import Adjoint, Chain, Coils, Fourier, Identity, Linear, Sample, Scale, Stack, Sum, Weight
from recon.operators.cone import Cone, ConeXray
from recon.operators.gradient import Gradient
from recon.operators.nufft import Nufft
from recon.operators.sense import Sense
from recon.operators.toeplitz import Toeplitz
from recon.operators.wavelet import Wavelet
from recon.operators.whiten import Whiten
from recon.operators.xray import Fan, Parallel, Xray
from tests.operators.cones import joseph as joseph_cone
from tests.operators.definitions import DOUBLE, dft, diagonal, difference, eye, haar, product, spread, waves
from tests.operators.rays import joseph

SINGLE = torch.complex64


@dataclass(frozen=True)
class Case:
    """An operator in double precision, the shape of its image without leading axes, and the matrix of its definition.

    `exact` bounds relative errors against other formulas for the same map; `lead` says where leading axes of an image
    arrive in the result, None where the operator gives the first axis a meaning.
    """

    name: str
    make: Callable[[], Linear]
    shape: tuple[int, ...]
    matrix: Callable[[], Tensor]
    exact: float = 1e-12
    lead: int | None = 0


def numbers(*shape: int, seed: int = 1, real: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64 if real else DOUBLE, generator=generator)


def mask(*shape: int) -> Tensor:
    return (numbers(*shape, seed=5, real=True) > 0).double()


def positions(*shape: int, grid: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    part = torch.rand(*shape, len(grid), dtype=torch.float64, generator=generator) - 0.5
    return part * torch.tensor(grid)


def cases() -> Iterator[Case]:
    for y, x in ((4, 6), (5, 3)):
        size = f"{y}x{x}"
        yield Case(f"fourier {size}", Fourier, (2, y, x), lambda y=y, x=x: product(eye(2), dft(y), dft(x)))
        maps, sets = numbers(3, 2, y, x), numbers(2, 3, 2, y, x)
        yield Case(f"coils {size}", lambda m=maps: Coils(m), (2, y, x), lambda m=maps: spread(m))
        yield Case(
            f"coils, two sets {size}", lambda m=sets: Coils(m, sets=True), (2, 2, y, x), lambda m=sets: spread(m)
        )
        for name, axes, sampled, m in (
            ("sense", (-2, -1), mask(y, x), maps),
            ("sense along y", (-2,), mask(y, 1), maps),
            ("sense in 3D", (-3, -2, -1), mask(2, y, x), maps),
            ("sense, two sets", (-2, -1), mask(3, 1, y, 1), sets),
        ):
            factors = [dft(n) if a in axes else eye(n) for a, n in zip((-3, -2, -1), (2, y, x))]
            dense = diagonal(sampled, 3, 2, y, x) @ product(eye(3), *factors) @ spread(m)
            image = (*m.shape[:-4], 2, y, x)
            two = m.ndim == 5

            def sense(
                m: Tensor = m, sampled: Tensor = sampled, axes: tuple[int, ...] = axes, two: bool = two
            ) -> Linear:
                return Sense(m, sampled, axes, two)

            yield Case(f"{name} {size}", sense, image, lambda d=dense: d)
            yield Case(f"normal of {name} {size}", lambda s=sense: s().normal(), image, lambda d=dense: d.mH @ d)
        k, w = positions(4, 5, grid=(y, x)), numbers(4, 5, real=True).abs()
        e = waves(k, (y, x))
        yield Case(
            f"nufft {size}", lambda k=k, y=y, x=x: Nufft(k, (y, x)), (2, y, x), lambda e=e: product(eye(2), e), 1e-10
        )
        for name, weights in (("real", w), ("complex", numbers(4, 5))):
            yield Case(
                f"toeplitz, {name} {size}",
                lambda k=k, y=y, x=x, w=weights: Nufft(k, (y, x)).normal(Weight(w)), (2, y, x),
                lambda e=e, w=weights: product(eye(2), e.mH @ diagonal(w, 4, 5) @ e), 1e-10,
            )  # fmt: skip
        own = positions(2, 4, 5, grid=(y, x))
        yield Case(
            f"nufft, a trajectory per slice {size}", lambda k=own, y=y, x=x: Nufft(k, (y, x)), (2, y, x),
            lambda k=own, y=y, x=x: torch.block_diag(*(waves(one, (y, x)) for one in k)), 1e-10,
        )  # fmt: skip
        turn = torch.tensor([0.0, 0.5, 1.6, 2.4, 4.0], dtype=torch.float64)
        for name, g in (
            ("parallel", Parallel(turn, 7, 1.1, 0.2)),
            ("flat", Fan(turn, 6, 2.0, 9.0, 5.0, False, 0.3)),
            ("curved", Fan(turn, 6, 2.0, 9.0, 5.0, True, 0.3)),
        ):
            yield Case(
                f"xray, {name} {size}", lambda g=g, y=y, x=x: Xray(g, (y, x), 1.3), (y, x),
                lambda g=g, y=y, x=x: joseph(g, (y, x), 1.3).to(DOUBLE),
            )  # fmt: skip
        cone = Cone(turn, 4, 6, 1.7, 2.0, 9.0, 5.0, 0.4, 0.3)
        yield Case(
            f"cone {size}", lambda g=cone, y=y, x=x: ConeXray(g, (3, y, x), 1.3, 1.1, 0.2), (3, y, x),
            lambda g=cone, y=y, x=x: joseph_cone(g, (3, y, x), 1.3, 1.1, 0.2).to(DOUBLE),
        )  # fmt: skip
        slopes = torch.cat([product(eye(2), difference(y), eye(x)), 0.5 * product(eye(2), eye(y), difference(x))])
        yield Case(f"gradient {size}", lambda: Gradient((-2, -1), (1.0, 2.0)), (2, y, x), lambda d=slopes: d, lead=1)
    grid = (3, 4, 5)
    k = positions(4, 5, grid=grid)
    yield Case("nufft 3D", lambda: Nufft(k, grid), grid, lambda: waves(k, grid), 1e-10)
    yield Case("toeplitz 3D", lambda: Nufft(k, grid).normal(), grid, lambda: waves(k, grid).mH @ waves(k, grid), 1e-10)
    yield Case("fourier 3D", lambda: Fourier((-3, -2, -1)), grid, lambda: product(*(dft(n) for n in grid)))
    yield Case("fourier along no axis", lambda: Fourier(()), grid, lambda: eye(*grid))
    yield Case("sample", lambda: Sample(mask(4, 1)), (2, 4, 3), lambda: diagonal(mask(4, 1), 2, 4, 3))
    w = numbers(2, 1, 3)
    yield Case("weight", lambda: Weight(w), (2, 4, 3), lambda: diagonal(w, 2, 4, 3))
    mix = numbers(2, 3)
    yield Case("whiten", lambda: Whiten(mix), (3, 2, 4, 3), lambda: product(mix, eye(2, 4, 3)))
    yield Case("wavelet", lambda: Wavelet((-2, -1), "db1", 1, 2), (2, 4, 6), lambda: product(eye(2), haar(4), haar(6)))
    yield Case("identity", Identity, (2, 3), lambda: eye(2, 3))
    yield Case("scale", lambda: Scale(0.5 - 2j), (2, 3), lambda: (0.5 - 2j) * eye(2, 3))
    yield Case("real scale", lambda: Scale(-3.0), (2, 3), lambda: -3 * eye(2, 3))
    maps = numbers(3, 2, 4, 3)
    f = product(eye(3), eye(2), dft(4), dft(3))
    yield Case("adjoint", lambda: Adjoint(Coils(maps)), (3, 2, 4, 3), lambda: spread(maps).mH)
    yield Case(
        "chain", lambda: Whiten(mix) @ Sample(mask(4, 3)) @ Fourier() @ Coils(maps), (2, 4, 3),
        lambda: product(mix, eye(2, 4, 3)) @ diagonal(mask(4, 3), 3, 2, 4, 3) @ f @ spread(maps),
    )  # fmt: skip
    yield Case("chain of one", lambda: Chain((Fourier(),)), (3, 2, 4, 3), lambda: f)
    yield Case("sum", lambda: Fourier() + 2j * Weight(w) - Identity(), (2, 4, 3), lambda: (
        product(eye(2), dft(4), dft(3)) + 2j * diagonal(w, 2, 4, 3) - eye(2, 4, 3)
    ))  # fmt: skip
    yield Case("sum of chains", lambda: Sum((Fourier() @ Coils(maps), 1j * Coils(maps))), (2, 4, 3), lambda: (
        f @ spread(maps) + 1j * spread(maps)
    ))  # fmt: skip
    sampled = diagonal(mask(4, 3), 3, 2, 4, 3) @ f @ spread(maps)
    yield Case(
        "stack", lambda: Stack((Coils(maps), Sample(mask(4, 3)) @ Fourier() @ Coils(maps))), (2, 2, 4, 3),
        lambda: torch.block_diag(spread(maps), sampled), lead=None,
    )  # fmt: skip


CASES = list(cases())
each = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def image(case: Case, *lead: int, seed: int = 11) -> Tensor:
    return numbers(*lead, *case.shape, seed=seed)


def error(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def directions(case: Case) -> list[tuple[Callable[[Tensor], Tensor], Tensor]]:
    """The map, its adjoint and its normal map, each with something to apply it to."""
    op, x = case.make(), image(case)
    return [(op.forward, x), (op.adjoint, op(x)), (op.normal().forward, x)]


@each
def test_it_is_the_matrix_of_its_definition(case: Case) -> None:
    op, m, x = case.make(), case.matrix(), image(case)
    y = op(x)
    assert error(y.flatten(), m @ x.flatten()) < case.exact
    z = numbers(*y.shape, seed=12)
    assert error(op.adjoint(z).flatten(), m.mH @ z.flatten()) < case.exact
    assert error(op.normal()(x).flatten(), m.mH @ (m @ x.flatten())) < case.exact


@each
def test_it_is_linear(case: Case) -> None:
    for f, x in directions(case):
        other, a, b = numbers(*x.shape, seed=13), 0.3 - 2j, 1.5 + 1j
        assert error(f(a * x + b * other), a * f(x) + b * f(other)) < 1e-12


@each
@pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-12), (SINGLE, 1e-5)])
def test_its_adjoint_is_the_adjoint(case: Case, dtype: torch.dtype, bound: float) -> None:
    op = case.make().to(dtype)
    x = image(case).to(dtype)
    for a in (op, op.normal()):
        y = a(x)
        z = numbers(*y.shape, seed=14).to(dtype)
        gap = torch.vdot(z.flatten(), y.flatten()) - torch.vdot(a.adjoint(z).flatten(), x.flatten())
        assert abs(complex(gap)) < bound * float(y.norm() * z.norm())


@each
def test_h_is_its_adjoint_and_back(case: Case) -> None:
    op, x = case.make(), image(case)
    y = op(x)
    assert error(op.H(y), op.adjoint(y)) < 1e-12
    assert error(op.H.adjoint(x), y) < 1e-12
    assert error(op.H.H(x), y) < 1e-12


def between(y: Tensor) -> list[Linear]:
    """Operators to stand between the adjoint and the map: diagonal ones, real and complex, and others."""
    w = Weight(numbers(*y.shape, seed=15))
    real = Weight(numbers(*y.shape, seed=16, real=True))
    return [
        Identity(),
        real,
        w,
        Scale(2j),
        2.0 * real,
        Sample((real.w > 0).double()),
        Fourier((-1,)),
        Fourier((-1,)) @ w,
    ]


@each
def test_its_normal_is_the_adjoint_after_the_map(case: Case) -> None:
    op, x = case.make(), image(case)
    y = op(x)
    assert error(op.normal()(x), op.adjoint(y)) < case.exact
    for inner in between(y):
        assert error(op.normal(inner)(x), op.adjoint(inner(y))) < case.exact
        assert error(op.normal(inner).H(x), op.adjoint(inner.adjoint(y))) < case.exact


@each
def test_its_gradient_is_its_adjoint_to_second_order(case: Case) -> None:
    for f, x in directions(case):
        x = x.requires_grad_()
        assert torch.autograd.gradcheck(f, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, x, fast_mode=True)
        z = numbers(*f(x).shape, seed=17)
        (gradient,) = torch.autograd.grad(f(x), x, z)
        y = f(x.detach())
        left, right = torch.vdot(z.flatten(), y.flatten()), torch.vdot(gradient.flatten(), x.detach().flatten())
        assert abs(complex(left - right)) < 1e-12 * float(y.norm() * z.norm())


@each
@pytest.mark.parametrize(("dtype", "bound"), [(DOUBLE, 1e-12), (SINGLE, 1e-5)])
def test_its_forward_derivative_is_itself(case: Case, dtype: torch.dtype, bound: float) -> None:
    op, x = case.make().to(dtype), image(case).to(dtype)
    for f, given in ((op, x), (op.adjoint, op(x)), (op.normal(), x)):
        tangent = numbers(*given.shape, seed=18).to(dtype)
        with forward_ad.dual_level():
            derivative = forward_ad.unpack_dual(f(forward_ad.make_dual(given, tangent))).tangent
        assert derivative is not None
        assert error(derivative, f(tangent)) < bound


@each
@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_it_keeps_precision_and_device(case: Case, dtype: torch.dtype) -> None:
    op, x = case.make().to(dtype), image(case).to(dtype)
    y = op(x)
    for result in (y, op.adjoint(y), op.normal()(x)):
        assert result.dtype == dtype
        assert result.device == x.device


@each
def test_it_changes_neither_its_input_nor_itself(case: Case) -> None:
    op, x = case.make(), image(case)
    held = {f.name: v.clone() for f in fields(op) if isinstance(v := getattr(op, f.name), Tensor)}
    y = op(x)
    z, before = y.clone(), x.clone()
    first = op(x), op.adjoint(y), op.normal()(x)
    again = op(x), op.adjoint(y), op.normal()(x)
    assert torch.equal(x, before)
    assert torch.equal(y, z)
    assert all(torch.equal(getattr(op, name), v) for name, v in held.items())
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def fields(op: Linear) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(op)  # type: ignore[arg-type]


@each
def test_it_is_a_value(case: Case) -> None:
    op = case.make()
    for f in fields(op):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(op, f.name, None)


@pytest.mark.parametrize("case", [c for c in CASES if c.lead is not None], ids=lambda c: c.name)
def test_leading_axes_are_images_side_by_side(case: Case) -> None:
    op, x = case.make(), image(case, 2, 3)
    y = op(x)
    rows = [[op(one) for one in row] for row in x]
    assert error(y, torch.stack([torch.stack(row, case.lead) for row in rows], case.lead)) < 1e-12
    back = torch.stack([torch.stack([op.adjoint(one) for one in row]) for row in rows])
    assert error(op.adjoint(y), back) < 1e-12
    assert error(op.normal()(x), torch.stack([torch.stack([op.normal()(one) for one in row]) for row in x])) < 1e-12


@pytest.mark.parametrize("case", [c for c in CASES if c.lead is not None], ids=lambda c: c.name)
def test_no_images_give_no_results(case: Case) -> None:
    for dtype in (SINGLE, DOUBLE):
        op, x = case.make().to(dtype), image(case, 2).to(dtype)
        y = op(x)
        for f, given, lead, full in ((op, x, case.lead, y), (op.adjoint, y, 0, x), (op.normal(), x, 0, x)):
            none = f(given.narrow(case.lead if given is y else 0, 0, 0))
            assert none.shape == full.narrow(lead, 0, 0).shape
            assert none.dtype == dtype


@each
def test_strides_and_conjugate_views_do_not_matter(case: Case) -> None:
    for f, x in directions(case):
        expected = f(x)
        turned = x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
        gaps = torch.stack([x, x], -1).flatten(-2)[..., ::2]
        assert not gaps.is_contiguous()
        for view in (turned, gaps, x.conj_physical().conj()):
            assert torch.equal(view, x)
            assert error(f(view), expected) < 1e-12
        assert error(f(torch._neg_view(-x)), expected) < 1e-12
        one = x.flatten(0, 0)[:1].expand_as(x)
        assert error(f(one), f(one.contiguous())) < 1e-12


@each
def test_compiled_kernels_see_no_pending_sign_or_conjugate(case: Case) -> None:
    op = case.make().to(SINGLE)
    x = image(case).to(SINGLE)
    for f, given in ((op, x), (op.adjoint, op(x)), (op.normal(), x)):
        expected = f(given)
        for view in (given.conj_physical().conj(), torch._neg_view(-given)):
            assert error(f(view), expected) < 1e-5


@each
@pytest.mark.parametrize("asked", [SINGLE, torch.float32])
def test_to_gives_the_same_operator_in_another_precision(case: Case, asked: torch.dtype) -> None:
    op, x = case.make(), image(case)
    single = op.to(asked)
    assert error(single(x.to(SINGLE)).to(DOUBLE), op(x)) < 1e-5
    y = op(x)
    assert error(single.adjoint(y.to(SINGLE)).to(DOUBLE), op.adjoint(y)) < 1e-5
    for f in fields(op):
        value, moved = getattr(op, f.name), getattr(single, f.name)
        if isinstance(value, Tensor) and (value.is_complex() or value.is_floating_point()):
            assert moved.is_complex() == value.is_complex()
            assert moved.real.dtype == torch.float32
    assert type(op.to("cpu")) is type(op)
    assert error(op.to("cpu", DOUBLE)(x), y) < 1e-12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_gives_the_same() -> None:
    for case in CASES:
        if "nufft" in case.name or "toeplitz" in case.name:
            pytest.importorskip("cufinufft")
        op, x = case.make(), image(case)
        there = op.to("cuda")
        y = there(x.cuda())
        assert y.is_cuda
        assert error(y.cpu(), op(x)) < 1e-9, case.name
        assert error(there.adjoint(y).cpu(), op.adjoint(op(x))) < 1e-9, case.name


def test_booleans_and_integers_keep_their_kind_when_the_precision_changes() -> None:
    keep = torch.tensor([True, False])
    assert Sample(keep).to(SINGLE).mask.dtype == torch.bool
    assert Sample(keep.double()).to(torch.zeros(1, dtype=SINGLE)).mask.dtype == torch.float32


def test_a_toeplitz_operator_is_what_the_normal_of_a_nufft_gives() -> None:
    assert isinstance(Nufft(positions(2, 3, grid=(4, 4)), (4, 4)).normal(), Toeplitz)
