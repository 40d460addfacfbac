"""What the benchmark of CT denoisers measures, against what is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from recon.accuracy import ct


def test_a_quarter_of_the_dose_doubles_the_noise() -> None:
    water = np.full((1, 96, 96), -1000, np.float32)
    y, x = np.mgrid[:96, :96] - 47.5
    water[0][np.hypot(x, y) < 40] = 0
    inside = np.hypot(x, y) < 30
    full, quarter = ((ct.low_dose(water, 2.0, dose, 1) - water)[0][inside].std() for dose in (1.0, 0.25))
    assert quarter / full == pytest.approx(2.0, rel=0.1)


def test_an_observer_sees_stronger_discs_better_and_white_noise_nearly_as_well_as_can_be() -> None:
    absent, present, places = ct.phantom()
    signal = present - absent
    draw = np.random.default_rng(0)
    found = {}
    for contrast in (1.0, 2.0):
        a, p = (base + 40 * draw.standard_normal((12, *base.shape[1:])) for base in (0 * signal, contrast * signal))
        found[contrast] = ct.detectability(a.astype(np.float32), p.astype(np.float32), places)
    cy, cx = places[0]
    one = signal[0, cy - 16 : cy + 16, cx - 16 : cx + 16]
    ideal = float(np.sqrt((one**2).sum()) / 40)
    assert 0.75 * ideal < found[1.0] < 1.15 * ideal
    assert found[2.0] == pytest.approx(2 * found[1.0], rel=0.15)


def test_a_blurred_edge_is_wider_and_blurred_noise_lower_in_frequency() -> None:
    clean, _, _ = ct.phantom()
    noisy = clean + 10 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    soft = gaussian_filter(noisy, (0, 1.5, 1.5))
    assert ct.resolution(soft) > ct.resolution(noisy) + 1
    (s1, f1), (s2, f2) = ct.noise_frequency(noisy, clean), ct.noise_frequency(soft, clean)
    assert s1 == pytest.approx(10, rel=0.05)
    assert s2 < 3
    assert f2 < f1 / 2


def test_records_of_every_method_are_written(tmp_path: Path) -> None:
    records = [{"scan": "a", "method": "noisy", "psnr": 30.0}, {"scan": "phantom", "detectability": 2.0}]
    ct.write(records, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "ct.json").read_text()) == records
    assert (tmp_path / "out" / "ct.csv").read_text().splitlines()[0] == "scan,method,psnr,detectability"
