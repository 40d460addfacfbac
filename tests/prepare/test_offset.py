"""A constant that the receiver adds to all samples is found and subtracted, and not found where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon import recipe, reconstruct
from recon.operators import fft
from recon.prepare.hybrid import Slab
from recon.prepare.noise import whitener
from recon.prepare.offset import offset, subtract
from recon.prepare.readout import to_hybrid
from recon.simulation import Receiver, preset, simulate
from recon.simulation import scan as simulated
from tests.prepare.noisy import ellipses, white


def slab(k: Tensor, lines: Tensor | None = None, columns: Tensor | None = None) -> Slab:
    """K-space (ky, coil, kx) as the slab that the lines and columns that were acquired make."""
    lines = torch.ones(len(k), dtype=torch.bool) if lines is None else lines
    columns = torch.ones(k.shape[-1], dtype=torch.bool) if columns is None else columns
    y = (k * columns).transpose(0, 1) * lines[:, None]
    return Slab(to_hybrid(y, k.shape[-1])[:, None].contiguous(), lines[None].int(), columns)


def body(coils: int, snr: float = 30.0) -> Tensor:
    torch.manual_seed(0)
    return ellipses(160, 192, coils) * snr + white(160, coils, 192)


def constant(coils: int, size: float) -> Tensor:
    """The offset of each channel (coil, 1), `size` times the noise per real and imaginary part."""
    return torch.polar(torch.full((coils,), size * 2**0.5), 2.4 * torch.arange(coils) + 1)[:, None]


def every(n: int, ny: int = 160) -> Tensor:
    lines = torch.zeros(ny, dtype=torch.bool)
    lines[::n] = lines[ny // 2 - 10 : ny // 2 + 10] = True
    return lines


@pytest.mark.parametrize("coils", [1, 2, 8])
@pytest.mark.parametrize("R", [1, 3])
@pytest.mark.parametrize("size", [0.3, 3.0])
def test_the_constant_is_found_within_a_few_standard_errors(coils: int, R: int, size: float) -> None:
    added = constant(coils, size)
    found = offset(slab(body(coils) + added, every(R)))
    assert found is not None
    assert found.size == pytest.approx(size, rel=0.1)
    assert float((found.constant - added[:, 0]).abs().max()) < 6 * 2**0.5 / (160 / R / 2 * 192) ** 0.5


@pytest.mark.parametrize("missing", [0, 40])
def test_what_is_left_is_the_slab_without_it_and_what_was_not_measured_stays_empty(missing: int) -> None:
    columns = torch.arange(192) >= missing
    clean = slab(body(4), every(2), columns)
    dirty = slab(body(4) + constant(4, 0.5), every(2), columns)
    found = offset(dirty)
    assert found is not None
    subtract(dirty, found)
    assert not dirty.y[:, 0, ~every(2)].any()
    assert float((dirty.y - clean.y).abs().max()) < 0.8
    assert float((slab(body(4) + constant(4, 0.5), every(2), columns).y - clean.y).abs().max()) > 5


@pytest.mark.parametrize("coils", [1, 2, 8])
@pytest.mark.parametrize("R", [1, 3])
@pytest.mark.parametrize("snr", [3.0, 30.0, 1000.0])
def test_scans_without_a_constant_show_no_constant(coils: int, R: int, snr: float) -> None:
    for shift in range(8):
        ramp = torch.exp(2j * torch.pi * (torch.arange(160)[:, None, None] * 5 + torch.arange(192) * 7) * shift / 160)
        assert offset(slab(body(coils, snr) * ramp, every(R))) is None


def test_pure_noise_shows_no_constant() -> None:
    torch.manual_seed(1)
    assert all(offset(slab(white(64, coils, 96))) is None for coils in (1, 2, 8) for _ in range(30))


def test_a_bright_point_of_the_object_in_the_middle_voxel_stays() -> None:
    """Its weights in the channels are those of the tissue around it."""
    k = body(8)
    x = to_hybrid(to_hybrid(k.movedim(0, -1), 160).movedim(-1, 0), 192)
    point = torch.zeros_like(x)
    point[80, :, 96] = x[78:83, :, 94:99].mean((0, 2)) * 2
    assert offset(slab(k + fft(point, (0, 2)))) is None


def test_a_narrow_rod_through_the_middle_of_one_channels_image_stays() -> None:
    y, x = torch.arange(160)[:, None] - 80, torch.arange(192) - 96
    for width in (0.7, 1.5, 3.0):
        rod = torch.exp(-(y**2 + x**2) / width**2 / 2).to(torch.complex64)[:, None] * 2000
        assert offset(slab(body(1) + fft(rod, (0, 2)))) is None


def disc(radius: float) -> Tensor:
    """K-space (ky, 1, kx) of a disc of a radius in voxels in the middle of 160 × 192: 2π r² J₁(2πrk) / (2πrk)."""
    ky, kx = (torch.arange(160)[:, None] - 80) / 160, (torch.arange(192) - 96) / 192
    a = 2 * torch.pi * radius * (ky**2 + kx**2).sqrt().double()
    ratio = torch.where(a > 0, torch.special.bessel_j1(a) / a.clamp_min(1e-9), 0.5)
    return (2 * torch.pi * radius**2 * ratio).to(torch.complex64)[:, None]


@pytest.mark.parametrize("radius", [1.5, 2.0, 2.5, 3.0])
def test_a_tube_exactly_in_the_middle_stays_however_bright_or_dark(radius: float) -> None:
    """Its transform swings about as much above as below what it is on average in the outer lines."""
    torch.manual_seed(3)
    for inside in (2.0, -0.8):
        k = (disc(60) + inside * disc(radius)) * 12 + white(160, 1, 192)
        assert offset(slab(k)) is None


def test_a_row_of_dots_through_the_middle_stays() -> None:
    turns = torch.arange(-2, 3)[:, None] * 8 * torch.arange(160) / 160
    dots = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).sum(0)[:, None, None] * torch.ones(192)
    for coils in (1, 8):
        assert offset(slab(body(coils) + 3 * dots * constant(coils, 1.0))) is None


def test_sparks_hide_no_constant() -> None:
    k = body(8) + constant(8, 1.0)
    for line, sample in ((20, 50), (50, 150), (120, 30)):
        k[line, :, sample] += 3000
    assert offset(slab(k)) is not None


@pytest.mark.parametrize("method", ["sense", "cs"])
@pytest.mark.parametrize("noise_lines", [0, 16])
def test_an_image_is_that_of_the_scan_without_it_and_says_so(method: str, noise_lines: int) -> None:
    settings = replace(preset(matrix=96, coils=4, accel=2, seed=3), noise_lines=noise_lines)
    plan = recipe.parse({"solve": {"method": method}})
    keep = recipe.parse({"solve": {"method": method}, "prepare": {"offset": "keep"}})
    clean, shown = (reconstruct(simulate(settings), p, device="cpu") for p in (plan, keep))
    np.testing.assert_array_equal(clean.data, shown.data)
    assert not any("constant" in note for note in clean.notes)
    dirty = simulate(replace(settings, receiver=Receiver(offset=0.5)))
    mended, dotted = (reconstruct(dirty, p, device="cpu") for p in (plan, keep))
    assert any("added a constant (DC offset) to all samples" in note for note in mended.notes)
    assert any("noise lines hold a constant in coils 0, 1, 2, 3" in note for note in mended.notes) == bool(noise_lines)
    worst = [float(np.abs(np.abs(x.data) - np.abs(clean.data)).max()) for x in (mended, dotted)]
    assert worst[0] < 8
    assert worst[1] > 50


def test_a_bright_point_in_the_middle_stays_where_noise_lines_hold_no_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point in the middle voxel is a constant on the imaging lines alone."""
    noise_scan = simulated._noise_scan
    faultless = Receiver()
    monkeypatch.setattr(
        simulated, "_noise_scan", lambda s, *rest, **more: noise_scan(replace(s, receiver=faultless), *rest, **more)
    )
    settings = preset(coils=1, matrix=96, slices=1, noise=0.02, seed=3)
    scan = simulate(replace(settings, noise_lines=16, receiver=Receiver(offset=2.0)))
    found, kept = (
        reconstruct(scan, recipe.parse({"solve": {"method": "combine"}, "prepare": {"offset": o}})).data
        for o in ("auto", "keep")
    )
    np.testing.assert_array_equal(found, kept)


def test_noise_lines_say_whether_there_is_a_constant_if_they_are_enough() -> None:
    noise = white(16, 2, 512).movedim(1, 0).flatten(1)
    assert whitener(noise).offset is False
    assert whitener(noise + constant(2, 0.3)).offset is True
    assert whitener(noise[:, :500]).offset is None
