"""Odd and prime sides, one voxel, 1 and 64 coils: kernels of single precision give what torch gives in double."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.operators import Coils, Linear
from recon.operators.nufft import Nufft
from recon.operators.sense import Sense
from recon.operators.wavelet import Wavelet
from recon.operators.xray import Fan, Parallel, Xray

SINGLE, DOUBLE = torch.complex64, torch.complex128
#: (z, y, x): a voxel, lines, planes and volumes with prime sides and powers of two.
SHAPES = ((1, 1, 1), (1, 5, 1), (1, 37, 41), (1, 64, 53), (1, 251, 4), (5, 7, 11), (3, 127, 5), (13, 16, 9))


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = SINGLE) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def held(op: Linear, exact: Linear, x: Tensor, limit: float = 2e-6) -> None:
    """Map, adjoint and normal operator in single precision are those in double, and the input stays as it was."""
    before, y = x.clone(), op(x)
    kind = torch.float64 if x.dtype == torch.float32 else DOUBLE
    for found, true in (
        (y, exact(x.to(kind))),
        (op.adjoint(y), exact.adjoint(y.to(DOUBLE if y.is_complex() else torch.float64))),
        (op.normal()(x), exact.normal()(x.to(kind))),
    ):
        assert found.dtype == x.dtype
        assert torch.linalg.vector_norm(found - true) <= limit * torch.linalg.vector_norm(true)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("coils", [1, 7, 64])
def test_coil_images_and_their_transforms(coils: int, shape: tuple[int, int, int]) -> None:
    maps, x = numbers(coils, *shape), numbers(*shape, seed=1)
    held(Coils(maps), Coils(maps.to(DOUBLE)), x)
    for axes in ((-2,), (-2, -1), (-3, -2), (-3, -2, -1)):
        sampled = (shape[0] if -3 in axes else 1, shape[1], shape[2] if -1 in axes else 1)
        mask = (torch.rand(sampled, generator=torch.Generator().manual_seed(2)) > 0.4).float()
        mask.view(-1)[0] = 1
        held(Sense(maps, mask, axes), Sense(maps.to(DOUBLE), mask.double(), axes), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["db1", "db4"])
def test_wavelets(name: str, shape: tuple[int, int, int]) -> None:
    for axes in ((-2, -1), (-3, -2, -1)):
        op = Wavelet(axes, name, smallest=4)
        held(op, op, numbers(*shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 41), (5, 7, 3)], ids=str)
def test_transforms_off_the_grid(shape: tuple[int, ...]) -> None:
    points = (torch.rand(50, len(shape), generator=torch.Generator().manual_seed(3)) - 0.5) * torch.tensor(shape)
    x = numbers(64, *((1,) if len(shape) == 2 else ()), *shape)
    held(Nufft(points, shape, 1e-6), Nufft(points.double(), shape, 1e-12), x, 2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 41)], ids=str)
def test_projections(shape: tuple[int, int]) -> None:
    angles = torch.linspace(0, 3, 7, dtype=torch.float64)
    for geometry in (Parallel(angles, 1, 1.0), Parallel(angles, 31, 1.0), Fan(angles, 33, 1.0, 100.0, 50.0)):
        op = Xray(geometry, shape, 1.0)
        held(op, op, numbers(3, *shape, dtype=torch.float32), 1e-5)
