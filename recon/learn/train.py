"""The training loop: a cosine schedule in wall time, a moving average of the weights, checkpoints, a log, pictures."""

from __future__ import annotations

import copy
import math
import pickle
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.data import ReconError
from recon.io.atomic import put, write_error
from recon.learn import losses, pool, ranks
from recon.learn.draw import Draw
from recon.learn.graph import Graphs
from recon.learn.muon import Muon
from recon.learn.pool import Batch, Groups, Item
from recon.learn.ranks import Rank
from recon.learn.settings import Loop, Training
from recon.learn.supply import Supply, stocked, streamed
from recon.learn.watch import Log, picture
from recon.nets import weights
from recon.nets.unrolled import Unrolled
from recon.progress import Report, silent
from recon.recipe import to_toml


@dataclass
class State:
    """The content of a checkpoint: both sets of weights, the optimiser, and the progress of the training."""

    network: Unrolled
    average: Unrolled
    optimiser: torch.optim.Optimizer
    #: The function that leaves a batch's gradients in the network, summed over all processes.
    gradients: Graphs
    step: int = 0
    #: Seconds of training, without pauses of the process.
    seconds: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=64))


def train(
    recipe: Training,
    data: Path,
    output: Path,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    workers: int = 0,
    report: Report = silent,
) -> State:
    """Train a network and leave checkpoint.pt, log.jsonl, validation pictures and the final weights in `output`.

    `data` holds the folders `train` and `validation`. Scans are made into `output`/pool first and then drawn from it;
    an existing pool is used. `minutes` replaces the recipe's time; `resume` continues from the checkpoint. The recipe
    decides what each step sees, and the time decides the learning rate, so two trainings are similar but not identical.

    With `workers`, that many processes make scans while the network trains on those available, and the time is
    wall-clock time, including the making of the first scans. The recipe decides which scans there are, but not when
    each arrives. Under `torchrun` every process uses its own scans, and all take one step together with the mean of
    their gradients. SIGTERM ends a training early, with all of its outputs. Raises ReconError for a folder with a
    checkpoint unless asked to resume, and as `restore` does.
    """
    place = torch.device(device)
    rank = ranks.join(place)
    if rank.size > 1 and place.type == "cuda":
        place = torch.device("cuda", rank.local)
        torch.cuda.set_device(place)
    loop = recipe.loop
    total = 60 * (loop.minutes if minutes is None else minutes)
    state = start(recipe, place, rank)
    checkpoint = output / "checkpoint.pt"
    if checkpoint.exists():
        if not resume:
            raise ReconError(
                f"{output} already holds a training run; add --resume to continue it, or give a new folder"
            )
        restore(state, checkpoint)
    rank.together()
    try:
        with ExitStack() as stack:
            supply: Supply = (
                stack.enter_context(streamed(recipe, data, output, place, workers, rank, report, state.gradients.lock))
                if workers
                else stocked(recipe, data, output, place, rank, report, share=total / 60 / (loop.minutes or 1))
            )
            # Until here only finished scans need to be kept, so a signal ends the process as usual.
            stop = stack.enter_context(interruptible())
            log = stack.enter_context(closing(Log(output))) if rank.first else None
            try:
                _loop(state, recipe, supply, total, place, rank, stop, log, output, report)
            finally:
                # Whatever happened, the weights learned so far are kept.
                if rank.first:
                    save(state, checkpoint)
                    keep(state.average, output / recipe.name)
                    put(output / recipe.name / "recipe.toml", to_toml(recipe).encode())
            if log is not None:
                log.write(step=state.step, minutes=state.seconds / 60, **validate(state, supply.held, output, place))
    finally:
        ranks.leave(rank)
    return state


def _loop(
    state: State,
    recipe: Training,
    supply: Supply,
    total: float,
    place: torch.device,
    rank: Rank,
    stop: Event,
    log: Log | None,
    output: Path,
    report: Report,
) -> None:
    """Steps until the time is over."""
    loop, clock = recipe.loop, supply.clock
    begun = time.monotonic() - state.seconds if clock is None else clock - state.seconds
    saved = checked = state.seconds
    while rank.agree(math.inf if stop.is_set() else state.seconds) < total:
        begin = time.monotonic()
        drawn = batch_of(supply.groups, loop, state.step * rank.size + rank.number, place)
        measured = step(state, recipe, drawn, min(1.0, state.seconds / total))
        elapsed = time.monotonic() - begin
        if clock is None:
            state.seconds += counted(elapsed, state.recent)
            state.recent.append(elapsed)
        else:
            state.seconds = time.monotonic() - begun
        # The time decides the learning rate: processes with separate clocks would diverge, because only gradients are
        # shared.
        state.seconds = rank.agree(state.seconds)
        if log is None:
            continue
        if state.step % 20 == 0:
            numbers = {name: float(value) for name, value in measured.items()}
            log.write(
                step=state.step,
                minutes=state.seconds / 60,
                scans=len(supply.groups),
                graphs=len(state.gradients),
                **numbers,
            )
            report("train", int(state.seconds), int(total))
        if state.seconds - saved > 60 * loop.checkpoint_minutes:
            saved = state.seconds
            save(state, output / "checkpoint.pt")
        if state.seconds - checked > 60 * loop.validate_minutes:
            checked = state.seconds
            log.write(step=state.step, minutes=state.seconds / 60, **validate(state, supply.held, output, place))


@contextmanager
def interruptible() -> Iterator[Event]:
    """An event set by SIGTERM, so that a stopped training still writes its outputs."""
    stop = Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def counted(elapsed: float, recent: Sequence[float]) -> float:
    """Seconds that a step counts: at most three times the usual, because a paused process has not trained."""
    return min(elapsed, 3 * statistics.median(recent)) if len(recent) > 8 else elapsed


def start(recipe: Training, device: torch.device, rank: Rank = Rank()) -> State:
    """The network before its first step: initialised by the recipe's seed, or continued from an earlier training.

    Raises ReconError for starting weights of another shape.
    """
    torch.manual_seed(recipe.loop.seed)
    if device.type == "cuda":
        # Ten bits of mantissa in single-precision convolutions and products of the optimiser.
        torch.set_float32_matmul_precision("high")
    network = Unrolled(recipe.network)
    if recipe.begin:
        _go_on(network, recipe)
    network = network.to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False)
    loop = recipe.loop
    parameters, decay = network.parameters(), loop.weight_decay
    optimiser: torch.optim.Optimizer
    if loop.optimiser == "muon":
        optimiser = Muon(parameters, rate=loop.rate, weight_decay=decay)
    else:
        optimiser = torch.optim.AdamW(parameters, lr=loop.rate, betas=(0.9, 0.99), weight_decay=decay)
    gradients = Graphs(ranks.shared(network, rank), loop if rank.size == 1 else replace(loop, graphs=False))
    return State(network, average, optimiser, gradients)


def _go_on(network: Unrolled, recipe: Training) -> None:
    """Give a network the starting weights of the recipe."""
    found = weights.load(recipe.begin).network
    # The network may have more inputs than before: their weights start at zero.
    if found.shape not in (recipe.network, replace(recipe.network, plain=())):
        raise ReconError(
            f"{recipe.begin} has a different shape than the network of {recipe.name}; give both the same [network]"
        )
    before = found.state_dict()
    network.load_state_dict({key: _widened(before[key], value) for key, value in network.state_dict().items()})


def _widened(value: Tensor, wanted: Tensor) -> Tensor:
    """A weight for more inputs than it was trained for; the new ones have no effect at first."""
    if value.shape == wanted.shape:
        return value
    return F.pad(value, (0, 0, 0, 0, 0, wanted.shape[1] - value.shape[1]))


def batch_of(groups: Groups, loop: Loop, number: int, device: torch.device) -> tuple[Batch, Tensor]:
    """The batch for this step's number, and the requested denoising of each of its items."""
    draw = Draw.seeded(loop.seed * 1_000_003 + number)
    chosen = groups.draw(draw, loop.batch)
    made = pool.batch(chosen, loop.width, draw)
    wish = draw.uniforms(loop.batch, 2)
    d = torch.where(wish[:, 0] < loop.noisy, 0.0, torch.where(wish[:, 0] < loop.noisy + loop.clean, 1.0, wish[:, 1]))
    d = torch.where(torch.tensor([item.known_clean for item in chosen]), d, torch.zeros_like(d))
    return made, pool.onto(d, device)


def step(state: State, recipe: Training, drawn: tuple[Batch, Tensor], progress: float) -> dict[str, Tensor | float]:
    """One step of the optimiser; returns its measurements as tensors that a GPU need not have finished.

    Values in a graph's own memory are overwritten by the next step: read or copy them before.
    """
    loop, (made, d) = recipe.loop, drawn
    rate = (
        loop.rate
        * min(1.0, (state.step + 1) / loop.warmup)
        * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * progress)))
    )
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    ssim = loop.ssim if progress >= loop.ssim_from else 0.0
    loss, decibels, norm = state.gradients(made, d, ssim, progress < loop.bf16_until)
    state.optimiser.step()
    state.step += 1
    keep = min(loop.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.network.parameters()), 1 - keep)
    return {"loss": loss, "gain_dB": decibels, "rate": rate, "gradient": norm}


def validate(state: State, held: Sequence[Item], output: Path, device: torch.device) -> dict[str, float]:
    """Gain over the start on the validation scans in dB, mean and minimum, with full noise; pictures of the last.

    Empty if there are no validation scans.
    """
    if not held:
        return {}
    gains, shown = [], []
    for item in held:
        made = pool.batch([pool.placed(item, device)], 0, None)
        with torch.no_grad():
            x = state.average(made.problem, 0.0)
        gains.append(float(losses.gain(x, made.full, made.problem.start, made.weight)))
        shown.append((made.full[0, 0].cpu(), made.problem.start[0, 0].cpu(), x[0, 0].cpu()))
    picture(shown[-4:], output / f"validation-{state.step:06d}.png")
    return {"validation_gain_dB": statistics.mean(gains), "validation_least_dB": min(gains)}


def save(state: State, path: Path) -> None:
    """Write a checkpoint, completely or not at all; raises ReconError if it cannot be written."""
    held: dict[str, Any] = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    # As bytes, because only Python's own writing reports a full disk.
    content = BytesIO()
    torch.save(held, content)
    put(path, content.getvalue())


def keep(network: Unrolled, folder: Path, *, half: bool = False) -> None:
    """Write weights as `weights.save` does; raises ReconError if they cannot be written."""
    try:
        weights.save(network, folder, half=half)
    except OSError as e:
        raise write_error(folder, e) from e


def restore(state: State, path: Path) -> None:
    """Continue from a checkpoint; raises ReconError if it is damaged, or belongs to another network or optimiser."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError):
        raise ReconError(
            f"{path} is damaged; give a new folder, and set `begin` in the recipe to the folder of weights next to it"
        ) from None
    try:
        state.network.load_state_dict(held["network"])
        state.average.load_state_dict(held["average"])
        before, now = (o["param_groups"][0].keys() for o in (held["optimiser"], state.optimiser.state_dict()))
        if before != now:
            raise ValueError("another optimiser")
        state.optimiser.load_state_dict(held["optimiser"])
        state.step, state.seconds = held["step"], held["seconds"]
    except (RuntimeError, ValueError, KeyError, TypeError):
        raise ReconError(
            f"{path} belongs to a different network or optimiser than the recipe's; continue with the recipe "
            "that it was started with, or give a new folder"
        ) from None
