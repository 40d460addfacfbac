"""A network's image that changes with the object's phase is told from one that does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recon import pipeline
from recon import recipe as recipes
from recon.data import Measurement
from recon.nets import rephased, unrolled, weights
from recon.operators.sense import Sense
from recon.simulation import preset, simulate

ROWS, COLUMNS = rephased.LARGE, 48
NETWORK = weights.load("mri-small").network


def disc(rows: int = ROWS) -> tuple[Measurement, Tensor]:
    """A disc behind a phase, two coils, every second row; and its image."""
    y, x = torch.meshgrid(torch.arange(rows) - rows // 2, torch.arange(COLUMNS) - COLUMNS // 2, indexing="ij")
    body = ((y / rows) ** 2 + (x / COLUMNS) ** 2 < 0.16).float()
    image = torch.polar(body, 0.4 + 0.02 * y)[None]
    maps = torch.stack([torch.polar(torch.ones(y.shape), 0.01 * x), torch.polar(1 + 0.3 * y / rows, 0.02 * y)])
    maps = (maps / maps.abs().square().sum(0).sqrt())[:, None]
    mask = torch.zeros(1, 1, rows, 1)
    mask[..., ::2, :] = 1
    A = Sense(maps, mask, (-2,))
    return Measurement(A(image), A, 0.01), image


def drawing(with_phase: float, without: float, seen: list[Tensor]) -> Callable[..., Tensor]:
    """A network that makes an image brighter, by one share where it has a phase and by another where it has none."""

    def made(network: object, m: Measurement, *, denoise: float = 0.0, start: Tensor) -> Tensor:
        seen.append(m.A(start))
        real = bool((start.imag.abs() <= 1e-6 * start.abs().max()).all())
        return start * (1 + (without if real else with_phase))

    return made


@pytest.mark.parametrize(
    ("with_phase", "without", "told"),
    [(0.35, 0.05, 6.0), (0.05, 0.05, 0.0), (0.05, 0.35, 0.3 / 0.35), (0.06, 0.05, 0.0), (0.1, 0.0, 0.1 / 0.003)],
    ids=["strays", "alike", "changes more without", "differs too little to see", "all of it by the phase"],
)
def test_what_the_phase_alone_draws_is_told_in_units_of_what_is_drawn_without(
    monkeypatch, with_phase: float, without: float, told: float
) -> None:
    m, start = disc()
    seen: list[Tensor] = []
    monkeypatch.setattr(unrolled, "reconstruct", drawing(with_phase, without, seen))
    (found,) = rephased.compared(NETWORK, m, (1 + with_phase) * start, start)
    assert found == pytest.approx(told, rel=1e-3)
    # Told as a part of the maps, the phase leaves what the image says of the data as it is.
    torch.testing.assert_close(seen[0], m.y, rtol=1e-4, atol=1e-5)


def test_every_image_of_a_batch_has_its_own_number(monkeypatch) -> None:
    m, start = disc()
    two = replace(m, y=torch.stack([m.y, m.y]), A=replace(m.A, maps=torch.stack([m.A.maps, m.A.maps])))
    monkeypatch.setattr(unrolled, "reconstruct", drawing(0.35, 0.05, []))
    x = torch.stack([1.35 * start, 1.05 * start])
    found = rephased.compared(NETWORK, two, x, torch.stack([start, start]))
    assert found == pytest.approx([6.0, 0.0], rel=1e-3)


def test_an_empty_image_has_nothing_that_differs() -> None:
    m, start = disc()
    nothing = torch.zeros_like(start)
    assert rephased.compared(NETWORK, replace(m, y=torch.zeros_like(m.y)), nothing, nothing) == [0.0]


def test_smaller_slices_volumes_and_several_sets_of_maps_are_not_looked_at() -> None:
    m, start = disc(ROWS - 2)
    assert rephased.compared(NETWORK, m, start, start) == [None]
    m, start = disc()
    volume = replace(m, y=torch.cat([m.y, m.y], -3))
    assert rephased.compared(NETWORK, volume, start, start) == [None]
    sets = Sense(torch.stack([m.A.maps, m.A.maps], -4), m.A.mask, m.A.axes, sets=True)
    assert rephased.compared(NETWORK, replace(m, A=sets), start, start) == [None]


def test_a_network_that_ships_makes_the_same_of_a_smooth_phase_and_of_none() -> None:
    m, start = disc()
    m = replace(m, y=m.y + 0.01 * m.A.mask * torch.randn(m.y.shape, generator=torch.Generator().manual_seed(0)))
    start = unrolled.classical(m, 20)
    x = unrolled.reconstruct(NETWORK, m, start=start)
    (found,) = rephased.compared(NETWORK, m, x, start)
    assert found is not None
    assert math.isfinite(found)
    assert found < 6


def test_a_slice_whose_image_the_phase_alone_drew_gives_way(monkeypatch) -> None:
    scan = simulate(replace(preset(accel=4, matrix=64, coils=4), sigma=0.02))
    plan = recipes.parse({"solve": {"method": "unrolled", "weights": "mri-small"}})
    monkeypatch.setattr(rephased, "compared", lambda network, m, x, start, *, denoise: [9.0])
    told = pipeline.reconstruct(scan, plan, device="cpu").trust
    assert told["items"][0]["rephased"] == 9
    assert [r for r in told["reasons"] if "without the object's phase" in r]
    assert told["fallbacks"] == 1
