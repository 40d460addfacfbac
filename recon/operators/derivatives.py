"""Derivatives of what autograd cannot look into: linear maps with their adjoints, and what such maps are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import bridge

Map = Callable[[Tensor], Tensor]


def linear_map(forward: Map, adjoint: Map, x: Tensor) -> Tensor:
    """forward(x) of a linear map that autograd cannot look into: its backward is its adjoint, to any order.

    The transforms of `torch.func` pass through it as well; `vmap` calls `forward` for one item after the other. What
    the map is made of must not change under them: see `learned`.
    """
    return cast(Tensor, _LinearMap.apply(forward, adjoint, x))  # type: ignore[no-untyped-call]


def learned(*tensors: Tensor | None) -> bool:
    """Whether a derivative with respect to one of these may be asked for, or a transform of `torch.func` holds it."""
    return any(t is not None and (t.requires_grad or bridge.watched(t)) for t in tensors)


def refuse_learned(t: Tensor, what: str) -> None:
    """Raise DataError where a derivative with respect to `what`, a plural, may be asked for: there is none."""
    if learned(t):
        raise DataError(
            f"{what} that require a gradient are not supported, since projections are not differentiable in "
            f"them; give {what}.detach()"
        )


class _LinearMap(torch.autograd.Function):
    @staticmethod
    def forward(forward: Map, adjoint: Map, x: Tensor) -> Tensor:
        return forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Map, Map, Tensor], output: Tensor) -> None:
        ctx.maps = inputs[:2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, Tensor]:
        forward, adjoint = ctx.maps
        return None, None, linear_map(adjoint, forward, grads[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        forward, adjoint = ctx.maps
        return linear_map(forward, adjoint, tangents[-1])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], forward: Map, adjoint: Map, x: Tensor) -> tuple[Tensor, int]:
        # Leading axes of an item may meet axes of maps or kernels: only the map of one item is known to be right.
        return torch.stack([linear_map(forward, adjoint, one) for one in x.unbind(in_dims[2])]), 0
