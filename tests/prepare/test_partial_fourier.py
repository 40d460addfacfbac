from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.operators import fft, ifft
from recon.prepare.partial_fourier import homodyne, pocs


def grids(shape: tuple[int, ...]) -> list[Tensor]:
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape]
    return list(torch.meshgrid(*axes, indexing="ij"))


def head(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A real object with sharp edges and the same with a smooth phase."""
    z, y, x = grids(shape)
    real = ((x / 0.36) ** 2 + (y / 0.42) ** 2 + (z / 0.45) ** 2 < 1).double()
    real -= 0.6 * (((x - 0.1) / 0.12) ** 2 + ((y + 0.05) / 0.2) ** 2 < 1)
    real += 0.5 * (((x + 0.15) / 0.05) ** 2 + ((y - 0.2) / 0.04) ** 2 < 1)
    real = real.clamp_min(0)
    phase = 1.5 * x - 2.5 * y**2 + 0.8 * torch.sin(3 * x + 2 * y) + z + 0.4
    return real, torch.polar(real, phase).to(torch.complex64)


def cut(image: Tensor, axis: int, low: int, high: int) -> Tensor:
    """The image as partial Fourier leaves it: k-space zero outside [low, high) of one axis."""
    k = fft(image, (axis,)).movedim(axis, -1).clone()
    k[..., :low] = 0
    k[..., high:] = 0
    return ifft(k.movedim(-1, axis), (axis,))


def ranges(n: int, fraction: float) -> dict[str, tuple[int, int]]:
    measured = round(fraction * n)
    return {"start missing": (n - measured, n), "end missing": (0, measured)}


SHAPES = [(1, 96, 128), (1, 97, 127), (6, 110, 95)]


@pytest.mark.parametrize("side", ["start missing", "end missing"])
@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fraction", [0.75, 0.625])
def test_pocs_is_four_times_and_homodyne_twice_as_close_as_zero_filling(
    shape: tuple[int, int, int], axis: int, side: str, fraction: float
) -> None:
    real, image = head(shape)
    sampled = ranges(shape[axis], fraction)[side]
    zero_filled = cut(image, axis, *sampled)

    error = torch.linalg.vector_norm(zero_filled - image)
    assert torch.linalg.vector_norm(pocs(zero_filled, axis, sampled) - image) < error / 4
    assert torch.linalg.vector_norm(homodyne(zero_filled, axis, sampled, keep_phase=True) - image) < error / 2
    corrected = homodyne(zero_filled, axis, sampled)
    assert corrected.dtype == torch.complex64
    assert bool((corrected.imag == 0).all())
    assert torch.linalg.vector_norm(corrected - real) < torch.linalg.vector_norm(zero_filled.abs() - real) / 1.8


def test_the_slice_axis_may_be_partial_too() -> None:
    _, image = head((96, 20, 24))
    zero_filled = cut(image, -3, 24, 96)
    error = torch.linalg.vector_norm(zero_filled - image)
    assert torch.linalg.vector_norm(pocs(zero_filled, -3, (24, 96)) - image) < error / 3


@pytest.mark.parametrize("n", [64, 65])
@pytest.mark.parametrize("side", ["start missing", "end missing"])
def test_pocs_keeps_every_measured_sample(n: int, side: str) -> None:
    image = torch.randn(2, 3, n, 10, dtype=torch.complex64)
    low, high = ranges(n, 0.7)[side]
    zero_filled = cut(image, -2, low, high)
    before, after = fft(zero_filled, (-2,)), fft(pocs(zero_filled, -2, (low, high)), (-2,))
    torch.testing.assert_close(after[..., low:high, :], before[..., low:high, :], rtol=0, atol=1e-5)
    assert (after - before).abs().max() > 0.1


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("side", ["start missing", "end missing"])
def test_homodyne_weights_make_a_real_object_whole(n: int, side: str) -> None:
    """A band-limited object of constant phase is given back without error: its symmetry is exact."""
    spectrum = torch.zeros(n, dtype=torch.complex128)
    spectrum[n // 2 - 3 : n // 2 + 4] = torch.tensor([0.3j, -0.2, 0.5 + 0.1j, 9, 0.5 - 0.1j, -0.2, -0.3j])
    edge = torch.zeros_like(spectrum)
    for k in range(4, 15):
        edge[n // 2 - k], edge[n // 2 + k] = 0.1 + 0.02j * k, 0.1 - 0.02j * k
    if n % 2 == 0 and side == "end missing":
        edge[0] = 0.4
    real = ifft(spectrum + edge, (0,)).real
    image = torch.polar(real, torch.full_like(real, 0.7))[None, None]
    sampled = ranges(n, 0.75)[side]
    back = homodyne(cut(image, -1, *sampled), -1, sampled)
    torch.testing.assert_close(back.real[0, 0], real, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [homodyne, pocs])
def test_leading_axes_are_independent_and_the_input_is_not_changed(method) -> None:  # type: ignore[no-untyped-def]
    images = torch.randn(2, 3, 1, 32, 20, dtype=torch.complex64)
    before = images.clone()
    together = method(images, -2, (8, 32))
    torch.testing.assert_close(together[1, 2], method(images[1, 2], -2, (8, 32)))
    assert torch.equal(images, before)


@pytest.mark.parametrize("method", [homodyne, pocs])
def test_a_range_that_misses_the_centre_is_refused_with_its_cure(method) -> None:  # type: ignore[no-untyped-def]
    image = torch.ones(1, 32, 32, dtype=torch.complex64)
    with pytest.raises(DataError, match="zero filling"):
        method(image, -2, (20, 32))
    with pytest.raises(DataError, match="does not lie within"):
        method(image, -2, (8, 40))
    with pytest.raises(DataError, match="axis"):
        method(image, 1, (8, 32))


def test_a_full_range_gives_the_image_itself() -> None:
    _, image = head((1, 32, 32))
    torch.testing.assert_close(pocs(image, -2, (0, 32)), image)
    torch.testing.assert_close(homodyne(image, -2, (0, 32)).real, image.abs())
