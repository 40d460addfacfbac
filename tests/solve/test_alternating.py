"""The ACS lines alone show whether every second line has another phase or another start of its readout."""

from __future__ import annotations

import cmath
import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from recon.data import Measurement
from recon.operators.sense import Sense
from recon.recipe import Trust
from recon.simulation import preset, simulate_to
from recon.solve import alternating
from tests.command import recon
from tests.solve.test_rows import measured, scan


def uneven(m: Measurement, degrees: float, samples: float) -> Measurement:
    """Every second row of k-space with another phase, its readout later by the shift theorem."""
    nx = m.y.shape[-1]
    angle = math.radians(degrees) + 2 * math.pi * samples * (torch.arange(nx) - nx // 2) / nx
    second = torch.arange(m.y.shape[-2]) % 2 == 1
    return replace(m, y=torch.where(second[:, None], m.y * torch.exp(1j * angle).to(m.y.dtype), m.y))


def told(m: Measurement) -> alternating.Alternating:
    found = alternating.compared(m)[0]
    assert found is not None
    return found


def volume(coils: int, sigma: float = 0.05) -> Measurement:
    """A ball seen by smooth coils, R = 2 × 2 with 12 × 16 phase encodes in the middle; numpy's transform makes it."""
    nz, ny, nx = 24, 40, 36
    z, y, x = np.meshgrid(*(np.arange(n) - n // 2 for n in (nz, ny, nx)), indexing="ij")
    ball = ((z / 9) ** 2 + (y / 15) ** 2 + (x / 13) ** 2 < 1) * (1 + 0.5 * (y > 4)) * np.exp(1j * (0.4 + 0.05 * x))
    at = 2 * np.pi * np.arange(coils) / coils
    maps = np.stack([np.exp(-((y / 30 - np.cos(a)) ** 2) - (x / 30 - np.sin(a)) ** 2 + 1j * (a + z / 20)) for a in at])
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * ball, axes=(1, 2)), axes=(1, 2), norm="ortho"), axes=(1, 2))
    g = np.random.default_rng(0)
    k = k + sigma * (g.standard_normal(k.shape) + 1j * g.standard_normal(k.shape))
    mask = np.zeros((nz, ny, 1), np.float32)
    mask[::2, ::2] = 1
    mask[nz // 2 - 6 : nz // 2 + 6, ny // 2 - 8 : ny // 2 + 8] = 1
    as_torch = [torch.from_numpy(a.astype(np.complex64)) for a in (k * mask, maps)]
    return Measurement(as_torch[0], Sense(as_torch[1], torch.from_numpy(mask), (-3, -2)), sigma)


@pytest.mark.parametrize(("coils", "kind"), [(8, "equispaced"), (4, "random"), (1, "random")])
def test_lines_of_a_good_scan_agree(coils: int, kind: str) -> None:
    good = told(measured(scan(coils, kind)))
    # One channel has no second view of a phase that the object itself makes.
    assert abs(good.degrees) < (2 if coils > 1 else 10)
    assert good.samples == 0
    assert not good.beyond(Trust().alternating, Trust().uneven)


@pytest.mark.parametrize("degrees", [12, -12, 40])
@pytest.mark.parametrize("coils", [1, 4, 8])
def test_a_phase_of_every_second_line_is_found_with_its_sign(coils: int, degrees: float) -> None:
    m = measured(scan(coils, "random" if coils == 1 else "equispaced"))
    plain, first, other = (told(uneven(m, d, 0)).degrees for d in (0, degrees, -degrees))
    # Of several coils the kernel takes up a part of it.
    least = 0.35 if coils > 1 else 0.9
    assert least * abs(degrees) < abs(first - plain) < 1.1 * abs(degrees)
    assert first - plain == pytest.approx(plain - other, abs=2)
    for d in (degrees, -degrees):
        # The object's own phase of one channel hides 12°.
        beyond = told(uneven(m, d, 0)).beyond(Trust().alternating, Trust().uneven)
        assert beyond or (coils == 1 and abs(degrees) < 20)


def test_a_phase_that_may_be_the_objects_own_is_no_fault() -> None:
    assert alternating.Alternating(12, 0, 11).beyond(5, 0.2)
    assert not alternating.Alternating(-11, 0, 12).beyond(5, 0.2)
    assert alternating.Alternating(-5.1, 0, 0).beyond(5, 0.2)
    assert not alternating.Alternating(4.9, 0.2, 0).beyond(5, 0.2)
    assert alternating.Alternating(0, -0.25, 30).beyond(5, 0.2)


def test_two_channels_that_hardly_differ_are_as_one() -> None:
    """The object's own phase, which one channel shows, is shown by two copies of it and is no fault of theirs."""
    m = measured(scan(1, "random"))
    A = m.A
    assert isinstance(A, Sense)
    twice = Measurement(m.y.expand(2, -1, -1, -1), Sense(A.maps.expand(2, -1, -1, -1), A.mask, A.axes), m.sigma)
    assert told(twice).scatter == pytest.approx(0.6 * told(m).scatter, rel=0.05)


@pytest.mark.parametrize("coils", [1, 8])
def test_a_readout_of_every_second_line_that_starts_late_is_found(coils: int) -> None:
    found = told(uneven(measured(scan(coils, "random" if coils == 1 else "equispaced")), 0, 0.5))
    assert Trust().uneven < abs(found.samples) <= 0.6


@pytest.mark.parametrize("coils", [1, 4])
def test_volumes_are_looked_at_in_the_block_of_both_phase_encodes(coils: int) -> None:
    m = volume(coils)
    assert abs(told(m).degrees) < 1.5
    assert told(m).samples == 0
    assert abs(told(uneven(m, 20, 0)).degrees) > 8
    assert abs(told(uneven(m, 0, 0.5)).samples) > Trust().uneven


def test_items_of_a_batch_are_tested_one_by_one_at_any_scale() -> None:
    m = measured(scan(4))
    odd = uneven(m, 20, 0)
    A = m.A
    assert isinstance(A, Sense)
    both = Measurement(torch.stack([m.y, odd.y]), Sense(torch.stack([A.maps] * 2), A.mask, A.axes), m.sigma)
    assert alternating.compared(both) == [told(m), told(odd)]
    large = told(replace(odd, y=1e3 * odd.y, sigma=1e3 * odd.sigma))
    assert large.degrees == pytest.approx(told(odd).degrees, abs=0.01)


def test_cases_without_a_decision_give_none() -> None:
    m = measured(scan(4))
    A = m.A
    assert isinstance(A, Sense)
    thin = torch.zeros_like(A.mask)
    thin[..., ::3, :] = 1
    assert alternating.compared(replace(m, A=Sense(A.maps, thin, A.axes))) == [None]
    assert alternating.compared(replace(m, y=0 * m.y)) == [None]
    assert alternating.compared(replace(m, y=m.y * math.nan)) == [None]


def test_a_scan_with_such_lines_falls_back_and_says_why(tmp_path: Path) -> None:
    file, report = tmp_path / "scan.h5", tmp_path / "trust.json"
    simulate_to(file, preset(coils=4, matrix=96, accel=2))
    arguments = ("run", file, "--method", "unrolled", "--weights", "mri-small", "--trust", report)
    good = recon(*arguments, "-o", tmp_path / "a.nii.gz")
    assert good.code == 0, good.err
    assert json.loads(report.read_text())["trust"]["fallbacks"] == 0
    with h5py.File(file, "r+") as stored:
        data = stored["dataset/data"]
        for n in range(len(data)):
            row = data[n]
            if row["head"]["idx"]["kspace_encode_step_1"] % 2 and not row["head"]["flags"] & (1 << 18):
                turned = row["data"].view(np.complex64) * np.complex64(cmath.exp(0.35j))
                row["data"] = turned.view(np.float32)
                data[n] = row
    bad = recon(*arguments, "-o", tmp_path / "b.nii.gz")
    assert bad.code == 0, bad.err
    assert "every second line of the ACS block differs" in bad.err
    assert json.loads(report.read_text())["trust"]["fallbacks"] == 1
