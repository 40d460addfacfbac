"""Gradients of a batch, and the graphs that replay them on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recon.learn import graph, pool, synth, train
from recon.learn.pool import Batch
from recon.learn.settings import Training
from recon.learn.synth import Settings
from recon.learn.volumes import Sources
from recon.nets.unrolled import Shape

DATA = Settings(sizes=(32,), coils=(2, 4), acs=(8, 8), estimated_maps=0.0, planar=0.0)
TINY = Training(network=Shape(cascades=2, channels=(8, 8), condition=8, iterations=3, start=4), data=DATA)


def batch(seeds: range, device: str = "cpu") -> tuple[Batch, torch.Tensor]:
    place = torch.device(device)
    items = [pool.placed(pool.prepared(synth.example(i, Sources(), DATA), 4), place) for i in seeds]
    return pool.batch(items, 0, None), torch.zeros(len(items), device=place)


def test_a_batch_rebuilt_from_its_tensors_gives_the_same_gradients() -> None:
    state = train.start(TINY, torch.device("cpu"))
    made, d = batch(range(2))
    found = []
    for one in (made, graph._batch(graph._tensors(made), (-2,))):
        loss, decibels, _ = graph.gradients(state.gradients.run, TINY.loop, one, d, torch.tensor(0.3), False)
        found.append((loss, decibels, [p.grad.clone() for p in state.network.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][2], found[1][2]))
    assert any(bool(g.abs().sum() > 0) for g in found[0][2])


def test_gradients_that_are_not_finite_leave_the_weights_as_they_are() -> None:
    state = train.start(replace(TINY, loop=replace(TINY.loop, rate=0.1)), torch.device("cpu"))
    made, d = batch(range(2))
    before = {k: v.clone() for k, v in state.network.state_dict().items()}
    train.step(state, TINY, (replace(made, full=made.full * torch.nan), d), 0.5)
    assert all(torch.equal(before[k], v) for k, v in state.network.state_dict().items())


def test_a_replayed_graph_trains_as_single_launches_do() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    drawn = [batch(range(3 * i, 3 * i + 2), "cuda") for i in range(6)]
    found = []
    for graphs in (False, True):
        recipe = replace(TINY, loop=replace(TINY.loop, graphs=graphs))
        state = train.start(recipe, torch.device("cuda"))
        losses = [float(train.step(state, recipe, one, 0.1 + 0.15 * i)["loss"]) for i, one in enumerate(drawn)]
        assert state.gradients.on is graphs
        found.append(losses)
    assert found[0] == pytest.approx(found[1], abs=1e-2)
