"""Muon: steps of orthogonalised momentum for convolution kernels, AdamW for other parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """p ← p − rate · √max(1, rows/columns) · orthogonal(momentum), kernels taken as matrices (outputs, inputs·y·x).

    All directions of a kernel move by the same amount, however small their gradient; this needs about half of the steps
    of AdamW. Tensors with fewer than four axes use AdamW with `rate`·`other`. (Jordan et al., 2024,
    kellerjordan.github.io/posts/muon.)
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, rate: float, other: float = 0.1, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(parameters), {"lr": rate, "other": other, "decay": weight_decay, "beta": 0.95})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; those of equal shape together, which keeps a GPU busy."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if group["decay"]:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["decay"])
            kernels = defaultdict(list)
            for p in moved:
                if p.ndim >= 4:
                    kernels[p.shape].append(p)
            for equal in kernels.values():
                self._kernels(equal, group)
            self._others([p for p in moved if p.ndim < 4], group)

    def _kernels(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        beta = group["beta"]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_mul_(momenta, beta)
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=beta)
        u = orthogonal(torch.stack([t.flatten(1) for t in ahead]))
        scale = max(1.0, u.shape[-2] / u.shape[-1]) ** 0.5
        steps = [v.reshape(p.shape) for v, p in zip(u, parameters)]
        torch._foreach_add_(parameters, steps, alpha=-group["lr"] * scale)

    def _others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW without weight decay; all of these parameters have had the same number of gradients."""
        if not parameters:
            return
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(mean=torch.zeros_like(p), square=torch.zeros_like(p), step=0)
            self.state[p]["step"] += 1
        gradients = [p.grad for p in parameters if p.grad is not None]
        means, squares = ([self.state[p][name] for p in parameters] for name in ("mean", "square"))
        torch._foreach_lerp_(means, gradients, 0.1)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 0.01)
        count = self.state[parameters[0]]["step"]
        first, second = 1 - 0.9**count, 1 - 0.99**count
        sizes = torch._foreach_sqrt(torch._foreach_div(squares, second))
        torch._foreach_add_(sizes, 1e-8)
        torch._foreach_addcdiv_(parameters, means, sizes, value=-group["lr"] * group["other"] / first)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Matrices (..., row, column) with the singular vectors of the given ones and singular values of 0.7 to 1.2.

    X ← aX + (bA + cA²)X with A = XXᴴ, from X/‖X‖: Newton–Schulz iterations of fifth order.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = (matrix.mT if tall else matrix).reshape(-1, *sorted(matrix.shape[-2:]))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(iterations):
        a = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).reshape(matrix.shape)
