"""The training loop on a tiny network: it learns, goes on after a kill unchanged, and leaves its outputs."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from recon import metrics
from recon.data import ReconError
from recon.learn import losses, pool, settings, train, watch
from recon.learn.muon import Muon, orthogonal
from recon.learn.pool import Groups
from recon.learn.settings import Pool
from recon.nets import weights
from tests.command import recon
from tests.learn.tiny import CPU, TINY


def steps(state: train.State, items: list[pool.Item], count: int) -> None:
    groups = Groups(TINY.loop.width, items)
    for _ in range(count):
        train.step(state, TINY, train.batch_of(groups, TINY.loop, state.step, CPU), 0.1)


def error(state: train.State, items: list[pool.Item]) -> float:
    """Mean logarithmic error against the start, noise wanted."""
    found = []
    for item in items:
        made = pool.batch([item], 0, None)
        with torch.no_grad():
            x = state.network(made.problem, 0.0)
        found.append(float(losses.log_error(x, made.full, made.problem.start, made.weight)))
    return sum(found) / len(found)


def test_training_lowers_the_error_below_that_of_the_classical_start(items: list[pool.Item]) -> None:
    state = train.start(TINY, CPU)
    before = error(state, items)
    steps(state, items, 80)
    assert error(state, items) < min(0.0, before) - 0.02


def test_orthogonalised_momentum_has_singular_values_near_one_and_the_same_singular_vectors() -> None:
    g = torch.Generator().manual_seed(0)
    for shape in ((8, 30), (30, 8)):
        m = torch.randn(*shape, generator=g) @ torch.diag(torch.logspace(0, -2, shape[1]))
        u, _, v = torch.linalg.svd(m, full_matrices=False)
        inner = u.mT @ orthogonal(m) @ v.mT
        assert bool(((inner.diagonal() > 0.5) & (inner.diagonal() < 1.3)).all())
        torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-2)


def test_biases_follow_adam() -> None:
    torch.manual_seed(0)
    one = torch.nn.Parameter(torch.randn(5))
    two = torch.nn.Parameter(one.detach().clone())
    ours = Muon([one], rate=0.02, other=0.1)
    theirs = torch.optim.Adam([two], lr=0.002, betas=(0.9, 0.99))
    for k in range(10):
        for p, o in ((one, ours), (two, theirs)):
            o.zero_grad()
            ((p - k) ** 3).sum().backward()
            o.step()
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_training_goes_on_after_a_kill_as_if_nothing_had_happened(
    items: list[pool.Item], tmp_path: Path, optimiser: Literal["muon", "adamw"]
) -> None:
    recipe = replace(TINY, loop=replace(TINY.loop, optimiser=optimiser))
    whole = train.start(recipe, CPU)
    steps(whole, items, 6)
    first = train.start(recipe, CPU)
    steps(first, items, 3)
    train.save(first, tmp_path / "c.pt")
    second = train.start(replace(recipe, loop=replace(recipe.loop, seed=9)), CPU)
    train.restore(second, tmp_path / "c.pt")
    steps(second, items, 3)
    for a, b in ((whole.network, second.network), (whole.average, second.average)):
        for key, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[key]), key


def test_a_checkpoint_that_is_damaged_or_of_another_training_is_refused_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    train.save(train.start(TINY, CPU), file)
    other = replace(TINY, network=replace(TINY.network, channels=(8, 12)))
    adam = replace(TINY, loop=replace(TINY.loop, optimiser="adamw"))
    for recipe in (other, adam):
        with pytest.raises(ReconError, match="belongs to a different network or optimiser than the recipe's"):
            train.restore(train.start(recipe, CPU), file)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PK nothing"):
        file.write_bytes(damaged)
        with pytest.raises(ReconError, match="is damaged; give a new folder"):
            train.restore(train.start(TINY, CPU), file)


def test_without_validation_scans_nothing_is_measured_of_them(tmp_path: Path) -> None:
    assert train.validate(train.start(TINY, CPU), [], tmp_path, CPU) == {}
    assert list(tmp_path.iterdir()) == []


def test_every_parameter_receives_a_gradient(items: list[pool.Item]) -> None:
    state = train.start(TINY, CPU)
    steps(state, items, 2)
    assert [name for name, p in state.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_loss_counts_decibels_against_the_start() -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.polar(1 + torch.rand(2, 1, 9, 9, generator=g), torch.zeros(2, 1, 9, 9))
    off = 0.1 * torch.randn(2, 1, 9, 9, generator=g)
    weight = torch.ones(2, 1, 9, 9)
    loss = float(losses.log_error(target + off / 10, target, target + off, weight, floor=0.0))
    assert loss * 20 / math.log(10) == pytest.approx(-20, abs=1e-3)
    assert losses.gain(target + off / 10, target, target + off, weight).tolist() == pytest.approx([20, 20], abs=1e-3)


def test_a_piece_that_shows_air_alone_has_a_finite_gain() -> None:
    """As pieces of CT slices at the edge of the table: no pixel is of the body, all weigh little."""
    g = torch.Generator().manual_seed(0)
    off = 0.1 * torch.randn(2, 1, 9, 9, generator=g)
    target = torch.ones(2, 1, 9, 9)
    weight = torch.full((2, 1, 9, 9), 0.05)
    weight[0, :, 3:6] = 1
    found = losses.gain(target + off / 10, target, target + off, weight)
    assert found.tolist() == pytest.approx([20, 20], abs=1e-2)
    assert losses.gain(target, target, target, weight).tolist() == [0, 0]
    body = torch.zeros(1, 1, 9, 9)
    assert losses.gain(target[:1], target[:1], target[:1] + off[:1], body).isfinite().all()


def test_the_log_of_a_training_is_json_whatever_was_measured(tmp_path: Path) -> None:
    log = watch.Log(tmp_path)
    log.write(step=20, gain_dB=math.nan, gradient=math.inf, loss=-0.5)
    log.close()

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert found == {"step": 20, "gain_dB": None, "gradient": None, "loss": -0.5}


def test_tensorboard_reads_the_log_of_a_training_that_was_killed_and_went_on(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    code = (
        "import os, pathlib, sys, torch.utils.tensorboard; from recon.learn.watch import Log\n"
        "for at in (20, 60):\n"
        "    if not (child := os.fork()):\n"
        "        log = Log(pathlib.Path(sys.argv[1]))\n"
        "        for n in (at, at + 20): log.write(step=n, loss=1 / n, gain_dB=n / 10)\n"
        "        os.kill(os.getpid(), 9)\n"
        "    assert os.waitpid(child, 0)[1] == 9"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(read.Tags()["scalars"]) == {"loss", "gain_dB"}
    assert [(e.step, e.value) for e in read.Scalars("gain_dB")] == [(n, n / 10) for n in (20, 40, 60, 80)]


def test_dissimilarity_is_one_minus_the_structural_similarity_of_the_metrics() -> None:
    g = torch.Generator().manual_seed(1)
    a, t = torch.rand(1, 1, 24, 20, generator=g), torch.rand(1, 1, 24, 20, generator=g)
    expected = metrics.ssim(a[0].numpy(), t[0].numpy(), data_range=float(t.max()))
    found = losses.dissimilarity(a.to(torch.complex64), t.to(torch.complex64), torch.ones(1, 1, 24, 20))
    assert float(found) == pytest.approx(1 - expected, abs=1e-5)


def test_a_run_leaves_checkpoint_log_and_pictures_and_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    short = replace(TINY, pool=Pool(size=4, validation=2))
    out = tmp_path / "out"
    state = train.train(short, data, out, minutes=0.02)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == state.step > 0
    assert {"validation_gain_dB", "validation_least_dB"} <= set(lines[-1])
    assert (out / f"validation-{state.step:06d}.png").is_file()
    with pytest.raises(ReconError, match="--resume"):
        train.train(short, data, out, minutes=0.02)
    more = train.train(short, data, out, minutes=0.03, resume=True)
    assert not any("Writer" in type(t).__name__ for t in threading.enumerate())
    assert more.step > state.step
    assert more.seconds > state.seconds


@pytest.mark.parametrize("limit", [12, 60])
def test_a_full_disk_ends_a_training_with_a_sentence(data: Path, tmp_path: Path, limit: int) -> None:
    """Of 12 KiB no scan can be written, of 60 KiB no checkpoint: a limit on the size of files stands for the disk."""
    resource = pytest.importorskip("resource")
    file = tmp_path / "tiny.toml"
    file.write_text(
        'name = "tiny"\n[network]\ncascades = 1\nchannels = [16, 16]\ncondition = 4\niterations = 2\nstart = 4\n'
        "[data]\nsizes = [32]\ncoils = [2]\nestimated_maps = 0\nacs = [8, 8]\n[pool]\nsize = 2\nvalidation = 0\n"
        "[loop]\nbatch = 1\nwidth = 32\n"
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit * 1024, before[1]))
        done = recon("train", file, "-o", tmp_path / "out", "--data", data, "--minutes", 0.005, "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.code == 1
    assert re.fullmatch(r"recon: cannot write \S+: the file would be larger than this system allows; .*\n", done.err)
    assert ("checkpoint.pt" in done.err) == (limit == 60)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_missing_device_is_reported(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text('name = "tiny"\n')
    for device, says in (("gpu", "there is no device 'gpu'"), ("cuda:99", "use --device cpu|no cuda:99")):
        done = recon("train", file, "-o", tmp_path / "out", "--data", data, "--device", device, "--quiet")
        assert done.code == 1
        assert re.search(says, done.err), done.err


def test_the_verb_trains_and_its_weights_load(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(
        'name = "tiny"\n[network]\ncascades = 1\nchannels = [4, 4]\ncondition = 4\niterations = 2\nstart = 4\n'
        "[data]\nsizes = [32]\ncoils = [2]\nestimated_maps = 0\nacs = [8, 8]\n"
        "[check]\nsizes = [32]\ncoils = [2]\nestimated_maps = 0\nacs = [8, 8]\nraw = 0\n"
        "[pool]\nsize = 4\nvalidation = 2\n[loop]\nbatch = 1\nwidth = 32\n"
    )
    done = recon("train", file, "-o", tmp_path / "out", "--data", data, "--minutes", 0.01, "--quiet")
    assert done.code == 0, done.err
    assert weights.load(tmp_path / "out" / "tiny").network.shape.channels == (4, 4)
    assert settings.load(tmp_path / "out" / "tiny" / "recipe.toml") == settings.load(file)
    again = recon("train", file, "-o", tmp_path / "out", "--data", data, "--minutes", 0.01, "--quiet")
    assert again.code == 1
    assert "--resume" in again.err


def test_a_pause_of_the_process_is_no_training() -> None:
    recent = [1.0] * 20
    assert train.counted(0.9, recent) == 0.9
    assert train.counted(500.0, recent) == 3.0
    assert train.counted(500.0, []) == 500.0


def test_a_recipe_with_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[network]\ncascade = 3\n")
    with pytest.raises(ReconError, match=r"did you mean network\.cascades"):
        settings.load(path)
    path.write_text("[loop]\nbatch = 0\n")
    with pytest.raises(ReconError, match=r"loop\.batch = 0: input should be greater than or equal to 1"):
        settings.load(path)
    path.write_text('name = "a"\n[network]\nchannels = [8, 16]\n[loop]\nminutes = 2\n')
    assert settings.load(path).network.channels == (8, 16)


def test_a_training_goes_on_from_weights_that_an_earlier_one_left(items: list[pool.Item], tmp_path: Path) -> None:
    earlier = train.start(TINY, CPU)
    steps(earlier, items, 3)
    weights.save(earlier.network, tmp_path / "earlier")
    on = replace(TINY, begin=str(tmp_path / "earlier"), loop=replace(TINY.loop, seed=5))
    state = train.start(on, CPU)
    for name, value in earlier.network.state_dict().items():
        assert torch.equal(state.network.state_dict()[name], value)
        assert torch.equal(state.average.state_dict()[name], value)
    with pytest.raises(ReconError, match="different shape"):
        train.start(replace(on, network=replace(TINY.network, cascades=2)), CPU)
