"""Definitions that cone beams are held against: rays from the geometry's words, one by one, and ellipsoids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon.operators import Cone


def rays(g: Cone) -> tuple[np.ndarray, np.ndarray]:
    """The source and a unit vector (x, y, z) of each ray, (3, row, view, column)."""
    turn = g.angles.numpy()[:, None]
    one = np.ones((g.rows, len(turn), g.columns))
    e = np.stack([np.cos(turn) * one, np.sin(turn) * one, 0 * one])
    d = np.stack([-np.sin(turn) * one, np.cos(turn) * one, 0 * one])
    t = (np.arange(g.rows) - (g.rows - 1) / 2)[:, None, None] * g.row_spacing + g.row_offset
    s = (np.arange(g.columns) - (g.columns - 1) / 2) * g.spacing + g.offset
    element = g.detector_distance * d + s * e + np.stack([0 * one, 0 * one, t * one])
    way = element + g.source_distance * d
    return -g.source_distance * d, way / np.linalg.norm(way, axis=0)


def joseph(g: Cone, shape: tuple[int, int, int], voxel: float, step: float, height: float) -> Tensor:
    """The matrix (row · view · column, z · y · x) of bilinear interpolation on the planes that rays cross steeply."""
    nz, ny, nx = shape
    z = (np.arange(nz) - (nz - 1) / 2) * step + height
    y, x = ((np.arange(n) - (n - 1) / 2) * voxel for n in (ny, nx))
    out = []
    for p, d in zip(*(a.reshape(3, -1).T for a in rays(g))):
        along = 1 if abs(d[1]) >= abs(d[0]) - 1e-12 else 0
        share = np.zeros(shape)
        for line, place in enumerate(y if along == 1 else x):
            at = p + (place - p[along]) / d[along] * d
            beneath = np.maximum(0, 1 - np.abs(at[2] - z) / step)
            beside = np.maximum(0, 1 - np.abs(at[1 - along] - (x if along == 1 else y)) / voxel)
            where = (slice(None), line) if along == 1 else (slice(None), slice(None), line)
            share[where] = np.outer(beneath, beside) * voxel / abs(d[along])
        out.append(share.ravel())
    return torch.from_numpy(np.stack(out))


@dataclass(frozen=True)
class Ellipsoid:
    """Semi-axes (a, b, c) in mm, turned by `turn` about z around its middle, of attenuation `value` in 1/mm."""

    middle: tuple[float, float, float]
    axes: tuple[float, float, float]
    turn: float
    value: float

    def inwards(self, v: np.ndarray) -> np.ndarray:
        """Vectors (3, ...) in the frame in which the ellipsoid is the unit ball."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        a, b, h = self.axes
        return np.stack([(c * v[0] + s * v[1]) / a, (c * v[1] - s * v[0]) / b, v[2] / h])


#: A body with an organ that is denser, one that is less dense, and a small one of low contrast.
BODY = (
    Ellipsoid((0, 0, 0), (50, 42, 34), 0.2, 0.02),
    Ellipsoid((12, -14, 6), (13, 9, 11), 0.7, 0.005),
    Ellipsoid((-20, 10, -8), (8, 10, 9), 0.0, -0.01),
    Ellipsoid((15, 18, 0), (5, 5, 5), 0.0, 0.001),
)


def integrals(body: Sequence[Ellipsoid], g: Cone) -> Tensor:
    """Exact line integrals (row, view, column) of a sum of ellipsoids."""
    p, d = (a.reshape(3, -1) for a in rays(g))
    total = np.zeros(p.shape[1])
    for e in body:
        q, v = e.inwards(p - np.array(e.middle)[:, None]), e.inwards(d)
        # |q + t v| = 1 has two solutions that are 2 sqrt(h) / |v|² apart
        square = (v * v).sum(0)
        h = (q * v).sum(0) ** 2 - square * ((q * q).sum(0) - 1)
        total += e.value * 2 * np.sqrt(np.maximum(h, 0)) / square
    return torch.from_numpy(total).reshape(g.rows, g.angles.numel(), g.columns)


def picture(body: Sequence[Ellipsoid], shape: tuple[int, int, int], voxel: float, step: float, fine: int = 4) -> Tensor:
    """The ellipsoids on a grid (z, y, x) about the origin, each voxel the mean over fine³ points."""
    z, y, x = (((np.arange(n * fine) + 0.5) / fine - n / 2) * size for n, size in zip(shape, (step, voxel, voxel)))
    points = np.stack(np.broadcast_arrays(x[None, None], y[None, :, None], z[:, None, None]))
    out = np.zeros(points.shape[1:])
    for e in body:
        out += e.value * ((e.inwards(points - np.array(e.middle)[:, None, None, None]) ** 2).sum(0) < 1)
    nz, ny, nx = shape
    return torch.from_numpy(out.reshape(nz, fine, ny, fine, nx, fine).mean((1, 3, 5)))
