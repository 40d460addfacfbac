"""The non-uniform Fourier transform against its definition as a matrix, sigpy, and objects with exact k-space."""

from __future__ import annotations

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError, MissingPackage
from recon.operators import Chain, Coils, Linear, Sample, Weight, fft, toeplitz
from recon.operators import nufft as module
from recon.operators.nufft import Nufft
from recon.operators.toeplitz import Toeplitz
from recon.operators.whiten import Whiten
from recon.prepare import trajectory
from recon.prepare.density import pipe

SHAPES = [(8, 10), (7, 9), (9, 6), (4, 6, 8), (5, 7, 6)]


def points(shape: tuple[int, ...], *lead: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(*lead, 4, 11, len(shape), dtype=dtype) - 0.5) * torch.tensor(shape, dtype=dtype)


def matrix(k: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows exp(−2πi k (n − N//2) / N) / √N for the points in order."""
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    turns = k.double().reshape(-1, len(shape)) @ grid.T
    return torch.polar(torch.ones_like(turns), -2 * torch.pi * turns) / np.sqrt(np.prod(shape))


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex128, 1e-11), (torch.complex64, 3e-6)])
def test_it_is_the_matrix_of_its_definition(shape: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    k = points(shape)
    op, m = Nufft(k, shape), matrix(k, shape)
    x = torch.randn(3, 2, *(shape if len(shape) == 3 else (5, *shape)), dtype=dtype)
    y = op(x)
    assert y.shape == (3, 2, 1 if len(shape) == 3 else 5, 4, 11)
    assert error(y.flatten(-2).reshape(-1, 44), x.to(m.dtype).reshape(-1, m.shape[1]) @ m.T) < bound
    back = op.H(y)
    assert back.shape == x.shape
    assert error(back.reshape(-1, m.shape[1]), y.to(m.dtype).reshape(-1, 44) @ m.conj()) < bound


@pytest.mark.parametrize("shape", SHAPES)
def test_on_the_points_of_a_grid_it_is_the_centred_unitary_transform(shape: tuple[int, ...]) -> None:
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in shape]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -3)
    x = torch.randn(1, *shape, dtype=torch.complex128)[(0,) if len(shape) == 3 else ()]
    expected = fft(x, tuple(range(-len(shape), 0)))
    assert error(Nufft(k, shape)(x).flatten(), expected.flatten()) < 1e-11


def test_points_with_a_slice_axis_are_one_trajectory_for_each_slice() -> None:
    k = points((8, 9), 3)
    x = torch.randn(2, 4, 3, 8, 9, dtype=torch.complex128)
    y = Nufft(k, (8, 9))(x)
    assert y.shape == (2, 4, 3, 4, 11)
    for s in range(3):
        torch.testing.assert_close(y[:, :, s], Nufft(k[s], (8, 9))(x[:, :, s : s + 1])[:, :, 0])


@pytest.mark.parametrize("shape", [(8, 9), (6, 8, 9)])
def test_the_coil_axis_stays_where_other_operators_look_for_it(shape: tuple[int, ...]) -> None:
    maps = torch.randn(5, 6, 8, 9, dtype=torch.complex128)
    mixing = torch.randn(3, 5, dtype=torch.complex128)
    op = Whiten(mixing) @ Nufft(points(shape), shape) @ Coils(maps)
    y = op(torch.randn(2, 6, 8, 9, dtype=torch.complex128))
    assert y.shape == (2, 3, 6 if len(shape) == 2 else 1, 4, 11)
    assert op.H(y).shape == (2, 6, 8, 9)


def inners(k: Tensor) -> dict[str, Linear | None]:
    lines = k.shape[-3:-1]
    slices = k.shape[0] if k.ndim == 4 else 1
    mask = (torch.rand(lines) > 0.5).double()
    return {
        "nothing": None,
        "real weights": Weight(torch.rand(lines, dtype=torch.float64)),
        "complex weights": Weight(torch.randn(lines, dtype=torch.complex128)),
        "a mask": Sample(mask),
        "weights of each coil and slice": Weight(torch.rand(2, slices, *lines, dtype=torch.float64)),
        "weights, scaled": Chain(((2.0 - 0.5j) * Weight(torch.rand(lines, dtype=torch.float64)), Sample(mask))),
    }


@pytest.mark.parametrize("name", inners(points((4, 4))))
@pytest.mark.parametrize(("shape", "lead"), [*((s, ()) for s in SHAPES), ((7, 8), (3,))])
def test_its_normal_operator_is_a_toeplitz_convolution(
    name: str, shape: tuple[int, ...], lead: tuple[int, ...]
) -> None:
    k = points(shape, *lead)
    op, inner = Nufft(k, shape), inners(k)[name]
    x = torch.randn(2, 2, *(shape if len(shape) == 3 else (3, *shape)), dtype=torch.complex128)
    if isinstance(inner, Chain):  # nested, as a product of products is
        assert len(inner.ops) == 2
    short = op.normal(inner)
    assert isinstance(short, Toeplitz)
    y = op(x)
    assert error(short(x), op.H(y if inner is None else inner(y))) < 1e-11
    assert error(short.H(x), op.H(y if inner is None else inner.H(y))) < 1e-11


def test_the_kernel_of_real_weights_is_real_and_its_own_adjoint() -> None:
    k = points((8, 9), dtype=torch.float32)
    normal = Nufft(k, (8, 9)).normal(Weight(torch.rand(4, 11)))
    assert isinstance(normal, Toeplitz)
    assert normal.kernels.dtype == torch.float32
    assert normal.H is normal
    x = torch.randn(2, 1, 8, 9, dtype=torch.complex64)
    op, w = Nufft(k, (8, 9)), torch.rand(4, 11)
    assert error(op.normal(Weight(w))(x), op.H(w * op(x))) < 1e-5


def test_the_convolution_is_the_same_in_any_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = Nufft(points((8, 9), 3), (8, 9)).normal()
    x = torch.randn(2, 3, 8, 9, dtype=torch.complex128)
    whole = normal(x)
    for voxels in (1, 150, 300):
        monkeypatch.setattr(toeplitz, "CHUNK", voxels)
        torch.testing.assert_close(normal(x), whole)


def test_an_inner_operator_that_is_not_diagonal_is_applied_as_it_is() -> None:
    op, mix = Nufft(points((8, 9)), (8, 9)), Whiten(torch.randn(2, 2, dtype=torch.complex128))
    x = torch.randn(2, 1, 8, 9, dtype=torch.complex128)
    torch.testing.assert_close(op.normal(mix)(x), op.H(mix(op(x))))


def test_the_normal_operator_of_a_whole_chain_keeps_the_short_cut() -> None:
    k, w = points((8, 9)), torch.rand(4, 11, dtype=torch.float64)
    maps = torch.randn(5, 1, 8, 9, dtype=torch.complex128)
    op = Weight(w) @ Nufft(k, (8, 9)) @ Coils(maps)
    x = torch.randn(1, 8, 9, dtype=torch.complex128)
    assert error(op.normal()(x), op.H(op(x))) < 1e-11
    assert any(isinstance(part, Toeplitz) for part in op.normal().ops)  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(64, 64), (16, 20, 18)])
def test_runs_coils_and_threads_do_not_change_the_bits(shape: tuple[int, ...]) -> None:
    k = (torch.rand(40, 700, len(shape)) - 0.5) * torch.tensor(shape)
    x = torch.randn(5, *((1, *shape) if len(shape) == 2 else shape), dtype=torch.complex64)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3, 2):
            torch.set_num_threads(n)
            op = Nufft(k, shape)
            y = op(x)
            results.append((y, op.H(y), op.H(y)))
    finally:
        torch.set_num_threads(threads)
    for y, back, again in results:
        assert torch.equal(y, results[0][0])
        assert torch.equal(back, results[0][1])
        assert torch.equal(again, results[0][1])
    alone = Nufft(k, shape)
    assert torch.equal(alone.H(results[0][0][2:3]), results[0][1][2:3])


def test_threads_may_share_an_operator() -> None:
    op = Nufft((torch.rand(60, 500, 2) - 0.5) * 128, (128, 128))
    xs = torch.randn(12, 2, 1, 128, 128, dtype=torch.complex64)
    expected = [op(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(op.forward, xs), expected):
            assert torch.equal(got, want)


def test_plans_are_kept_for_the_next_call_and_go_with_the_operator() -> None:
    op = Nufft(points((8, 8)), (8, 8))
    y = op(torch.randn(1, 8, 8, dtype=torch.complex64))
    op.H(y)
    kept = {key: plans[0] for key, plans in module._PLANS[op].items()}
    op.H(op(op.H(y)))
    assert {key: plans[0] for key, plans in module._PLANS[op].items()} == kept
    assert len(kept) == 2
    gone = weakref.ref(op)
    del op, kept
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 3)])
def test_gradients_of_every_order_are_those_of_a_linear_map(shape: tuple[int, ...]) -> None:
    op = Nufft(points(shape), shape)
    x = torch.randn(*((2, 1, *shape) if len(shape) == 2 else (2, *shape)), dtype=torch.complex128, requires_grad=True)
    normal = op.normal(Weight(torch.randn(4, 11, dtype=torch.complex128)))
    for f in (op.forward, normal.forward, normal.adjoint):
        assert torch.autograd.gradcheck(f, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, x, fast_mode=True)


@pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-7, 1e-10])
def test_the_accuracy_is_the_one_asked_for(eps: float) -> None:
    k = points((24, 22))
    x = torch.randn(1, 24, 22, dtype=torch.complex128)
    assert error(Nufft(k, (24, 22), eps)(x).flatten(), matrix(k, (24, 22)) @ x.flatten()) < 2 * eps


def test_sigpy_gives_the_same_samples() -> None:
    sigpy = pytest.importorskip("sigpy")
    k = trajectory.radial(30, 96, 64, golden=True)
    x = torch.randn(3, 1, 64, 64, dtype=torch.complex64)
    theirs = sigpy.nufft(x[:, 0].numpy(), k, oversamp=2, width=6)
    assert error(Nufft(torch.from_numpy(k), (64, 64))(x)[:, 0], torch.from_numpy(theirs)) < 1e-3


def test_data_that_do_not_fit_are_refused_with_what_would() -> None:
    with pytest.raises(DataError, match="do not fit a grid"):
        Nufft(points((8, 8)), (8, 8, 8))
    with pytest.raises(DataError, match="finite"):
        Nufft(points((8, 8)) * torch.nan, (8, 8))
    op = Nufft(points((8, 9)), (8, 9))
    with pytest.raises(DataError, match="does not end in"):
        op(torch.zeros(1, 9, 8, dtype=torch.complex64))
    with pytest.raises(DataError, match="4 lines of 11"):
        op.H(torch.zeros(1, 11, 4, dtype=torch.complex64))
    with pytest.raises(DataError, match="3 slices"):
        Nufft(points((8, 9), 2), (8, 9))(torch.zeros(3, 8, 9, dtype=torch.complex64))


def test_a_missing_finufft_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(MissingPackage, match="pip install finufft"):
        Nufft(points((8, 8)), (8, 8))(torch.zeros(1, 8, 8, dtype=torch.complex64))


# Coils whose maps are short Fourier series, Σ_m a_m exp(2πi m u / 2), shift and add the spectrum of the object, and an
# object of Gaussians is known in the image and in k-space to the last digit: nothing here is discretised twice.
N, COILS = 128, 8
MODES = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]) / 2
BLOBS = [
    ((0.1, -0.2), 0.05, 1.0),
    ((-0.15, 0.1), 0.08, 0.7 + 0.3j),
    ((0.2, 0.2), 0.03, 0.5),
    ((-0.2, -0.2), 0.012, 1.0),
]


def spectrum(k: NDArray[np.float64]) -> NDArray[np.complex128]:
    return sum(  # type: ignore[return-value]
        a * 2 * np.pi * s**2 * np.exp(-2 * (np.pi * s) ** 2 * (k**2).sum(-1) - 2j * np.pi * (k @ np.array(c)))
        for c, s, a in BLOBS
    )


def radial_scan() -> tuple[NDArray[np.float64], Tensor, Tensor, Tensor]:
    """Points, samples (coil, 1, line, sample), maps and the true image (1, y, x)."""
    rng = np.random.default_rng(1)
    a = rng.standard_normal((COILS, 9)) + 1j * rng.standard_normal((COILS, 9))
    a[:, 4] += 2 * np.exp(1j * np.arange(COILS))
    n = (np.arange(N) - N // 2) / N
    u = np.stack(np.meshgrid(n, n, indexing="ij"), -1)
    maps = np.einsum("cm,yxm->cyx", a, np.exp(2j * np.pi * u @ MODES.T))
    truth = sum(amount * np.exp(-((u - c) ** 2).sum(-1) / (2 * s**2)) for c, s, amount in BLOBS)
    k = trajectory.radial(64, 2 * N, N, golden=True)
    y = N * np.einsum("cm,mls->cls", a, np.stack([spectrum(k - m) for m in MODES]))
    kind = torch.complex64
    return (
        k,
        torch.from_numpy(y[:, None]).to(kind),
        torch.from_numpy(maps[:, None]).to(kind),
        torch.from_numpy(truth[None]),
    )


def solve(op: Linear, y: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients, as in any textbook."""
    normal, r = op.normal(), op.H(y)
    x, p, rr = torch.zeros_like(r), r, r.abs().square().sum()
    for _ in range(iterations):
        q = normal(p)
        step = rr / (p.conj() * q).sum().real
        x, r = x + step * p, r - step * q
        p, rr = r + r.abs().square().sum() / rr * p, r.abs().square().sum()
    return x


def test_radial_sense_finds_the_true_image_from_a_third_of_the_spokes() -> None:
    k, y, maps, truth = radial_scan()
    points = torch.from_numpy(k).float()
    op = Nufft(points, (N, N)) @ Coils(maps)
    assert error(op(truth.to(torch.complex64)), y) < 1e-4  # the model predicts the samples of the object
    assert error(solve(op, y, 20), truth) < 0.01
    root = pipe(points, (N, N)).sqrt()
    assert error(solve(Weight(root) @ op, root * y, 10), truth) < 0.002


def test_the_accuracy_that_was_asked_for_is_kept_where_the_precision_has_it() -> None:
    A = Nufft(points((16, 16)), (16, 16), eps=1e-9)
    assert (A.accuracy(torch.complex64), A.accuracy(torch.complex128)) == (1e-6, 1e-9)
    x = torch.randn(1, 16, 16, dtype=torch.complex128)
    exact = Nufft(A.points, A.shape, eps=1e-13)
    assert error(A.normal()(x), exact.adjoint(exact(x))) < 1e-8


def test_plans_are_kept_up_to_a_number_and_large_ones_work_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    A, x = Nufft(points((8, 8), 5), (8, 8)), torch.randn(3, 5, 8, 8, dtype=torch.complex128)
    monkeypatch.setattr(module, "_KEPT", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    whole = A(x)
    assert sum(map(len, module._PLANS[A].values())) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "WORKSPACE", 1)
    monkeypatch.setattr(module, "ThreadPoolExecutor", lambda count: pytest.fail(f"{count} threads at once"))
    assert torch.equal(A(x), whole)
