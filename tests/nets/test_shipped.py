"""The networks that ship: whole folders, of the promised size, and better than the picture that they start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recon.learn import losses, pool, settings, synth
from recon.learn.synth import Settings
from recon.learn.volumes import Sources
from recon.nets import weights

SHIPPED = weights.available()


def test_the_small_network_ships() -> None:
    assert "mri-small" in SHIPPED
    assert (SHIPPED["mri-small"] / weights.FILE).stat().st_size < 5_000_000


@pytest.mark.parametrize("folder", SHIPPED.values(), ids=SHIPPED)
def test_each_folder_holds_a_card_and_the_recipe_of_its_network(folder: Path) -> None:
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert all(f"## {part}" in card for part in ("Use", "Range", "Data", "Training", "Results", "Limits"))
    assert settings.load(folder / "recipe.toml").network == weights.load(folder).network.shape


@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_it_is_better_than_its_start_on_scans_that_it_never_saw(noise: float) -> None:
    network = weights.load("mri-small").network
    drawn = Settings(
        sizes=(96,), coils=(6,), real=0.0, acceleration=(4.0, 4.0), acs=(16, 16), planar=0.0, partial=0.0,
        noise=(noise, noise), kinds=(1.0, 0.0, 0.0, 0.0),
    )  # fmt: skip
    gains = []
    for seed in range(6):
        made = pool.batch([pool.prepared(synth.example(seed, Sources(), drawn), network.shape.start)], 0, None)
        with torch.no_grad():
            x = network(made.problem, 0.0)
        gains.append(float(losses.gain(x, made.full, made.problem.start, made.weight)))
    assert sum(gains) / len(gains) > 0.3
    assert min(gains) > -0.3
