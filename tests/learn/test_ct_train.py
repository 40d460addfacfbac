"""Training of CT denoisers, small."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.data import ReconError
from recon.learn import ct_images, ct_synth, ct_train, graph
from recon.learn.ct_synth import Bank, Settings
from recon.learn.ct_train import Plan
from recon.learn.draw import Draw
from recon.learn.settings import Loop
from recon.nets import weights
from recon.nets.unrolled import Unrolled

SMALL = Settings(size=64, group=4, views=(40, 48), bank=8)


def library(tmp_path: Path) -> Path:
    """A folder with CT slices: a disc of water with a bone in it."""
    y, x = np.mgrid[-1:1:80j, -1:1:80j]
    hu = np.full((3, 80, 80), -1000, np.int16)
    hu[:, x**2 + y**2 < 0.6] = 20
    hu[:, x**2 + (y - 0.4) ** 2 < 0.03] = 700
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "ct.npz", image=hu)
    return tmp_path


def test_what_is_added_to_a_slice_is_noise_of_the_asked_strength(tmp_path: Path) -> None:
    found = ct_images.read(library(tmp_path) / "train")
    settings = replace(SMALL, noise=(50.0, 50.0), real=1.0, photons=(1e6, 2e6), electronic=(0.0, 0.0))
    made = ct_synth.make(Draw.seeded(1), found, settings, known=True)
    inside = made.clean > -300
    for clean, noisy, body in zip(made.clean, made.noisy, inside):
        middle = (noisy - clean)[body]
        assert 35 < float(middle.std()) < 90
        assert abs(float(middle.mean())) < 10
    assert torch.isfinite(made.texture).all()


def test_batches_are_pieces_of_the_bank_in_units_of_water(tmp_path: Path) -> None:
    found = ct_images.read(library(tmp_path) / "train")
    draw = Draw.seeded(2)
    bank = Bank(SMALL, torch.device("cpu"))
    while bank.filled < 8:
        bank.add(ct_synth.make(draw, found, SMALL))
    made = bank.batch(5, 32, draw)
    assert made.problem.b.shape == made.clean.shape == (5, 1, 32, 32)
    assert float(made.clean.median()) < 3
    assert float(made.clean.min()) > -2
    assert made.problem.texture is not None
    again = graph._batch([*graph._tensors(made), torch.ones(5), torch.zeros(())], ())
    assert torch.equal(again.problem.b, made.problem.b)
    assert torch.equal(again.problem.texture, made.problem.texture)
    assert again.problem.normal(made.clean) is made.clean


def test_a_drawn_head_has_air_around_a_skull_around_a_brain(tmp_path: Path) -> None:
    found = ct_images.read(library(tmp_path) / "train")
    for seed in range(4):
        x, scanned = ct_images.slice_of(Draw.seeded(seed), found, 128, real=0.0, heads=1.0)
        assert not scanned
        assert float(x[0, 0]) == pytest.approx(ct_images.AIR, abs=0.01)
        assert 0.01 < float((x > 300).float().mean()) < 0.6
        assert float(((x > -30) & (x < 130)).float().mean()) > 0.05


def test_pieces_lie_where_edges_are_as_often_as_asked(tmp_path: Path) -> None:
    image = torch.full((1, 64, 64), 20.0)
    image[:, 8:20:2, 8:20] = 900.0

    def steep(edges: float) -> list[bool]:
        bank = Bank(replace(SMALL, edges=edges), torch.device("cpu"))
        bank.add(ct_synth.Made(image, image, torch.ones(1), torch.zeros(1, 3)))
        drawn = bank.batch(200, 16, Draw.seeded(7))
        return [bool(v) for v in (drawn.clean > 1.5).flatten(1).any(1)]

    plain, some, all_of_them = (sum(steep(e)) for e in (0.0, 0.5, 1.0))
    assert 10 < plain < some < all_of_them
    assert all_of_them > 2 * plain


def test_two_networks_train_together_and_leave_weights_that_load(tmp_path: Path) -> None:
    data = library(tmp_path)
    loop = Loop(batch=2, width=32, noisy=0.0, clean=1.0, ssim_from=2.0, warmup=2)
    shape = replace(Plan().network, channels=(6, 8), condition=6)
    plans = [
        Plan(n, network=replace(shape, cascades=c), data=SMALL, loop=loop, check=2) for n, c in (("a", 2), ("b", 1))
    ]
    states = ct_train.train(plans, data, tmp_path / "out", minutes=0.02)
    assert not any("Writer" in type(t).__name__ for t in threading.enumerate())
    assert all(s.step > 0 for s in states)
    for name, cascades in (("a", 2), ("b", 1)):
        loaded = weights.load(tmp_path / "out" / name / name)
        assert loaded.network.shape.cascades == cascades
        assert loaded.network.shape.real
        last = json.loads((tmp_path / "out" / name / "log.jsonl").read_text().splitlines()[-1])
        assert "validation_gain_dB" in last


def test_a_training_goes_on_from_weights_that_an_earlier_one_left(tmp_path: Path) -> None:
    data = library(tmp_path)
    shape = replace(Plan().network, channels=(6, 8), condition=6)
    loop = Loop(batch=2, width=32, noisy=0.0, clean=1.0, ssim_from=2.0, warmup=2)
    torch.manual_seed(3)
    earlier = Unrolled(shape)
    with torch.no_grad():
        for p in earlier.parameters():
            p.add_(0.01 * torch.randn_like(p))
    weights.save(earlier, tmp_path / "earlier")
    plan = Plan("next", network=shape, data=SMALL, loop=loop, check=2, begin=str(tmp_path / "earlier"))
    # No time: what is left is what it began with.
    (state,) = ct_train.train([plan], data, tmp_path / "out", minutes=0.0)
    for name, value in earlier.state_dict().items():
        assert torch.equal(state.network.state_dict()[name], value)
    left = weights.load(tmp_path / "out" / "next" / "next").network.state_dict()
    assert all(torch.allclose(left[n], v, atol=1e-3) for n, v in earlier.state_dict().items())
    # More details to look at change nothing before it has learned from them.
    more = replace(plan, name="more", network=replace(shape, plain=(3, 7)))
    (wider,) = ct_train.train([more], data, tmp_path / "out", minutes=0.0)
    (made,) = ct_train.check_set(replace(plan, check=1), data / "validation", torch.device("cpu"))
    p = ct_synth.batch(made).problem
    with torch.no_grad():
        assert torch.allclose(wider.network(p, 1.0), state.network(p, 1.0), atol=1e-6)
    other = replace(plan, name="other", network=replace(shape, cascades=2))
    with pytest.raises(ReconError, match="different shape"):
        ct_train.train([other], data, tmp_path / "out", minutes=0.0)


def test_two_recipes_of_one_name_are_refused_before_either_writes(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="two of the recipes have one name"):
        ct_train.train([Plan("a"), Plan("A")], tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())
