from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.data import DataError
from recon.operators import ifft
from recon.prepare.compress import choose, compress, geometric, svd
from tests.bart import bart


def white(*shape: int) -> Tensor:
    return torch.view_as_complex(torch.randn(*shape, 2))


def array_coils(coils: int = 12, nz: int = 6, ny: int = 20, nx: int = 40) -> Tensor:
    """Hybrid data (coil, kz, ky, x) of small coils strung along the readout, each seeing a part of it."""
    x = torch.linspace(-1, 1, nx)
    place = torch.linspace(-1, 1, coils)[:, None, None, None]
    tissue = white(4, nz, ny, nx)
    seen = torch.exp(-((x - place) ** 2) / 0.15) * torch.polar(torch.ones(coils, 1, 1, 1), 3 * place)
    sides = torch.stack([torch.polar(torch.ones(coils), k * torch.arange(coils) * 2.1) for k in range(4)], 1)
    weight = torch.tensor([1, 0.2, 0.05, 0.01])
    return torch.einsum("ck,kzyx->czyx", sides * weight, tissue) * seen + 1e-3 * white(coils, nz, ny, nx)


def share_kept(matrix: Tensor, data: Tensor) -> float:
    return float(compress(matrix, data).abs().square().sum() / data.abs().square().sum())


def spread(matrix: Tensor) -> float:
    """Largest step of a position-dependent matrix from one position to the next."""
    return float((matrix[1:] - matrix[:-1]).norm(dim=(1, 2)).max())


def test_the_rows_are_orthonormal_so_white_noise_stays_white() -> None:
    data = array_coils()
    for matrix in (svd(data, virtual=5).matrix, geometric(data, virtual=5).matrix):
        unit = torch.eye(5, dtype=torch.complex64).expand(*matrix.shape[:-2], 5, 5)
        torch.testing.assert_close(matrix @ matrix.mH, unit, rtol=0, atol=1e-5)
    noise = compress(geometric(data, virtual=5).matrix, white(12, 60, 60, 40)).flatten(1)
    psi = noise @ noise.mH / noise.shape[1]
    torch.testing.assert_close(psi, 2 * torch.eye(5, dtype=torch.complex64), rtol=0, atol=0.04)


@pytest.mark.parametrize("virtual", [1, 3, 12])
def test_the_energy_reported_is_the_energy_kept(virtual: int) -> None:
    data = array_coils()
    plain, along = svd(data, virtual=virtual), geometric(data, virtual=virtual, window=1)
    assert plain.energy == pytest.approx(share_kept(plain.matrix, data), abs=1e-5)
    assert along.energy == pytest.approx(share_kept(along.matrix, data), abs=1e-5)
    assert along.energy >= plain.energy - 1e-6
    assert svd(data, virtual=12).energy == pytest.approx(1)


def test_no_matrix_of_as_many_rows_keeps_more_than_svd() -> None:
    data = array_coils()
    flat = data.flatten(1).numpy()
    values = np.linalg.svd(flat, compute_uv=False) ** 2
    assert svd(data, virtual=4).energy == pytest.approx(values[:4].sum() / values.sum(), abs=1e-5)


def test_choose_gives_the_smallest_number_that_keeps_the_energy() -> None:
    data = array_coils()
    for energy in (0.5, 0.9, 0.99):
        count = choose(data, energy)
        assert svd(data, virtual=count).energy >= energy
        assert svd(data, virtual=count - 1).energy < energy
        assert svd(data, energy=energy).matrix.shape == (count, 12)
    assert choose(data, 1.0) == 12
    assert geometric(data, energy=0.99).matrix.shape[1] < choose(data, 0.99)


def test_geometric_coils_vary_smoothly_along_the_readout() -> None:
    data = array_coils()
    aligned = geometric(data, virtual=2, window=1).matrix
    alone = torch.stack([svd(data[..., i : i + 1], virtual=2).matrix for i in range(data.shape[-1])])
    assert spread(aligned) < 0.5 * spread(alone)
    # Each position keeps what it would keep alone: alignment turns the coils among themselves, no more.
    projector = aligned.mH @ aligned
    torch.testing.assert_close(projector, alone.mH @ alone, rtol=0, atol=1e-3)
    middle = len(aligned) // 2
    steps = (aligned[1:] - aligned[:-1]).norm(dim=(1, 2))
    assert float(steps[middle - 5 : middle + 5].max()) < 0.3


def test_compressed_data_give_the_same_image_energy_when_all_coils_are_kept() -> None:
    data = array_coils(coils=4)
    rss = data.abs().square().sum(0)
    for matrix in (svd(data, virtual=4).matrix, geometric(data, virtual=4).matrix):
        torch.testing.assert_close(compress(matrix, data).abs().square().sum(0), rss, rtol=1e-4, atol=1e-6)


def test_leading_axes_share_one_matrix_and_the_input_is_not_changed() -> None:
    data = torch.stack([array_coils(), 0.3 * array_coils()])
    before = data.clone()
    for method in (svd, geometric):
        found = method(data, virtual=3)
        together = compress(found.matrix, data)
        assert together.shape == (2, 3, *data.shape[2:])
        torch.testing.assert_close(together[1], compress(found.matrix, data[1]))
        assert torch.equal(method(data, virtual=3).matrix, found.matrix)
    assert torch.equal(data, before)


def test_svd_spans_the_same_coils_as_bart(data_dir: Path) -> None:
    k = np.load(data_dir / "public_test/gpunufft_brain_t2_4ch.npz")["kspace"][:, None]
    found = svd(torch.as_tensor(k), virtual=2)
    theirs = bart("cc -p 2 -A -S", k)
    ours = compress(found.matrix, torch.as_tensor(k)).numpy()
    assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=1e-4)
    turn = ours.reshape(2, -1) @ theirs.reshape(2, -1).conj().T
    np.testing.assert_allclose(
        np.abs(np.linalg.svd(turn / np.linalg.norm(theirs) ** 2, compute_uv=False)).sum(), 1, atol=1e-3
    )


def test_geometric_keeps_as_much_as_bart(data_dir: Path) -> None:
    k = np.load(data_dir / "public_test/gpunufft_brain_t2_4ch.npz")["kspace"][:, None]
    found = geometric(ifft(torch.as_tensor(k), (-1,)), virtual=2)
    theirs = bart("cc -p 2 -A -G", k)
    kept = np.linalg.norm(theirs) ** 2 / np.linalg.norm(k) ** 2
    assert found.energy > kept - 0.001


def test_an_impossible_number_of_coils_is_refused() -> None:
    data = array_coils(coils=4)
    with pytest.raises(DataError, match="choose between 1 and 4"):
        svd(data, virtual=5)
    with pytest.raises(DataError, match="choose a share"):
        geometric(data, energy=0.0)
