"""The compiled kernel of the adaptive combination against a library's eigenvectors in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.kernels import eigen

pytestmark = pytest.mark.skipif(
    not eigen.serves_windows(torch.zeros(1, dtype=torch.complex64)), reason="the kernels were not compiled: install g++"
)


def images(coils: int, shape: tuple[int, int, int], noise: float) -> Tensor:
    """Coil images of an object with smooth maps on its left, noise alone on its right."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    object_ = (x < 0.1) * (1 + 0.3 * torch.sin(9 * y + 4 * z))
    turn = torch.arange(coils)[:, None, None, None] * 2.4
    maps = torch.exp(1j * (turn * x + torch.cos(turn) * y)) * (1.5 + torch.cos(turn + 2 * y - z))
    return (maps * object_ + noise * torch.randn(coils, *shape, dtype=torch.complex64)).to(torch.complex64)


def made(
    given: Tensor, windows: tuple[int, int, int] = (1, 5, 5), reference: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    maps, values = torch.full_like(given, torch.nan), torch.full(given.shape[1:], torch.nan)
    towards = given.new_ones(len(given)) if reference is None else reference
    eigen.local_maps(given, towards, windows, maps, values, tolerance=1e-4)
    return maps, values


@pytest.mark.parametrize(("coils", "shape", "windows"), [
    (1, (1, 9, 20), (1, 5, 5)),
    (4, (1, 12, 37), (1, 5, 5)),
    (32, (1, 11, 18), (1, 5, 5)),
    (5, (6, 7, 19), (5, 5, 5)),
    (3, (2, 4, 3), (1, 3, 3)),
    (3, (1, 2, 17), (1, 1, 7)),
])  # fmt: skip
def test_maps_are_the_eigenvectors_of_the_correlation_within_the_window(coils, shape, windows) -> None:
    given = images(coils, shape, noise=0.2)
    maps, values = made(given, windows)
    for at in np.ndindex(*shape):
        inside = tuple(slice(max(0, i - w // 2), i + w // 2 + 1) for i, w in zip(at, windows))
        samples = given[(slice(None), *inside)].reshape(coils, -1).to(torch.complex128)
        matrix = samples @ samples.mH / samples.abs().square().sum()
        v = maps[(slice(None), *at)].to(torch.complex128)
        assert float(values[at]) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)
        assert float((matrix @ v - values[at] * v).norm()) < 2e-4 * float(values[at])
        assert float(v.norm()) == pytest.approx(1, abs=1e-5)
        along = v.sum()
        assert float(along.real) > 0
        assert abs(float(along.imag)) < 1e-5


def test_without_signal_there_is_no_map() -> None:
    given = images(4, (1, 20, 20), noise=0.0)
    given[..., 12:] = 0
    maps, values = made(given)
    assert not maps[..., 14:].any()
    assert not values[..., 14:].any()
    assert bool((values[..., :12] > 0.5).all())


def test_a_reference_that_is_the_weaker_eigenvector_does_not_hold_the_stronger_one_back() -> None:
    given = torch.zeros(2, 1, 12, 16, dtype=torch.complex64)
    given[0, ..., ::2], given[1, ..., 1::2] = 3, 1  # no pixel is seen by both
    maps, values = made(given, reference=torch.tensor([0, 1 + 0j]))
    assert bool((values > 0.8).all())
    assert (maps[0].abs() - 1).abs().max() < 1e-3


def test_neither_threads_nor_columns_beyond_the_window_change_a_bit() -> None:
    given = images(6, (2, 15, 60), noise=0.3)
    whole = made(given)
    part = made(given[..., 13:41].contiguous())
    assert torch.equal(part[0][..., 2:-2], whole[0][..., 15:39])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(made(given)[0], whole[0])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_images_changes_nothing(scale: float) -> None:
    given = images(8, (1, 16, 33), noise=0.5)
    torch.testing.assert_close(made(given * scale)[0], made(given)[0], rtol=0, atol=3e-3)


def test_shapes_that_do_not_fit_are_refused() -> None:
    given = images(3, (1, 8, 8), noise=0.1)
    with pytest.raises(ValueError, match="do not fit"):
        made(given, windows=(1, 4, 5))
    with pytest.raises(ValueError, match="do not fit"):
        made(given, reference=torch.ones(2, dtype=torch.complex64))
