"""The phase of fine detail tells lines that do not agree with the ACS block."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon import pipeline, recipe, trust
from recon.data import Measurement
from recon.nets import unrolled, weights
from recon.nets.unrolled import Shape, Unrolled
from recon.operators.sense import Sense
from recon.recipe import Trust
from recon.solve import detail
from recon.solve import rows as rows_of
from recon.trust import Witnesses
from tests.solve.test_alternating import volume
from tests.solve.test_rows import BLOCK, SIZE, counted_wrong, measured, scan


def beside(m: Measurement, factor: complex | torch.Tensor) -> Measurement:
    """The measurement with every line beside the ACS block multiplied, in hybrid space (coil, 1, ky, x)."""
    outer = torch.ones(SIZE, dtype=torch.bool)
    outer[slice(*BLOCK)] = False
    return replace(m, y=torch.where(outer[:, None], m.y * factor, m.y))


def late(samples: float, nx: int) -> torch.Tensor:
    """A readout that starts that many samples late, by the Fourier shift theorem."""
    return torch.exp(2j * math.pi * samples * (torch.arange(nx) - nx // 2) / nx)


def told(m: Measurement) -> detail.Detail:
    found = detail.compared(m, unrolled.classical(m, 60))[0]
    assert found is not None
    return found


@pytest.mark.parametrize(("coils", "kind"), [(8, "equispaced"), (1, "random")])
def test_good_lines_agree_with_the_acs_block(coils: int, kind: str) -> None:
    good = told(measured(scan(coils, kind)))
    assert good.gain < 1.05
    assert abs(good.turned) < 8
    assert good.coherent > 0.2


@pytest.mark.parametrize(("coils", "kind"), [(8, "equispaced"), (1, "random")])
@pytest.mark.parametrize("by", [1, -1])
def test_lines_one_row_off_are_detected_by_their_detail(coils: int, kind: str, by: int) -> None:
    found = told(measured(counted_wrong(scan(coils, kind), by)))
    assert found.gain > 1.2
    # Where one channel leaves most of the detail to regularisation the place is blurred, the doubt is not.
    assert found.rows == pytest.approx(by, abs=0.3 if coils > 1 else 1.5)


@pytest.mark.parametrize("samples", [-1.0, 0.5])
def test_a_late_readout_outside_the_acs_block_is_detected(samples: float) -> None:
    m = measured(scan(8))
    found = told(beside(m, late(samples, m.y.shape[-1])))
    assert found.gain > 1.2
    assert found.samples == pytest.approx(samples, abs=0.3)


@pytest.mark.parametrize("degrees", [-50, 50])
def test_a_phase_outside_the_acs_block_is_detected(degrees: float) -> None:
    found = told(beside(measured(scan(8)), complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))))
    assert found.turned == pytest.approx(degrees, abs=20)


def test_detail_of_a_known_shift_and_phase_is_measured_exactly() -> None:
    """An image made by hand: a smooth bright disc with edges, the rows outside of the block turned and moved."""
    n, shift, turn = 128, 0.5, 0.6
    y, x = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    disc = (1 + 0.5 * ((y + 12) ** 2 + x**2 < 400)) * ((y**2 + x**2) < 50**2) * torch.exp(1j * (0.3 + 0.01 * y))
    core = torch.zeros(n, dtype=torch.bool)
    core[n // 2 - 10 : n // 2 + 10] = True
    k = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(disc, dim=0), dim=0), dim=0)
    low, high = (
        torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(k * keep[:, None], dim=0), dim=0), dim=0)
        for keep in (core, ~core)
    )
    image = (low + high * torch.exp(1j * (turn + 2 * math.pi * shift * x / n)))[None].to(torch.complex64)
    mask = torch.ones(1, 1, n, 1)
    mask[0, 0, ::4] = 0
    mask[0, 0, core] = 1
    m = Measurement(
        torch.zeros(1, 1, n, n, dtype=torch.complex64), Sense(torch.ones(1, 1, n, n) + 0j, mask, (-3, -2)), 1.0
    )
    found = detail.compared(m, image)[0]
    assert found is not None
    assert (found.samples, found.rows) == (shift, 0.0)
    assert math.radians(found.turned) == pytest.approx(turn, abs=0.03)


def moved_lines(m: Measurement, partitions: int, rows: int) -> Measurement:
    """The volume as from counters that are off by so much for all lines beside its block of 12 × 16."""
    core = torch.zeros(24, 40, 1, dtype=torch.bool)
    core[6:18, 12:28] = True
    y, mask = (torch.where(core, t, torch.roll(t * ~core, (partitions, rows), (-3, -2))) for t in (m.y, m.A.mask[None]))
    return replace(m, y=y, A=Sense(m.A.maps, mask[0], m.A.axes))


@pytest.mark.parametrize(("partitions", "rows"), [(0, 1), (1, 0), (0, -1)])
def test_misplaced_lines_of_a_volume_are_detected_along_either_phase_encode(partitions: int, rows: int) -> None:
    good = told(volume(4))
    assert good.gain < 1.1
    assert abs(good.turned) < 10
    found = told(moved_lines(volume(4), partitions, rows))
    assert found.gain > 1.2
    assert (found.partitions, found.rows) == pytest.approx((partitions, rows), abs=0.3)


def test_a_volume_with_misnumbered_partitions_is_not_trusted_and_says_where_they_belong() -> None:
    m = moved_lines(volume(4), 1, 0)
    x = unrolled.classical(m, 60)
    found = trust.examine(m, x, x, limits=Trust(), trained=None, witnesses=[Witnesses(detail=told(m))])[0]
    assert any("moved by -0.9 partitions," in reason for reason in found.reasons)
    good = volume(4)
    x = unrolled.classical(good, 60)
    assert not trust.examine(good, x, x, limits=Trust(), trained=None, witnesses=[Witnesses(detail=told(good))])[
        0
    ].reasons


def test_a_late_readout_and_a_phase_are_detected_in_a_volume() -> None:
    m = volume(4)
    outer = torch.ones(24, 40, 1, dtype=torch.bool)
    outer[6:18, 12:28] = False
    found = told(replace(m, y=torch.where(outer, m.y * late(0.5, m.y.shape[-1]), m.y)))
    assert found.samples == pytest.approx(0.5, abs=0.2)
    assert found.gain > 1.2
    found = told(replace(m, y=torch.where(outer, m.y * 1j**0.5, m.y)))
    assert found.turned == pytest.approx(45, abs=20)


def test_a_line_that_touches_the_block_does_not_make_it_thin() -> None:
    mask = torch.zeros(24, 40, dtype=torch.bool)
    mask[6:18, 12:28] = True
    mask[12, 28] = mask[18, 20] = True
    assert rows_of.block(mask) == (slice(6, 18), slice(12, 28))
    assert rows_of.block(torch.zeros(3, 5, dtype=torch.bool)) == (slice(0, 0), slice(0, 0))


def test_cases_without_a_decision_give_none() -> None:
    """Too few ACS lines, a volume, an image of zeros, values that are no numbers."""
    m = measured(scan(4))
    x = unrolled.classical(m, 6)
    thin = torch.zeros_like(m.A.mask)
    thin[..., ::3, :] = 1
    assert detail.compared(replace(m, A=Sense(m.A.maps, thin, m.A.axes)), x) == [None]
    deep = Sense(m.A.maps.expand(-1, 4, -1, -1), m.A.mask.expand(-1, 4, -1, -1), m.A.axes)
    assert detail.compared(replace(m, A=deep), x.expand(4, -1, -1)) == [None]
    assert detail.compared(m, 0 * x) == [None]
    assert detail.compared(m, x * math.nan) == [None]


def test_items_of_a_batch_are_tested_one_by_one() -> None:
    items = [measured(g) for g in (scan(4), counted_wrong(scan(4), 1))]
    images = [unrolled.classical(m, 20) for m in items]
    maps, mask = (torch.stack([getattr(m.A, name) for m in items]) for name in ("maps", "mask"))
    both = Measurement(torch.stack([m.y for m in items]), Sense(maps, mask, (-3, -2)), items[0].sigma)
    assert detail.compared(both, torch.stack(images)) == [detail.compared(m, x)[0] for m, x in zip(items, images)]


def test_contradictory_lines_give_the_classical_image_with_a_reason_and_for_one_channel_only_a_report(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=30)), tmp_path / "calm")
    solve = {"method": "unrolled", "weights": str(tmp_path / "calm")}
    plan = recipe.parse({"solve": solve, "trust": {"misplaced": 1}})
    good = pipeline.reconstruct(scan(4), plan)
    assert good.trust["fallbacks"] == 0
    assert good.trust["items"][0]["gain"] < 1.05
    bad = pipeline.reconstruct(counted_wrong(scan(4), 1), plan)
    assert bad.trust["fallbacks"] == 1
    assert any("moved by" in n and "the file's line counters" in n for n in bad.notes)
    single = pipeline.reconstruct(counted_wrong(scan(1, "random"), 1), plan)
    assert single.trust["fallbacks"] == 0
    assert single.trust["items"][0]["gain"] > 1.2
