"""Operators as a user writes with them: products, sums, factors, what they print, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import recon
from recon import operators
from recon.data import DataError
from recon.operators import Coils, Fourier, Gradient, Identity, Linear, Nufft, Sample, Scale, Sense, Wavelet, Weight
from recon.operators.base import Number

SINGLE = torch.complex64
N = 6


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=SINGLE, generator=torch.Generator().manual_seed(seed))


MAPS, MASK = numbers(3, 1, N, N), (torch.arange(N) % 2 == 0).float()[:, None].expand(N, N)
IMAGE = numbers(1, N, N, seed=2)
CHAIN = Sample(MASK) @ Fourier() @ Coils(MAPS)
FACTORS = [2, -0.5, 1 - 2j, np.float32(2), np.float64(-3), np.complex64(2j), torch.tensor(1.5), torch.tensor(1 + 2j)]


@pytest.mark.parametrize("a", FACTORS, ids=lambda a: f"{type(a).__name__} {a}")
def test_a_factor_of_any_kind_works_on_either_side_and_its_adjoint_is_its_conjugate(a: Number | Tensor) -> None:
    z = numbers(3, 1, N, N, seed=3)
    want, back = complex(a) * CHAIN(IMAGE), complex(a).conjugate() * CHAIN.H(z)
    for op in (a * CHAIN, CHAIN * a, CHAIN / (1 / a)):
        assert isinstance(op, Linear)
        torch.testing.assert_close(op(IMAGE), want)
        torch.testing.assert_close(op.H(z), back)
        torch.testing.assert_close(op.normal()(IMAGE), abs(complex(a)) ** 2 * CHAIN.normal()(IMAGE))


def test_a_factor_may_be_learned() -> None:
    lam = torch.nn.Parameter(torch.tensor(0.5))
    (CHAIN.normal() + lam * Identity())(IMAGE).abs().square().sum().backward()
    x, n = IMAGE, CHAIN.normal()(IMAGE)
    torch.testing.assert_close(lam.grad, 2 * (torch.vdot((n + 0.5 * x).flatten(), x.flatten())).real)


def test_an_operator_applies_to_a_tensor_by_call_and_by_product() -> None:
    torch.testing.assert_close(CHAIN @ IMAGE, CHAIN(IMAGE))
    torch.testing.assert_close(CHAIN.H @ CHAIN @ IMAGE, CHAIN.normal()(IMAGE))


def test_sums_and_differences_are_those_of_their_terms() -> None:
    y = CHAIN(IMAGE)
    torch.testing.assert_close(sum([CHAIN, CHAIN])(IMAGE), 2 * y)
    torch.testing.assert_close((3 * CHAIN - CHAIN)(IMAGE), 2 * y)
    torch.testing.assert_close((-CHAIN)(IMAGE), -y)


@pytest.mark.parametrize("op", [CHAIN, Sense(MAPS, MASK), CHAIN + CHAIN, 2j * CHAIN.H, Sense(MAPS, MASK).normal()])
def test_an_operator_prints_its_parts_and_their_shapes_in_one_line(op: Linear) -> None:
    said = repr(op)
    assert "\n" not in said
    assert len(said) < 400
    assert "complex64 3×1×6×6" in said


def test_what_a_product_is_made_of_reads_like_the_formula() -> None:
    assert (
        repr(CHAIN) == "Sample(mask=float32 6×6) @ Fourier(axes=(-2, -1)) @ Coils(maps=complex64 3×1×6×6, sets=False)"
    )
    assert repr(Fourier() + 2 * Identity()) == "Fourier(axes=(-2, -1)) + Scale(a=2)"
    assert repr(Scale(torch.tensor(0.25))) == "Scale(a=0.25)"


@pytest.mark.parametrize("op", [CHAIN, Sense(MAPS, MASK), Sense(MAPS, MASK).normal()], ids=["chain", "sense", "normal"])
@pytest.mark.parametrize("shape", [(N, N), (1, N, 4), (1, N, 1), (1, 1, N)])
def test_an_image_of_another_size_is_refused(op: Linear, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="does not fit maps of"):
        op(numbers(*shape))


def test_slices_that_the_maps_do_not_have_are_refused() -> None:
    """The kernels took the first slice and left out the second."""
    with pytest.raises(DataError, match="does not fit maps of"):
        Sense(MAPS, MASK)(numbers(2, N, N))
    assert CHAIN(numbers(2, N, N)).shape == (3, 2, N, N)  # plain maps may serve several slices


@pytest.mark.parametrize("op", [CHAIN, Sense(MAPS, MASK)], ids=["chain", "sense"])
@pytest.mark.parametrize("shape", [(2, 1, N, N), (1, 1, N, N), (3, N, N)])
def test_k_space_of_other_coils_or_size_is_refused(op: Linear, shape: tuple[int, ...]) -> None:
    """The kernels took as many coils as k-space had."""
    with pytest.raises(DataError, match="do not fit maps of"):
        op.H(numbers(*shape))


def test_arrays_of_numpy_are_refused_with_the_way_to_make_tensors_of_them() -> None:
    for wrong in (lambda: CHAIN(IMAGE.numpy()), lambda: Coils(MAPS.numpy())(IMAGE), lambda: Sense(MAPS.numpy(), MASK)):
        with pytest.raises(DataError, match=r"torch\.as_tensor"):
            wrong()
    with pytest.raises(DataError, match="does not fit k-space"):
        Sense(MAPS, MASK.numpy())
    with pytest.raises(DataError, match=r"torch\.as_tensor"):
        Nufft(np.zeros((3, 4, 2), np.float32), (N, N))
    torch.testing.assert_close(CHAIN(torch.as_tensor(IMAGE.numpy())), CHAIN(IMAGE))


@pytest.mark.parametrize("make", [Fourier, Gradient, Wavelet, lambda axes: Sense(MAPS, MASK, axes)])
def test_axes_that_count_from_the_front_are_refused(make: type[Fourier]) -> None:
    for axes in ((0, 1), (-1, -1)):
        with pytest.raises(DataError, match="counted from the end"):
            make(axes)


@pytest.mark.parametrize("op", [Fourier(), Gradient(), Wavelet()], ids=lambda op: type(op).__name__)
@pytest.mark.parametrize("shape", [(), (N,)])
def test_an_image_that_lacks_an_axis_is_refused(op: Linear, shape: tuple[int, ...]) -> None:
    for f in (op, op.H):
        with pytest.raises(DataError, match="lacks one of the axes"):
            f(torch.ones(shape))


def test_what_is_no_operator_and_no_number_is_refused_in_sums_and_products() -> None:
    with pytest.raises(DataError, match="a \\* Identity"):
        CHAIN + 0.1  # type: ignore[operator]
    for wrong in (lambda: CHAIN * IMAGE, lambda: np.ones(2) * CHAIN):
        with pytest.raises(DataError, match=r"Weight\(w\) @ A"):
            wrong()
    torch.testing.assert_close((Weight(MASK) @ CHAIN)(IMAGE), MASK * CHAIN(IMAGE))


def test_maps_of_a_slice_without_z_are_refused_with_the_index_that_adds_it() -> None:
    with pytest.raises(DataError, match=r"maps\[:, None\]"):
        Coils(MAPS[:, 0])
    with pytest.raises(DataError, match="sets of maps"):
        Coils(torch.stack([MAPS, MAPS]), sets=True)(numbers(3, 1, N, N))


def test_every_operator_is_at_hand_in_one_place() -> None:
    """`import recon` is enough."""
    assert recon.operators is operators
    for name in operators.__all__:
        assert getattr(recon.operators, name) is not None
    of_files = {
        value.__name__
        for name in ("base", "coils", "fourier", "gradient", "nufft", "sampling", "sense", "toeplitz", "wavelet",
                     "whiten", "xray")
        for value in vars(__import__(f"recon.operators.{name}", fromlist=["x"])).values()
        if isinstance(value, type) and issubclass(value, Linear) and value is not Linear
    }  # fmt: skip
    assert of_files - set(operators.__all__) == {"SenseNormal"}


DOUBLE = torch.complex128
POINTS = torch.rand(2, 5, 2) * N - N / 2


@pytest.mark.parametrize(
    ("op", "single", "double"),
    [
        (CHAIN, SINGLE, DOUBLE),
        (Fourier() + 2.0 * Identity(), SINGLE, DOUBLE),
        (Gradient(), SINGLE, DOUBLE),
        (Wavelet((-1,), smallest=2), SINGLE, DOUBLE),
        (Nufft(POINTS, (N, N)), SINGLE, DOUBLE),
        (Sense(MAPS, MASK), SINGLE, SINGLE),
        (Sense(MAPS, MASK).normal(), SINGLE, SINGLE),
        (Sense(MAPS, MASK).to(DOUBLE), DOUBLE, DOUBLE),
        (CHAIN.to(DOUBLE), DOUBLE, DOUBLE),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Linear) else str(v),
)
def test_precision_is_that_of_the_page_on_arrays(op: Linear, single: torch.dtype, double: torch.dtype) -> None:
    y, wide = op(IMAGE), op(IMAGE.to(DOUBLE))
    assert (y.dtype, wide.dtype) == (single, double)
    assert (op.H(y).dtype, op.H(wide).dtype) == (single, double)
    torch.testing.assert_close(y.to(DOUBLE), wide.to(DOUBLE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(-2, -1), (-3, -2), (-2,)], ids=str)
def test_a_real_image_is_taken_and_has_a_real_gradient(axes: tuple[int, ...]) -> None:
    """Kernels for complex numbers used to get real ones, and gradients came back complex."""
    op = Sense(MAPS, MASK[:, :1] if -1 not in axes else MASK, axes)
    for a in (op, op.normal()):
        x = IMAGE.real.clone().requires_grad_()
        y = a(x)
        torch.testing.assert_close(y, a(IMAGE.real.to(SINGLE)), rtol=0, atol=0)
        z = numbers(*y.shape, seed=4)
        (gradient,) = torch.autograd.grad(y, x, z)
        torch.testing.assert_close(gradient, a.H(z).real)
