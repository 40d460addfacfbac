from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import sense as kernel
from recon.operators import Coils, Fourier, Sample, Weight
from recon.operators import sense as module
from recon.operators.sense import Sense

AXES = [(-2, -1), (-3, -2), (-2,), (-1,), (-3, -1), (-3, -2, -1)]
SHAPES = [(4, 6, 8), (3, 5, 7), (1, 5, 8)]


def noise(*shape: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def build(axes: tuple[int, ...], shape: tuple[int, ...], sets: bool = False, lead: tuple[int, ...] = ()) -> Sense:
    maps = noise(*lead, *((2,) if sets else ()), 3, *shape)
    mask = (torch.rand([n if a in axes else 1 for a, n in zip((-3, -2, -1), shape)]) < 0.6).double()
    return Sense(maps, mask[None], axes, sets)


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("lead", [((), ()), ((2,), ()), ((2, 2), (2,))], ids=str)
def test_it_is_the_chain_of_mask_fourier_and_coils(axes, shape, sets, lead) -> None:
    A = build(axes, shape, sets, lead[1])
    chain = Sample(A.mask) @ Fourier(axes) @ Coils(A.maps, sets)
    x, y = noise(*lead[0], *((2,) if sets else ()), *shape), noise(*lead[0], 3, *shape)
    for got, expected in [(A(x), chain(x)), (A.H(y), chain.H(y)), (A.normal()(x), chain.H(chain(x)))]:
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.complex128, 1e-12), (torch.complex64, 1e-5)])
@pytest.mark.parametrize("axes", [(-2, -1), (-3, -2), (-2,)], ids=str)
def test_dot_test(axes, dtype, limit) -> None:
    A = build(axes, (3, 9, 10)).to(dtype)
    A = Sense(A.maps, A.mask.real, axes)
    x, y = noise(3, 9, 10, dtype=dtype), noise(3, 3, 9, 10, dtype=dtype)
    for op, u, v in [(A, x, y), (A.normal(), x, noise(3, 9, 10, dtype=dtype))]:
        left, right = torch.vdot(v.flatten(), op(u).flatten()), torch.vdot(op.H(v).flatten(), u.flatten())
        assert abs(left - right) < limit * (op(u).norm() * v.norm())


def test_groups_of_coils_and_planes_give_the_answer_of_one_pass(monkeypatch) -> None:
    A = build((-2, -1), (5, 6, 7))
    x, y = noise(5, 6, 7), noise(3, 5, 6, 7)
    whole = A(x), A.H(y), A.normal()(x)
    for size in (1, 1 << 10, 1 << 12):
        monkeypatch.setattr(module, "CACHE", size)
        for one, other in zip(whole, (A(x), A.H(y), A.normal()(x))):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


def test_a_mask_that_varies_along_a_plane_axis_or_over_coils_is_followed() -> None:
    maps, x = noise(3, 4, 5, 6), noise(4, 5, 6)
    for shape in [(1, 4, 5, 1), (3, 1, 5, 1), (1, 1, 5, 6), (2, 1, 1, 5, 1)]:
        A = Sense(maps, torch.rand(shape, dtype=torch.float64), (-2,))
        torch.testing.assert_close(A(x), A.plain()(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(A.normal()(x), A.plain().H(A.plain()(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", [(-2,), (-3, -2)], ids=str)
@pytest.mark.parametrize(
    "varies", ["over coils", "along the readout", "as complex weights", "from item to item", "of one image"]
)
def test_what_the_compiled_kernels_do_not_take_is_not_given_to_them(varies: str, axes: tuple[int, ...]) -> None:
    """In single precision, which they serve, of weights that are even over coils and columns, and real."""
    generator = torch.Generator().manual_seed(0)
    maps, x = (torch.randn(*n, dtype=torch.complex64, generator=generator) for n in ((3, 4, 8, 6), (2, 4, 8, 6)))
    shape = {"over coils": (3, 4, 8, 1), "along the readout": (1, 4, 8, 6)}
    shape |= {"from item to item": (2, 1, 4, 8, 1), "of one image": (2, 1, 4, 8, 1)}
    x = x[0] if varies == "of one image" else x
    w = torch.rand(*shape.get(varies, (1, 4, 8, 1)), generator=generator)
    chain = Fourier(axes) @ Coils(maps)
    if varies == "as complex weights":
        inner = Weight(torch.polar(w, 6 * torch.rand(*w.shape, generator=generator)))
        got, expected = Sense(maps, torch.ones(1, 1, 1, 1), axes).normal(inner)(x), chain.H(inner(chain(x)))
    else:
        A = Sense(maps, w, axes)
        y = A(x)
        torch.testing.assert_close(y, w * chain(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(A.H(y), chain.H(w * y), rtol=0, atol=1e-5)
        got, expected = A.normal()(x), chain.H(w * y)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("axes", [(-2,), (-3, -2)], ids=str)
def test_a_batch_of_one_map_gives_a_batch_of_one_image_in_single_precision(axes) -> None:
    A = build(axes, (4, 8, 6), lead=(1,)).to(torch.complex64)
    x = noise(4, 8, 6, dtype=torch.complex64)
    y, chain = A(x), A.plain()
    assert y.shape == (1, 3, 4, 8, 6)
    torch.testing.assert_close(y, chain(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(A.H(y[0]), chain.H(y[0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(A.normal()(x), chain.normal()(x), rtol=0, atol=1e-4)


def test_as_many_maps_as_images_in_batches_of_other_shapes_are_not_taken_for_each_other() -> None:
    A, x = build((-2,), (4, 8, 6), lead=(4,)).to(torch.complex64), noise(2, 2, 4, 8, 6, dtype=torch.complex64)
    for f in (A, A.normal()):
        with pytest.raises(ValueError, match="broadcast"):
            f(x)


def test_weights_of_kspace_join_the_normal_operator() -> None:
    A, x = build((-2, -1), (1, 5, 8)), noise(1, 5, 8)
    w = torch.rand(1, 1, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(A.normal(Weight(w))(x), A.H(w * A(x)), rtol=0, atol=1e-12)
    B = Weight(w) @ A
    torch.testing.assert_close(B.normal()(x), B.H(B(x)), rtol=0, atol=1e-12)
    complex_weights = Weight(noise(1, 1, 5, 8))
    N, y = A.normal(complex_weights), noise(1, 5, 8)
    torch.testing.assert_close(N(x), A.H(complex_weights(A(x))), rtol=0, atol=1e-12)
    assert abs(torch.vdot(y.flatten(), N(x).flatten()) - torch.vdot(N.H(y).flatten(), x.flatten())) < 1e-11


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_what_was_not_measured_is_not_read(axes, dtype) -> None:
    A = build(axes, (3, 8, 10))
    A = Sense(A.maps.to(dtype), A.mask.to(dtype).real, axes)
    y = noise(3, 3, 8, 10, dtype=dtype)
    unmeasured = (A.mask == 0).expand(y.shape)
    filled = [y.masked_fill(unmeasured, value) for value in (0, float("nan"), float("inf"))]
    assert bool(unmeasured.any())
    assert all(torch.equal(A.adjoint(other), A.adjoint(filled[0])) for other in filled[1:])


def test_gradients_reach_the_image_and_the_maps() -> None:
    A = build((-2, -1), (1, 3, 4))
    x = noise(1, 3, 4).requires_grad_()
    for op in (A, A.normal()):
        assert torch.autograd.gradcheck(op, (x,))
    assert torch.autograd.gradcheck(A.adjoint, (noise(3, 1, 3, 4).requires_grad_(),))
    maps = A.maps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: Sense(m, A.mask).normal()(x), (maps,))


def test_a_slice_alone_has_the_bits_it_has_in_a_batch() -> None:
    A, x = build((-2,), (1, 9, 7), lead=(4,)), noise(4, 1, 9, 7)
    for i in range(4):
        one = Sense(A.maps[i], A.mask, A.axes)
        assert torch.equal(A.normal()(x)[i], one.normal()(x[i]))
        assert torch.equal(A(x)[i], one(x[i]))


def test_inputs_stay_as_they_are_and_may_have_any_strides() -> None:
    A = build((-3, -2), (3, 5, 7))
    x, y = noise(7, 5, 3).permute(2, 1, 0), noise(3, 7, 5, 3).permute(0, 3, 2, 1)
    kept = x.clone(), y.clone(), A.maps.clone()
    torch.testing.assert_close(A(x), A.plain()(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(A.H(y), A.plain().H(y), rtol=0, atol=1e-12)
    A.normal()(x)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, y, A.maps)))


@pytest.mark.parametrize("axes", [(-2,), (-2, -1), (-3, -2)])
@pytest.mark.parametrize("sets", [False, True])
def test_a_batch_that_goes_through_at_once_equals_the_chain(
    axes: tuple[int, ...], sets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("recon.operators.sense._together", lambda *a: not asked.append(a))
    draw = torch.Generator().manual_seed(0)
    two = (2,) if sets else ()
    maps = torch.randn(3, *two, 4, 2, 11, 9, dtype=torch.complex128, generator=draw)
    x = torch.randn(3, *two, 2, 11, 9, dtype=torch.complex128, generator=draw)
    mask = (torch.rand(3, 1, 1, 11, 9 if -1 in axes else 1, generator=draw) > 0.5).double()
    A = Sense(maps, mask, axes, sets)
    torch.testing.assert_close(A.normal()(x), A.plain().normal()(x), rtol=1e-10, atol=1e-10)
    assert asked


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_an_empty_batch_with_its_own_maps_and_masks_stays_empty(axes) -> None:
    shape = (8, 29, 5)
    A = Sense(noise(0, 3, *shape, dtype=torch.complex64), torch.ones(0, 1, 8, 29, 1), axes)
    x, y = noise(0, *shape, dtype=torch.complex64), noise(0, 3, *shape, dtype=torch.complex64)
    assert A(x).shape == y.shape
    assert A.H(y).shape == A.normal()(x).shape == x.shape


@pytest.mark.parametrize("axes", [(-2,), (-3, -2)], ids=str)
def test_maps_that_lie_otherwise_in_memory_are_copied_once(axes, monkeypatch) -> None:
    """Three calls each of A, Aᴴ and AᴴA read one copy, and give the bits of maps that lie in order."""
    maps, x = noise(3, 4, 8, 9, dtype=torch.complex64), noise(4, 8, 9, dtype=torch.complex64)
    mask = (torch.rand(1, 4 if -3 in axes else 1, 8, 1) < 0.6).float()
    turned = maps.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    plain, A = Sense(maps, mask, axes), Sense(turned, mask, axes)
    if A._compiled is None:
        pytest.skip("the kernels were not compiled: install g++")
    read: list[Tensor] = []
    for name in ("normal", "encode", "decode"):
        run = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *given, run=run: read.append(given[1]) or run(*given))
    y, N = A(x), A.normal()
    for got, expected in ((A(x), plain(x)), (A.H(y), plain.H(y)), (N(x), plain.normal()(x)), (N(x), N(x))):
        assert torch.equal(got, expected)
    assert all(t.is_contiguous() for t in read)
    assert len({t.data_ptr() for t in read} - {maps.data_ptr()}) == 1
    assert not turned.is_contiguous()


def test_a_learned_mask_in_double_precision_leaves_the_precision_of_the_maps() -> None:
    maps, x = noise(3, 1, 4, 5, dtype=torch.complex64), noise(1, 4, 5, dtype=torch.complex64)
    A = Sense(maps, torch.rand(4, 5, dtype=torch.float64).requires_grad_())
    fixed = Sense(maps, A.mask.detach())
    for got, expected in ((A(x), fixed(x)), (A.H(A(x)), fixed.H(fixed(x))), (A.normal()(x), fixed.normal()(x))):
        assert got.dtype == torch.complex64
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_complex_mask_is_refused_with_the_operator_that_takes_it() -> None:
    """Its normal operator had m² in place of |m|²."""
    maps, w, x = noise(3, 1, 4, 5), noise(4, 5), noise(1, 4, 5)
    with pytest.raises(DataError, match=r"Weight\(w\) @ Sense"):
        Sense(maps, w)
    A = Weight(w) @ Sense(maps, torch.ones(4, 5, dtype=torch.float64))
    torch.testing.assert_close(A.normal()(x), A.H(A(x)))
