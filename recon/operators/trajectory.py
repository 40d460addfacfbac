"""Derivatives of non-uniform Fourier transforms in the points of their trajectory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recon.operators.nufft import Nufft


def learned_map(op: Nufft, adjoint: bool, data: Tensor) -> Tensor:
    """A x or Aᴴ y, differentiable in the points k too, to any order, backward and forward.

        ∂(A x)_j / ∂k_jd = (A [−2πi r_d x])_j,   r_d[n] = (n_d − N_d//2) / N_d

    so the gradient with respect to the points costs one transform per axis, in one batch. Plans are created anew each
    time, because an optimiser moves the points in place.
    """
    return cast(Tensor, _Learned.apply(op, adjoint, op.points, data))  # type: ignore[no-untyped-call]


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(op: Nufft, adjoint: bool, points: Tensor, data: Tensor) -> Tensor:
        fixed = replace(op, points=points.detach())
        return fixed.adjoint(data.detach()) if adjoint else fixed.forward(data.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Nufft, bool, Tensor, Tensor], output: Tensor) -> None:
        ctx.op, ctx.adjoint = inputs[:2]
        ctx.save_for_backward(*inputs[2:])
        ctx.save_for_forward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, Tensor | None, Tensor | None]:
        points, data = ctx.saved_tensors
        op, g = replace(ctx.op, points=points), grads[0]
        moved = linear = None
        if ctx.needs_input_grad[2]:
            image, samples = (g, data) if ctx.adjoint else (data, g)
            shares = (samples.conj() * op.forward(_turned(op, image))).real
            # Summed over everything with the same points: slices with their own trajectories keep their own gradients.
            shares = shares.unsqueeze(1).flatten(1, -4 if points.ndim == 4 else -3).sum(1)
            moved = shares.movedim(0, -1).reshape(points.shape).to(points.dtype)
        if ctx.needs_input_grad[3]:
            linear = op.forward(g) if ctx.adjoint else op.adjoint(g)
        return None, None, moved, linear

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        points, data = ctx.saved_tensors
        op, (moved, turned) = replace(ctx.op, points=points), tangents[2:]
        parts = []
        if turned is not None:
            parts.append(op.adjoint(turned) if ctx.adjoint else op.forward(turned))
        if moved is not None and ctx.adjoint:
            shares = torch.stack([data * one for one in moved.to(data.real.dtype).unbind(-1)])
            parts.append(_turned(op, op.adjoint(shares), each=True).sum(0).neg())
        elif moved is not None:
            shares = op.forward(_turned(op, data))
            parts.append(sum(share * one for share, one in zip(shares, moved.to(data.real.dtype).unbind(-1))))
        return cast(Tensor, sum(parts))

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], op: Nufft, adjoint: bool, points: Tensor, data: Tensor
    ) -> tuple[Tensor, int]:
        def item(t: Tensor, axis: int | None, i: int) -> Tensor:
            return t if axis is None else t.select(axis, i)

        made = [
            _Learned.apply(op, adjoint, item(points, in_dims[2], i), item(data, in_dims[3], i))  # type: ignore[no-untyped-call]
            for i in range(info.batch_size)
        ]
        return torch.stack(made), 0


def _turned(op: Nufft, images: Tensor, *, each: bool = False) -> Tensor:
    """−2πi r_d x for every axis d, (d, ..., z, y, x); with `each`, for images that already have that axis."""
    ndim, out = len(op.shape), []
    for d, n in enumerate(op.shape):
        r = (torch.arange(n, dtype=torch.float64, device=images.device) - n // 2) * (-2 * math.pi / n)
        ramp = torch.complex(torch.zeros_like(r), r).to(images.dtype).reshape(-1, *(1,) * (ndim - 1 - d))
        out.append((images[d] if each else images) * ramp)
    return torch.stack(out)
