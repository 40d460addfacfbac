"""Scans that a training draws from: how they are made, kept on the disk, and joined in batches."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon.data import DataError, ReconError
from recon.learn import pool, supply, train
from recon.learn.draw import Draw
from recon.learn.pool import Groups
from recon.learn.ranks import Rank
from recon.learn.settings import Pool, Training
from tests.learn.tiny import CPU, DATA, TINY


def test_a_batch_is_a_pure_function_of_the_number_of_its_step(items: list[pool.Item]) -> None:
    groups = Groups(16, items)
    (a, d), (b, e), (c, _) = (train.batch_of(groups, TINY.loop, n, CPU) for n in (5, 5, 6))
    assert torch.equal(a.full, b.full)
    assert torch.equal(d, e)
    assert a.full.shape != c.full.shape or not torch.equal(a.full, c.full)


def test_items_come_back_from_disk_as_they_were(items: list[pool.Item], tmp_path: Path) -> None:
    pool.write(tmp_path / "a.safetensors", items[0])
    back = pool.read(tmp_path / "a.safetensors")
    for name in ("maps", "mask", "b", "start", "full", "clean"):
        assert torch.equal(getattr(back, name), getattr(items[0], name)), name
    assert (back.noise, back.sampled, back.axes) == (items[0].noise, items[0].sampled, items[0].axes)
    whole = (tmp_path / "a.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:8] + b"x" + whole[9:]):
        (tmp_path / "a.safetensors").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.safetensors is damaged; delete it"):
            pool.read(tmp_path / "a.safetensors")


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is counted by /proc")
def test_scans_of_a_pool_that_is_larger_than_the_memory_stay_on_the_disk(
    items: list[pool.Item], tmp_path: Path
) -> None:
    """Thousands of scans of many coils: a training on a processor reads from each the columns that it needs."""
    made = replace(items[0], maps=torch.ones(64, 1, 512, 512, 2, dtype=torch.float16))
    pool.write(tmp_path / "a.safetensors", made)

    def held() -> int:
        (line,) = (n for n in Path("/proc/self/status").read_text().splitlines() if n.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    before = held()
    back = pool.read(tmp_path / "a.safetensors")
    assert held() - before < back.maps.nbytes / 4
    assert back.maps.nbytes == 64 << 20
    assert bool((back.maps[:, :, ::100] == 1).all())


def test_cutting_columns_and_mirroring_leave_the_problem_as_it_is(items: list[pool.Item]) -> None:
    item = next(i for i in items if i.axes == (-2,) and i.known_clean)
    for seed in range(4):
        made = pool.batch([item], 16, Draw.seeded(seed))
        p = made.problem
        whole = pool.batch([item], 0, None).problem
        residual = (p.normal(p.start) - p.b).abs()[0]
        full = (whole.normal(whole.start) - whole.b).abs()[0]
        found = [
            float((residual - part).abs().max())
            for part in (*full.unfold(-1, 16, 1).unbind(-2), *full.flip(-1).unfold(-1, 16, 1).unbind(-2))
        ]
        assert min(found) < 1e-4 * float(full.max())


def test_scans_of_different_coils_share_a_batch(items: list[pool.Item]) -> None:
    line = [i for i in items if i.axes == (-2,)]
    one, two = (next(i for i in line if len(i.maps) == n) for n in (2, 4))
    made = pool.batch([one, two], 0, None).problem
    for i, item in enumerate((one, two)):
        alone = pool.batch([item], 0, None).problem
        torch.testing.assert_close(made.normal(made.start)[i], alone.normal(alone.start)[0], rtol=1e-4, atol=1e-5)


def test_a_short_training_makes_its_share_of_the_scans_and_a_longer_one_the_rest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supply, "LEAST", 3)
    recipe = replace(TINY, pool=Pool(size=10, validation=1), loop=replace(TINY.loop, minutes=10.0))
    for share, expected in ((0.001, 3), (0.5, 5), (4.0, 10)):
        found = supply.stocked(recipe, data, tmp_path, CPU, Rank(), lambda *_: None, share=share)
        assert len(found.groups) == expected
        assert len(list((tmp_path / "pool" / "train").iterdir())) == expected


def test_a_pool_of_other_settings_is_refused_and_the_setting_named(data: Path, tmp_path: Path) -> None:
    """Scans that an earlier recipe left would be learned from in silence."""
    recipe = replace(TINY, pool=Pool(size=1, validation=1))

    def found(plan: Training) -> int:
        return len(supply.stocked(plan, data, tmp_path, CPU, Rank(), lambda *_: None).groups)

    assert found(recipe) == 1
    # Longer, with more scans, or at another rate it is the same training's.
    assert found(replace(recipe, pool=Pool(size=2, validation=1), loop=replace(TINY.loop, rate=0.1))) == 2
    with pytest.raises(
        ReconError, match=r"scans made with other settings than the recipe's \(data\.noise\); give a new"
    ):
        found(replace(recipe, data=replace(DATA, noise=(0.01, 0.2))))
    with pytest.raises(ReconError, match=r"\(network\.start\)"):
        found(replace(recipe, network=replace(TINY.network, start=9)))
    (tmp_path / "pool" / "settings.json").unlink()
    assert found(recipe) == 1


def test_processes_can_share_the_making_of_a_pool(items: list[pool.Item], tmp_path: Path) -> None:
    for part in range(3):
        pool.fill(tmp_path / "shared", 5, lambda i: items[i], lambda *_: None, (part, 3))
    alone = pool.fill(tmp_path / "alone", 5, lambda i: items[i], lambda *_: None)
    assert [(tmp_path / "shared" / p.name).read_bytes() for p in alone] == [p.read_bytes() for p in alone]
