"""Sums and factorisations have the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from recon.kernels.steady import BLOCK, alone, total

N = 288


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def on(count: int, work: object, *args: object) -> torch.Tensor:
    torch.set_num_threads(count)
    out: torch.Tensor = work(*args)  # type: ignore[operator]
    assert torch.get_num_threads() == count
    return out


@pytest.mark.parametrize("shape", [(65536,), (1, 320, 320), (2, 319, 317), (3, 17), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_sum_is_that_of_torch_and_the_same_whatever_the_threads(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    ndim = 1 if len(shape) < 3 else 2
    one = on(1, total, x, ndim)
    assert one.shape == shape[: len(shape) - ndim]
    wide = x.to(torch.complex128).flatten(-ndim).sum(-1)
    assert torch.allclose(one.to(torch.complex128), wide, rtol=1e-5, atol=1e-5 * BLOCK**0.5)
    assert all(torch.equal(on(count, total, x, ndim), one) for count in (2, 3, 4))


def test_eigenvectors_and_equations_are_the_same_whatever_the_threads() -> None:
    a = torch.randn(N, N + 70, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    a = a @ a.mH
    for work in (lambda: alone(torch.linalg.eigh, a)[1], lambda: alone(torch.linalg.solve, a, a[:, :8], left=True)):
        one = on(1, work)
        assert all(torch.equal(on(count, work), one) for count in (2, 3))


def test_the_number_of_threads_comes_back_after_an_error() -> None:
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError):
        alone(torch.linalg.cholesky, -torch.eye(3))
    assert torch.get_num_threads() == 2
