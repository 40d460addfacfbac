from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import j1, spherical_jn
from torch import Tensor

from recon.data import DataError
from recon.operators import Coils, ifft
from recon.prepare.espirit import _projector, espirit
from recon.prepare.sensitivities import combine, dominant, rss
from recon.prepare.walsh import walsh
from tests.bart import bart


def white(*shape: int) -> Tensor:
    return torch.view_as_complex(torch.randn(*shape, 2))


def scan(
    shape: tuple[int, int, int], coils: int = 6, radius: float = 0.4, noise: float = 0.0, shift: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Exact k-space (coil, z, y, x) of ellipsoids under coils of few waves; the true maps; where tissue is."""
    rng = np.random.default_rng(1)
    axes = [np.arange(n) - n // 2 for n in shape]
    k = np.meshgrid(*axes, indexing="ij")
    r = np.meshgrid(*(a / n for a, n in zip(axes, shape)), indexing="ij")
    flat = shape[0] == 1
    centres = [
        np.array([0, shift, 0]),
        *(np.array([0 if flat else z, y + shift, x]) for z, y, x in rng.uniform(-0.2, 0.2, (6, 3))),
    ]
    radii = [np.array([radius, radius, radius * 0.9]), *rng.uniform(0.05, 0.12, (6, 3))]
    values = [1.0, *rng.uniform(0.2, 0.6, 6)]
    waves = [
        w for w in product((-0.5, 0, 0.5), repeat=3) if abs(w[0]) + abs(w[1]) + abs(w[2]) <= 0.5 and not (flat and w[0])
    ]
    data = np.zeros((coils, *shape), complex)
    maps = np.zeros((coils, *shape), complex)
    for c in range(coils):
        for wave in waves:
            amplitude = (rng.standard_normal() + 1j * rng.standard_normal()) * (0.35 if any(wave) else 0.6)
            maps[c] += amplitude * np.exp(2j * np.pi * sum(w * p for w, p in zip(wave, r)))
            for centre, size, value in zip(centres, radii, values):
                q = [a - w for a, w in zip(k, wave)]
                data[c] += (
                    amplitude
                    * value
                    * _ellipsoid(q, size, flat)
                    * np.exp(-2j * np.pi * sum(a * p for a, p in zip(q, centre)))
                )
    data *= np.sqrt(np.prod(shape))
    tissue = sum(((p - c) / s) ** 2 for p, c, s in zip(r, centres[0], radii[0] * 0.97)) < 1
    data = torch.as_tensor(data).to(torch.complex64)
    maps = torch.as_tensor(maps).to(torch.complex64)
    return data + noise * white(*data.shape), maps / rss(maps), torch.as_tensor(tissue)


def _ellipsoid(q: list[NDArray[np.float64]], size: NDArray[np.float64], flat: bool) -> NDArray[np.float64]:
    s = 2 * np.pi * np.sqrt(sum((a * b) ** 2 for a, b in zip(q, size, strict=True) if not (flat and a is q[0])))
    if flat:
        return np.where(s < 1e-9, 0.5, j1(s) / np.maximum(s, 1e-9)) * 2 * np.pi * size[1] * size[2]
    ball = np.where(s < 1e-6, 1 / 3, spherical_jn(1, s) / np.maximum(s, 1e-6))
    return ball * 4 * np.pi * size.prod()


def middle(data: Tensor, width: int) -> Tensor:
    for axis in (-3, -2, -1):
        n = data.shape[axis]
        if n > width:
            data = data.narrow(axis, n // 2 - width // 2, width)
    return data


def distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖ over coils, per pixel, once a phase per pixel is set aside."""
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    inner = (b.conj() * a).sum(-4, keepdim=True)
    return rss(a - b * torch.polar(torch.ones_like(inner.abs()), inner.angle()))


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("coils", [1, 3, 8])
def test_dominant_agrees_with_a_full_eigendecomposition(coils: int) -> None:
    a = white(500, coils, coils) * torch.logspace(0, -2, coils)
    g = a @ a.mH
    u = torch.linalg.qr(white(200, coils, coils)).Q
    close = torch.cat([torch.ones(1), torch.full((coils - 1,), 0.97)])
    g = torch.cat([g, (u * close) @ u.mH, torch.zeros(1, coils, coils)])
    values, vectors = dominant(g)
    expected, columns = torch.linalg.eigh(g)
    torch.testing.assert_close(values, expected[:, -1], rtol=1e-4, atol=1e-5)
    overlap = (columns[:-1, :, -1].conj() * vectors[:-1]).sum(1).abs()
    assert float((1 - overlap).max()) < 1e-4
    assert float(values[-1]) == 0


def test_dominant_of_matrices_that_are_zero_but_for_rounding_is_a_number() -> None:
    rounding = white(200, 4, 4) * 1e-7
    rounding[:100] = rounding[:100] + rounding[:100].mH
    rounding.diagonal(dim1=1, dim2=2).mul_(torch.logspace(-6, 0, 200)[:, None])
    values, vectors = dominant(rounding)
    assert bool(torch.isfinite(torch.view_as_real(vectors)).all())
    assert float(values.abs().max()) < 1e-5


def test_maps_of_a_real_scan_agree_with_bart_and_sigpy(data_dir: Path) -> None:
    mri = pytest.importorskip("sigpy.mri")
    k = np.load(data_dir / "public_test/gpunufft_brain_t2_4ch.npz")["kspace"][:, None]
    ours = espirit(middle(torch.as_tensor(k), 24), (1, 256, 256))
    theirs, theirs_values = bart("ecalib -m 1 -r 24 -k 6 -t 0.0004 -c 0.8", k, outputs=2)
    sigpy = mri.app.EspiritCalib(
        k[:, 0], calib_width=24, thresh=0.02, kernel_width=6, crop=0.8, max_iter=100, show_pbar=False
    ).run()[:, None]

    image = rss(ifft(torch.as_tensor(k), (-2, -1)))
    tissue = image > 0.1 * image.quantile(0.99)
    support = ours.maps.abs().sum(0) > 0
    assert bool(support[tissue].all())
    assert float((support != (torch.as_tensor(theirs).abs().sum(0) > 0)).double().mean()) < 0.01
    assert float((ours.eigenvalues - torch.as_tensor(theirs_values.real)[0]).abs()[tissue].max()) < 0.005
    assert float(distance(ours.maps, theirs)[tissue].max()) < 0.02
    assert float(distance(ours.maps, sigpy)[tissue].max()) < 0.002
    both = support & (torch.as_tensor(sigpy).abs().sum(0) > 0)
    assert rms(distance(ours.maps, sigpy)[both]) < 0.005


@pytest.mark.parametrize(
    ("shape", "kernel", "width"),
    [((1, 96, 96), 6, 24), ((1, 95, 72), 5, 24), ((1, 64, 81), 6, 21), ((24, 32, 29), 4, 14)],
)
def test_maps_are_the_true_ones_up_to_a_phase_and_no_worse_than_bart(
    shape: tuple[int, int, int], kernel: int, width: int
) -> None:
    data, true, tissue = scan(shape, noise=0.02)
    found = espirit(middle(data, width), shape, kernel=kernel, width=width)
    theirs = torch.as_tensor(bart(f"ecalib -m 1 -r {width} -k {kernel} -t 0.0004 -c 0.8", data))
    inside = tissue & (found.maps.abs().sum(0) > 0)
    assert float(inside.sum() / tissue.sum()) > 0.99
    inside &= theirs.abs().sum(0) > 0
    error = rms(distance(found.maps, true)[inside])
    assert error < 0.03
    assert error < 1.05 * rms(distance(theirs, true)[inside])


def test_more_signal_gives_better_maps() -> None:
    errors = []
    for noise in (0.3, 0.1, 0.01):
        data, true, tissue = scan((1, 64, 64), noise=noise)
        errors.append(rms(distance(espirit(middle(data, 24), (1, 64, 64)).maps, true)[tissue]))
    assert errors[0] > errors[1] > errors[2]


def test_maps_have_unit_norm_inside_and_are_zero_below_the_crop() -> None:
    data, _, _ = scan((1, 64, 64), noise=0.02)
    found = espirit(middle(data, 24), (1, 64, 64), crop=0.9)
    norm = rss(found.maps)
    keep = found.eigenvalues >= 0.9
    assert 0.2 < float(keep.double().mean()) < 0.95
    torch.testing.assert_close(norm, keep.to(norm.dtype), rtol=0, atol=1e-5)
    assert float(found.eigenvalues.max()) <= 1 + 1e-5
    soft = rss(espirit(middle(data, 24), (1, 64, 64), crop=0.9, soft=True).maps)
    assert bool((soft[~keep] == 0).all())
    assert float((soft[0, 1:] - soft[0, :-1]).abs().max()) < 0.5
    assert float(soft.max()) > 0.99


def test_the_phase_is_that_of_the_first_principal_coil_and_has_no_jumps() -> None:
    data, _, tissue = scan((1, 64, 64), noise=0.01)
    found = espirit(middle(data, 24), (1, 64, 64))
    calibration = middle(data, 24).flatten(1)
    first = torch.linalg.svd(calibration, full_matrices=False)[0][:, 0]
    reference = torch.einsum("c,czyx->zyx", first.conj(), found.maps)
    turn = reference[tissue] / reference[tissue].abs()
    assert float((turn - turn.mean()).abs().max()) < 1e-3
    step = rss(found.maps[..., 1:] - found.maps[..., :-1])
    assert float(step[tissue[..., 1:] & tissue[..., :-1]].max()) < 0.15


def test_maps_do_not_depend_on_the_chunk_or_on_other_slices() -> None:
    data = torch.stack([scan((1, 40, 50), noise=0.02)[0], 1e-4 * scan((1, 40, 50), shift=0.05)[0]])
    before = data.clone()
    together = espirit(middle(data, 20), (1, 40, 50))
    assert together.maps.shape == (2, 6, 1, 40, 50)
    assert together.eigenvalues.shape == (2, 1, 40, 50)
    for one, chunk in ((0, 1), (0, 10**6), (1, 170)):  # a row at a time, all at once, some rows
        alone = espirit(middle(data[one], 20), (1, 40, 50), chunk=chunk)
        torch.testing.assert_close(together.maps[one], alone.maps, rtol=0, atol=2e-3)
    assert torch.equal(data, before)
    assert torch.equal(together.maps, espirit(middle(data, 20), (1, 40, 50)).maps)


def test_only_the_asked_width_of_the_calibration_is_used() -> None:
    data, _, _ = scan((1, 64, 64), noise=0.02)
    narrow = espirit(middle(data, 16), (1, 64, 64), width=None)
    torch.testing.assert_close(espirit(data, (1, 64, 64), width=16).maps, narrow.maps)


def test_a_folded_object_needs_the_second_set_of_maps() -> None:
    """Tissue wraps around the field of view: where it overlaps, two maps are needed to explain the coil images."""
    data, _, _ = scan((1, 64, 64), radius=0.7, noise=0.01)
    found = espirit(middle(data, 24), (1, 64, 64), sets=2, crop=0.9, threshold=0.005)
    assert found.maps.shape == (2, 6, 1, 64, 64)
    assert found.sets
    first, second = found.eigenvalues
    assert float(second[0, 32, 32]) < 0.6
    assert float(second[0, :3, 30:35].min()) > 0.9
    assert bool((first >= second - 1e-3).all())
    inner = (found.maps[0].conj() * found.maps[1]).sum(0).abs()
    assert float(inner.max()) < 1e-3

    images = ifft(data, (-2, -1))
    norm = images.norm()
    residual = []
    for maps in (found.maps[:1], found.maps):
        coils = Coils(maps, sets=True)
        explained = coils(coils.H(images))
        inside = (maps[0].abs().sum(0) > 0).expand_as(images)
        residual.append(float((images - explained)[inside].norm() / norm))
    assert residual[1] < 0.5 * residual[0]
    theirs = bart("ecalib -m 2 -r 24 -k 6 -t 0.000025 -c 0.9", data, outputs=2)[1].real
    np.testing.assert_allclose(found.eigenvalues.numpy(), theirs.reshape(2, 1, 64, 64), atol=0.1)


@pytest.mark.parametrize(
    ("size", "kernel", "sets", "cure"),
    [
        ((1, 5, 24), 6, 1, "smaller kernel"),
        ((1, 24, 80), 6, 1, "larger than the matrix"),
        ((1, 24, 24), 6, 7, "1 or 2 sets"),
    ],
)
def test_a_calibration_that_cannot_do_is_refused(size: tuple[int, int, int], kernel: int, sets: int, cure: str) -> None:
    with pytest.raises(DataError, match=cure):
        espirit(white(6, *size), (1, 64, 64), kernel=kernel, sets=sets)


def test_an_empty_or_damaged_calibration_is_refused() -> None:
    with pytest.raises(DataError, match="all zero"):
        espirit(torch.zeros(4, 1, 24, 24, dtype=torch.complex64), (1, 64, 64))
    damaged = white(4, 1, 24, 24)
    damaged[0, 0, 3, 3] = float("inf")
    with pytest.raises(DataError, match="not finite"):
        espirit(damaged, (1, 64, 64))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 63, 50), (24, 28, 27)])
def test_adaptive_maps_are_the_true_ones_up_to_a_phase(shape, compiled, monkeypatch) -> None:
    if not compiled:
        monkeypatch.setattr("recon.kernels.eigen.serves_windows", lambda t: False)
    data, true, tissue = scan(shape, noise=0.02)
    images = ifft(data, (-3, -2, -1))
    found = walsh(images)
    assert float(distance(found.maps, true)[tissue].median()) < 0.05
    torch.testing.assert_close(rss(found.maps), torch.ones(shape), rtol=0, atol=1e-5)
    small = 1 if shape[0] == 1 else 400  # a row at a time; some rows of some partitions
    torch.testing.assert_close(walsh(images, chunk=small).maps, found.maps, rtol=0, atol=2e-3)
    assert float(found.eigenvalues[tissue].median()) > 0.95
    twice = walsh(torch.stack([images, 2 * images]))
    torch.testing.assert_close(twice.maps[1], found.maps, rtol=0, atol=2e-3)


def test_an_even_window_is_refused() -> None:
    with pytest.raises(DataError, match="odd number"):
        walsh(white(4, 1, 8, 8), window=4)


def test_one_pixel_that_is_no_number_is_refused_and_does_not_spoil_all_maps() -> None:
    images = white(4, 1, 8, 8)
    images[2, 0, 3, 3] = float("nan")
    with pytest.raises(DataError, match="NaN or infinite"):
        walsh(images)


def test_combination_gives_back_the_image_behind_the_coils() -> None:
    image, maps = white(2, 3, 9, 8), white(2, 5, 3, 9, 8)
    maps[..., 0] = 0
    back = combine(maps * image.unsqueeze(-4), maps)
    torch.testing.assert_close(back[..., 1:], image[..., 1:], rtol=1e-4, atol=1e-5)
    assert bool((back[..., 0] == 0).all())


def test_combination_with_espirit_maps_has_the_magnitude_of_the_root_sum_of_squares() -> None:
    data, _, tissue = scan((1, 64, 64), noise=0.01)
    images = ifft(data, (-2, -1))
    combined = combine(images, espirit(middle(data, 24), (1, 64, 64)).maps)
    np.testing.assert_allclose(rss(images)[tissue], np.linalg.norm(images.numpy(), axis=0)[tissue.numpy()], rtol=1e-5)
    assert rms(combined.abs()[tissue] - rss(images)[tissue]) < 0.02 * rms(rss(images)[tissue])


@pytest.mark.parametrize("coils", [3, 16])
def test_the_signal_space_is_that_of_the_calibration_matrix(coils: int) -> None:
    """Against a singular value decomposition of A in double precision, with fewer rows than columns and with more."""
    rng = np.random.default_rng(coils)
    low = rng.standard_normal((coils, 3, 2)) @ [1, 1j]
    data = np.einsum("cr,ryx->cyx", low, rng.standard_normal((3, 16, 16, 2)) @ [1, 1j]) * 0.1
    data = (data + 1e-4 * (rng.standard_normal((coils, 16, 16, 2)) @ [1, 1j])).astype(np.complex64)
    A = np.lib.stride_tricks.sliding_window_view(data, (6, 6), (1, 2)).transpose(1, 2, 0, 3, 4).reshape(121, -1)
    _, s, vh = np.linalg.svd(A.astype(np.complex128), full_matrices=False)
    v = vh[s > 0.02 * s[0]]
    v = v.reshape(-1, coils, 6, 6)
    found = _projector(torch.from_numpy(data[:, None]), (1, 6, 6), 0.02)
    assert (121 < coils * 36) == (coils == 16)
    expected = np.zeros((11, 11, coils, coils), np.complex128)
    for py, px in np.ndindex(6, 6):
        for qy, qx in np.ndindex(6, 6):
            expected[py - qy + 5, px - qx + 5] += np.einsum("nc,nd->cd", v[:, :, py, px], v[:, :, qy, qx].conj()) / 36
    found = found.reshape(11, 11, coils, coils).numpy()
    assert np.linalg.norm(found - expected) < 2e-4 * np.linalg.norm(expected)
