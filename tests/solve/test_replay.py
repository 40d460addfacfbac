"""Solvers with iterations replayed from a graph: on a simulated GPU, where a graph is a list of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recon.data import Measurement
from recon.kernels import graph
from recon.operators.sense import Sense
from recon.solve import replay
from recon.solve.cg import cg
from recon.solve.fista import fista, l1_wavelet
from recon.solve.pdhg import tv
from recon.solve.power import largest_eigenvalue
from tests.card import CARD, Card, OnCard

_aten = torch.ops.aten


class Recorded(TorchDispatchMode):
    """What was asked of the card while it was entered: not done then, but at each replay, on the same memory.

    As a capture does, it refuses whatever waits for the card.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[tuple[Any, Any, Any, Tensor | None]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t.held for t in tree_leaves((args, kwargs)) if isinstance(t, OnCard)]
        if given and func is _aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        if func._schema.is_mutable and given and _home(given[0]) not in self.made:
            self.before.setdefault(_home(given[0]), (given[0], given[0].clone()))
        out = func(*args, **kwargs)
        if isinstance(out, OnCard):
            fresh = all(_home(out.held) != _home(t) for t in given)
            if fresh:
                self.made.add(_home(out.held))
            if fresh or func._schema.is_mutable:
                self.launches.append((func, args, kwargs, out.held if fresh else None))
        return out

    def undo(self) -> None:
        for place, value in self.before.values():
            place.copy_(value)

    def replay(self) -> None:
        for func, args, kwargs, place in self.launches:
            out = func(*args, **kwargs)
            if place is not None:
                place.copy_(out.held)


def _home(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorded]]:
    """The graphs that were captured."""
    made: list[Recorded] = []

    def in_turn(run: Callable[[], Any], device: torch.device) -> tuple[Recorded, Any]:
        made.append(Recorded())
        with made[-1]:
            out = run()
        made[-1].undo()
        return made[-1], out

    monkeypatch.setattr(graph, "beside", lambda run, device: run())
    monkeypatch.setattr(graph, "in_turn", in_turn)
    monkeypatch.setattr(graph, "leave", lambda device, most: None)
    monkeypatch.setattr(replay, "_possible", lambda device: device.type == "meta")
    monkeypatch.setattr(replay, "_off", [])
    with Card():
        yield made
    assert graph.turn.acquire(blocking=False)
    graph.turn.release()


def scene(batch: int = 2) -> Measurement:
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(batch, 4, 1, 32, 24, dtype=torch.complex64, generator=g)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    mask = (torch.rand(1, 1, 32, 1, generator=g) < 0.6).float()
    truth = torch.zeros(batch, 1, 32, 24, dtype=torch.complex64)
    truth[:, :, 6:20, 5:18] = 2 + 1j
    noise = 0.1 * torch.randn(batch, 4, 1, 32, 24, dtype=torch.complex64, generator=g)
    y = Sense(maps, mask)(truth) + mask * noise
    return Measurement(y.to(CARD), Sense(maps.to(CARD), mask.to(CARD)), 0.1)


def image(x: Tensor) -> Tensor:
    return x.cpu()


SOLVERS: dict[str, Callable[[Measurement], Any]] = {
    "cg": lambda m: cg(m.A.normal(), m.A.adjoint(m.y), lam=0.02, iterations=30, tolerance=1e-4),
    "cs": lambda m: l1_wavelet(m, lam=1.0, iterations=25, continuation=8.0, wavelet="db1", tolerance=1e-3),
    "cs without shifts": lambda m: l1_wavelet(m, lam=0.2, p=1, iterations=25, cycle_spin=False),
    "tv": lambda m: tv(m, iterations=40, tolerance=1e-3),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_replays_give_the_bits_of_single_launches(captured, name, monkeypatch) -> None:
    m = scene()
    found = SOLVERS[name](m)
    assert len(captured) == 1
    assert not replay._off
    monkeypatch.setenv("RECON_GRAPHS", "0")
    expected = SOLVERS[name](m)
    assert len(captured) == 1
    assert torch.equal(image(found.x), image(expected.x))
    assert torch.equal(image(found.iterations), image(expected.iterations))
    assert torch.equal(image(found.residual), image(expected.residual))
    assert int(image(found.iterations).max()) > 8


def test_replays_give_the_picture_of_the_processor(captured) -> None:
    m = scene()
    here = Measurement(m.y.cpu(), Sense(m.A.maps.cpu(), m.A.mask.cpu()), m.sigma)
    for solve in SOLVERS.values():
        expected = solve(here).x
        assert float((image(solve(m).x) - expected).norm()) < 2e-4 * float(expected.norm())


def test_the_largest_eigenvalue_is_that_of_single_launches(captured, monkeypatch) -> None:
    m = scene()
    N, like = m.A.normal(), m.A.adjoint(m.y)
    found = largest_eigenvalue(N, like, tolerance=0.02)
    assert len(captured) == 1
    monkeypatch.setenv("RECON_GRAPHS", "0")
    assert torch.equal(image(found), image(largest_eigenvalue(N, like, tolerance=0.02)))
    # The processor stops where it is near enough, a card does iterations too many, which change nothing.
    here = Sense(m.A.maps.cpu(), m.A.mask.cpu()).normal()
    expected = largest_eigenvalue(here, like.cpu(), tolerance=0.02)
    torch.testing.assert_close(image(found), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "most"), [("cg", 45), ("cs", 140), ("tv", 110)])
def test_python_takes_three_steps_and_asks_now_and_then(captured, name, most) -> None:
    """Launches of an iteration, and how often the card is asked for a number in all of them."""
    m = scene()
    steps: list[int] = []
    normal = type(m.A.normal()).forward

    def counted(self: Any, x: Tensor) -> Tensor:
        steps.append(1)
        return normal(self, x)

    with pytest.MonkeyPatch.context() as patch, Card() as card:
        patch.setattr(type(m.A.normal()), "forward", counted)
        found = SOLVERS[name](m)
    done = int(image(found.iterations).max())
    assert len(steps) == 3
    assert len(captured[0].launches) <= most
    agreements, bound = 7, 1
    assert card.downloads.count(1) <= -(-done // replay.PAUSE) + 1 + 2 * agreements + bound


def test_a_wrong_graph_is_switched_off_with_a_message(captured, monkeypatch, capsys) -> None:
    m, whole = scene(), Recorded.replay

    def forgetful(self: Recorded) -> None:
        self.launches = [one for one in self.launches if one[0] is not _aten.mul_.Tensor]
        whole(self)

    monkeypatch.setattr(Recorded, "replay", forgetful)
    found = SOLVERS["cg"](m)
    assert capsys.readouterr().err.splitlines() == [
        "CUDA graphs are off: ValueError: the graph gave a different result than separate kernel launches"
    ]
    again = SOLVERS["cg"](m)
    assert len(captured) == 1
    assert torch.equal(image(found.x), image(again.x))


def test_a_step_that_reads_from_the_gpu_continues_without_a_graph(captured, capsys) -> None:
    m = scene()

    def curious(v: Tensor, step: float, k: Any) -> Tensor:
        return v * (1.0 if float(v.real.sum()) < 1e9 else 0.5)

    b = m.A.adjoint(m.y)
    expected = fista(m.A.normal(), b, curious, step=1.0, iterations=10).x  # it was not declared capturable
    assert not captured
    found = fista(m.A.normal(), b, curious, step=1.0, iterations=10, graphs=True).x
    assert "CUDA graphs are off: RuntimeError: operation not permitted" in capsys.readouterr().err
    assert torch.equal(image(found), image(expected))


def test_a_gpu_without_memory_for_a_graph_continues_without_it(captured, monkeypatch, capsys) -> None:
    def full(run: Any, device: torch.device) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    m, in_turn = scene(), graph.in_turn
    monkeypatch.setattr(graph, "in_turn", full)
    found = SOLVERS["cg"](m)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(graph, "in_turn", in_turn)
    assert torch.equal(image(found.x), image(SOLVERS["cg"](m).x))
    assert len(captured) == 1


def test_what_is_watched_or_short_or_large_or_nested_has_no_graph(captured, monkeypatch) -> None:
    m = scene()
    N, b = m.A.normal(), m.A.adjoint(m.y)
    seen: list[Tensor] = []
    cg(N, b, iterations=8, callback=lambda k, x: seen.append(x))
    cg(N, b, iterations=replay.FEWEST - 1)
    with graph.turn:
        cg(N, b, iterations=8)
    monkeypatch.setattr(replay, "LARGEST", b.nbytes)
    cg(N, b, iterations=8)
    assert len(seen) == 8
    assert not captured


def test_nan_values_agree_only_with_nan() -> None:
    nan, inf = float("nan"), float("inf")
    assert replay._agree(torch.tensor([1, nan, inf]), torch.tensor([1 + 1e-6, nan, inf]))
    assert not replay._agree(torch.tensor([1, nan]), torch.tensor([1, 2.0]))
    assert not replay._agree(torch.tensor([1, 1.0]), torch.tensor([1, 1.01]))
    assert not replay._agree(torch.tensor([1]), torch.tensor([2]))


def test_replays_on_a_gpu_give_the_bits_of_single_launches(monkeypatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU that torch can use")
    with Card():
        m = scene()
        y, maps, mask = m.y.cpu(), m.A.maps.cpu(), m.A.mask.cpu()
    on = Measurement(y.cuda(), Sense(maps.cuda(), mask.cuda(), (-2,)), m.sigma)
    for solve in SOLVERS.values():
        found = solve(on)
        assert not replay._off
        with monkeypatch.context() as patch:
            patch.setenv("RECON_GRAPHS", "0")
            assert torch.equal(found.x, solve(on).x)
    for _ in range(20):
        SOLVERS["cg"](on)
    before = torch.cuda.memory_reserved()
    for _ in range(200):
        SOLVERS["cg"](on)
    assert torch.cuda.memory_reserved() <= before
