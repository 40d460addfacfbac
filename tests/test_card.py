"""From the file to the image on a card that is not there (tests/card.py): what crosses to it, and what comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon import pipeline
from recon.data import RawScan
from recon.prepare import compress, espirit, sort
from recon.recipe import Recipe
from recon.simulation import preset, simulate
from tests.card import CARD, Card

SLICES, COILS, MATRIX = 2, 6, 48


@pytest.fixture(scope="module")
def scan() -> RawScan:
    return simulate(preset(accel=3, coils=COILS, matrix=MATRIX, slices=SLICES))


def recipe(method: str) -> Recipe:
    made = Recipe()
    solve = replace(made.solve, method=method, iterations=4)
    return replace(made, solve=solve, prepare=replace(made.prepare, virtual_coils=4))


@pytest.mark.parametrize("method", ["sense", "cs", "combine"])
def test_samples_cross_to_the_card_once_as_read_and_only_the_image_comes_back(
    scan: RawScan, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_cpu = pipeline.reconstruct(scan, recipe(method), device="cpu").data
    monkeypatch.setattr(pipeline, "place", lambda name: CARD)
    with Card() as card:
        made = pipeline.reconstruct(scan, recipe(method), device="cuda")
    assert not [note for note in made.notes if "warning" in note]  # nothing was done again on the processor
    assert np.linalg.norm(made.data - by_cpu) < 3e-4 * np.linalg.norm(by_cpu)
    voxels = MATRIX * MATRIX
    large = [n for n in card.uploads if n > 2 * voxels]
    imaging = scan.lines[sort.kinds(scan).imaging]
    lines = [int(np.sum(imaging["slice"] == s)) for s in range(SLICES)]
    raw = COILS * int(imaging["number_of_samples"][0])
    # Of each slice, all of its lines once and the calibrating ones among them once more.
    assert sorted(large)[-SLICES:] == sorted(raw * n for n in lines)
    assert len(large) == 2 * SLICES
    assert sum(card.downloads) - card.downloads.count(1) <= SLICES * (voxels + MATRIX)
    assert card.downloads.count(voxels) == SLICES


def test_a_calibration_waits_for_the_card_once_before_its_kernels() -> None:
    """Whether it is finite and whether it is zero come as one answer; what a compression keeps, when that is asked."""
    block = torch.randn(6, 1, 24, 24, dtype=torch.complex64)
    with Card() as card:
        found = compress.svd(block.to(CARD), virtual=4)
        assert card.downloads == []
        assert 0 < found.energy < 1
        assert card.downloads == [1]
        card.downloads.clear()
        espirit.signal_space(block.to(CARD), (1, 48, 48))
        assert card.downloads[0] == 2
        assert card.downloads.count(1) <= 6  # the coil that phases refer to: squarings of one matrix


def test_a_step_that_mixes_the_card_with_the_processor_is_seen() -> None:
    """The tool itself: what torch would refuse on a machine with a GPU is refused here."""
    with Card() as card:
        x = torch.ones(3).to(CARD)
        assert card.uploads == [3]
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        assert (x * 2).cpu().tolist() == [2, 2, 2]
        assert card.downloads == [3]
        assert float(x.sum()) == 3
        assert card.downloads == [3, 1]
