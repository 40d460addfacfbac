"""Coil sensitivities: one image to the images that each coil sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recon.operators.base import Linear

#: Coil axis of k-space and coil images, directly before z.
COIL = -4


@dataclass(frozen=True, eq=False)
class Coils(Linear):
    """Image (..., z, y, x) → coil images (..., coil, z, y, x): y_c = S_c x.

    With `maps` of shape (..., coil, z, y, x). With several sets of maps (soft SENSE), `sets` is True, maps are
    (..., set, coil, z, y, x), the image is (..., set, z, y, x) and y_c = Σ_m S_mc x_m
    (Uecker et al., Magn Reson Med 71:990, 2014).
    """

    maps: Tensor
    sets: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the maps and, for several sets, sum over them."""
        y = self.maps * x.unsqueeze(COIL)
        return y.sum(COIL - 1) if self.sets else y

    def adjoint(self, y: Tensor) -> Tensor:
        """Sum over coils of conj(S_c) y_c."""
        return (self.maps.conj() * (y.unsqueeze(COIL - 1) if self.sets else y)).sum(COIL)
