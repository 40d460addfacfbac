"""Gradients of a batch; on a GPU its ten thousand launches are captured as one CUDA graph for each batch shape."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from recon.kernels import graph as capturing
from recon.learn import losses
from recon.learn.pool import Batch
from recon.learn.settings import Loop
from recon.nets.unrolled import Problem
from recon.operators import Identity
from recon.operators.sense import Sense, SenseNormal

#: Loss, gain in decibels and norm of the gradient.
Measured = tuple[Tensor, Tensor, Tensor]

#: A shape is captured when it occurs for the second time, if there are fewer graphs than this.
MOST = 40

#: Largest relative difference between the loss from a graph and that of the same batch without it.
AGREEMENT = 0.02


def gradients(run: nn.Module, loop: Loop, made: Batch, d: Tensor, ssim: Tensor | None, half: bool) -> Measured:
    """Leave the clipped gradients of a batch's loss in the parameters; NaN and infinity count as zero.

    `ssim` is the weight of structural dissimilarity; `half` runs convolutions in bfloat16. Nothing here waits for the
    device.
    """
    parameters = list(run.parameters())
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    held = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_zero_(held)
    target = made.clean + (1 - d)[:, None, None, None] * (made.full - made.clean)
    with torch.autocast(made.full.device.type, torch.bfloat16, enabled=half):
        found = run(made.problem, d)
    # Every cascade is compared with the target, each with half the weight of the next.
    shares = [0.5 ** (len(found) - 1 - k) for k in range(len(found))]
    errors = [losses.log_error(v, target, made.problem.start, made.weight) for v in found]
    loss, x = torch.stack([s * e for s, e in zip(shares, errors)]).sum() / sum(shares), found[-1]
    if ssim is not None:
        loss = loss + ssim * losses.dissimilarity(x, target, made.weight)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(parameters, loop.clip)
    for g in held:
        torch.nan_to_num_(g, 0.0, 0.0, 0.0)
    with torch.no_grad():
        decibels = losses.gain(x.detach(), target, made.problem.start, made.weight).mean()
    return loss.detach(), decibels, norm.detach()


class Graphs:
    """`gradients` for one network, captured once for each shape of batch and replayed.

    If a capture fails, or its loss differs from that without it, graphs are switched off for the rest of the training.
    """

    def __init__(self, run: nn.Module, loop: Loop) -> None:
        self.run, self.loop = run, loop
        self.on = loop.graphs
        #: Held during a capture; other threads must hold it when they use the device.
        self.lock = threading.Lock()
        self._graphs: dict[Any, tuple[Any, list[Tensor], Measured]] = {}
        self._seen = Counter[Any]()
        self._pool: Any = None

    def __len__(self) -> int:
        """Number of batch shapes with a graph."""
        return len(self._graphs)

    def __call__(self, made: Batch, d: Tensor, ssim: float, half: bool) -> Measured:
        """Gradients as in `gradients`."""
        given = [*_tensors(made), d, torch.tensor(ssim)]
        axes, device = _axes(made.problem), d.device
        key = (half, axes, *(t.shape for t in given))
        if device.type != "cuda" or not self.on:
            return gradients(self.run, self.loop, made, d, torch.tensor(ssim) if ssim else None, half)
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] < 2 or len(self._graphs) >= MOST:
                return gradients(self.run, self.loop, made, d, torch.tensor(ssim) if ssim else None, half)
            try:
                self._graphs[key] = self._captured(given, axes, half, device)
            except Exception as e:
                self.on = False
                self._graphs.clear()
                print(f"CUDA graphs are off: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
                return gradients(self.run, self.loop, made, d, torch.tensor(ssim) if ssim else None, half)
        graph, static, out = self._graphs[key]
        for place, value in zip(static, given[:-1]):
            place.copy_(value)
        static[-1].fill_(ssim)
        graph.replay()
        return out

    def _captured(
        self, given: list[Tensor], axes: tuple[int, ...], half: bool, device: torch.device
    ) -> tuple[Any, list[Tensor], Measured]:
        """A graph on copies of the tensors, and its measured values."""
        static = [t.to(device).clone() for t in given]

        def once() -> Measured:
            made, d, ssim = _batch(static, axes), static[-2], static[-1]
            return gradients(self.run, self.loop, made, d, ssim, half)

        with self.lock:
            expected = float(capturing.beside(once, device)[0])
            graph, out = capturing.capture(once, device, self._pool, tidy=True)
            self._pool = self._pool or graph.pool()
            graph.replay()
            got = float(out[0])
        if not abs(got - expected) <= AGREEMENT * max(1.0, abs(expected)):
            raise ValueError(f"a graph gave the loss {got:.4f} where {expected:.4f} was expected")
        return graph, static, out


def _axes(p: Problem) -> tuple[int, ...]:
    """The transformed axes of an MRI scan, none for image denoising."""
    return p.normal.sense.axes if isinstance(p.normal, SenseNormal) else ()


def _tensors(made: Batch) -> list[Tensor]:
    """All tensors of a batch, in the order of `_batch`."""
    p = made.problem
    none = p.b.new_zeros(0)
    own = (p.normal.sense.maps, p.normal.sense.mask) if isinstance(p.normal, SenseNormal) else (none, none)
    if not isinstance(p.normal, (SenseNormal, Identity)):
        raise TypeError(f"no training knows how to copy {type(p.normal).__name__}")
    texture = none if p.texture is None else p.texture
    return [
        *own, p.b, p.start, p.noise, p.sampled, texture,
        made.full, made.clean, made.weight, made.known_clean,
    ]  # fmt: skip


def _batch(tensors: list[Tensor], axes: tuple[int, ...]) -> Batch:
    maps, mask, b, start, noise, sampled, texture, full, clean, weight, known = tensors[:11]
    normal = SenseNormal(Sense(maps, mask, axes), mask * mask) if axes else Identity()
    texture_or_none = texture if texture.numel() else None
    return Batch(Problem(normal, b, start, noise, sampled, texture=texture_or_none), full, clean, weight, known)
