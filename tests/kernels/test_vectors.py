"""The vector steps of conjugate gradients against the formulas in double precision, compiled and with torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from recon.kernels import vectors


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def path(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(vectors, "native", lambda: None)
    elif vectors.native() is None:
        pytest.skip("the kernels were not compiled: install g++ and repeat the installation")


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64)


def exact(a: Tensor, b: Tensor) -> Tensor:
    return (a.to(torch.complex128).conj() * b).real.flatten(1).sum(1)


SHAPES = [(3, 1, 15, 17), (1, 2, 3, 4), (2, 1, 100, 321), (4, 1, 1, 1), (2, 1, 64, 64)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_inner_product_is_that_of_real_and_imaginary_parts(shape) -> None:
    a, b = noise(*shape), noise(*shape)
    got = vectors.dot(a, b, 3)
    assert (got - exact(a, b)).abs().max() < 3e-6 * (exact(a, a) * exact(b, b)).sqrt().max()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_three_steps_follow_their_formulas(shape) -> None:
    x, p, r, q = (noise(*shape) for _ in range(4))
    shift, step, beta = (torch.rand(shape[0]) for _ in range(3))
    wide = (..., None, None, None)
    given, turned = q.clone(), p.clone()
    got, bend = vectors.curvature(p, given, shift, 3)
    torch.testing.assert_close(got, q + shift[wide] * p)
    torch.testing.assert_close(bend, exact(p, q + shift[wide] * p).float(), rtol=1e-5, atol=1e-3)
    x2, r2 = x.clone(), r.clone()
    square = vectors.advance(x2, p, r2, q, step, 3)
    torch.testing.assert_close(x2, x + step[wide] * p)
    torch.testing.assert_close(r2, r - step[wide] * q)
    torch.testing.assert_close(square, exact(r2, r2).float(), rtol=1e-5, atol=0)
    vectors.turn(turned, r, beta, 3)
    torch.testing.assert_close(turned, r + beta[wide] * p)


def test_an_operator_that_returns_its_argument_leaves_it_unchanged() -> None:
    p = noise(2, 1, 8, 9)
    before = p.clone()
    q, _ = vectors.curvature(p, p, torch.tensor(0.5), 3)
    assert torch.equal(p, before)
    torch.testing.assert_close(q, 1.5 * before)


def test_a_vector_has_the_same_bits_alone_and_in_a_batch() -> None:
    a, b = noise(5, 1, 33, 401), noise(5, 1, 33, 401)
    together = vectors.dot(a, b, 3)
    assert torch.equal(together, torch.stack([vectors.dot(x, y, 3) for x, y in zip(a, b)]))


@pytest.mark.parametrize("shape", [(1, 1, 300, 300), (6, 1, 50, 50)])
def test_the_bits_do_not_depend_on_threads(shape) -> None:
    a, b = noise(*shape), noise(*shape)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = vectors.dot(a, b, 3)
        torch.set_num_threads(4)
        assert vectors.native() is None or torch.equal(alone, vectors.dot(a, b, 3))
    finally:
        torch.set_num_threads(threads)


def test_an_empty_batch_and_negative_views_are_taken() -> None:
    nothing, a = noise(0, 1, 3, 4), noise(2, 1, 3, 4)
    assert vectors.dot(nothing, nothing, 3).shape == (0,)
    negative = torch._neg_view(a)
    assert (vectors.dot(negative, a, 3) + exact(a, a)).abs().max() < 1e-4
    p, part = torch.zeros(2, 1, 3, 4), negative.imag.contiguous()
    vectors.turn(p, torch._neg_view(part), torch.zeros(2), 3)
    assert torch.equal(p, -part)


def test_a_forward_derivative_passes_through_an_inner_product() -> None:
    a, b, tangent = noise(3, 2, 1, 8, 9).unbind()
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(vectors.dot(forward_ad.make_dual(a, tangent), b, 3)).tangent
    torch.testing.assert_close(derivative, exact(tangent, b).float(), rtol=1e-4, atol=1e-4)


def test_vectors_that_broadcast_have_the_inner_product_of_whole_ones() -> None:
    a, b = noise(3, 1, 8, 9), noise(3, 1, 1, 9)
    torch.testing.assert_close(vectors.dot(a, b, 3), exact(a, b.expand_as(a)).float(), rtol=1e-4, atol=1e-4)
