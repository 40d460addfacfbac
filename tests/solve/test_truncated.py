"""Bodies that reach beyond the detector, against the same bodies seen whole."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import recon
from recon.data import CTProjections
from recon.hounsfield import WATER
from recon.operators import Fan, Parallel, Xray
from recon.recipe import Recipe, Solve
from recon.simulation import ct_scan
from recon.simulation.ct_phantom import Ellipse, integrals
from recon.solve import truncated

SIZE = 96
VOXEL = 380 / SIZE
WHOLE = {
    "parallel": ct_scan.Scan(1e7, beam="parallel", views=240),
    "curved": ct_scan.Scan(1e7, views=300),
    "flat, short": ct_scan.Scan(1e7, beam="flat", views=240, arc=235),
}


def narrow(scan: CTProjections, share: float) -> CTProjections:
    """The middle of the detector alone."""
    n = scan.values.shape[-1]
    k = round(n * (1 - share) / 2)
    return replace(scan, values=scan.values[..., k : n - k].copy(), air=scan.air[k : n - k])  # type: ignore[index]


def off(hu: np.ndarray, truth: np.ndarray, radius: float) -> float:
    """Mean error in HU of soft tissue up to `radius` mm from the axis, away from edges."""
    at = (np.arange(SIZE) - (SIZE - 1) / 2) * VOXEL
    near = np.hypot(at[:, None], at) < radius
    even = np.ptp(np.stack([np.roll(truth, s, (0, 1)) for s in ((0, 2), (0, -2), (2, 0), (-2, 0))]), axis=0) < 40
    return float((hu - truth)[near & even & (truth > -100) & (truth < 150)].mean())


@pytest.mark.parametrize("beam", WHOLE)
@pytest.mark.parametrize("method", ["fbp", "cgls", "sirt"])
def test_soft_tissue_keeps_its_hounsfield_units_where_the_detector_is_too_narrow(beam: str, method: str) -> None:
    scan, truth = ct_scan.of_phantom(SIZE, WHOLE[beam])
    recipe = Recipe(solve=Solve(method=method, iterations=15 if method == "sirt" else 0))  # type: ignore[arg-type]
    image = recon.reconstruct(narrow(scan, 0.6), recipe)
    assert abs(off(image.data[0], truth[0], 90)) < 30
    assert any("extends beyond the detector" in n for n in image.notes)
    assert image.trust["truncated"] > 0.5
    whole = recon.reconstruct(scan, Recipe(solve=Solve(method="fbp")))
    assert whole.trust["truncated"] == 0
    assert not any("extends beyond" in n for n in whole.notes)


@pytest.mark.parametrize("method", ["cgls", "tv"])
def test_iterations_use_a_grid_that_includes_what_lies_outside_the_image(method: str) -> None:
    scan, truth = ct_scan.of_phantom(SIZE, WHOLE["curved"])
    n = 56
    small = replace(narrow(scan, 0.6), matrix=(n, n))
    recipe = Recipe(solve=Solve(method=method, iterations=30 if method == "tv" else 0))  # type: ignore[arg-type]
    image = recon.reconstruct(small, recipe)
    assert image.data.shape == (1, n, n)
    k = (SIZE - n) // 2
    hu = np.full_like(truth[0], 1e9)
    hu[k : k + n, k : k + n] = image.data[0]
    assert abs(off(hu, truth[0], 90)) < 40


@pytest.mark.parametrize("shift", [0.0, 15.0])
def test_a_cylinder_of_water_is_continued_as_what_it_is(shift: float) -> None:
    cylinder = (Ellipse(shift, 10, 120, 120, 0, 1000),)
    angles = torch.arange(60, dtype=torch.float64) * (math.pi / 60)
    g = Parallel(angles, 160, 1.0, 0.3)
    p, wide = integrals(cylinder, g), integrals(cylinder, replace(g, detectors=320))
    found, (before, after) = truncated.continued(p, Xray(g, (64, 64), 4.0), WATER)
    assert before > 20 < after
    assert torch.equal(found[..., before : before + 160], p)
    near = 15
    for ours, theirs in ((found[..., before - near : before], wide[..., 80 - near : 80]),
                         (found[..., before + 160 : before + 160 + near], wide[..., 240 : 240 + near])):  # fmt: skip
        assert float((ours - theirs).abs().max()) < 0.12
        assert float((ours - theirs).abs().mean()) < 0.03


def test_what_ends_in_air_and_the_near_end_of_a_shifted_detector_stay_as_they_are() -> None:
    small = (Ellipse(5, -5, 60, 50, 0.3, 1000),)
    angles = torch.arange(60, dtype=torch.float64) * (2 * math.pi / 60)
    whole = Fan(angles, 200, 1.4, 400.0, 200.0)
    shifted = replace(whole, detectors=110, offset=50.0)
    for g in (whole, shifted):
        p, A = integrals(small, g), Xray(g, (64, 64), 3.0)
        assert truncated.cut(p, A) == 0
        same, beyond = truncated.continued(p, A, WATER)
        assert same is p
        assert beyond == (0, 0)
    # The other way round the end that should see air sees the body.
    p = integrals(small, replace(shifted, offset=-20.0, detectors=60))
    assert truncated.cut(p, Xray(replace(shifted, offset=-20.0, detectors=60), (64, 64), 3.0)) > 0.9
