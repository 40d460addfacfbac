"""A cone-beam scan of a volume in HU, or of ellipsoids with exactly known line integrals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError
from recon.hounsfield import WATER
from recon.operators.cone import Cone


@dataclass(frozen=True)
class Ellipsoid:
    """Semi-axes (a, b, c) in mm, turned by `turn` radians about z through its middle; `hu` is relative to outside."""

    middle: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float
    hu: float


#: A head of water in a skull, with ventricles, two eyes, and three balls of low contrast (+10, +20 and +40 HU) in and
#: off the plane of the source, within 220 mm. The HU of the first are relative to air.
HEAD = (
    Ellipsoid((0, 0, 0), (78, 96, 84), 0, 1900),
    Ellipsoid((0, 0, 0), (72, 90, 78), 0, -860),
    Ellipsoid((-14, 6, 8), (7, 22, 12), 0.3, -40),
    Ellipsoid((14, 6, 8), (7, 22, 12), -0.3, -40),
    Ellipsoid((-32, -66, -20), (11, 11, 11), 0, -30),
    Ellipsoid((32, -66, -20), (11, 11, 11), 0, -30),
    Ellipsoid((-36, 34, 0), (10, 10, 10), 0, 10),
    Ellipsoid((0, 46, 0), (8, 8, 8), 0, 20),
    Ellipsoid((36, 34, 24), (8, 8, 8), 0, 40),
)


def rays(
    angles: Tensor, shape: tuple[int, int, int], voxel: float, step: float, fineness: float, offset: float,
    source_distance: float, detector_distance: float, elements: int = 0, rows: int = 0,
) -> Cone:  # fmt: skip
    """A flat detector of square elements, `fineness` pixels wide at the axis, that covers the cylinder in a volume.

    `offset` in elements; `elements` and `rows` 0: as many as needed. Raises DataError if the source lies inside.
    """
    radius, far = min(shape[1:]) * voxel / 2, source_distance
    if not far > radius:
        raise DataError(f"the source is {far:g} mm from the axis, within the body; give a larger --source-distance")
    reach, pitch = far + detector_distance, fineness * voxel * (far + detector_distance) / far
    half = reach * math.tan(math.asin(radius / far))
    high = shape[0] * step / 2 * reach / (far - radius)
    columns = elements or 2 * math.ceil(half / pitch) + 2
    rows = rows or 2 * math.ceil(high / pitch)
    return Cone(angles, rows, columns, pitch, pitch, far, detector_distance, 0.0, offset * pitch)


def integrals(body: Sequence[Ellipsoid], g: Cone) -> Tensor:
    """Line integrals (row, view, column) in float64, exact: twice the half chord √h / |v|² of |q + t v| = 1, times μ.

    q and v are the source and the ray's direction in the frame in which the ellipsoid is the unit ball.
    """
    turn = g.angles.to(torch.float64)[:, None]
    e, d = (turn.cos(), turn.sin()), (-turn.sin(), turn.cos())
    s, t = g.fan.places, g.heights[:, None, None]
    reach = g.source_distance + g.detector_distance
    zero = 0 * (t + turn + s)
    way = torch.stack([zero + reach * d[0] + s * e[0], zero + reach * d[1] + s * e[1], zero + t])
    way = way / way.square().sum(0).sqrt()
    source = torch.stack([-g.source_distance * d[0], -g.source_distance * d[1], 0 * d[0]])
    total = torch.zeros(way.shape[1:], dtype=torch.float64)
    for one in body:
        middle = torch.tensor(one.middle, dtype=torch.float64)[:, None, None]
        q, v = _inwards(one, source - middle)[:, None], _inwards(one, way)
        square = (v * v).sum(0)
        h = (q * v).sum(0) ** 2 - square * ((q * q).sum(0) - 1)
        total += 2 * one.hu / 1000 * WATER * h.clamp_min(0).sqrt() / square
    return total


def picture(body: Sequence[Ellipsoid], shape: tuple[int, int, int], voxel: float, step: float, fine: int = 3) -> Tensor:
    """HU (z, y, x) of the ellipsoids on a grid around the origin, means over fine³ points; air is −1000."""
    z, y, x = (
        ((torch.arange(n * fine, dtype=torch.float64) + 0.5) / fine - n / 2) * size
        for n, size in zip(shape, (step, voxel, voxel))
    )
    out = torch.empty(shape, dtype=torch.float32)
    for k in range(shape[0]):
        points = torch.stack(torch.meshgrid(x, y, z[k * fine : (k + 1) * fine], indexing="ij")).permute(0, 3, 2, 1)
        hu = torch.full(points.shape[1:], -1000.0, dtype=torch.float64)
        for one in body:
            middle = torch.tensor(one.middle, dtype=torch.float64)[:, None, None, None]
            hu += one.hu * (_inwards(one, points - middle).square().sum(0) < 1)
        out[k] = hu.reshape(fine, shape[1], fine, shape[2], fine).mean((0, 2, 4)).float()
    return out


def cylinder(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """A volume (z, y, x) with air outside its inscribed cylinder: a wide detector would see a square body."""
    ny, nx = hu.shape[1:]
    y, x = np.ogrid[:ny, :nx]
    inside = (y - (ny - 1) / 2) ** 2 + (x - (nx - 1) / 2) ** 2 < (min(ny, nx) / 2) ** 2
    return np.where(inside, np.maximum(hu, -1000), -1000).astype(np.float32)


def _inwards(one: Ellipsoid, v: Tensor) -> Tensor:
    c, s = math.cos(one.turn), math.sin(one.turn)
    a, b, h = one.axes
    return torch.stack([(c * v[0] + s * v[1]) / a, (c * v[1] - s * v[0]) / b, v[2] / h])
