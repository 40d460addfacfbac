"""Samples at the limit of a receiver, of k-space that numpy makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon import pipeline
from recon.data import RawScan
from recon.io.arrays import scan_from_array
from recon.prepare.clipped import clipped
from recon.simulation import simulate
from tests.command import SMALL


def scan(top: float, *, channel: int = 1, bits: int = 0, seed: int = 0) -> RawScan:
    """A disc seen by three coils, one of which holds no more than a share `top` of its largest sample."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(64) - 32, np.arange(60) - 30, indexing="ij")
    image = ((y**2 + (1.2 * x) ** 2) < 400) * np.exp(1j * (x + 2 * y) / 40)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image))) * np.array([1, 0.8j, 0.6 - 0.2j])[:, None, None]
    k = k + rng.normal(size=k.shape) + 1j * rng.normal(size=k.shape)
    largest = max(np.abs(k[channel].real).max(), np.abs(k[channel].imag).max())
    limit = top * largest
    k[channel] = np.clip(k[channel].real, -limit, limit) + 1j * np.clip(k[channel].imag, -limit, limit)
    if bits:
        step = largest / 2 ** (bits - 1)
        k = np.round(k / step)
    return scan_from_array(k.astype(np.complex64), "coil,y,x")


def test_a_clipped_channel_is_named_for_every_method() -> None:
    given = scan(0.3)
    (sentence,) = clipped(given)
    assert sentence.startswith("warning: 1 channel is clipped (1): ")
    assert sentence in pipeline.reconstruct(given, device="cpu").notes


@pytest.mark.parametrize("seed", range(20))
def test_a_whole_recording_is_not_called_clipped(seed: int) -> None:
    assert clipped(scan(1.0, seed=seed)) == ()


@pytest.mark.parametrize("bits", [4, 6, 8, 12, 16])
def test_few_bits_are_no_limit(bits: int) -> None:
    assert clipped(scan(1.0, bits=bits)) == ()
    noise = np.random.default_rng(bits).normal(size=(2, 2, 64, 64))
    k = np.round(noise[0] * 2 ** (bits - 3)) + 1j * np.round(noise[1] * 2 ** (bits - 3))
    assert clipped(scan_from_array(k.astype(np.complex64), "coil,y,x")) == ()


def test_a_clipped_recording_of_few_bits_is_seen() -> None:
    assert "1 channel is clipped (1)" in clipped(scan(0.3, bits=12))[0]


def test_a_simulated_scan_with_its_noise_lines_is_whole() -> None:
    given = simulate(SMALL)
    assert clipped(given) == ()
    assert clipped(replace(given, lines=given.lines.copy())) == ()
