"""A phantom of ellipses with exactly known line integrals, for parallel and fan beams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.hounsfield import WATER
from recon.operators.xray import Fan, Parallel


@dataclass(frozen=True)
class Ellipse:
    """Semi-axes a, b in mm, turned by `turn` radians around its middle (x, y); `hu` is added to its surroundings."""

    x: float
    y: float
    a: float
    b: float
    turn: float
    hu: float

    @property
    def value(self) -> float:
        """Attenuation that it adds, in 1/mm."""
        return self.hu / 1000 * WATER


#: A body of water with fat, lungs, a spine and three discs of low contrast (+10, +15 and +20 HU), in 380 mm. The HU of
#: the first ellipse are relative to air.
BODY = (
    Ellipse(0, 0, 170, 115, 0, 920),
    Ellipse(0, 0, 158, 103, 0, 130),
    Ellipse(-80, -10, 48, 62, 0.15, -830),
    Ellipse(84, -8, 44, 60, -0.15, -830),
    Ellipse(0, 62, 24, 20, 0, 450),
    Ellipse(0, 62, 9, 8, 0, -300),
    Ellipse(2, -38, 26, 30, 0.3, 10),
    Ellipse(-12, 18, 5, 5, 0, 20),
    Ellipse(6, 22, 5, 5, 0, 15),
    Ellipse(20, 8, 5, 5, 0, 10),
    Ellipse(-100, -30, 3, 3, 0, 850),
    Ellipse(-30, 84, 7, 4, 0.6, 900),
    Ellipse(30, 84, 7, 4, -0.6, 900),
)


def integrals(ellipses: Sequence[Ellipse], g: Parallel | Fan) -> Tensor:
    """Line integrals (view, detector) in float64, exact: the ray at angle θ and distance s from an ellipse's middle has

    p = 2 a b μ √(D² − s²) / D²,   D² = a² cos²(θ − turn) + b² sin²(θ − turn),   0 where |s| > D
    """
    angles, s = g.angles.to(torch.float64)[:, None], g.places[None]
    if isinstance(g, Fan):
        gamma = g.fan_angles[None]
        angles, s = angles - gamma, g.source_distance * gamma.sin() + 0 * angles
    total = torch.zeros(g.angles.numel(), g.detectors, dtype=torch.float64)
    for e in ellipses:
        from_middle = s - e.x * angles.cos() - e.y * angles.sin()
        width = (e.a * (angles - e.turn).cos()) ** 2 + (e.b * (angles - e.turn).sin()) ** 2
        total += 2 * e.a * e.b * e.value * (width - from_middle**2).clamp_min(0).sqrt() / width
    return total


def picture(ellipses: Sequence[Ellipse], n: int, voxel: float, fine: int = 4) -> Tensor:
    """HU (y, x) on n × n pixels of `voxel` mm around the axis, each the mean over fine × fine points; air is −1000."""
    at = ((torch.arange(n * fine, dtype=torch.float64) + 0.5) / fine - n / 2) * voxel
    out = torch.full((n * fine, n * fine), -1000.0, dtype=torch.float64)
    for e in ellipses:
        x, y = at[None] - e.x, at[:, None] - e.y
        c, s = math.cos(e.turn), math.sin(e.turn)
        out += e.hu * (((x * c + y * s) / e.a) ** 2 + ((y * c - x * s) / e.b) ** 2 < 1)
    return out.reshape(n, fine, n, fine).mean((1, 3))
