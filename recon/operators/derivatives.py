"""Derivatives of code that autograd cannot trace: linear maps with their adjoints, and the tensors they depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import bridge

Map = Callable[[Tensor], Tensor]


def linear_map(forward: Map, adjoint: Map, x: Tensor) -> Tensor:
    """forward(x) of a linear map that autograd cannot trace: its backward is its adjoint, to any order.

    The transforms of `torch.func` work as well; `vmap` calls `forward` for each item in turn. Tensors that the map
    depends on must not require a gradient: see `learned`.
    """
    return cast(Tensor, _LinearMap.apply(forward, adjoint, x))  # type: ignore[no-untyped-call]


def learned(*tensors: Tensor | None) -> bool:
    """Whether one of these tensors requires a gradient or is held by a transform of `torch.func`."""
    return any(t is not None and (t.requires_grad or bridge.watched(t)) for t in tensors)


def refuse_learned(t: Tensor, what: str) -> None:
    """Raise DataError if a derivative with respect to `what` (a plural) may be needed: there is none."""
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
        # Leading axes of an item may match axes of maps or kernels, so only the map of a single item is reliable.
        return torch.stack([linear_map(forward, adjoint, one) for one in x.unbind(in_dims[2])]), 0
