"""Finite differences of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.operators.base import Linear, real_numbers
from recon.operators.fourier import check_axes, check_has


@dataclass(frozen=True, eq=False)
class Gradient(Linear):
    """Forward differences along `axes`: (∇x)_d[n] = w_d (x[n + e_d] − x[n]), 0 at the last index (Neumann boundary).

    Image (..., z, y, x) → differences (d, ..., z, y, x) with one leading axis of length len(axes); `axes` are negative.
    `spacing` are the voxel sizes along `axes`, w_d = min(spacing) / spacing_d, so that for anisotropic voxels this is
    the gradient of the continuous image in units of the smallest voxel. Without it all w_d are 1. The adjoint is minus
    the divergence. Raises DataError for axes that are not negative.
    """

    axes: tuple[int, ...] = (-2, -1)
    spacing: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_axes(self.axes)

    @property
    def weights(self) -> tuple[float, ...]:
        """Factor w_d of each axis."""
        return (1.0,) * len(self.axes) if self.spacing is None else tuple(min(self.spacing) / s for s in self.spacing)

    @property
    def squared_norm(self) -> float:
        """The bound ‖∇‖² ≤ 4 Σ_d w_d²."""
        return 4.0 * sum(w * w for w in self.weights)

    def forward(self, x: Tensor) -> Tensor:
        """∇x."""
        check_has(x.shape, self.axes)
        x = real_numbers(x)
        out = x.new_zeros(len(self.axes), *x.shape)
        for i, (axis, w) in enumerate(zip(self.axes, self.weights)):
            n = x.shape[axis] - 1
            step = x.narrow(axis, 1, n) - x.narrow(axis, 0, n)
            out[i].narrow(axis, 0, n).copy_(step if w == 1 else w * step)
        return out

    def adjoint(self, y: Tensor) -> Tensor:
        """−div y."""
        check_has(y.shape[1:], self.axes)
        y = real_numbers(y)
        out = torch.zeros_like(y[0])
        for g, axis, w in zip(y, self.axes, self.weights):
            n = g.shape[axis] - 1
            step = g.narrow(axis, 0, n) if w == 1 else w * g.narrow(axis, 0, n)
            out.narrow(axis, 1, n).add_(step)
            out.narrow(axis, 0, n).sub_(step)
        return out
