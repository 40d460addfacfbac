"""The exact image of periodic sampling, held against the matrix of the operator written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.operators.sense import Sense
from recon.solve.cg import cg
from recon.solve.folded import exact


def every(n: int, R: int, offset: int = 0) -> Tensor:
    return ((torch.arange(n) - offset) % R == 0).double()


def plane(mask: Tensor, coils: int = 3, nx: int = 5, lead: tuple[int, ...] = (), sets: int = 0) -> Sense:
    maps = torch.randn(*lead, *((sets,) if sets else ()), coils, 1, len(mask), nx, dtype=torch.complex128)
    return Sense(maps, mask.reshape(1, 1, -1, 1), (-3, -2), sets=sets > 0)


def written_out(A: Sense, b: Tensor, lam: float) -> Tensor:
    """(AᴴA + λI)⁻¹ b with AᴴA as a matrix, column by column of the plain chain of operators."""
    plain, shape = A.plain(), b.shape
    basis = torch.eye(b.numel(), dtype=b.dtype).reshape(-1, *shape)
    matrix = torch.stack([plain.adjoint(plain.forward(e)).flatten() for e in basis], 1)
    return torch.linalg.solve(matrix + lam * torch.eye(b.numel(), dtype=b.dtype), b.flatten()).reshape(shape)


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize(("n", "R"), [(12, 2), (12, 3), (12, 4), (15, 5), (9, 3), (13, 1), (14, 14)])
def test_regular_lines_are_solved_exactly(n: int, R: int, offset: int) -> None:
    A = plane(every(n, R, offset))
    b = torch.randn(1, n, 5, dtype=torch.complex128)
    torch.testing.assert_close(exact(A, b, 0.01), written_out(A, b, 0.01), rtol=0, atol=1e-9)


def test_averages_and_any_other_weights_that_repeat_themselves_count() -> None:
    A = plane(torch.tensor([1.0, 0, 0.5, 0, 0, 0] * 2, dtype=torch.float64))
    b = torch.randn(1, 12, 5, dtype=torch.complex128)
    torch.testing.assert_close(exact(A, b, 0.01), written_out(A, b, 0.01), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [0, 1])
def test_lattices_of_volumes_fold_along_both_encodes(shift: int) -> None:
    z, y = torch.arange(6)[:, None], torch.arange(8)
    mask = ((z % 3 == 0) & ((y + shift * (z // 3)) % 2 == 0)).double()
    A = Sense(torch.randn(4, 6, 8, 2, dtype=torch.complex128), mask[None, :, :, None], (-3, -2))
    b = torch.randn(6, 8, 2, dtype=torch.complex128)
    torch.testing.assert_close(exact(A, b, 0.05), written_out(A, b, 0.05), rtol=0, atol=1e-9)


def test_several_sets_of_maps_are_one_problem() -> None:
    A = plane(every(8, 2), coils=5, sets=2)
    b = torch.randn(2, 1, 8, 5, dtype=torch.complex128)
    torch.testing.assert_close(exact(A, b, 0.05, ndim=4), written_out(A, b, 0.05), rtol=0, atol=1e-9)


def test_items_have_lines_and_a_lambda_of_their_own() -> None:
    masks = torch.stack([every(12, 3, o) for o in (0, 2)]).reshape(2, 1, 1, 12, 1)
    A = Sense(torch.randn(2, 3, 1, 12, 4, dtype=torch.complex128), masks, (-3, -2))
    b, lam = torch.randn(2, 1, 12, 4, dtype=torch.complex128), torch.tensor([0.01, 0.3])
    got = exact(A, b, lam)
    for i in range(2):
        alone = Sense(A.maps[i], masks[i], A.axes)
        torch.testing.assert_close(got[i], written_out(alone, b[i], float(lam[i].double())), rtol=0, atol=1e-8)
        assert torch.equal(got[i], exact(alone, b[i], lam[i]))


def test_in_single_precision_the_residual_is_as_small_as_conjugate_gradients_leave_it() -> None:
    maps = torch.randn(8, 1, 64, 48, dtype=torch.complex64)
    maps /= torch.linalg.vector_norm(maps, dim=0)
    A = Sense(maps, every(64, 4).float().reshape(1, 1, -1, 1), (-3, -2))
    b = A.adjoint(A(torch.randn(1, 64, 48, dtype=torch.complex64)))
    x = exact(A, b, 1e-3)
    assert x.dtype == torch.complex64
    residual = float((A.normal()(x) + 1e-3 * x - b).norm() / b.norm())
    assert residual < 1e-6
    by_cg = cg(A.normal(), b, lam=1e-3, iterations=500, tolerance=1e-6).x
    torch.testing.assert_close(x, by_cg, rtol=0, atol=1e-3 * float(x.abs().max()))


def test_parts_and_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    A = plane(every(32, 4), coils=6, nx=40)
    b = torch.randn(1, 32, 40, dtype=torch.complex128)
    whole = exact(A, b, 0.01)
    monkeypatch.setattr("recon.solve.folded.CACHE", 1)
    assert torch.equal(exact(A, b, 0.01), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(exact(A, b, 0.01), whole)
    finally:
        torch.set_num_threads(threads)


def test_voxels_that_no_coil_sees_are_zero() -> None:
    A = plane(every(12, 3))
    A.maps[..., :2] = 0
    x = exact(A, A.adjoint(A(torch.randn(1, 12, 5, dtype=torch.complex128))), 1e-4)
    assert not x[..., :2].any()
    assert torch.isfinite(torch.view_as_real(x)).all()


@pytest.mark.parametrize(
    "why", ["acs", "partial", "indivisible", "lambda", "one lambda", "readout", "irregular", "large"]
)
def test_what_has_no_short_period_is_left_to_conjugate_gradients(why: str) -> None:
    mask, lam, axes = every(24, 4), 0.1, (-3, -2)
    if why == "acs":
        mask[10:14] = 1
    if why == "partial":
        mask[:6] = 0
    if why == "indivisible":
        mask = every(25, 4)
    if why == "irregular":
        mask[torch.tensor([1, 9])] = 1
    if why == "large":
        mask = every(24, 24)
    lam = 0.0 if why == "lambda" else lam
    axes = (-2, -1) if why == "readout" else axes
    A = Sense(torch.randn(3, 1, len(mask), 5, dtype=torch.complex128), mask.reshape(1, 1, -1, 1), axes)
    if why == "readout":
        A = Sense(A.maps, A.mask * torch.tensor([1.0, 0, 1, 1, 1]).double(), axes)
    b = torch.zeros(1, len(mask), 5, dtype=torch.complex128)
    if why == "one lambda":
        b, lam = b.expand(2, 1, -1, -1), torch.tensor([0.1, 0.0])
    assert exact(A, b, lam) is None


@pytest.mark.parametrize("why", ["sets", "volume", "slices of their own"])
def test_systems_that_are_large_and_lines_that_differ_from_slice_to_slice_are_left_too(why: str) -> None:
    z, y = torch.arange(4)[:, None], torch.arange(12)
    mask = ((z % 4 == 0) & (y % 6 == 0)).double() if why == "volume" else ((z + y) % 2 == 0).double()
    mask = mask[:1] * (y % 12 == 0) if why == "sets" else mask
    maps = torch.randn(2, 3, len(mask), 12, 2, dtype=torch.complex128)
    A = Sense(maps if why == "sets" else maps[0], mask[None, :, :, None], (-3, -2), sets=why == "sets")
    if why == "slices of their own":
        A = Sense(maps[0], A.mask, (-2,))
    b = torch.zeros(2, 1, 12, 2, dtype=torch.complex128) if why == "sets" else torch.zeros(4, 12, 2).cdouble()
    assert exact(A, b, 0.1, ndim=3 + (why == "sets")) is None
