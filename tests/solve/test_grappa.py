from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from recon import pipeline, recipe
from recon.data import DataError
from recon.mri import encoded
from recon.operators import fft, ifft
from recon.simulation import Settings, simulate
from recon.solve import grappa as module
from recon.solve.grappa import grappa, neighbourhoods


def scene(shape: tuple[int, int, int], coils: int = 6) -> Tensor:
    """k-space of a smooth object seen by smooth coils: polynomials and phases of low order."""
    z, y, x = (
        torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1, dtype=torch.float64) for n in shape
    )
    z, y, x = z[:, None, None], y[None, :, None], x[None, None]
    body = ((x / 0.8) ** 2 + (y / 0.7) ** 2 + (z / 0.9) ** 2 < 1) * (1 + 0.3 * torch.cos(9 * x) * torch.cos(7 * y))
    maps = []
    for c in range(coils):
        a = 2 * np.pi * c / coils
        d = (x - np.cos(a)) ** 2 + (y - np.sin(a)) ** 2 + (z - (0.7 if c % 2 else -0.7)) ** 2 * (shape[0] > 1)
        maps.append(torch.exp(-0.7 * d) * torch.polar(torch.ones_like(d), a + x * np.cos(a) + y))
    return fft(torch.stack(maps) * body, (-3, -2, -1))


def middle(k: Tensor, nz: int, ny: int) -> Tensor:
    z, y = k.shape[-3] // 2 - nz // 2, k.shape[-2] // 2 - ny // 2
    return k[..., z : z + nz, y : y + ny, :]


def error(got: Tensor, full: Tensor) -> float:
    return float((got - full).norm() / full.norm())


@pytest.mark.parametrize(("R", "limit"), [(2, 0.01), (3, 0.03), (4, 0.2)])
@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("ny", [96, 91])
def test_equispaced_lines_are_filled(R: int, limit: float, embedded: bool, ny: int) -> None:
    full = scene((1, ny, 80))
    mask = torch.zeros(1, ny, dtype=torch.bool)
    mask[:, 1::R] = True
    if embedded:
        mask[:, ny // 2 - 12 : ny // 2 + 12] = True
    kspace = full * mask[..., None]
    got = grappa(kspace, mask, middle(full, 1, 24), lam=1e-4, sigma=0.0)
    assert error(got, full) < min(limit, 0.5 * error(kspace, full))
    assert torch.equal(got[:, mask], full[:, mask])
    assert torch.equal(kspace, full * mask[..., None])


def test_the_default_regularisation_leaves_a_clean_scan_sharp() -> None:
    full = scene((1, 96, 80))
    mask = torch.zeros(1, 96, dtype=torch.bool)
    mask[:, ::3] = mask[:, 36:60] = True
    default = recipe.Recipe().solve
    given = full * mask[..., None], mask, middle(full, 1, 24)
    shown, strong = (
        error(grappa(*given, kernel=default.grappa_kernel, lam=lam, sigma=0.0), full)
        for lam in (default.grappa_l2, 0.02)
    )
    assert shown < 0.5 * strong


def test_few_calibration_lines_are_not_fitted_with_neighbours_that_span_most_of_them() -> None:
    """Weights of five neighbours, over 13 of 16 lines, fit those in the middle and predict the others badly."""
    full = scene((1, 96, 80))
    mask = torch.zeros(1, 96, dtype=torch.bool)
    mask[:, ::3] = mask[:, 40:56] = True
    sigma = float(ifft(full, (-2, -1)).abs().max()) / 300
    noise = torch.randn(full.shape, dtype=full.dtype, generator=torch.Generator().manual_seed(0))
    noisy = full + sigma * noise * 2**0.5
    given = noisy * mask[..., None], mask, middle(noisy, 1, 16)
    five, two = (float((grappa(*given, kernel=(1, n, 5), sigma=sigma) - full)[:, ~mask].norm()) for n in (5, 2))
    assert five < 1.1 * two


def test_the_function_and_the_recipe_have_one_default() -> None:
    default = inspect.signature(grappa).parameters
    solve = recipe.Recipe().solve
    assert (default["kernel"].default, default["lam"].default) == (solve.grappa_kernel, solve.grappa_l2)


@pytest.mark.parametrize(("coils", "R", "least"), [(2, 2, 3.0), (6, 2, 2.5), (6, 4, 6.0)])
@pytest.mark.parametrize("snr", [3, 10])
def test_weights_fitted_with_the_noise_amplify_it_less(coils: int, R: int, least: float, snr: float) -> None:
    """Two coils that hardly differ unfold little: weights of the bright centre would make noise of dim lines."""
    full = scene((1, 96, 80), coils)
    mask = torch.zeros(1, 96, dtype=torch.bool)
    mask[:, ::R] = mask[:, 36:60] = True
    sigma = float(ifft(full, (-2, -1)).abs().max()) / snr
    noisy = (
        full + sigma * torch.randn(full.shape, dtype=full.dtype, generator=torch.Generator().manual_seed(0)) * 2**0.5
    )
    given = noisy * mask[..., None], mask, middle(noisy, 1, 24)
    without, told = (grappa(*given, kernel=(1, 5, 5), lam=1e-3, sigma=s) for s in (0.0, sigma))
    filled = [float((k - full)[:, ~mask].norm()) for k in (without, told)]
    assert filled[1] < filled[0] * 10 ** (-least / 20)
    # Of a clean scan they are the same, and its unit does not matter.
    clean = full * mask[..., None], mask, middle(full, 1, 24)
    torch.testing.assert_close(grappa(*clean, lam=1e-3, sigma=1e-9 * sigma), grappa(*clean, lam=1e-3, sigma=0.0))
    big = grappa(*(1e3 * k if k.is_complex() else k for k in given), kernel=(1, 5, 5), lam=1e-3, sigma=1e3 * sigma)
    torch.testing.assert_close(big, 1e3 * told)


@pytest.mark.parametrize(("noise", "averages", "sigma"), [("auto", 1, 1.0), ("auto", 4, 0.5), ("none", 1, 0.0)])
def test_the_noise_of_a_scan_is_passed_on_if_it_is_known(
    noise: str, averages: int, sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = simulate(Settings((48, 48, 1), coils=2, acceleration=(2, 1), acs=16, sigma=0.02, averages=averages))
    told: list[float] = []
    monkeypatch.setattr(encoded, "grappa", lambda k, *_, sigma, **__: (told.append(sigma), k)[1])
    plan = recipe.parse({"solve": {"method": "grappa"}, "prepare": {"noise": noise}})
    pipeline.reconstruct(scan, plan, device="cpu")
    assert told == [sigma]


@pytest.mark.parametrize(("shift", "limit"), [(0, 0.1), (1, 0.05)])
def test_volumes_undersampled_along_two_axes_are_filled(shift: int, limit: float) -> None:
    full = scene((24, 32, 20), coils=8)
    mask = torch.zeros(24, 32, dtype=torch.bool)
    for z in range(0, 24, 2):
        mask[z, (z // 2 * shift) % 2 :: 2] = True
    mask[4:20, 8:24] = True
    got = grappa(full * mask[..., None], mask, middle(full, 16, 16), kernel=(2, 2, 3), lam=1e-4, sigma=0.0)
    assert error(got, full) < limit < 0.7 * error(full * mask[..., None], full)


def test_the_neighbours_of_some_lines_at_a_time_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    full, mask = scene((1, 64, 20), coils=3), torch.zeros(1, 64, dtype=torch.bool)
    mask[:, ::4] = mask[:, 24:40] = True
    given = full * mask[..., None], mask, middle(full, 1, 16)
    whole, gathered, predict = grappa(*given, sigma=0.0), [], module._predict

    def spied(kspace: Tensor, weights: Tensor, sources, z: Tensor, y: Tensor) -> Tensor:
        gathered.append(len(sources) * len(z) * kspace[:, 0, 0].nbytes)
        return predict(kspace, weights, sources, z, y)

    monkeypatch.setattr(module, "_predict", spied)
    monkeypatch.setattr(module, "GATHERED", 5_000)
    torch.testing.assert_close(grappa(*given, sigma=0.0), whole)
    assert 2_500 < max(gathered) <= 5_000 < sum(gathered)


def test_lines_missing_only_along_kz_are_filled() -> None:
    full = scene((32, 9, 20), coils=8)
    mask = torch.zeros(32, 9, dtype=torch.bool)
    mask[::2] = True
    got = grappa(full * mask[..., None], mask, middle(full, 20, 9), lam=1e-4, sigma=0.0)
    assert error(got, full) < 0.06 < 0.3 * error(full * mask[..., None], full)


def test_a_batch_is_its_items_and_strides_do_not_matter() -> None:
    full = torch.stack([scene((1, 32, 20)), 3 * scene((1, 32, 20)).conj()])
    mask = torch.zeros(1, 32, dtype=torch.bool)
    mask[:, ::2] = True
    kspace, block = full * mask[..., None], middle(full, 1, 16)
    got = grappa(kspace, mask, block, sigma=0.0)
    assert torch.equal(got[1], grappa(kspace[1], mask, block[1], sigma=0.0))
    turned = kspace.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(grappa(turned, mask, block, sigma=0.0), got)


def test_doubling_the_signal_doubles_the_answer() -> None:
    full = scene((1, 32, 20))
    mask = torch.zeros(1, 32, dtype=torch.bool)
    mask[:, ::2] = True
    one = grappa(full * mask[..., None], mask, middle(full, 1, 16), sigma=0.0)
    two = grappa(2 * full * mask[..., None], mask, 2 * middle(full, 1, 16), sigma=0.0)
    torch.testing.assert_close(two, 2 * one)


def test_the_part_that_a_partial_fourier_scan_leaves_out_stays_zero() -> None:
    full = scene((1, 64, 20))
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[:, 24::2] = True
    got = grappa(full * mask[..., None], mask, middle(full, 1, 16), sigma=0.0)
    assert not got[:, :, :22].any()
    assert got[:, :, 24:].abs().amin((0, 1, 3)).min() > 0


def test_uniform_sampling_needs_few_arrangements() -> None:
    mask = np.zeros((1, 256), bool)
    mask[:, ::4] = True
    found = neighbourhoods(mask, (1, 24), (3, 3))
    assert len(found) <= 10
    missing = np.concatenate(list(found.values()))
    assert sorted(map(tuple, missing)) == sorted(map(tuple, np.argwhere(~mask)))
    assert ((0, -1), (0, 3), (0, -5)) in found
    for sources, lines in found.items():
        for z, y in lines:
            assert all(mask[z + a, y + b] for a, b in sources)


def test_too_few_calibration_lines_and_random_sampling_are_refused_with_a_cure() -> None:
    full = scene((1, 32, 20))
    mask = torch.zeros(1, 32, dtype=torch.bool)
    mask[:, ::4] = True
    with pytest.raises(DataError, match=r"1 x 1 lines.*calibration lines.*sense"):
        grappa(full * mask[..., None], mask, middle(full, 1, 1), sigma=0.0)
    with pytest.raises(DataError, match=r"regular.*sense"):
        neighbourhoods(np.random.default_rng(0).random((64, 64)) < 0.25, (24, 24), (3, 3))


def test_nothing_missing_changes_nothing() -> None:
    full = scene((1, 16, 12))
    assert torch.equal(grappa(full, torch.ones(1, 16, dtype=torch.bool), middle(full, 1, 8), sigma=0.0), full)
