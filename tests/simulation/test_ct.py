"""The physics of low dose against what Poisson and the definitions say."""

from __future__ import annotations

import math

import pytest
import torch

from recon.data import DataError
from recon.operators import Fan, Parallel
from recon.simulation import ct, ct_phantom
from recon.simulation.ct import Beam
from tests.operators import rays

ANGLES = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24)
GEOMETRIES = {
    "parallel": Parallel(ANGLES, 200, 2.1, 0.7),
    "flat": Fan(ANGLES, 200, 4.0, 500.0, 400.0, False, -0.9),
    "curved": Fan(ANGLES, 200, 4.0, 500.0, 400.0, True, 1.1),
}


def random(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_phantoms_line_integrals_are_those_of_rays_through_ellipses(name: str) -> None:
    same = [rays.Ellipse(e.x, e.y, e.a, e.b, e.turn, e.value) for e in ct_phantom.BODY]
    expected = rays.integrals(same, GEOMETRIES[name])
    assert torch.allclose(ct_phantom.integrals(ct_phantom.BODY, GEOMETRIES[name]), expected, rtol=0, atol=1e-10)
    assert float(expected.max()) > 4


def test_the_picture_shows_the_ellipses_in_hu() -> None:
    x = ct_phantom.picture(ct_phantom.BODY, 190, 2.0)
    at = {(0, 0): 50, (-80, -10): -780, (0, -38): 60, (-12, 18): 70, (20, 8): 60, (0, 180): -1000, (0, 62): 200}
    for (mm_x, mm_y), hu in at.items():
        assert float(x[round(mm_y / 2 + 94.5), round(mm_x / 2 + 94.5)]) == pytest.approx(hu, abs=1e-9)


def test_counts_have_poissons_mean_and_variance_and_the_electronics_noise() -> None:
    p = torch.full((400, 500), 2.0)
    air = torch.full((500,), 1000.0)
    n = 1000 * math.exp(-2)
    counts = ct.measured(p, air, 6.0, random())
    assert float(counts.mean()) == pytest.approx(n, rel=1e-3)
    assert float(counts.var()) == pytest.approx(n + 36, rel=0.01)
    assert torch.equal(counts, ct.measured(p, air, 6.0, random()))
    assert not torch.equal(counts, ct.measured(p, air, 6.0, random(4)))


def test_the_variance_of_line_integrals_is_the_predicted_one() -> None:
    p, air = torch.full((400, 500), 1.5, dtype=torch.float64), torch.full((500,), 2e4)
    found = ct.line_integrals(ct.measured(p, air, 30.0, random()), air)
    assert float(found.mean()) == pytest.approx(1.5, abs=1e-3)
    assert float(found.var()) == pytest.approx(float(ct.variance(p, air, 30.0)[0, 0]), rel=0.01)


@pytest.mark.parametrize("dose", [0.05, 0.25, 0.5])
@pytest.mark.parametrize("electronic", [0.0, 20.0])
def test_a_lower_dose_has_the_noise_of_a_scan_with_fewer_photons(dose: float, electronic: float) -> None:
    p, air = torch.full((400, 500), 1.0, dtype=torch.float64), torch.full((500,), 5e4)
    full = ct.line_integrals(ct.measured(p, air, electronic, random(1)), air)
    low = ct.at_dose(full, air, dose, electronic, random(2))
    true = ct.line_integrals(ct.measured(p, dose * air, electronic, random(3)), dose * air)
    assert float(low.std()) == pytest.approx(float(true.std()), rel=0.015)
    assert float(low.mean()) == pytest.approx(1.0, abs=3e-3)
    assert torch.equal(ct.at_dose(full, air, 1.0, electronic, random(2)), full)


def test_starved_rays_end_at_the_largest_value_that_can_be_measured() -> None:
    p, air = torch.full((50, 60), 20.0), torch.full((60,), 1e4)
    counts = ct.measured(p, air, 2.0, random())
    assert (counts < 0).any()
    found = ct.line_integrals(counts, air)
    assert found.isfinite().all()
    assert float(found.max()) == pytest.approx(math.log(1e4 / ct.FLOOR), rel=1e-6)


def test_a_full_bow_tie_makes_a_cylinder_of_water_equally_bright() -> None:
    beam = Beam(1e5, bow_tie=1.0, radius=120.0)
    g = Parallel(ANGLES[:1], 301, 0.8)
    cylinder = ct_phantom.Ellipse(0, 0, 120, 120, 0, 1000)
    behind = ct.air(beam, g.places) * (-ct_phantom.integrals([cylinder], g)[0]).exp()
    assert float(behind.max() / behind.min()) == pytest.approx(1, abs=1e-9)
    assert float(ct.air(Beam(1e5), g.places).min()) == 1e5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Beam(0), "0 photons are not possible"),
        (lambda: Beam(-5), "-5 photons"),
        (lambda: Beam(math.nan), "photons"),
        (lambda: Beam(1, electronic=-1), "electronic noise"),
        (lambda: Beam(1, bow_tie=2), "bow-tie"),
        (lambda: ct.at_dose(torch.zeros(2, 2), torch.ones(2), 0.0), "share of 0"),
        (lambda: ct.at_dose(torch.zeros(2, 2), torch.ones(2), 1.5), "share of 1.5"),
    ],
)
def test_what_makes_no_scan_is_refused(make, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()
