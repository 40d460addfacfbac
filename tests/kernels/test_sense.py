"""The compiled encoding kernels against the chain of operators that they stand for, in double precision."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from torch import Tensor

from recon.kernels import build, sense
from recon.operators import Coils, Fourier, Sample, Weight
from recon.operators.sense import Sense

LIMIT = 2e-6


def levels() -> list[str]:
    flags = build._processor_flags()
    return [name for name, needs in build.LEVELS.items() if flags.issuperset(needs)]


@pytest.fixture(params=levels())
def compiled(request, monkeypatch):
    try:
        module = importlib.import_module(f"recon.kernels.{request.param}")
    except ImportError:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{request.param} was not compiled: install g++ and repeat the installation")
    monkeypatch.setattr("recon.kernels.sense.native", lambda: module)
    return module


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


def problem(
    axes: tuple[int, ...], shape: tuple[int, int, int], sets: bool = False, lead: tuple[int, ...] = ()
) -> Sense:
    maps = noise(*lead, *((2,) if sets else ()), 3, *shape)
    mask = (torch.rand([n if a in axes else 1 for a, n in zip((-3, -2, -1), shape)]) < 0.6).double()
    return Sense(maps, mask[None], axes, sets)


def close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == torch.complex64
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= LIMIT * expected.abs().max().clamp_min(1e-30)


#: Sizes with every radix, odd ones, columns that do not fill a vector, and prime lengths.
PLANES = [(1, n, 19) for n in (1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 30, 32, 64, 77, 80, 96, 169, 17, 37, 101)]
VOLUMES = [(4, 6, 5), (9, 10, 33), (16, 7, 16), (17, 12, 3), (5, 19, 18), (1, 8, 9), (36, 20, 17)]


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize(
    ("axes", "shape"), [((-2,), s) for s in PLANES] + [((-3, -2), s) for s in VOLUMES] + [((-2,), (3, 12, 40))], ids=str
)
def test_the_compiled_encoding_is_the_chain_in_double_precision(compiled, axes, shape, sets) -> None:
    A = problem(axes, shape, sets, (2,))
    chain = Sample(A.mask) @ Fourier(axes) @ Coils(A.maps, sets)
    x, y = noise(2, *((2,) if sets else ()), *shape), noise(2, 3, *shape)
    single = A.to(torch.complex64)
    assert single.normal()._compiled is not None
    assert single._compiled is not None
    close(single(x.to(torch.complex64)), chain(x))
    close(single.H(y.to(torch.complex64)), chain.H(y))
    close(single.normal()(x.to(torch.complex64)), chain.H(chain(x)))


@pytest.mark.parametrize("axes", [(-2,), (-3, -2)])
def test_maps_of_one_slice_serve_a_batch_of_images(compiled, axes) -> None:
    A = problem(axes, (4, 10, 21))
    x, y = noise(3, 4, 10, 21), noise(3, 3, 4, 10, 21)
    single = A.to(torch.complex64)
    close(single(x.to(torch.complex64)), A.plain()(x))
    close(single.H(y.to(torch.complex64)), A.plain().H(y))
    close(single.normal()(x.to(torch.complex64)), A.plain().normal()(x))


def test_every_slice_may_have_a_different_mask(compiled) -> None:
    mask = (torch.rand(2, 1, 3, 12, 1) < 0.5).double()
    A = Sense(noise(2, 4, 3, 12, 20), mask, (-2,))
    x = noise(2, 3, 12, 20)
    single = A.to(torch.complex64)
    close(single.normal()(x.to(torch.complex64)), A.plain().normal()(x))
    close(single(x.to(torch.complex64)), A.plain()(x))


def test_an_image_of_one_line_is_weighted_too(compiled) -> None:
    A, half = Sense(noise(3, 1, 1, 19), torch.ones(1, 1, 1).double(), (-2,)), Weight(torch.full((1, 1, 1), 0.5))
    x, normal = noise(1, 1, 19), A.to(torch.complex64).normal(half)
    assert normal._compiled is not None
    close(normal(x.to(torch.complex64)), A.plain().normal(half)(x))


def test_inputs_that_are_not_contiguous_give_the_same_image(compiled) -> None:
    A = problem((-2,), (2, 12, 20)).to(torch.complex64)
    x = noise(20, 12, 2).to(torch.complex64).permute(2, 1, 0)
    spread = Sense(A.maps.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0), A.mask, A.axes)
    assert torch.equal(A.normal()(x.contiguous()), spread.normal()(x))
    assert torch.equal(A(x.contiguous()), spread(x))


def test_the_bits_depend_neither_on_threads_nor_on_the_batch(compiled) -> None:
    A = problem((-3, -2), (6, 10, 50), lead=(3,)).to(torch.complex64)
    x = noise(3, 6, 10, 50).to(torch.complex64)
    threads = torch.get_num_threads()
    try:
        answers = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            answers.append(A.normal()(x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(answers[0], a) for a in answers[1:])
    for i in range(3):
        assert torch.equal(Sense(A.maps[i], A.mask, A.axes).normal()(x[i]), answers[0][i])


def test_gradients_pass_through_the_compiled_kernels(compiled) -> None:
    A = problem((-2,), (2, 10, 18))
    single = A.to(torch.complex64)
    x = noise(2, 10, 18)
    ours, theirs = x.to(torch.complex64).requires_grad_(), x.clone().requires_grad_()
    single.normal()(ours).abs().square().sum().backward()
    A.plain().normal()(theirs).abs().square().sum().backward()
    close(ours.grad, theirs.grad)


def test_shapes_that_do_not_fit_are_refused(compiled) -> None:
    x, maps, w = (torch.zeros(s).numpy() for s in ((1, 1, 1, 8, 8), (1, 1, 2, 1, 8, 8), (1, 1, 8)))
    x, maps = x.astype("complex64"), maps.astype("complex64")
    with pytest.raises(ValueError, match="do not fit"):
        compiled.sense_normal(x, maps, w[..., :7].copy(), 1, 8, x.copy(), 1)
    with pytest.raises(ValueError, match="does not fit the maps"):
        compiled.sense_normal(x, maps, w, 1, 8, x[..., :7].copy(), 1)
    with pytest.raises(ValueError, match="prime factor"):
        compiled.sense_normal(x, maps, torch.zeros(1, 1, 17).numpy(), 1, 17, x.copy(), 1)
    with pytest.raises(TypeError):
        compiled.sense_normal(x.astype("complex128"), maps, w, 1, 8, x.copy(), 1)


def test_the_torch_twin_serves_where_nothing_was_compiled(monkeypatch) -> None:
    monkeypatch.setattr("recon.kernels.sense.native", lambda: None)
    A = problem((-2,), (2, 10, 18))
    x = noise(2, 10, 18)
    single = A.to(torch.complex64)
    assert single.normal()._compiled is None
    close(single.normal()(x.to(torch.complex64)), A.plain().normal()(x))


@pytest.mark.parametrize(("n", "length"), [(251, 512), (169, 360), (392, 800), (320, 320), (225, 225), (7, 15)])
def test_planes_are_filtered_at_lengths_with_fast_radices(n: int, length: int) -> None:
    assert sense.prepare(torch.ones(1, 1, n), False).length == (1, length)
