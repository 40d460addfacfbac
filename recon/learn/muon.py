"""Muon: steps of orthogonalised momentum for convolution kernels, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """p ← p − rate · √max(1, rows/columns) · orthogonal(momentum), kernels taken as matrices (outputs, inputs·y·x).

    All directions of a kernel move by the same amount, however small their gradient is, which learns in about half of
    the steps of AdamW. Tensors with fewer than four axes follow AdamW with `rate`·`other`.
    (Jordan et al., 2024, kellerjordan.github.io/posts/muon.)
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, rate: float, other: float = 0.1, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(parameters), {"lr": rate, "other": other, "decay": weight_decay, "beta": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.mul_(1 - group["lr"] * group["decay"])
                if p.ndim >= 4:
                    self._kernel(p, group)
                else:
                    self._other(p, group)

    def _kernel(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].mul_(group["beta"]).add_(p.grad)
        u = orthogonal((p.grad + group["beta"] * momentum).flatten(1))
        scale = max(1.0, u.shape[0] / u.shape[1]) ** 0.5
        p.add_(u.reshape(p.shape), alpha=-group["lr"] * scale)

    def _other(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["mean"], state["square"], state["step"] = torch.zeros_like(p), torch.zeros_like(p), 0
        state["step"] += 1
        mean, square = state["mean"].lerp_(p.grad, 0.1), state["square"].lerp_(p.grad.square(), 0.01)
        first, second = 1 - 0.9 ** state["step"], 1 - 0.99 ** state["step"]
        step = (mean / first) / ((square / second).sqrt() + 1e-8)
        p.add_(step, alpha=-group["lr"] * group["other"])


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """A matrix with the singular vectors of the given one and singular values near 1 (0.7 to 1.2).

    X ← aX + (bA + cA²)X with A = XXᴴ, from X/‖X‖: Newton–Schulz iterations of fifth order.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(iterations):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x
