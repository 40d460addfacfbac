"""The training loop: a cosine in wall time, a moving average of the weights, checkpoints, a log, pictures."""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recon.data import ReconError
from recon.io.atomic import atomic_file
from recon.learn import losses, pool, synth, volumes
from recon.learn.draw import Draw
from recon.learn.muon import Muon
from recon.learn.pool import Batch, Item
from recon.learn.settings import Loop, Training
from recon.nets import weights
from recon.nets.unrolled import Unrolled

Report = Callable[[str, int, int], None]


@dataclass
class State:
    """What a checkpoint holds: both sets of weights, the optimiser, and how far the training is."""

    network: Unrolled
    average: Unrolled
    optimiser: torch.optim.Optimizer
    step: int = 0
    #: Seconds of training, pauses of the process left out.
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
    report: Report = lambda stage, done, total: None,
) -> State:
    """Train a network and leave checkpoint.pt, log.jsonl, validation pictures and the final weights in `output`.

    `data` holds the folders `train` and `validation`. Scans are made into `output`/pool first, then drawn from it; a
    pool that is there already is used. `minutes` replaces the recipe's time; `resume` goes on from the checkpoint.
    Equal recipes, data and numbers of steps give equal weights on one kind of machine. Raises ReconError for a folder
    with a checkpoint when not asked to resume.
    """
    place = torch.device(device)
    loop = recipe.loop
    total = 60 * (loop.minutes if minutes is None else minutes)
    state = start(recipe, place)
    checkpoint = output / "checkpoint.pt"
    if checkpoint.exists():
        if not resume:
            raise ReconError(f"{output} holds a training already; add --resume to go on, or name a new folder")
        restore(state, checkpoint)
    items = stock(recipe, data / "train", output / "pool" / "train", "train", report)
    held = stock(recipe, data / "validation", output / "pool" / "validation", "validation", report)
    groups = pool.buckets(items, loop.width)
    log = Log(output)
    saved = checked = state.seconds
    while state.seconds < total:
        begin = time.monotonic()
        measured = step(state, recipe, batch_of(items, groups, loop, state.step, place), state.seconds / total)
        elapsed = time.monotonic() - begin
        state.seconds += counted(elapsed, state.recent)
        state.recent.append(elapsed)
        if state.step % 20 == 0:
            log.write(step=state.step, minutes=state.seconds / 60, **measured)
            report("train", int(state.seconds), int(total))
        if state.seconds - saved > 60 * loop.checkpoint_minutes:
            saved = state.seconds
            save(state, checkpoint)
        if state.seconds - checked > 60 * loop.validate_minutes:
            checked = state.seconds
            log.write(step=state.step, minutes=state.seconds / 60, **validate(state, held, output, place))
    save(state, checkpoint)
    log.write(step=state.step, minutes=state.seconds / 60, **validate(state, held, output, place))
    weights.save(state.average, output / recipe.name)
    return state


def counted(elapsed: float, recent: Sequence[float]) -> float:
    """Seconds that a step counts: at most three times the usual, since a process that was stopped has not trained."""
    return min(elapsed, 3 * statistics.median(recent)) if len(recent) > 8 else elapsed


def start(recipe: Training, device: torch.device) -> State:
    """A network that the recipe's seed decides, before its first step."""
    torch.manual_seed(recipe.loop.seed)
    network = Unrolled(recipe.network).to(device)
    average = copy.deepcopy(network).requires_grad_(False)
    loop = recipe.loop
    weights, decay = network.parameters(), loop.weight_decay
    optimiser: torch.optim.Optimizer
    if loop.optimiser == "muon":
        optimiser = Muon(weights, rate=loop.rate, weight_decay=decay)
    else:
        optimiser = torch.optim.AdamW(weights, lr=loop.rate, betas=(0.9, 0.99), weight_decay=decay)
    return State(network, average, optimiser)


def stock(recipe: Training, data: Path, folder: Path, which: str, report: Report) -> list[Item]:
    """The items of a pool, made where they are missing."""
    count, seed, drawn = (
        (recipe.pool.size, recipe.pool.seed, recipe.data)
        if which == "train"
        else (recipe.pool.validation, recipe.pool.validation_seed, recipe.check)
    )
    sources: list[volumes.Sources] = []

    def make(number: int) -> Item:
        if not sources:
            sources.append(volumes.read(data))
        return pool.prepared(synth.example(seed + number, sources[0], drawn), recipe.network.start)

    return [pool.read(path) for path in pool.fill(folder, count, make, report, (0, 1))]


def batch_of(
    items: Sequence[Item], groups: Sequence[Sequence[int]], loop: Loop, number: int, device: torch.device
) -> tuple[Batch, Tensor]:
    """The batch that a step's number decides, and the wish for denoising of each of its items."""
    draw = Draw.seeded(loop.seed * 1_000_003 + number)
    group = draw.one_of(groups, [len(g) for g in groups])
    chosen = [items[draw.one_of(group)] for _ in range(loop.batch)]
    made = pool.batch(chosen, loop.width, draw)
    wish = draw.uniforms(loop.batch, 2)
    d = torch.where(wish[:, 0] < loop.noisy, 0.0, torch.where(wish[:, 0] < loop.noisy + loop.clean, 1.0, wish[:, 1]))
    d = torch.where(made.known_clean.cpu(), d, torch.zeros_like(d))
    return pool.to(made, device), d.to(device)


def step(state: State, recipe: Training, drawn: tuple[Batch, Tensor], progress: float) -> dict[str, float]:
    """One step of the optimiser; returns what it measured."""
    loop, (made, d) = recipe.loop, drawn
    rate = (
        loop.rate
        * min(1.0, (state.step + 1) / loop.warmup)
        * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * progress)))
    )
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    target = made.clean + (1 - d)[:, None, None, None] * (made.full - made.clean)
    device = made.full.device.type
    with torch.autocast(device, torch.bfloat16, enabled=progress < loop.bf16_until):
        found = state.network.steps(made.problem, d)
    # Every cascade is asked for the answer, each half as much as the one after it.
    shares = [0.5 ** (len(found) - 1 - k) for k in range(len(found))]
    errors = [losses.log_error(v, target, made.problem.start, made.weight) for v in found]
    loss, x = torch.stack([s * e for s, e in zip(shares, errors)]).sum() / sum(shares), found[-1]
    if progress >= loop.ssim_from:
        loss = loss + loop.ssim * losses.dissimilarity(x, target, made.weight)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(state.network.parameters(), loop.clip))
    if math.isfinite(norm):
        state.optimiser.step()
    state.step += 1
    keep = min(loop.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.network.parameters()):
            slow.lerp_(fast, 1 - keep)
        decibels = losses.gain(x.detach(), target, made.problem.start, made.weight).mean()
    return {"loss": float(loss.detach()), "gain_dB": float(decibels), "rate": rate, "gradient": norm}


def validate(state: State, held: Sequence[Item], output: Path, device: torch.device) -> dict[str, float]:
    """Gain over the start on the held scans in decibels, mean and least, with full noise; a picture of the last few."""
    gains, shown = [], []
    for item in held:
        made = pool.to(pool.batch([item], 0, None), device)
        with torch.no_grad():
            x = state.average(made.problem, 0.0)
        gains.append(float(losses.gain(x, made.full, made.problem.start, made.weight)))
        shown.append((made.full[0, 0].cpu(), made.problem.start[0, 0].cpu(), x[0, 0].cpu()))
    picture(shown[-4:], output / f"validation-{state.step:06d}.png")
    return {"validation_gain_dB": statistics.mean(gains), "validation_least_dB": min(gains)}


def picture(rows: Sequence[tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """Full scan, start, network, and the errors of both five times as bright, a row for each scan."""
    from PIL import Image

    made = []
    for full, begun, x in rows:
        top = full.abs().max()
        parts = [full.abs(), begun.abs(), x.abs(), *(5 * (v.abs() - full.abs()).abs() for v in (begun, x))]
        made.append(torch.cat([(p / top).clamp(0, 1) for p in parts], 1))
    width = max(r.shape[1] for r in made)
    page = torch.cat([nn.functional.pad(r, (0, width - r.shape[1])) for r in made])
    with atomic_file(path) as temporary:
        Image.fromarray((page * 255).byte().numpy()).save(temporary, format="PNG")


def save(state: State, path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    held: dict[str, Any] = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
    }
    with atomic_file(path) as temporary:
        torch.save(held, temporary)


def restore(state: State, path: Path) -> None:
    """Go on from a checkpoint."""
    held = torch.load(path, map_location="cpu", weights_only=True)
    state.network.load_state_dict(held["network"])
    state.average.load_state_dict(held["average"])
    state.optimiser.load_state_dict(held["optimiser"])
    state.step, state.seconds = held["step"], held["seconds"]


class Log:
    """Lines of JSON in log.jsonl, and TensorBoard's event files beside it where that package is installed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder))
        except ImportError:
            self._board = None

    def write(self, **values: float) -> None:
        """Add what was measured at a step."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(values["step"]))
