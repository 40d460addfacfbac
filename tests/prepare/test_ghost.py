"""The phase of forward against reversed echo-planar lines, found in analytic scans whose phase is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import j1

from recon import recipe
from recon.io.samples import in_memory
from recon.pipeline import reconstruct
from recon.prepare.ghost import LEAST, Residual, residual
from tests.prepare.test_epi import NY, scan

N = 80
#: Discs (amplitude, centre x and y, radius) as shares of the field of view; the first one fills most of it.
DISCS = ((1.0, 0.01, -0.02, 0.46), (-0.8, 0.1, 0.15, 0.12), (-0.5, -0.2, -0.1, 0.07), (0.6, 0.05, -0.25, 0.05))
SMALL = ((1.0, 0.02, 0.03, 0.17), (-0.5, 0.05, -0.03, 0.05))

Discs = tuple[tuple[float, float, float, float], ...]


def disc(kx: np.ndarray, ky: np.ndarray, discs: Discs) -> np.ndarray:
    """Continuous Fourier transform of discs at k in cycles per field of view."""
    out = np.zeros(np.broadcast_shapes(kx.shape, ky.shape), complex)
    for amplitude, x, y, radius in discs:
        k = np.maximum(np.hypot(kx, ky), 1e-9)
        out += amplitude * radius * j1(2 * np.pi * radius * k) / k * np.exp(-2j * np.pi * (kx * x + ky * y))
    return out


def lines(coils: int, snr: float, discs: Discs = DISCS, count: int = 24, seed: int = 0) -> np.ndarray:
    """Lines (coil, ky, x) around the centre of k-space, noise 1: discs times coils of five exponentials."""
    rng = np.random.default_rng((coils, seed))
    kx, ky = np.arange(N) - N // 2, np.arange(count)[:, None] - count // 2
    shifts = ((0.0, 0.0), (0.6, 0.0), (-0.6, 0.0), (0.0, 0.6), (0.0, -0.6))
    each = np.stack([disc(kx - a, ky - b, discs) for a, b in shifts])
    weights = rng.normal(size=(coils, 5)) + 1j * rng.normal(size=(coils, 5))
    k = np.tensordot(weights if coils > 1 else np.eye(1, 5), each, 1)
    x = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(k, axes=-1), axis=-1, norm="ortho"), axes=-1)
    # The first disc has amplitude 1 / N in the unitary image of all lines.
    x *= snr * N / np.abs(weights if coils > 1 else 1).mean()
    return np.asarray(x + rng.normal(size=x.shape) + 1j * rng.normal(size=x.shape))


def ghosted(y: np.ndarray, backward: np.ndarray, middle: float, quarter: float) -> np.ndarray:
    """Forward lines with half of a phase in degrees, reversed ones without it."""
    phase = np.deg2rad(middle + quarter * (np.arange(N) - N // 2) / (N / 4))
    return np.asarray(y * np.exp(1j * np.where(backward, -0.5, 0.5)[:, None] * phase))


def found(y: np.ndarray, backward: np.ndarray, near: bool = True) -> Residual:
    told = residual(y, backward, near=near)
    assert told is not None
    return told


def degrees(told: Residual) -> tuple[float, float]:
    return np.rad2deg(told.constant), np.rad2deg(told.slope) * N / 4


ALTERNATING = np.arange(24) % 2 == 1


@pytest.mark.parametrize("coils", [1, 2, 8])
@pytest.mark.parametrize("phase", [(3.0, -4.0), (-20.0, 12.0)])
def test_the_phase_of_forward_lines_is_found_to_a_degree(coils: int, phase: tuple[float, float]) -> None:
    told = found(ghosted(lines(coils, 60), ALTERNATING, *phase), ALTERNATING)
    assert told.clear
    assert np.abs(np.subtract(degrees(told), phase)).max() < 1


@pytest.mark.parametrize("coils", [1, 2, 8])
@pytest.mark.parametrize("snr", [5, 60, 1000])
def test_no_phase_is_found_where_there_is_none(coils: int, snr: float) -> None:
    for seed in range(3):
        told = found(lines(coils, snr, seed=seed), ALTERNATING)
        assert not told.clear
        assert np.abs(degrees(told)).max() < 1 or snr == 5


@pytest.mark.parametrize("discs", [DISCS, SMALL])
@pytest.mark.parametrize("coils", [2, 8])
def test_large_phases_are_found_without_navigators(coils: int, discs: Discs) -> None:
    phase = (-75.0, 80.0)
    told = found(ghosted(lines(coils, 60, discs), ALTERNATING, *phase), ALTERNATING, near=False)
    assert told.clear
    assert np.abs(np.subtract(degrees(told), phase)).max() < 2


def test_noise_hides_a_small_phase_and_causes_none() -> None:
    told = found(ghosted(lines(2, 1), ALTERNATING, 2, 0), ALTERNATING)
    assert not told.clear


def test_lines_may_be_reversed_in_pairs_as_two_shots_leave_them() -> None:
    pairs = np.arange(24) // 2 % 2 == 1
    told = found(ghosted(lines(2, 60), pairs, 8, -5), pairs)
    assert told.clear
    assert np.abs(np.subtract(degrees(told), (8, -5))).max() < 1


def test_few_lines_and_lines_of_one_direction_give_no_phase() -> None:
    y = lines(2, 60)
    assert residual(y[:, : LEAST - 1], ALTERNATING[: LEAST - 1], near=True) is None
    assert residual(y, np.zeros(24, bool), near=True) is None
    assert residual(0 * y, ALTERNATING, near=True) is None


@pytest.mark.parametrize("navigators", [0, 3])
@pytest.mark.parametrize("kept", [slice(None), slice(None, None, 2)])
def test_an_image_is_freed_of_what_navigators_leave_and_says_so(navigators: int, kept: slice) -> None:
    """Navigators of another phase than the lines, or none; all lines, or every second one of both directions."""
    ghostly, told = scan(1.0, (0.4, 0.4)), scan(0.0, (0.0, 0.0))
    samples = np.concatenate([told.samples.read(np.arange(3)), ghostly.samples.read(np.arange(3, 3 + NY))])
    inner = np.arange(NY // 2 - 8, NY // 2 + 8)
    pairs = np.flatnonzero(np.arange(NY) % 4 < 2)
    image = np.arange(NY) if kept.step is None else np.union1d(inner, pairs)
    rows = np.concatenate([np.arange(navigators), 3 + image])
    ghostly = replace(ghostly, lines=ghostly.lines[rows].copy(), samples=in_memory(samples[rows]))
    plans = [recipe.parse({"solve": {"method": "combine"}, "prepare": {"ghost": g}}) for g in ("auto", "navigators")]
    freed, left = (reconstruct(ghostly, p, device="cpu") for p in plans)
    assert any("a residual EPI ghost was corrected" in note for note in freed.notes)
    assert not any("a residual EPI ghost was corrected" in note for note in left.notes)
    if kept.step is None:
        apart = [
            np.roll(np.abs(x.data.squeeze()), NY // 2, axis=-2)[17:31].max() / np.abs(x.data).max()
            for x in (freed, left)
        ]
        assert apart[0] < 0.02 < 0.1 < apart[1]
