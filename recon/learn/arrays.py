"""Receive arrays for training: Biot–Savart fields of random loops around the field of view."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.learn.draw import Draw


def coil_maps(draw: Draw, coils: int, shape: tuple[int, int]) -> Tensor:
    """Receive sensitivities Bx − i·By (coil, y, x) of `coils` loops, mean Σ|c|² = 1 over the field of view.

    B = Σ dl × r / |r|³ over 16 segments of each loop. Loops lie on an ellipse around the field of view (half-width 1),
    roughly facing its centre, at random heights, radii and tilts; sometimes the array is a surface array on one side.
    The field is evaluated on 25 × 25 points and interpolated, since it is smooth wherever the body is.
    """
    n = 25
    axis = torch.linspace(-1, 1, n, device=draw.device)
    points = torch.stack([axis[None, :].expand(n, n), axis[:, None].expand(n, n), axis.new_zeros(n, n)])
    a, b = draw.uniform(1.15, 1.6), draw.uniform(1.15, 1.6)
    span = 2 * math.pi if draw.chance(0.8) else draw.uniform(0.6, 1.2) * math.pi
    start, rings = draw.uniform(0, 2 * math.pi), 1 if coils < 8 else draw.integer(1, 3)
    fields = [_loop(draw, points, _place(draw, i, coils, rings, start, span), (a, b)) for i in range(coils)]
    coarse = torch.stack(fields)
    parts = torch.view_as_real(coarse).movedim(-1, 0).flatten(0, 1)[None]
    fine = F.interpolate(parts, size=shape, mode="bicubic", align_corners=True)[0]
    maps = torch.complex(fine[:coils], fine[coils:])
    power = (maps.real.square() + maps.imag.square()).sum(0).mean()
    return maps * power.rsqrt()


def _place(draw: Draw, i: int, coils: int, rings: int, start: float, span: float) -> tuple[float, float]:
    """Angle and height of loop i, jittered."""
    per = -(-coils // rings)
    angle = start + span * ((i % per) + 0.5 * ((i // per) % 2) + draw.uniform(-0.2, 0.2)) / per
    height = (i // per + 0.5) / rings * 1.6 - 0.8 if rings > 1 else 0.0
    return angle, height + draw.uniform(-0.25, 0.25)


def _loop(draw: Draw, points: Tensor, place: tuple[float, float], semi: tuple[float, float]) -> Tensor:
    angle, height = place
    centre = points.new_tensor([semi[0] * math.cos(angle), semi[1] * math.sin(angle), height])
    normal = -centre + 0.2 * draw.normal(3)
    normal = normal / normal.norm()
    across = torch.linalg.cross(normal, points.new_tensor([0.0, 0.0, 1.0]))
    across = across / across.norm()
    up = torch.linalg.cross(normal, across)
    radius = draw.uniform(0.3, 0.75)
    turn = torch.arange(16, device=points.device) * (2 * math.pi / 16)
    wire = centre + radius * (turn.cos()[:, None] * across + turn.sin()[:, None] * up)
    tangent = turn.cos()[:, None] * up - turn.sin()[:, None] * across
    r = points[None] - wire[:, :, None, None]
    # A loop that reaches into the field of view keeps a finite field.
    weight = (r.square().sum(1) + 0.03).pow(-1.5)
    dl = tangent[:, :, None, None].expand_as(r)
    field = (torch.linalg.cross(dl, r, dim=1) * weight[:, None]).sum(0)
    phase = draw.uniform(0, 2 * math.pi)
    return torch.complex(field[0], -field[1]) * complex(math.cos(phase), math.sin(phase))
