"""Lines outside the ACS block that were stored in the wrong rows are detected by the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon import pipeline, recipe
from recon.accuracy.undersample import mask_of, undersample
from recon.data import Measurement, RawScan
from recon.mri import cartesian
from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.operators.sense import Sense
from recon.prepare import sort
from recon.recipe import Recipe
from recon.simulation import preset, simulate
from recon.solve import rows

SIZE, ACS = 96, 16
BLOCK = (SIZE // 2 - ACS // 2, SIZE // 2 + ACS // 2)


def scan(coils: int, kind: str = "equispaced", noise: float = 0.02) -> RawScan:
    """A head at R = 3 with its ACS block in the middle; beside it and at the edge there is room to move a line."""
    full = simulate(preset(coils=coils, matrix=SIZE, noise=noise))
    mask = mask_of(kind, (1, SIZE), 3, ACS, 0)
    mask[:, [0, BLOCK[0] - 1, BLOCK[1], SIZE - 1]] = False
    return undersample(full, mask).scan


def counted_wrong(given: RawScan, by: int) -> RawScan:
    """The scan as a file whose counter is off by some rows for all lines outside the ACS block."""
    lines = given.lines.copy()
    imaging = np.isin(np.arange(len(lines)), sort.kinds(given).imaging)
    row = lines["kspace_encode_step_1"]
    outside = imaging & ((row < BLOCK[0]) | (row >= BLOCK[1]))
    row[outside] = row[outside].astype(int) + by
    return replace(given, lines=lines)


def measured(given: RawScan) -> Measurement:
    job = pipeline.prepare(given, Recipe(), torch.device("cpu"), None, 0)
    return cartesian.measurements(job, 1)[0]


@pytest.mark.parametrize(("coils", "kind"), [(4, "equispaced"), (8, "equispaced-fraction")])
def test_a_counter_that_is_one_row_off_is_detected_and_a_good_scan_is_not_suspected(coils: int, kind: str) -> None:
    given = scan(coils, kind)
    for by in (1, -1):
        found = rows.sparser(measured(counted_wrong(given, by)))[0]
        assert found is not None
        assert found[0] == by
        assert found[1] > 0.01
    good = rows.sparser(measured(given))[0]
    assert good is not None
    assert good[1] < -0.01


def test_a_batch_is_looked_at_item_by_item() -> None:
    given = scan(4)
    items = [measured(g) for g in (given, counted_wrong(given, 1))]
    y = torch.stack([m.y for m in items])
    maps, mask = (torch.stack([getattr(m.A, name) for m in items]) for name in ("maps", "mask"))
    found = rows.sparser(Measurement(y, Sense(maps, mask, (-3, -2)), items[0].sigma))
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][1] < 0 < found[1][1]
    one = rows.sparser(items[1])[0]
    assert found[1] == pytest.approx(one, rel=1e-3)
    both = Measurement(y, Sense(maps, mask, (-3, -2)), items[0].sigma)
    assert rows.sparser(both, [False, True]) == [None, pytest.approx(one, rel=1e-3)]
    assert rows.sparser(both, [False, False]) == [None, None]


def test_lines_move_and_the_acs_block_stays() -> None:
    mask = torch.zeros(1, 1, 12, 1)
    mask[0, 0, [0, 2, 5, 6, 7, 10, 11]] = 1
    y = (torch.arange(12.0)[:, None] * mask).to(torch.complex64)
    m = rows.moved(Measurement(y, Sense(torch.ones_like(y), mask, (-3, -2)), 1.0), 1)
    assert torch.nonzero(m.A.mask.reshape(-1)).flatten().tolist() == [1, 3, 5, 6, 7, 11]
    assert m.y.reshape(-1).real.tolist() == [0, 0, 0, 2, 0, 5, 6, 7, 0, 0, 0, 10]


def test_cases_without_a_decision_give_none() -> None:
    """One channel, too few ACS lines, a volume."""
    assert rows.sparser(measured(scan(1, "random"))) == [None]
    m = measured(scan(4))
    thin = torch.zeros_like(m.A.mask)
    thin[..., ::3, :] = 1
    assert rows.sparser(replace(m, y=m.y * thin, A=Sense(m.A.maps, thin, m.A.axes))) == [None]
    deep = Sense(m.A.maps.expand(-1, 4, -1, -1), m.A.mask.expand(-1, 4, -1, -1), m.A.axes)
    assert rows.sparser(replace(m, y=m.y.expand(-1, 4, -1, -1), A=deep)) == [None]


def test_a_scan_with_misplaced_lines_gives_its_classical_image_and_says_why(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=30)), tmp_path / "calm")
    plan = recipe.parse({"solve": {"method": "unrolled", "weights": str(tmp_path / "calm")}})
    given = scan(4)
    good = pipeline.reconstruct(given, plan)
    assert good.trust["fallbacks"] == 0
    assert (good.trust["items"][0]["sparser"] or -1) < 0  # or fine detail left no doubt
    bad = pipeline.reconstruct(counted_wrong(given, 1), plan)
    assert bad.trust["fallbacks"] == 1
    assert any("shifted by +1 row" in n and "check the line counters" in n for n in bad.notes)
    open_ = {"misplaced": 1, "moved": 1e9, "turned": 90, "apart": 1e9}
    off = recipe.parse({"solve": {"method": "unrolled", "weights": str(tmp_path / "calm")}, "trust": open_})
    assert pipeline.reconstruct(counted_wrong(given, 1), off).trust["fallbacks"] == 0
