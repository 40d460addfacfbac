"""Adaptation to one scan: it gains where a gain is possible, and otherwise keeps the weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recon.data import Measurement, ReconError
from recon.learn import adapt, adapted, synth
from recon.learn.draw import Draw
from recon.learn.synth import Settings
from recon.learn.volumes import Sources
from recon.nets import unrolled, weights
from recon.nets.unrolled import Shape, Unrolled
from recon.operators.sense import Sense
from recon.simulation import preset, simulate_to
from tests.command import recon

PLAN = adapt.Plan(minutes=5, steps=40, rate=1e-2, width=64, splits=2, held=0.3, hidden=0.3, ema=0.9)


@pytest.fixture(scope="module")
def example() -> synth.Example:
    drawn = Settings(
        sizes=(64,), coils=(4,), real=0.0, acceleration=(3.0, 3.0), acs=(10, 10), planar=0.0, partial=0.0,
        noise=(0.01, 0.01), kinds=(1.0, 0.0, 0.0, 0.0), estimated_maps=0.0,
    )  # fmt: skip
    return synth.example(5, Sources(), drawn)


def slice_of(e: synth.Example) -> Measurement:
    A = e.measurement.A
    return Measurement(e.measurement.y, Sense(A.maps, A.mask[None, None], A.axes), e.measurement.sigma)


@pytest.fixture(scope="module")
def fresh() -> Unrolled:
    """An untrained network."""
    torch.manual_seed(0)
    return Unrolled(Shape(cascades=1, channels=(8, 8), condition=8, iterations=4, start=20)).eval()


def test_a_network_with_a_wrong_noise_level_gains_on_unseen_lines_and_in_the_image(example) -> None:
    network = weights.load("mri-small").network
    m = replace(slice_of(example), sigma=5.0)
    before = copy.deepcopy(network.state_dict())
    made = adapt.adapt(network, [m], replace(PLAN, rate=2e-3, steps=14))
    assert made.kept
    assert made.after < 0.93 * made.before
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    errors = [float((unrolled.reconstruct(n, m) - example.full).abs().square().sum()) for n in (network, made.network)]
    assert errors[1] < 0.95 * errors[0]


def test_nothing_gained_gives_the_weights_back(example, fresh: Unrolled) -> None:
    made = adapt.adapt(fresh, [slice_of(example)], replace(PLAN, steps=3, rate=1.0))
    assert not made.kept
    assert made.after == made.before
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in made.network.state_dict().items())
    assert "its own weights were written" in adapted.said(made, "parent")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_slice_on_a_gpu_is_divided_as_on_the_processor(example) -> None:
    m = slice_of(example)
    A = m.A
    moved = Measurement(m.y.cuda(), Sense(A.maps.cuda(), A.mask.cuda(), A.axes), m.sigma)
    parts = [adapt.divided(one, PLAN, Draw.seeded(3), 2) for one in (m, moved)]
    for a, b in zip(*([first, *rest] for first, rest in parts)):
        assert b.hidden.mask.is_cuda
        assert torch.equal(a.hidden.mask, b.hidden.mask.cpu())
        assert torch.equal(a.given.y, b.given.y.cpu())


class Clock:
    """A clock that stands still but for what is said to have been done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, divided: float, validation: float, steps: list[float]):
        self.now, self.steps, self.pending = 1000.0, 0, 0
        self.validations = 0
        waits, real, measured = iter(steps), adapt.divided, adapt.held_error

        def divide(*given):
            self.now += divided
            return real(*given)

        def validate(*given):
            self.now += validation
            self.validations, self.pending = self.validations + 1, 0
            return measured(*given)

        def step(*given):
            self.now += next(waits)
            self.steps, self.pending = self.steps + 1, self.pending + 1

        for name, instead in (("divided", divide), ("held_error", validate), ("_step", step)):
            monkeypatch.setattr(adapt, name, instead)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("divided", "validation", "steps", "least"),
    [
        (2, 1, [1.0] * 99, 20),  # all goes well
        (2, 6, [1.0] * 99, 19),  # a last validation fits to the second
        (2, 11, [7.0] * 99, 2),  # a validation takes a sixth of the time
        (14, 1, [1.0] * 99, 20),  # the starts alone take as much time as there is
        (2, 3, [*[0.5] * 20, *[8.0] * 99], 21),  # others come to the machine
        (25, 20, [9.0] * 99, 0),  # there is time for nothing
    ],
)
def test_an_adaptation_ends_within_its_minutes_and_validates_its_last_step(
    divided, validation, steps, least, example, fresh: Unrolled, monkeypatch
) -> None:
    clock = Clock(monkeypatch, divided=divided, validation=validation, steps=steps)
    begun = clock() - 3  # of which the command took three seconds to prepare the scan
    plan = replace(PLAN, minutes=1, steps=0, patience=99)
    made = adapt.adapt(fresh, [slice_of(example)] * 4, plan, begun=begun, clock=clock)
    assert clock() <= begun + 60
    assert made.seconds == clock() - begun
    assert made.steps == clock.steps >= least
    assert clock.pending == 0
    assert (made.steps > 0) != ("give more --minutes" in adapted.said(made, "parent"))


def test_the_three_parts_of_the_lines_are_disjoint_and_the_centre_is_in_every_one_that_is_given(example) -> None:
    m = slice_of(example)
    measured = m.A.mask.reshape(-1) > 0
    held, splits = adapt.divided(m, PLAN, Draw.seeded(0), 5)
    gamma = held.hidden.mask.reshape(-1) > 0
    assert torch.equal(gamma | (held.given.A.mask.reshape(-1) > 0), measured)
    for s in splits:
        theta, loss = (A.mask.reshape(-1) > 0 for A in (s.given.A, s.hidden))
        assert not (theta & loss).any()
        assert not (gamma & (theta | loss)).any()
        assert torch.equal(theta | loss | gamma, measured)
        assert theta[32 - 5 : 32 + 5].all()
        # What is hidden is neither in the data, nor in the picture that the network starts from.
        assert not s.given.y[:, :, loss | gamma].any()
    # Lines between two lines that were left out stand for more than themselves.
    assert float(splits[0].hidden.mask.max()) > 1


def test_the_held_out_error_of_the_truth_is_that_of_the_noise(example, fresh: Unrolled) -> None:
    m = slice_of(example)
    held, _ = adapt.divided(m, replace(PLAN, held=0.9), Draw.seeded(0), 5)

    class Truth(torch.nn.Module):
        def forward(self, problem: object, denoise: float) -> torch.Tensor:
            return example.clean

    assert float(adapt.held_error(Truth(), [held]).mean()) == pytest.approx(1, abs=0.15)


def test_a_full_scan_and_one_of_few_lines_are_refused(example, fresh: Unrolled) -> None:
    m = slice_of(example)
    full = Measurement(torch.ones_like(m.y), Sense(m.A.maps, torch.ones_like(m.A.mask), m.A.axes), 1.0)
    with pytest.raises(ReconError, match="too few"):
        adapt.adapt(fresh, [full], PLAN)
    mask = torch.zeros_like(m.A.mask)
    mask[0, 0, 28:36] = 1
    with pytest.raises(ReconError, match="too few"):
        adapt.adapt(fresh, [Measurement(m.y * mask, Sense(m.A.maps, mask, m.A.axes), 1.0)], PLAN)


def test_the_verb_leaves_a_folder_that_run_takes(fresh: Unrolled, tmp_path: Path) -> None:
    scan, parent, out = tmp_path / "scan.h5", tmp_path / "parent", tmp_path / "adapted"
    simulate_to(scan, preset(coils=4, accel=3, matrix=64, slices=2))
    weights.save(fresh, parent)
    done = recon("adapt", scan, "-o", out, "--weights", parent, "--minutes", 0.05)
    assert done.code == 0, done.err
    assert sorted(p.name for p in out.iterdir()) == ["SHA256", "card.md", "weights.safetensors"]
    card = (out / "card.md").read_text()
    assert weights.load(parent).sha256 in card
    assert "Phantom" not in card
    assert "SIMULATED" not in card
    run = recon("run", scan, "-o", tmp_path / "image.nii.gz", "--weights", out, "--trust", tmp_path / "trust.json")
    assert run.code == 0, run.err
    assert weights.load(out).sha256 in (tmp_path / "trust.json").read_text()
    again = recon("adapt", scan, "-o", out, "--minutes", 0.05)
    assert again.code == 1
    assert "new or an empty folder" in again.err


def test_a_volume_is_refused_with_what_to_do_instead(fresh: Unrolled, tmp_path: Path) -> None:
    weights.save(fresh, tmp_path / "parent")
    simulate_to(tmp_path / "volume.h5", preset(coils=4, accel=2, matrix=32, slices=12, volume=True))
    done = recon("adapt", tmp_path / "volume.h5", "-o", tmp_path / "made", "--weights", tmp_path / "parent")
    assert done.code == 1
    assert "slices, and this scan is a 3D volume; use --method unrolled without adapting it, or cs" in done.err
    assert not (tmp_path / "made").exists()
