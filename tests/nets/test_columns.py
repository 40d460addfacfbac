"""A volume through a network of slices: its columns give the same as separate slices."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recon import masks
from recon.data import Measurement, ReconError
from recon.nets import columns, unrolled
from recon.nets.unrolled import Unrolled
from recon.operators.sense import Sense
from tests.nets.test_unrolled import SMALL, awake, dense, seeded

NZ, NY, NX, COILS = 7, 8, 5, 3


def volume(sets: int = 1) -> tuple[Measurement, Tensor]:
    """Random maps and voxels, half of the lines (kz, ky) measured, noise of σ = 1; no voxel beyond the last column."""
    g = seeded(1)
    more = (sets,) if sets > 1 else ()
    maps = torch.randn(*more, COILS, NZ, NY, NX, dtype=torch.complex64, generator=g)
    maps = maps / maps.abs().square().sum(-4, keepdim=True).sqrt()
    mask = torch.from_numpy(masks.random((NZ, NY), 2, 4)).float()[None, :, :, None]
    truth = 100 * torch.randn(*more, NZ, NY, NX, dtype=torch.complex64, generator=g)
    truth[..., -1] = 0
    A = Sense(maps, mask, (-3, -2), sets > 1)
    y = A(truth)
    return Measurement(y + mask * torch.randn(y.shape, dtype=torch.complex64, generator=g), A, 1.0), truth


@pytest.mark.parametrize("sets", [1, 2])
def test_every_column_is_the_slice_that_it_would_be_alone(sets: int) -> None:
    network, (m, truth) = awake(), volume(sets)
    start = 0.8 * truth
    found = columns.reconstruct(network, m, start, ndim=3 if sets == 1 else 4)
    for i in range(NX - 1):
        maps, y = (torch.stack([t[..., i]], -3) for t in (m.A.maps, m.y))
        alone = Measurement(y, Sense(maps, m.A.mask[..., 0][:, None], (-2, -1), sets > 1), 1.0)
        x = unrolled.reconstruct(network, alone, start=start[..., i].unsqueeze(-3), ndim=3 if sets == 1 else 4)
        assert torch.equal(found[..., i], x.squeeze(-3))
    assert not torch.allclose(found[..., 0], start[..., 0], rtol=0.01)
    assert torch.equal(start, 0.8 * truth)


def test_the_data_consistency_of_a_column_is_that_of_the_volume() -> None:
    m, truth = volume()
    network = Unrolled(replace(SMALL, cascades=1, iterations=80))
    found = columns.reconstruct(network, m, 0.8 * truth)
    A = dense(replace(m.A, maps=m.A.maps.to(torch.complex128)), truth.shape)
    b, z = (A.mH @ m.y.flatten().to(torch.complex128)), 0.8 * truth.flatten().to(torch.complex128)
    column = torch.arange(NZ * NY * NX) % NX == 1
    # An untrained network corrects nothing: (AᴴA + λ) x = Aᴴy + λ x₀ with λ in units of the column's own size.
    lam = math.sqrt(2) / float(unrolled.size(0.8 * truth[..., 1][:, None], 3)) * math.exp(unrolled.TRUST) + 1e-5
    exact = torch.linalg.solve(A.mH @ A + lam * torch.eye(len(z)), b + lam * z)
    assert torch.linalg.norm(found.flatten()[column] - exact[column]) < 1e-4 * torch.linalg.norm(exact[column])


def test_columns_without_an_object_keep_their_start() -> None:
    m, truth = volume()
    start = truth + 0.01
    found = columns.reconstruct(awake(), m, start)
    assert torch.equal(found[..., -1], start[..., -1])
    assert not torch.equal(found[..., 0], start[..., 0])


def test_a_readout_that_is_not_transformed_is_refused() -> None:
    m, truth = volume()
    with pytest.raises(ReconError, match="hybrid space"):
        columns.reconstruct(awake(), replace(m, A=replace(m.A, axes=(-3, -2, -1))), truth)
