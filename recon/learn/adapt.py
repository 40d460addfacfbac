"""Zero-shot adaptation: further training of a network on the measured lines of a single undersampled scan."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recon.data import Measurement, ReconError
from recon.learn.draw import Draw
from recon.nets import unrolled
from recon.nets.unrolled import Problem, Unrolled
from recon.operators.sense import Sense
from recon.progress import Report, silent
from recon.solve.rows import acs

#: Share of the time for dividing scans, so that some is left for training steps.
SETUP = 0.5


@dataclass(frozen=True)
class Plan:
    """How a network is adapted."""

    minutes: float = 5.0
    #: Largest number of optimiser steps; 0 for as many as the time allows.
    steps: int = 0
    rate: float = 3e-4
    #: Columns of a training image.
    width: int = 96
    #: Share of the lines outside the ACS block that are held out for validation, and of the rest that make a split's
    #: loss.
    held: float = 0.15
    hidden: float = 0.2
    #: Splits of each slice; slices that are used, evenly spaced.
    splits: int = 6
    slices: int = 4
    #: Required gain as a share of the held-out error. Held-out lines leave gaps twice as wide as the scan's own: on
    #: scans like those of the training, gains of up to 5 % on them went with losses of up to 0.4 dB in the image.
    least: float = 0.05
    ema: float = 0.97
    #: Validations without a gain after which the adaptation ends.
    patience: int = 6
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Split:
    """A slice with some lines hidden: what the network is given, and the hidden lines that it must predict.

    Images and lines are those of one slice, (z, y, x) and (coil, z, y, x). `hidden` maps an image to the hidden lines
    times the square roots of their weights.
    """

    given: Measurement
    start: Tensor
    hidden: Sense
    answer: Tensor


@dataclass(frozen=True, eq=False)
class Adapted:
    """The weights, χ² per held-out sample before and after, and how the adaptation went.

    `kept` says whether the adapted weights were significantly better on the held-out lines; otherwise `network` is the
    original.
    """

    network: Unrolled
    before: float
    after: float
    kept: bool
    steps: int
    seconds: float
    lines: int


def adapt(
    network: Unrolled,
    scans: Sequence[Measurement],
    plan: Plan = Plan(),
    report: Report = silent,
    *,
    begun: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Adapted:
    """Fine-tune a network on undersampled slices: y (coil, z, ky, x), whitened, sampled along rows.

    The measured rows of a slice are divided into three parts: Θ, which the network sees; Λ, which makes the loss; Γ,
    which is held out and decides when to stop.

        L = ½ log( Σ_Λ w |A f(y_Θ) − y|² / Σ_Λ w |A x₀ − y|² ),
        w = (1 − p̃p) / (p (1 − p̃))

    with p the share of rows measured around a row and p̃ the share of these in Θ: a row outside the ACS block
    represents those beside it that were never measured. The moving average of the weights that is best on Γ is
    returned. If its gain is less than `least`, or than its standard error over the held-out rows, the original is
    returned. The minutes of the plan count from `begun` on the `clock`: no step begins, and no further slice is
    divided, if the work that must follow would, by the longest duration so far, end too late. Raises ReconError if too
    few rows were measured to be divided. (Yaman et al., ICLR 2022; Millard and Chiew, IEEE Trans Comput Imaging 9:707,
    2023.)
    """
    begun = clock() if begun is None else begun
    draw = Draw.seeded(plan.seed)
    training, held = _parts(network, scans, plan, draw, begun, clock)
    best, first, least, steps = _fitted(network, training, held, plan, draw, report, begun, clock)
    kept = _gained(first, least, plan)
    after = float((least if kept else first).mean())
    chosen = (best if kept else copy.deepcopy(network)).eval().requires_grad_(False)
    return Adapted(chosen, float(first.mean()), after, kept, steps, clock() - begun, len(first))


def _parts(
    network: Unrolled, scans: Sequence[Measurement], plan: Plan, draw: Draw, begun: float, clock: Callable[[], float]
) -> tuple[list[Split], list[Split]]:
    """Splits to train on and slices to validate on, from as many scans as can be divided in the time for that."""
    training: list[Split] = []
    held: list[Split] = []
    entered = clock()
    for m in scans:
        one, several = divided(m, plan, draw, network.shape.start)
        held.append(one)
        training += several
        if (now := clock()) + (now - entered) / len(held) > begun + SETUP * 60 * plan.minutes:
            break
    return training, held


def _fitted(
    network: Unrolled,
    training: Sequence[Split],
    held: Sequence[Split],
    plan: Plan,
    draw: Draw,
    report: Report,
    begun: float,
    clock: Callable[[], float],
) -> tuple[Unrolled, Tensor, Tensor, int]:
    """The best moving average of the weights, the error of each held-out row before and with it, and the steps."""
    best, current, average = (copy.deepcopy(network).requires_grad_(False) for _ in range(3))
    optimiser = torch.optim.AdamW(
        current.train().requires_grad_(True).parameters(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    end, last = begun + 60 * plan.minutes, clock()
    first = least = held_error(best, held)
    # Before the first step, the duration of a validation, which processes whole images, is the estimate.
    step = validation = (now := clock()) - last
    check, last = 0.1 * (end - now), now
    tried = steps = 0
    over = now + step + validation > end
    while not over and tried < plan.patience:
        started = clock()
        _step(current, optimiser, training[draw.integer(0, len(training) - 1)], plan.width, draw)
        steps += 1
        _follow(average, current, min(plan.ema, (1 + steps) / (10 + steps)))
        taken = (now := clock()) - started
        step = max(step, taken) if steps > 1 else taken
        # Whether one more step, and the validation that must follow it, will end in time.
        over = steps == plan.steps or now + step + validation > end
        due = steps % max(1, plan.steps // 10) == 0 if plan.steps else now - last > check
        if due or over:
            error = held_error(average, held)
            tried += 1
            if float(error.mean()) < float(least.mean()):
                least, tried = error, 0
                best.load_state_dict(average.state_dict())
            last = clock()
            validation = max(validation, last - now)
            over = over or last + step + validation > end
            report("adapt", int(last - begun), int(end - begun))
    return best, first, least, steps


def _follow(average: Unrolled, current: Unrolled, keep: float) -> None:
    """The moving average of the weights, one step on."""
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), current.parameters()):
            slow.lerp_(fast, 1 - keep)


def _gained(first: Tensor, least: Tensor, plan: Plan) -> bool:
    """Whether held-out rows are predicted better by more than the required gain and its standard error."""
    gain = first - least
    doubt = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
    return float(gain.mean()) > max(doubt, plan.least * float(first.mean()))


def divided(m: Measurement, plan: Plan, draw: Draw, iterations: int) -> tuple[Split, list[Split]]:
    """A slice without its held-out rows, and its splits into given and hidden rows."""
    A = m.A
    assert isinstance(A, Sense)
    # Rows are drawn on the CPU, on whatever device the slice is.
    mask = A.mask.reshape(-1).cpu()
    rows = torch.nonzero(mask).flatten()
    outside = rows[~acs(mask > 0)[rows]]
    if len(outside) < 10:
        raise ReconError(
            f"only {len(outside)} measured lines lie outside the centre of k-space, too few to adapt a network "
            "to; use --method unrolled without adapting it"
        )
    if len(rows) == mask.numel():
        raise ReconError("the scan is fully sampled, so there is nothing to adapt a network to; use --method combine")
    order = outside[torch.argsort(draw.uniforms(len(outside)))]
    count = max(2, round(plan.held * len(order)))
    gamma, rest = order[:count], order[count:]
    density = _density(mask > 0)
    one = _split(m, A, gamma, torch.zeros(0, dtype=torch.long), torch.ones_like(density), iterations)
    splits = []
    for _ in range(plan.splits):
        shuffled = rest[torch.argsort(draw.uniforms(len(rest)))]
        hidden = shuffled[: max(2, round(plan.hidden * len(rest)))]
        kept = 1 - len(hidden) / len(rest)
        weight = (1 - kept * density) / (density * (1 - kept))
        splits.append(_split(m, A, hidden, gamma, weight, iterations))
    return one, splits


def held_error(network: Unrolled, held: Sequence[Split]) -> Tensor:
    """|A f(y) − y|² / 2σ² per sample of each held-out row of all slices: 1 for a prediction limited by noise alone."""
    found = []
    for s in held:
        with torch.no_grad():
            x = network(_problem(s, slice(None)), 0.0)
        residual = s.hidden(x) - s.answer
        power = (residual.real.square() + residual.imag.square()).sum((0, 1, 3))
        rows = s.hidden.mask.reshape(-1) > 0
        found.append(power[rows] / (2 * s.given.sigma**2 * s.answer.shape[0] * s.answer.shape[-1]))
    return torch.cat(found)


def _step(network: Unrolled, optimiser: torch.optim.Optimizer, split: Split, width: int, draw: Draw) -> None:
    nx = split.start.shape[-1]
    first = draw.integer(0, max(0, nx - width))
    columns = slice(first, first + width)
    found = network.steps(_problem(split, columns), 0.0)
    A, answer = _cut(split.hidden, columns), split.answer[..., columns]

    def error(x: Tensor) -> Tensor:
        r = A(x) - answer
        return (r.real.square() + r.imag.square()).sum()

    begun = error(split.start[..., columns]).clamp_min(1e-20)
    shares = [0.5 ** (len(found) - 1 - k) for k in range(len(found))]
    loss = torch.stack([s * 0.5 * (error(x) / begun).log() for s, x in zip(shares, found)]).sum() / sum(shares)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(network.parameters(), 1.0))
    if math.isfinite(norm):
        optimiser.step()


def _split(m: Measurement, A: Sense, hidden: Tensor, absent: Tensor, weight: Tensor, iterations: int) -> Split:
    """A measurement without some rows, of which the `hidden` ones are to be predicted."""
    seen = torch.ones(A.mask.numel())
    seen[hidden] = 0
    seen[absent] = 0
    asked = torch.zeros(A.mask.numel())
    asked[hidden] = weight[hidden].sqrt()
    seen, asked = (t.to(A.mask.device).reshape(A.mask.shape) for t in (seen, asked))
    given = Measurement(m.y * seen, Sense(A.maps, A.mask * seen, A.axes), m.sigma)
    start = unrolled.classical(given, iterations)
    return Split(given, start, Sense(A.maps, A.mask * asked, A.axes), m.y * asked)


def _problem(s: Split, columns: slice) -> Problem:
    A = s.given.A
    assert isinstance(A, Sense)
    part = Measurement(s.given.y[..., columns], _cut(A, columns), s.given.sigma)
    return unrolled.problem(part, 0, start=s.start[..., columns])


def _cut(A: Sense, columns: slice) -> Sense:
    return Sense(A.maps[..., columns], A.mask, A.axes)


def _density(measured: Tensor) -> Tensor:
    """Share of the 17 rows around each row that were measured, counting at least one."""
    share = nn.functional.avg_pool1d(measured.float()[None, None], 17, 1, 8, count_include_pad=False)[0, 0]
    return share.clamp_min(1 / 17)
