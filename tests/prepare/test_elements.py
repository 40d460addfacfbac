"""Detectors with elements that are dead, stuck or blind, against the same scans without a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

import recon
from recon.data import CTProjections, DataError
from recon.operators import Parallel
from recon.prepare import ct as prepare
from recon.prepare import elements
from recon.recipe import Recipe, Solve
from recon.simulation import ct_scan
from recon.simulation.ct_phantom import Ellipse, integrals

SCAN = ct_scan.Scan(2e5, views=240)
AT = 55


def dead(values: np.ndarray, flat: np.ndarray, at: int) -> None:
    # What the electronics make of no light at all.
    values[..., at] = 5 * np.random.default_rng(0).standard_normal(values.shape[:-1])


def stuck(values: np.ndarray, flat: np.ndarray, at: int) -> None:
    values[..., at] = flat[at]


def dim(values: np.ndarray, flat: np.ndarray, at: int) -> None:
    values[..., at] = 0.1 * flat[at]


def blind(values: np.ndarray, flat: np.ndarray, at: int) -> None:
    values[..., at], flat[at] = 0, 0


FAULTS: dict[str, Callable[[np.ndarray, np.ndarray, int], None]] = {
    "dead": dead, "stuck as in air": stuck, "stuck at one value": dim, "blind": blind,
}  # fmt: skip


def broken(scan: CTProjections, fault: str, *places: int) -> CTProjections:
    values, flat = scan.values.copy(), scan.air.copy()  # type: ignore[union-attr]
    for at in places:
        FAULTS[fault](values, flat, at)
    return replace(scan, values=values, air=flat)


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b)[b > -900].mean()))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("places", [(AT,), (AT, AT + 1), (AT, AT + 30)])
def test_an_image_has_no_rings_from_faulty_elements(fault: str, places: tuple[int, ...]) -> None:
    scan, truth = ct_scan.of_phantom(96, SCAN)
    clean, recipe = recon.reconstruct(scan, Recipe(solve=Solve(method="fbp"))), Recipe(solve=Solve(method="fbp"))
    image = recon.reconstruct(broken(scan, fault, *places), recipe)
    assert rmse(image.data, truth) < 1.15 * rmse(clean.data, truth)
    count = "1 detector element is" if len(places) == 1 else "2 detector elements are"
    assert any(n.startswith(f"{count} dead or stuck") for n in image.notes)
    assert image.trust["starved"] == clean.trust["starved"]


@pytest.mark.parametrize("fault", FAULTS)
def test_rays_of_a_faulty_element_weigh_nothing_and_others_are_as_they_were(fault: str) -> None:
    scan, _ = ct_scan.of_phantom(96, SCAN)
    whole, mended = (prepare.projected(s, 0, 1) for s in (scan, broken(scan, fault, AT)))
    others = torch.arange(whole.p.shape[-1]) != AT
    assert torch.equal(whole.p[..., others], mended.p[..., others])
    assert torch.equal(whole.weights[..., others], mended.weights[..., others])
    assert not mended.weights[..., AT].any()
    assert torch.allclose(mended.p[..., AT], (whole.p[..., AT - 1] + whole.p[..., AT + 1]) / 2)


def test_line_integrals_without_counts_are_mended_too() -> None:
    scan, _ = ct_scan.of_phantom(96, SCAN)
    p = prepare.projected(scan, 0, 1).p.numpy()
    bare = replace(scan, values=p, kind="line integrals", air=None)
    assert prepare.projected(bare, 0, 1).notes == ()
    values = p.copy()
    values[..., AT] = 7.0
    mended = prepare.projected(replace(bare, values=values), 0, 1)
    assert "1 detector element is dead" in mended.notes[0]
    assert float((mended.p - torch.from_numpy(p))[..., AT].abs().mean()) < 0.1
    assert not mended.weights[..., AT].any()
    assert bool(mended.weights[..., AT + 1].all())


@pytest.mark.parametrize("beam", ["parallel", "flat", "curved"])
@pytest.mark.parametrize("photons", [2e3, 2e4, 1e7])
@pytest.mark.parametrize("views", [9, 36, 240])
def test_good_detectors_are_not_changed(beam: str, photons: float, views: int) -> None:
    scan, _ = ct_scan.of_phantom(96, ct_scan.Scan(photons, beam=beam, views=views))  # type: ignore[arg-type]
    assert not any("detector element" in n for n in prepare.projected(scan, 0, 1).notes)


@pytest.mark.parametrize("pins", [(), (20,), (20, 60), (0, 11, 23, 41, 59, 70)])
def test_round_bodies_and_pins_of_metal_are_no_faults(pins: tuple[int, ...]) -> None:
    """All views of a round body are alike, and a pin on the axis is seen by a single element."""
    body = (Ellipse(0, 0, 80, 80, 0, 1000), *(Ellipse(r, 0, 1.0, 1.0, 0, 30000) for r in pins))
    g = Parallel(torch.arange(360, dtype=torch.float64) * (np.pi / 360), 200, 1.0, 0.25)
    p = integrals(body, g)[None]
    assert not elements.faulty(p, p > 9).any()


def test_more_faults_than_may_be_filled_in_are_reported() -> None:
    scan, _ = ct_scan.of_phantom(96, SCAN)
    many = tuple(range(40, 80, 5))
    notes = prepare.projected(broken(scan, "stuck as in air", *many), 0, 1).notes
    assert any(n == "8 detector elements are dead or stuck, too many to fill in: rings in the image are artefacts"
               for n in notes)  # fmt: skip
    with pytest.raises(DataError, match="8 of 126 elements have no counts in air"):
        prepare.projected(broken(scan, "blind", *many), 0, 1)
