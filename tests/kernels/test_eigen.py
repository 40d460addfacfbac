"""The compiled eigenvector kernel against a library's eigenvectors in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recon.kernels import eigen
from recon.operators import fft
from recon.prepare import espirit as module
from recon.prepare.espirit import espirit

pytestmark = pytest.mark.skipif(
    not eigen.serves(torch.zeros(1, dtype=torch.complex64)), reason="the kernels were not compiled: install g++"
)


def calibration(coils: int, shape: tuple[int, int, int], acs: int = 20) -> Tensor:
    """The centre of k-space of a smooth ellipsoid seen by coils around it, with noise."""
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    image = ((x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 0.9) ** 2 < 1) * (1 + 0.3 * torch.sin(7 * x) * torch.cos(5 * y))
    maps = []
    for c in range(coils):
        a = 2 * math.pi * c / coils
        near = (x - math.cos(a)) ** 2 + (y - math.sin(a)) ** 2 + (z - 0.4 * (-1) ** c) ** 2
        maps.append(torch.exp(-near / 1.2) * torch.exp(1j * (math.cos(3 * a) * x + math.sin(2 * a) * y)))
    k = fft(torch.stack(maps) * image, (-3, -2, -1))
    k = k + 1e-5 * k.abs().max() * torch.randn_like(k)
    cut = tuple(slice(n // 2 - min(n, acs) // 2, n // 2 - min(n, acs) // 2 + min(n, acs)) for n in shape)
    return k[(slice(None), *cut)]


def exact(block: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues (z, y, x) and eigenvectors (coil, z, y, x) of G(r), by LAPACK."""
    data = module._centre(block, 24)
    kernels = module._projector(data, module._kernel(data, 6), 0.02)
    every = [g for _, _, g in module._matrices(kernels, shape, (1, 1, 1), 4096, 0, shape[2])]
    values, vectors = torch.linalg.eigh(torch.cat(every).to(torch.complex128))
    turned = module._turned(vectors[..., -1].to(torch.complex64), module.first_coil(data))
    return values[:, -1].reshape(shape), turned.T.reshape(-1, *shape)


@pytest.mark.parametrize(("coils", "shape"), [(1, (1, 40, 50)), (6, (1, 61, 77)), (13, (1, 48, 48)), (3, (24, 26, 35))])
def test_maps_are_the_eigenvectors_of_a_library(coils: int, shape: tuple[int, int, int]) -> None:
    block = calibration(coils, shape)
    got = espirit(block, shape)
    values, vectors = exact(block, shape)
    inside = values > 0.8
    assert 0.2 < inside.float().mean() < 0.99
    assert torch.equal(got.eigenvalues > 0.8, inside)
    assert ((got.eigenvalues - values).abs() * inside).max() < 1e-5
    error = torch.linalg.vector_norm(got.maps - vectors, dim=0)[inside]
    assert error.max() < 2e-2
    assert error.square().mean().sqrt() < 1e-3
    assert (torch.linalg.vector_norm(got.maps, dim=0)[inside] - 1).abs().max() < 1e-5


def test_maps_of_some_columns_are_those_of_all_columns() -> None:
    block = calibration(5, (1, 50, 70))
    whole = espirit(block, (1, 50, 70))
    for columns in [(0, 70), (3, 40), (69, 70)]:
        part = espirit(block, (1, 50, 70), columns=columns)
        assert torch.equal(part.maps, whole.maps[..., slice(*columns)])
        assert torch.equal(part.eigenvalues, whole.eigenvalues[..., slice(*columns)])


def test_the_torch_twin_makes_the_same_maps_of_some_columns(monkeypatch) -> None:
    block = calibration(4, (1, 50, 64))
    whole = espirit(block, (1, 50, 64))
    monkeypatch.setattr(eigen, "native", lambda: None)
    part = espirit(block, (1, 50, 64), columns=(10, 44))
    assert ((part.maps - whole.maps[..., 10:44]).abs().square().sum(0).sqrt()).max() < 1e-2


def test_the_maps_do_not_depend_on_threads() -> None:
    block = calibration(4, (16, 20, 40), 12)
    threads = torch.get_num_threads()
    try:
        kernels = module._projector(block, module._kernel(block, 6), 0.02)
        answers = []
        for n in (1, 3):
            torch.set_num_threads(n)
            maps, values = torch.zeros(4, 16, 20, 40, dtype=torch.complex64), torch.zeros(16, 20, 40)
            module._compiled(kernels, module.first_coil(block), maps, values, 40, 0, 0.8)
            answers.append(maps)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*answers)


def solved(kernels: Tensor, waves: Tensor, reference: Tensor, parts: list[int]) -> tuple[Tensor, Tensor]:
    """Maps (coil, z, y, x) and eigenvalues (z, y, x), so many partitions at a time as `parts` says, NaN elsewhere."""
    nz, ny, nx = *kernels.shape[:2], len(waves)
    maps = torch.full((len(reference), nz, ny, nx), torch.nan, dtype=torch.complex64)
    values = torch.full((nz, ny, nx), torch.nan)
    first = 0
    for n in parts:
        some = kernels[first : first + n]
        eigen.eigenmaps(some, waves, reference, maps, values, first, least=0.5, tolerance=1e-4)
        first += n
    return maps, values


def test_some_partitions_at_a_time_are_those_of_the_volume_and_leave_the_others_alone() -> None:
    coils, lags = 3, 2
    kernels = torch.randn(5, 6, lags, coils * (coils + 1) // 2, dtype=torch.complex64)
    waves, reference = torch.randn(11, lags, dtype=torch.complex64), torch.randn(coils, dtype=torch.complex64)
    whole, values = solved(kernels, waves, reference, [5])
    maps, others = solved(kernels, waves, reference, [2, 1, 2])
    assert torch.equal(maps, whole)
    assert torch.equal(others, values)
    begun, _ = solved(kernels, waves, reference, [2, 1])
    assert torch.equal(begun[:, :3], whole[:, :3])
    assert bool(begun[:, 3:].isnan().all())


def test_a_reference_that_is_the_weaker_eigenvector_does_not_hold_the_stronger_one_back() -> None:
    kernels = torch.tensor([1.0, 0.0, 0.2], dtype=torch.complex64).expand(1, 4, 1, 3)
    maps, values = solved(kernels, torch.ones(9, 1, dtype=torch.complex64), torch.tensor([0, 1 + 0j]), [1])
    assert (values - 1).abs().max() < 1e-4
    assert (maps[0].abs() - 1).abs().max() < 1e-4
