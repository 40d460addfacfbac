from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.data import DataError
from recon.operators.wavelet import Wavelet, analysis, daubechies, seam


@pytest.mark.parametrize("order", range(1, 11))
def test_filters_are_those_of_pywavelets(order: int) -> None:
    pywt = pytest.importorskip("pywt")
    np.testing.assert_allclose(daubechies(order), pywt.Wavelet(f"db{order}").dec_lo[::-1], atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 7])
def test_filters_have_their_vanishing_moments(order: int) -> None:
    h = daubechies(order)
    high = h[::-1] * (-1.0) ** np.arange(h.size)
    for moment in range(order):
        assert abs((high * np.arange(h.size) ** moment).sum()) < 1e-8 * h.size**moment
    for shift in range(1, order):
        assert abs(h[2 * shift :] @ h[: -2 * shift]) < 1e-12


@pytest.mark.parametrize("name", ["db1", "db2", "db4", "db6"])
def test_even_sizes_agree_with_pywavelets(name: str) -> None:
    pywt = pytest.importorskip("pywt")
    x = torch.randn(3, 64, 96, dtype=torch.complex128)
    ours = Wavelet((-2, -1), name, levels=2, smallest=2)(x)
    theirs = pywt.wavedecn(x.numpy(), name, mode="periodization", level=2, axes=(-2, -1))
    expected, _ = pywt.coeffs_to_array(theirs, axes=(-2, -1))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-11)


def test_volumes_agree_with_pywavelets() -> None:
    pywt = pytest.importorskip("pywt")
    x = torch.randn(16, 32, 16, dtype=torch.float64)
    ours = Wavelet((-3, -2, -1), "db2", levels=2, smallest=4)(x)
    expected, _ = pywt.coeffs_to_array(pywt.wavedecn(x.numpy(), "db2", mode="periodization", level=2))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("shape", [(1, 64, 48), (1, 97, 101), (3, 35, 50), (20, 33, 17), (1, 7, 5)], ids=str)
@pytest.mark.parametrize("name", ["db1", "db2", "db4"])
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.complex128, 1e-12), (torch.complex64, 1e-5), (torch.float64, 1e-12)]
)
def test_every_size_keeps_lengths_and_angles(shape, name, dtype, limit) -> None:
    W = Wavelet((-3, -2, -1), name)
    x, y = torch.randn(2, *shape, dtype=dtype), torch.randn(2, *shape, dtype=dtype)
    assert W(x).shape == x.shape
    assert abs(W(x).norm() - x.norm()) < limit * x.norm()
    assert (W.H(W(x)) - x).norm() < limit * x.norm()
    assert (W(W.H(x)) - x).norm() < limit * x.norm()
    left, right = torch.vdot(y.flatten(), W(x).flatten()), torch.vdot(W.H(y).flatten(), x.flatten())
    assert abs(left - right) < limit * x.norm() * y.norm()


@pytest.mark.parametrize("n", [16, 17, 31, 97])
@pytest.mark.parametrize("order", [1, 2, 4, 10])
def test_each_level_is_an_orthonormal_matrix(n: int, order: int) -> None:
    m = analysis(n, order)
    np.testing.assert_allclose(m @ m.T, np.eye(n), atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_odd_levels_change_their_filters_least_and_only_around_the_seam(order: int) -> None:
    n = 201
    low, high = daubechies(order), daubechies(order)[::-1] * (-1.0) ** np.arange(2 * order)
    filters = np.zeros((n, n))
    for k in range(n):
        first, taps = (2 * k, low) if k <= n // 2 else (2 * k - n - 1, high)
        filters[k, (first + 1 - order + np.arange(2 * order)) % n] += taps
    m = n // 2 + 1
    u, _, v = np.linalg.svd(filters[:m], full_matrices=False)
    rest = filters[m:] - filters[m:] @ (u @ v).T @ (u @ v)
    w, _, z = np.linalg.svd(rest, full_matrices=False)
    assert abs(analysis(n, order) - np.concatenate([u @ v, w @ z])).max() < 1e-10
    rows, columns, values = seam(n, order)
    assert values.shape == (len(rows), len(columns))
    assert max(len(rows), len(columns)) <= 6 * order


@pytest.mark.parametrize("n", [97, 128])
def test_a_smooth_signal_has_small_details_at_odd_sizes_too(n: int) -> None:
    t = np.arange(n) / n
    details = analysis(n, 4)[(n + 1) // 2 :] @ np.cos(2 * np.pi * t)
    assert np.sqrt((details**2).sum()) < 4e-2 * np.sqrt(n / 2)


def test_the_approximation_lies_in_the_corner() -> None:
    W = Wavelet((-2, -1), "db2")
    c = W(torch.ones(2, 64, 50, dtype=torch.float64))
    corner = W.coarse(c)
    assert corner.shape == (2, 8, 13)
    assert abs(corner[:, :, :].square().sum() - c.square().sum()) < 0.05 * c.square().sum()
    even = W(torch.ones(1, 64, 64, dtype=torch.float64))
    rest = even.clone()
    W.coarse(rest).zero_()
    assert rest.abs().max() < 1e-12


def test_strides_and_inputs_are_respected() -> None:
    W = Wavelet((-2, -1), "db2")
    x = torch.randn(40, 33, 2, dtype=torch.complex128).permute(2, 0, 1)
    kept = x.clone()
    torch.testing.assert_close(W(x), W(x.contiguous()))
    torch.testing.assert_close(W.H(x), W.H(x.contiguous()))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", ["db1", "db2"])
@pytest.mark.parametrize("shape", [(64, 32), (33, 50)])
def test_a_plane_without_the_axis_of_slices_is_transformed_like_one_slice(shape, name) -> None:
    W, x = Wavelet((-2, -1), name), torch.randn(shape, dtype=torch.complex64)
    assert torch.equal(W(x), W(x[None])[0])
    assert torch.equal(W.H(x), W.H(x[None])[0])


def test_gradcheck() -> None:
    W = Wavelet((-2, -1), "db1", smallest=2)
    x = torch.randn(1, 5, 6, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(W, (x,))
    assert torch.autograd.gradcheck(W.adjoint, (x,))


@pytest.mark.parametrize("name", ["db0", "db11", "haar", "dbx"])
def test_an_unknown_wavelet_is_named_with_those_that_exist(name: str) -> None:
    with pytest.raises(DataError, match=r"db1.*db10"):
        Wavelet(name=name)
