"""Unusual kinds of numbers and shapes: correct in double precision, or refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import build
from recon.operators import Coils, Fourier, Gradient, Linear, Nufft, Sense, Wavelet, Weight, Whiten, fft
from recon.operators import sense as module
from tests.operators.test_properties import DOUBLE, SINGLE, error, numbers, positions

SHAPE = (2, 8, 9)
MAPS = numbers(3, *SHAPE).to(SINGLE)
POINTS = positions(4, 5, grid=SHAPE[1:]).float()

OPERATORS: dict[str, Linear] = {
    "coils": Coils(MAPS),
    "sense along y": Sense(MAPS, (numbers(8, 1, real=True) > 0).float(), (-2,)),
    "sense in planes": Sense(MAPS, (numbers(8, 9, real=True) > 0).float()),
    "fourier": Fourier(),
    "nufft": Nufft(POINTS, SHAPE[1:]),
    "toeplitz": Nufft(POINTS, SHAPE[1:]).normal(),
    "wavelet": Wavelet((-2, -1), "db2", smallest=4),
    "haar": Wavelet((-2, -1), "db1", smallest=4),
    "gradient": Gradient(),
}
each = pytest.mark.parametrize("name", OPERATORS)


@each
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int16, torch.int64], ids=str)
def test_whole_numbers_are_taken_as_real_ones(name: str, kind: torch.dtype) -> None:
    """Differences of small whole numbers wrapped around, and filters were rounded to whole numbers."""
    op = OPERATORS[name]
    x = (7 * numbers(*SHAPE, real=True).abs()).to(kind)
    y = (7 * numbers(*op(x).shape, real=True).abs()).to(kind)
    for f, exact, given in ((op, op.to(DOUBLE), x), (op.adjoint, op.to(DOUBLE).adjoint, y)):
        got = f(given)
        assert got.is_complex() or got.is_floating_point()
        assert error(got.to(DOUBLE), exact(given.double()).to(DOUBLE)) < 1e-5


@each
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.complex32], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_half_precision_is_right_or_refused(name: str, kind: torch.dtype) -> None:
    op, x = OPERATORS[name], numbers(*SHAPE)
    for f, exact, given in ((op, op.to(DOUBLE), x), (op.adjoint, op.to(DOUBLE).adjoint, op.to(DOUBLE)(x))):
        half = given.to(kind) if kind.is_complex else given.real.to(kind)
        if name == "fourier":
            with pytest.raises(DataError, match=r"give x\.to"):
                f(half)
        elif not (kind is torch.complex32 and name == "haar"):
            want = exact(half.to(DOUBLE))
            assert error(f(half).to(DOUBLE), want) < (0.05 if kind is torch.bfloat16 else 0.005)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float64], ids=str)
@pytest.mark.parametrize("axes", [(-2,), (-3, -2), (-2, -1)], ids=str)
def test_a_mask_of_any_real_kind_is_the_mask_of_zeros_and_ones(axes: tuple[int, ...], kind: torch.dtype) -> None:
    sampled = numbers(2 if -3 in axes else 1, 8, 9 if -1 in axes else 1, real=True) > 0
    A, B = Sense(MAPS, sampled.to(kind), axes), Sense(MAPS.to(DOUBLE), sampled.double(), axes)
    x, y = numbers(*SHAPE), numbers(3, *SHAPE)
    for f, exact, given in ((A, B, x), (A.adjoint, B.adjoint, y), (A.normal(), B.normal(), x)):
        assert f(given.to(SINGLE)).dtype == SINGLE
        assert error(f(given.to(SINGLE)).to(DOUBLE), exact(given)) < 1e-5


@pytest.mark.parametrize("axes", [(-2,), (-3, -2), (-2, -1)], ids=str)
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_no_number_shows_where_it_reaches_and_nowhere_else(axes: tuple[int, ...], wrong: float) -> None:
    """In maps, masks and images; compiled as in plain torch."""
    sampled = torch.ones(2 if -3 in axes else 1, 8, 9 if -1 in axes else 1)
    sampled.view(-1)[1] = 0
    spoiled = sampled.clone()
    spoiled.view(-1)[2] = wrong
    maps, x = MAPS.clone(), numbers(*SHAPE).to(SINGLE)
    maps[1, 1, 3, 4] = wrong
    for A, given in ((Sense(MAPS, spoiled, axes), x), (Sense(maps, sampled, axes), x)):
        for f, plain in ((A, A.plain()), (A.normal(), A.plain().normal())):
            got, want = f(given).isfinite(), plain(given).isfinite()
            assert not bool(want.all())
            assert torch.equal(got, want)


@pytest.mark.parametrize("axes", [(-2,), (-3, -2), (-2, -1)], ids=str)
def test_no_coils_see_nothing(axes: tuple[int, ...]) -> None:
    A, x = Sense(MAPS[:0], torch.ones(1, 8, 1), axes), numbers(*SHAPE).to(SINGLE)
    assert A(x).shape == (0, *SHAPE)
    assert torch.equal(A.adjoint(A(x)), torch.zeros_like(x))
    assert torch.equal(A.normal()(x), torch.zeros_like(x))


@pytest.mark.parametrize(
    ("coils", "axes", "shape"),
    [(128, (-2,), (1, 16, 9)), (2, (-2,), (1, 997, 3)), (2, (-3, -2), (3, 997, 2)), (2, (-3, -2), (2, 1, 5))],
)
def test_many_coils_and_long_prime_sides_are_those_of_plain_torch(coils, axes, shape) -> None:
    maps, x = numbers(coils, *shape), numbers(*shape)
    sampled = (numbers(shape[0] if -3 in axes else 1, shape[1], 1, real=True) > -0.5).double()
    sampled.view(-1)[0] = 1
    A, B = Sense(maps.to(SINGLE), sampled.float(), axes), Sense(maps, sampled, axes).plain()
    assert error(A.normal()(x.to(SINGLE)).to(DOUBLE), B.normal()(x)) < 3e-6


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_the_kernels_take_as_many_threads_as_torch_says(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there are cores or strips, too; the answer has the same bits."""
    if build.native() is None:
        pytest.skip("the kernels were not compiled: install g++")
    A, x = Sense(MAPS, torch.ones(1, 8, 1), (-2,)), numbers(*SHAPE).to(SINGLE)
    before, expected, asked = torch.get_num_threads(), A.normal()(x), []
    native = build.native()

    class Watched:
        @staticmethod
        def sense_normal(*given: object) -> None:
            asked.append(given[-1])
            native.sense_normal(*given)

    monkeypatch.setattr(module.kernel, "native", lambda: Watched)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(A.normal()(x), expected)
    finally:
        torch.set_num_threads(before)
    assert asked == [threads]


def test_data_of_other_coils_or_precision_than_the_matrix_are_refused_with_the_cure() -> None:
    W = Whiten(numbers(2, 3))
    for wrong in (numbers(4, *SHAPE), numbers(3, *SHAPE).to(SINGLE), numbers(3, *SHAPE, real=True), numbers(*SHAPE)):
        with pytest.raises(DataError, match=r"data\.to\(matrix\.dtype\)"):
            W(wrong)


def test_a_reversed_array_of_numpy_is_refused_by_torch_and_taken_as_a_copy() -> None:
    a = numbers(*SHAPE).numpy()[..., ::-1]
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(a)
    x: Tensor = torch.from_numpy(a.copy())
    assert error(fft(x, (-1,)), fft(numbers(*SHAPE).flip(-1), (-1,))) == 0
    assert error((Weight(MAPS[0].to(DOUBLE)) @ Fourier())(x), MAPS[0] * fft(x, (-2, -1))) < 1e-12
