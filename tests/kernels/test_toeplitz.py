"""The compiled convolution against the sum over lags that it stands for, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import toeplitz as kernel
from recon.operators.toeplitz import toeplitz

pytestmark = pytest.mark.skipif(
    kernel.native() is None, reason="the kernels were not compiled: install g++ and repeat the installation"
)


def hermitian(*shape: int) -> Tensor:
    """Lags −N … N − 1 along two axes of a kernel with t[−n] = conj t[n]; the first, which meets no pair, is zero."""
    t = torch.randn(*shape, dtype=torch.complex128)
    inner = t[..., 1:, 1:]
    inner += inner.flip(-2, -1).conj()
    t[..., 0, :] = 0
    t[..., 0] = 0
    return t


def summed(x: Tensor, lags: Tensor) -> Tensor:
    """Σ_m t[n − m] x[m], term by term."""
    ny, nx = x.shape[-2:]
    y, i = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
    dy = y.reshape(-1, 1) - y.reshape(1, -1) + ny
    dx = i.reshape(-1, 1) - i.reshape(1, -1) + nx
    matrix = lags[..., dy, dx]
    return (matrix @ x.to(torch.complex128).flatten(-2)[..., None])[..., 0].reshape(x.shape)


@pytest.mark.parametrize("shape", [(16, 32), (15, 20), (8, 33), (26, 7), (1, 40), (30, 1)])
def test_the_compiled_convolution_is_the_sum_over_lags(shape) -> None:
    ny, nx = shape
    lags = hermitian(2 * ny, 2 * nx)
    T = toeplitz(lags, 2, real=True, dtype=torch.float32)
    x = torch.randn(3, ny, nx, dtype=torch.complex64)
    assert kernel.serves(x, T.kernels, 2)
    expected = summed(x, lags)
    assert (T(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_every_item_meets_its_own_kernel() -> None:
    lags = hermitian(2, 24, 40)
    T = toeplitz(lags[:, None], 2, real=True, dtype=torch.float32)
    x = torch.randn(2, 3, 12, 20, dtype=torch.complex64)
    expected = torch.stack([summed(v, t) for v, t in zip(x, lags)])
    assert (T(x) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("shape", "wide"), [((17, 10), (18, 10)), ((19, 23), (20, 24)), ((12, 31), (12, 32))])
def test_sides_with_a_large_prime_factor_become_quick_ones_in_the_kernels(shape, wide, kind) -> None:
    ny, nx = shape
    lags = hermitian(2 * ny, 2 * nx)
    T = toeplitz(lags, 2, real=True, dtype=torch.float32 if kind == torch.complex64 else torch.float64)
    assert T.kernels.shape[-2:] == wide
    x = torch.randn(2, ny, nx, dtype=kind)
    expected = summed(x, lags)
    assert (T(x) - expected).abs().max() < (1e-5 if kind == torch.complex64 else 1e-12) * expected.abs().max()
    with pytest.raises(DataError, match="does not end in the grid"):
        T(torch.zeros(2, *wide, dtype=kind))


def test_a_pending_sign_or_conjugate_is_carried_out_first() -> None:
    lags = hermitian(24, 40)
    T = toeplitz(lags, 2, real=True, dtype=torch.float32)
    x = torch.randn(2, 12, 20, dtype=torch.complex64)
    for given in (torch._neg_view(x), x.conj()):
        expected = summed(given.resolve_neg().resolve_conj(), lags)
        assert (T(given) - expected).abs().max() < 1e-5 * expected.abs().max()
