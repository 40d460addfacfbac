"""The networks that ship: whole folders, of the promised size, and better than the picture that they start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recon.ct import learned
from recon.learn import ct_images, ct_synth, ct_train, losses, pool, settings, synth
from recon.learn.draw import Draw
from recon.learn.synth import Settings
from recon.learn.volumes import Sources
from recon.nets import weights

SHIPPED = weights.available()


def test_the_small_network_ships() -> None:
    assert "mri-small" in SHIPPED
    assert (SHIPPED["mri-small"] / weights.FILE).stat().st_size < 5_000_000


def test_the_large_network_ships_and_is_the_one_that_auto_takes() -> None:
    assert (SHIPPED["mri-base"] / weights.FILE).stat().st_size < 60_000_000
    assert weights.best() == SHIPPED["mri-base"]


def test_the_large_network_is_better_than_the_small_one() -> None:
    networks = [weights.load(name).network for name in ("mri-base", "mri-small")]
    gains = []
    for seed in range(3):
        item = pool.prepared(synth.example(seed, Sources(), drawn(0.01, 6.0)), 60)
        made = pool.batch([item], 0, None)
        with torch.no_grad():
            found = [losses.gain(n(made.problem, 0.0), made.full, made.problem.start, made.weight) for n in networks]
        gains.append(float(found[0] - found[1]))
    assert sum(gains) / 3 > 0.5


@pytest.mark.parametrize("folder", SHIPPED.values(), ids=SHIPPED)
def test_each_folder_holds_a_card_and_the_recipe_of_its_network(folder: Path) -> None:
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert all(f"## {part}" in card for part in ("Use", "Range", "Data", "Training", "Results", "Limits"))
    load = ct_train.load if folder.name.startswith("ct-") else settings.load
    assert load(folder / "recipe.toml").network == weights.load(folder).network.shape


@pytest.mark.parametrize("noise", [0.003, 0.03])
@pytest.mark.parametrize("name", ["mri-small", "mri-base"])
def test_it_is_better_than_its_start_on_scans_that_it_never_saw(name: str, noise: float) -> None:
    network = weights.load(name).network
    gains = []
    for seed in range(6):
        item = pool.prepared(synth.example(seed, Sources(), drawn(noise, 4.0)), network.shape.start)
        made = pool.batch([item], 0, None)
        with torch.no_grad():
            x = network(made.problem, 0.0)
        gains.append(float(losses.gain(x, made.full, made.problem.start, made.weight)))
    assert sum(gains) / len(gains) > 0.3
    assert min(gains) > -0.3


@pytest.mark.parametrize("name", ["mri-small", "mri-base"])
def test_denoising_is_a_choice_between_the_picture_of_a_full_scan_and_one_without_noise(name: str) -> None:
    network, errors = weights.load(name).network, []
    for seed in range(2):
        item = pool.prepared(synth.example(seed, Sources(), drawn(0.05, 3.0)), network.shape.start)
        made = pool.batch([item], 0, None)
        with torch.no_grad():
            images = [network(made.problem, wish) for wish in (0.0, 0.5, 1.0)]
        errors.append([[float((x - t).abs().square().sum()) for t in (made.full, made.clean)] for x in images])
    noisy, half, clean = torch.tensor(errors).mean(0).tolist()
    assert noisy[0] < half[0] < clean[0]  # against the full scan, its noise included
    assert clean[1] < half[1] < noisy[1]  # against the truth


def drawn(noise: float, acceleration: float) -> Settings:
    return Settings(
        sizes=(96,), coils=(6,), real=0.0, acceleration=(acceleration, acceleration), acs=(16, 16), planar=0.0,
        partial=0.0, noise=(noise, noise), kinds=(1.0, 0.0, 0.0, 0.0),
    )  # fmt: skip


def test_both_denoisers_of_ct_ship_and_auto_takes_the_small_one() -> None:
    assert learned.shipped() == ["ct-base", "ct-small"]
    assert (SHIPPED["ct-small"] / weights.FILE).stat().st_size < 5_000_000
    assert (SHIPPED["ct-base"] / weights.FILE).stat().st_size < 60_000_000


@pytest.mark.parametrize("name", ["ct-base", "ct-small"])
def test_a_denoiser_of_ct_is_better_than_noise_on_drawn_slices_that_it_never_saw(name: str) -> None:
    network = weights.load(name).network
    kinds = ct_synth.Settings(size=128, group=6, views=(120, 160), real=0.0, noise=(20.0, 60.0))
    made = ct_synth.make(Draw.seeded(123_456), ct_images.Library((), Sources()), kinds)
    shown = ct_synth.batch(made)
    with torch.no_grad():
        x = network(shown.problem, 1.0)
    gains = losses.gain(x, shown.clean, shown.problem.start, shown.weight)
    assert float(gains.mean()) > 1
    # Drawn slices without soft tissue pass their texture off as noise, which no network could know.
    truth = torch.stack([(n - c)[c > -300].std() for n, c in zip(made.noisy, made.clean)])
    told = made.level < 2 * truth
    assert int(told.sum()) >= 3
    assert float(gains[told].min()) > 0
