"""Iterations of a solver on a GPU as replays of a CUDA graph: small problems are limited by Python, not by the GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from recon.kernels import graph

#: Iterations on a GPU between two checks whether all problems are solved: during a check the GPU gets no work.
PAUSE = 6

#: In order: fewest iterations for which a graph is captured, which takes as long as three; largest state in bytes,
#: because large ones compute for longer than a launch takes; most bytes that are kept from one solver to the next.
FEWEST, LARGEST, KEPT = 6, 256 << 20, 512 << 20

#: Largest difference between a replay and the step itself, as a share of the largest value.
AGREEMENT = 1e-4

#: What one iteration passes to the next: tensors, and on a CPU also Python numbers.
State = tuple[Any, ...]
Step = Callable[..., State]

#: Why graphs are off in this process.
_off: list[str] = []


def due(k: int, device: torch.device) -> bool:
    """Whether a solver checks after iteration k = 0, 1, … if it is finished: on a CPU always, on a GPU now and then."""
    return device.type == "cpu" or k % PAUSE == PAUSE - 1


def states(step: Step, state: State, iterations: int, *, graphs: bool = True) -> Iterator[State]:
    """The states after 1 … `iterations` steps state ← step(*state), each valid until the next one is requested.

    A step may write into the tensors it is given and must read nothing else that changes. On a GPU it must not read
    values back. The third and all later steps are replays of one graph, captured for this call, whose first result is
    compared with the step itself. If that fails, graphs are off for the rest of the process, with one message. No
    graphs are used for few iterations, for large states, without `graphs`, and if RECON_GRAPHS=0.
    """
    if not graphs or iterations < FEWEST or not _serves(state) or not graph.turn.acquire(blocking=False):
        yield from _plain(step, state, iterations)
        return
    device = state[0].device
    try:
        state = graph.beside(lambda: step(*state), device)
        yield state
        state, step = _replayed(step, state, device)
        yield state
        yield from _plain(step, state, iterations - 2)
    finally:
        graph.leave(device, KEPT)
        graph.turn.release()


def _plain(step: Step, state: State, iterations: int) -> Iterator[State]:
    for _ in range(iterations):
        state = step(*state)
        yield state


def _replayed(step: Step, state: State, device: torch.device) -> tuple[State, Step]:
    """The next state, and the function for those after it: replays, or the step itself if a graph fails or is wrong."""
    # Copies, because results of a step may share memory, and a step must not write into the inputs of the graph.
    static = tuple(t.clone(memory_format=torch.contiguous_format) for t in state)
    expected = step(*state)

    def once() -> None:
        for place, value in zip(static, step(*static), strict=True):
            if value is not place:
                place.copy_(value)

    def again(*_: Tensor) -> State:
        made.replay()
        return static

    try:
        made, _ = graph.in_turn(once, device)
        again()
        if not all(_agree(a, b) for a, b in zip(static, expected, strict=True)):
            raise ValueError("the graph gave a different result than separate kernel launches")
    except torch.cuda.OutOfMemoryError:
        return expected, step  # only this time: without a graph memory may suffice
    except Exception as e:
        _off.append(f"{type(e).__name__}: {next(iter(str(e).splitlines()), '')}")
        print(f"CUDA graphs are off: {_off[-1]}", file=sys.stderr, flush=True)
        return expected, step
    return static, again


def _agree(got: Tensor, expected: Tensor) -> bool:
    if torch.equal(got, expected):
        return True
    if not expected.is_floating_point() and not expected.is_complex():
        return False
    off, most = (got - expected).abs().nan_to_num(0.0, 0.0), expected.abs().nan_to_num(0.0, 0.0).amax()
    same = got.isfinite() == expected.isfinite()
    return bool(same.all() & (off <= AGREEMENT * most).all())


def _serves(state: State) -> bool:
    tensors = [t for t in state if isinstance(t, Tensor)]
    return (
        _possible(tensors[0].device)
        and not _off
        and os.environ.get("RECON_GRAPHS") != "0"
        and sum(t.nbytes for t in tensors) <= LARGEST
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
    )


def _possible(device: torch.device) -> bool:
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
