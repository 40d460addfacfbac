"""The compiled wavelet levels and shrinkage against their definitions in double precision."""

from __future__ import annotations

import pytest
import pywt
import torch
from torch import Tensor

from recon.kernels import wavelet as kernel
from recon.operators.wavelet import Wavelet
from recon.solve.fista import shrink

pytestmark = pytest.mark.skipif(
    not kernel.serves(torch.zeros(1, dtype=torch.complex64)), reason="the kernels were not compiled: install g++"
)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex64)


CASES = [
    ((-2, -1), (1, 64, 96)), ((-2, -1), (3, 50, 37)), ((-3, -2, -1), (32, 40, 21)), ((-1,), (2, 3, 100)),
    ((-2,), (2, 88, 5)), ((-3,), (64, 3, 7)), ((-3, -1), (20, 1, 64)), ((-2, -1), (1, 127, 251)),
]  # fmt: skip


@pytest.mark.parametrize("name", ["db1", "db2", "db4", "db10"])
@pytest.mark.parametrize(("axes", "shape"), CASES, ids=str)
def test_the_compiled_transform_is_the_matrix_product_in_double_precision(axes, shape, name) -> None:
    transform, x = Wavelet(axes, name), noise(2, *shape)
    before = x.clone()
    assert (transform(x) - transform(x.to(torch.complex128))).abs().max() < 5e-6
    assert (transform.adjoint(x) - transform.adjoint(x.to(torch.complex128))).abs().max() < 5e-6
    assert torch.equal(x, before)


@pytest.mark.parametrize("levels", [None, 1, 2])
@pytest.mark.parametrize("shape", [(64, 96), (256, 192), (32, 32), (48, 80), (50, 64)], ids=str)
@pytest.mark.parametrize("shift", [(), (0, 0), (3, 0), (0, 5), (17, 30)], ids=str)
def test_all_levels_at_once_are_those_of_the_rolled_image_in_double_precision(shape, shift, levels) -> None:
    transform, x = Wavelet((-2, -1), "db1", levels), noise(2, 3, *shape)
    before, exact = x.clone(), x.to(torch.complex128)
    c = transform.rolled(x, shift)
    assert (c - transform(torch.roll(exact, shift, (-2, -1)) if shift else exact)).abs().max() < 2e-6
    assert torch.equal(x, before)
    expected = transform.adjoint(exact)
    expected = torch.roll(expected, tuple(-s for s in shift), (-2, -1)) if shift else expected
    assert (transform.rolled_adjoint(x, shift) - expected).abs().max() < 2e-6
    assert (transform.rolled_adjoint(c, shift) - x).abs().max() < 2e-6
    assert torch.equal(transform.rolled(x.mT.contiguous().mT, shift), c)


def test_what_does_not_halve_evenly_takes_the_levels_one_by_one() -> None:
    assert Wavelet((-2, -1), "db1")._planes(noise(1, 64, 96)) == 3
    for shape, name in (((1, 50, 64), "db1"), ((1, 64, 64), "db2"), ((64, 64, 1), "db1"), ((1, 128, 64), "db1")):
        assert Wavelet((-2, -1), name)._planes(noise(*shape)) == 0


def test_one_level_has_the_bands_of_another_library() -> None:
    x = noise(1, 32, 48)
    ours = Wavelet((-2, -1), "db2", levels=1)(x)[0].numpy()
    low, (down, across, both) = pywt.dwt2(x[0].numpy(), "db2", mode="periodization")
    for band, other in [
        (ours[:16, :24], low),
        (ours[16:, :24], down),
        (ours[:16, 24:], across),
        (ours[16:, 24:], both),
    ]:
        assert abs(abs(band) ** 2).sum() == pytest.approx(abs(abs(other) ** 2).sum(), rel=1e-4)


def test_views_and_conjugates_are_taken_as_they_are() -> None:
    x = noise(40, 30, 2).permute(2, 1, 0)
    transform = Wavelet((-2, -1), "db2")
    assert torch.equal(transform(x), transform(x.contiguous()))
    assert torch.equal(transform(x.conj()), transform(x.conj().resolve_conj()))


@pytest.mark.parametrize("p", [1.0, 0.5, 0.0, 0.3])
def test_shrinkage_follows_its_formula(p: float) -> None:
    x = noise(3, 70, 33)
    x[0, 0, :5] = 0
    y = x.to(torch.complex128)
    expected = y * (1 - (0.7 / y.abs().clamp_min(0.7)) ** (2 - p))
    assert (shrink(x, 0.7, p=p) - expected).abs().max() < 2e-6
    assert int((shrink(x, 0.7, p=p) == 0).sum()) == int((y.abs() <= 0.7).sum())
    assert torch.equal(shrink(x, 0.0, p=p), x)


@pytest.mark.parametrize("p", [1.0, 0.5, 0.0, 0.3])
@pytest.mark.parametrize("unit", [1e-22, 1e22])
def test_shrinkage_does_not_depend_on_the_unit_of_the_image(unit: float, p: float) -> None:
    x = noise(3, 70, 33)
    assert (shrink(x * unit, 0.7 * unit, p=p) / unit - shrink(x, 0.7, p=p)).abs().max() < 2e-6


@pytest.mark.parametrize("threshold", [1e-24, 1e-42])
def test_a_threshold_far_below_the_image_leaves_it_as_it_is(threshold: float) -> None:
    x = noise(2, 50)
    x[0, :5] = 0
    x[1, :5] = 3
    assert torch.equal(shrink(x, threshold), x)


def test_a_gradient_still_passes_through_the_transform() -> None:
    x = noise(1, 32, 32).requires_grad_()
    Wavelet((-2, -1), "db2")(x).abs().square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())
