"""Training of denoisers for CT images: several networks at once on one bank of simulated scans."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Literal

import torch
from torch import Tensor

from recon import recipe as recipes
from recon.data import ReconError
from recon.io.atomic import atomic_file
from recon.learn import ct_images, ct_synth, losses
from recon.learn import train as common
from recon.learn.ct_synth import Bank, Made, Settings
from recon.learn.draw import Draw
from recon.learn.settings import Loop, Training, named
from recon.learn.train import State
from recon.learn.watch import Log
from recon.nets.unrolled import Shape
from recon.progress import Report, silent


@dataclass(frozen=True)
class Plan:
    """Everything that determines the weights of a denoiser."""

    name: str = "untitled"
    kind: Literal["ct"] = "ct"
    network: Shape = field(
        default_factory=lambda: Shape(
            1,
            (32, 48, 64),
            iterations=1,
            start=0,
            real=True,
            texture=3,
            details=(3, 7, 15, 31),
            expected=(0.0, 1.0, 0.0),
        )
    )
    data: Settings = field(default_factory=Settings)
    loop: Loop = field(default_factory=lambda: Loop(batch=16, width=160, noisy=0.0, clean=1.0, ssim_from=2.0))
    #: Weights that ship, or a folder of weights, that training continues from; empty: the seed gives the first weights.
    begin: str = ""
    #: Share of the time spent on making scans once the bank is half full.
    making: float = 0.25
    #: Images used for validation, and the seed of the first.
    check: int = 16
    check_seed: int = 900_000_000

    @property
    def training(self) -> Training:
        """The part of the recipe that all kinds of training share."""
        return Training(self.name, network=self.network, loop=self.loop, begin=self.begin)


def load(path: Path) -> Plan:
    """The recipe in a TOML file; raises ReconError as `recon.learn.settings.load` does."""
    made = recipes.parse(recipes.table(path), str(path), Plan)
    named(made.name, path)
    return made


def train(
    plans: Sequence[Plan],
    data: Path,
    output: Path,
    *,
    device: str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    report: Report = silent,
) -> list[State]:
    """Train the networks of several plans on the same batches; each writes its files to `output`/name.

    The first plan decides the data, the batch size and the time; `minutes` replaces the time. The outputs are those of
    `recon.learn.train.train`, without a pool: scans are made on the device during training. Raises ReconError for a
    folder with a checkpoint unless asked to resume, for starting weights of another shape, and for two plans with the
    same name.
    """
    place, first = torch.device(device), plans[0]
    total = 60 * (first.loop.minutes if minutes is None else minutes)
    folders = [output / p.name for p in plans]
    if len({str(folder).lower() for folder in folders}) < len(folders):
        raise ReconError(f"two of the recipes have one name ({', '.join(p.name for p in plans)}); give each its own")
    states = [common.start(p.training, place) for p in plans]
    for state, folder in zip(states, folders):
        if (folder / "checkpoint.pt").exists():
            if not resume:
                raise ReconError(
                    f"{folder} already holds a training run; add --resume to continue it, or give a new folder"
                )
            common.restore(state, folder / "checkpoint.pt")
    with ExitStack() as stack:
        logs = [stack.enter_context(closing(Log(folder))) for folder in folders]
        library = ct_images.read(data / "train")
        lead = states[0]
        maker = Draw.seeded(first.loop.seed * 1_000_003 + lead.step, place)
        held = check_set(first, data / "validation", place)
        bank = Bank(first.data, place)
        while bank.filled < min(bank.capacity, max(first.data.gaussian, 4 * first.data.group)):
            # Training starts with plain Gaussian noise, because it is quick to make.
            bank.add(ct_synth.make(maker, library, first.data, gaussian=bank.total < first.data.gaussian))
            report("bank", bank.filled, bank.capacity)
        try:
            with common.interruptible() as stop:
                _loop(plans, states, folders, logs, library, bank, held, maker, total, stop, report)
        finally:
            # Whatever happened, the weights learned so far are kept.
            for state, plan, folder in zip(states, plans, folders):
                common.save(state, folder / "checkpoint.pt")
                common.keep(state.average, folder / plan.name, half=True)
        _check(states, held, folders, logs)
    return states


def _loop(
    plans: Sequence[Plan],
    states: Sequence[State],
    folders: Sequence[Path],
    logs: Sequence[Log],
    library: ct_images.Library,
    bank: Bank,
    held: Sequence[Made],
    maker: Draw,
    total: float,
    stop: Event,
    report: Report,
) -> None:
    """Steps, and new scans in between, until the time is over."""
    first, lead, place = plans[0], states[0], bank.device
    made, saved, checked = 0.0, lead.seconds, lead.seconds
    while lead.seconds < total and not stop.is_set():
        begin = time.monotonic()
        # A bank that is less than half full gets half of the time.
        share = first.making if bank.filled >= bank.capacity // 2 else 0.5
        if made <= share * lead.seconds:
            bank.add(ct_synth.make(maker, library, first.data))
            _wait(place)
            made += time.monotonic() - begin
        drawn = bank.batch(first.loop.batch, first.loop.width, maker)
        wish = torch.ones(first.loop.batch, device=place)
        for state, plan, log in zip(states, plans, logs):
            measured = common.step(state, plan.training, (drawn, wish), lead.seconds / total)
            if state.step % 20 == 0:
                numbers = {name: float(value) for name, value in measured.items()}
                log.write(step=state.step, minutes=lead.seconds / 60, scans=bank.total, **numbers)
        # Steps that make scans take longer than others; a paused process takes longer than that.
        elapsed = min(time.monotonic() - begin, 60.0)
        for state in states:
            state.seconds += elapsed
        report("train", int(lead.seconds), int(total))
        if lead.seconds - saved > 60 * first.loop.checkpoint_minutes:
            saved = lead.seconds
            for state, folder in zip(states, folders):
                common.save(state, folder / "checkpoint.pt")
        if lead.seconds - checked > 60 * first.loop.validate_minutes:
            checked = lead.seconds
            _check(states, held, folders, logs)


def check_set(plan: Plan, data: Path, device: torch.device) -> list[Made]:
    """Images of validation slices with added noise of 15 to 80 HU, with targets as in training, one by one.

    A slice's own noise is not part of its target. The target differs from the noise-free image by noise that no network
    can predict, so gains are smaller than for an image with known truth.
    """
    library = ct_images.read(data)
    settings = replace(plan.data, real=1.0, noise=(15.0, 80.0), group=min(8, plan.check))
    found: list[Made] = []
    while len(found) < plan.check:
        draw = Draw.seeded(plan.check_seed + len(found), device)
        made = ct_synth.make(draw, library, settings)
        for i in range(len(made.noisy)):
            found.append(Made(*(v[i : i + 1] for v in (made.noisy, made.clean, made.level, made.texture))))
    return found[: plan.check]


def _check(states: Sequence[State], held: Sequence[Made], folders: Sequence[Path], logs: Sequence[Log]) -> None:
    for state, folder, log in zip(states, folders, logs):
        gains, shown = [], []
        for made in held:
            b = ct_synth.batch(made)
            with torch.no_grad():
                x = state.average(b.problem, 1.0)
            gains.append(float(losses.gain(x, b.clean, b.problem.start, b.weight)))
            shown.append(tuple(1000 * v[0, 0].cpu() - 1000 for v in (b.clean, b.problem.start, x)))
        picture(shown[:4], folder / f"validation-{state.step:06d}.png")
        log.write(
            step=state.step, minutes=state.seconds / 60,
            validation_gain_dB=statistics.mean(gains), validation_least_dB=min(gains),
        )  # fmt: skip


def picture(rows: Sequence[tuple[Tensor, ...]], path: Path) -> None:
    """Slice, noisy, denoised and what was removed, one row each, in a window of −160 to 240 HU."""
    from PIL import Image

    made = []
    for clean, noisy, x in rows:
        made.append(torch.cat([*((v + 160) / 400 for v in (clean, noisy, x)), (noisy - x) / 400 + 0.5], 1))
    page = torch.cat(made)
    with atomic_file(path) as temporary:
        Image.fromarray((page.clamp(0, 1) * 255).byte().numpy()).save(temporary, format="PNG")


def _wait(device: torch.device) -> None:
    """Wait until the device is idle, so that measured times are its own."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
