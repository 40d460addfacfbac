"""Plans of Fourier transforms, and the choice between two libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from recon.kernels import fourier
from recon.operators import Fourier


@pytest.mark.parametrize("n", [1, 2, 12, 16, 64, 77, 320, 1040])
def test_the_plan_gives_the_frequency_of_each_position(n) -> None:
    """The passes, written as matrices, are a Fourier matrix whose rows are in the order of `frequency`."""
    p = fourier.plan(n)
    a = np.eye(n, dtype=complex)
    for r, span, twiddle, root in p.passes if n > 1 else ():
        m = span // r
        turns = (p.table[twiddle : twiddle + 2 * m * (r - 1)].view(np.complex64)).reshape(m, r - 1)
        roots = p.table[root : root + 2 * r].view(np.complex64)
        blocks = a.reshape(n // span, r, m, n)
        small = roots[np.outer(np.arange(r), np.arange(r)) % r]
        blocks = np.einsum("qk,bkjn->bqjn", small, blocks)
        blocks[:, 1:] *= turns.T[None, :, :, None]
        a = blocks.reshape(n, n)
    expected = np.exp(-2j * np.pi * np.outer(p.frequency, np.arange(n)) / n)
    assert sorted(p.frequency) == list(range(n))
    assert np.abs(a - expected).max() < 1e-5


def test_a_length_with_a_large_prime_factor_has_no_plan() -> None:
    with pytest.raises(ValueError, match="prime factor above 13"):
        fourier.plan(2 * 17)


@pytest.mark.parametrize("axes", [(-2,), (-3,), (-3, -1), (-2, -1)])
@pytest.mark.parametrize("shape", [(8, 160, 161), (2, 81, 1000), (300, 500, 1)])
def test_scipy_and_torch_give_the_same_centred_transform(axes, shape, monkeypatch) -> None:
    x = torch.randn(*shape, dtype=torch.complex128)
    ours = Fourier(axes)(x), Fourier(axes).H(x)
    monkeypatch.setattr(fourier, "LARGE", 1 << 60)
    torch.testing.assert_close(ours, (Fourier(axes)(x), Fourier(axes).H(x)))
    monkeypatch.setattr(fourier, "LARGE", 1)
    assert fourier.scipy_serves(x, (-2,))
    assert not fourier.scipy_serves(x.requires_grad_(), (-2,))


def test_the_forward_derivative_of_a_large_transform_is_the_transform_of_its_tangent() -> None:
    x, tangent = torch.randn(2, 512, 300, dtype=torch.complex64)
    F = Fourier((-2,))
    assert fourier.scipy_serves(x, (-2,))
    with forward_ad.dual_level():
        derivative = forward_ad.unpack_dual(F(forward_ad.make_dual(x, tangent))).tangent
    torch.testing.assert_close(derivative, F(tangent), rtol=0, atol=1e-5)
