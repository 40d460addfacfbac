"""A network as a denoiser of CT images: HU in, HU out, any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.data import Measurement
from recon.nets.unrolled import Held, Problem, Unrolled
from recon.operators import Identity, Linear

#: Pixels by which an image is mirrored beyond its borders, so that the network sees borders as in training.
BORDER = 16

#: Expected error of a denoised image over its noise, and number of conjugate-gradient iterations, if rays are used.
#: Both were chosen on the phantom and on validation slices (bench/ct_consistency.py).
ERROR, ITERATIONS = 0.3, 15


@dataclass(frozen=True, eq=False)
class Inner(Linear):
    """The inner part of images (..., y, x), without `border` pixels (y, x) on each side; the adjoint adds zeros."""

    border: tuple[int, int]

    def forward(self, x: Tensor) -> Tensor:
        """The inner part."""
        (by, bx), (ny, nx) = self.border, x.shape[-2:]
        return x[..., by : ny - by, bx : nx - bx]

    def adjoint(self, y: Tensor) -> Tensor:
        """y with zeros around it."""
        by, bx = self.border
        return F.pad(y, (bx, bx, by, by))


def denoised(
    network: Unrolled, image: Tensor, level: Tensor, texture: Tensor, rays: Measurement | None = None
) -> Tensor:
    """Images (item, y, x) in HU without noise of `level` (item,) HU and correlation `texture` (item, values).

    The network works on attenuation relative to water, 1 + HU/1000, with A = I. An image with level 0 is returned
    unchanged. `rays` are y (item, view, detector) with unit noise, and A on attenuation relative to water. Each cascade
    is then fitted to them:

        argmin ‖Ax − y‖² + ‖x − x_cascade‖² / (ERROR · level)²
    """
    border = (min(BORDER, image.shape[-2] - 1), min(BORDER, image.shape[-1] - 1))
    x = F.pad(1 + image[:, None] / 1000, (border[1], border[1], border[0], border[0]), mode="reflect")
    noise = (level / 1000).to(x)
    held = None
    if rays is not None:
        A = rays.A @ Inner(border)
        held = Held(A.normal(), A.adjoint(rays.y[:, None]), (ERROR * noise.clamp_min(1e-6)) ** -2, ITERATIONS)
    p = Problem(Identity(), x, x, noise, torch.ones_like(noise), texture=texture.to(x), held=held)
    with torch.no_grad():
        out: Tensor = network(p, 1.0)
    out = 1000 * (Inner(border)(out[:, 0]) - 1)
    return torch.where((level > 0)[:, None, None].to(out.device), out, image)
