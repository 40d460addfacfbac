"""Captures: in which order streams, pools and graphs are asked, by a torch.cuda that writes it down."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recon.kernels import graph

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What torch.cuda was asked, in order; `reserved` bytes grow by 100 with each capture."""
    found: Any = SimpleNamespace(log=[], reserved=0, fail=False)

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            found.log.append(f"{self.name} waits for {other.name}")

    class Graph:
        def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
            assert capture_error_mode == "thread_local"
            found.log.append(f"begin in {pool}")
            found.reserved += 100

        def capture_end(self) -> None:
            found.log.append("end")
            if found.fail:
                raise RuntimeError("the capture is invalid")

        def pool(self) -> str:
            return "its pool"

    @contextlib.contextmanager
    def on(stream: Stream) -> Any:
        found.log.append(f"on {stream.name}")
        yield

    side = Stream("side")
    monkeypatch.setattr(graph, "_side", lambda device: side)
    monkeypatch.setattr(graph, "_kept", {})
    for name, value in {
        "CUDAGraph": Graph,
        "stream": on,
        "current_stream": lambda device: Stream("current"),
        "memory_reserved": lambda device: found.reserved,
        "empty_cache": lambda: found.log.append("empty"),
        "synchronize": lambda device: found.log.append("synchronize"),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return found


def test_a_capture_runs_on_its_own_stream_between_what_came_before_and_after(said) -> None:
    _, out = graph.capture(lambda: said.log.append("run") or 7, DEVICE)
    assert out == 7
    assert said.log == [
        "side waits for current", "on side", "begin in None", "run", "end", "current waits for side",
    ]  # fmt: skip


def test_unused_memory_is_given_back_first_where_that_is_asked_for(said) -> None:
    graph.capture(lambda: None, DEVICE, tidy=True)
    assert said.log[:2] == ["synchronize", "empty"]


def test_a_capture_that_fails_is_ended_and_says_what_failed(said) -> None:
    said.fail = True

    def run() -> None:
        raise ValueError("the step asked the card")

    with pytest.raises(ValueError, match="the step asked the card"):
        graph.capture(run, DEVICE)
    assert said.log[-1] == "end"


def test_graphs_in_turn_share_the_memory_of_the_one_before(said) -> None:
    graph.in_turn(lambda: None, DEVICE)
    graph.in_turn(lambda: None, DEVICE)
    assert [line for line in said.log if line.startswith("begin")] == ["begin in None", "begin in its pool"]


def test_the_next_turn_waits_for_this_one_and_too_much_memory_is_given_back(said) -> None:
    graph.in_turn(lambda: None, DEVICE)
    said.log.clear()
    graph.leave(DEVICE, 100)
    assert said.log == ["side waits for current"]
    graph.in_turn(lambda: None, DEVICE)  # 200 bytes by now
    graph.leave(DEVICE, 100)
    assert said.log[-1] == "empty"
    graph.in_turn(lambda: None, DEVICE)
    assert "begin in None" in said.log
