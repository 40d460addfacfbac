"""Definitions that X-ray operators are held against: rays from the geometry's words, one by one, and ellipses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon.operators.xray import Fan, Parallel


def rays(g: Parallel | Fan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A point and a unit vector (x, y) of each ray, views first."""
    s = (np.arange(g.detectors) - (g.detectors - 1) / 2) * g.spacing + g.offset
    for angle in g.angles.tolist():
        e = np.array([[math.cos(angle), math.sin(angle)]])
        d = np.array([[-math.sin(angle), math.cos(angle)]])
        if isinstance(g, Parallel):
            yield from zip(s[:, None] * e, np.repeat(d, g.detectors, 0))
            continue
        source, reach = -g.source_distance * d, g.source_distance + g.detector_distance
        gamma = s[:, None] / reach
        arc, line = source + reach * (np.cos(gamma) * d + np.sin(gamma) * e), g.detector_distance * d + s[:, None] * e
        way = (arc if g.curved else line) - source
        yield from zip(np.repeat(source, g.detectors, 0), way / np.linalg.norm(way, axis=1, keepdims=True))


def joseph(g: Parallel | Fan, shape: tuple[int, int], voxel: float) -> Tensor:
    """The matrix (view · detector, y · x) of linear interpolation on the lines that each ray crosses steeply."""
    ny, nx = shape
    y, x = ((np.arange(n) - (n - 1) / 2) * voxel for n in shape)
    rows = []
    for p, d in rays(g):
        if abs(d[1]) >= abs(d[0]) - 1e-12:
            crossing = p[0] + (y - p[1]) * d[0] / d[1]
            share = np.maximum(0, 1 - np.abs(crossing[:, None] - x) / voxel) * voxel / abs(d[1])
        else:
            crossing = p[1] + (x - p[0]) * d[1] / d[0]
            share = np.maximum(0, 1 - np.abs(crossing - y[:, None]) / voxel) * voxel / abs(d[0])
        rows.append(share.reshape(ny * nx))
    return torch.from_numpy(np.stack(rows))


@dataclass(frozen=True)
class Ellipse:
    """Semi-axes a, b in mm, turned by `turn` around its middle (x, y), of attenuation `value` in 1/mm."""

    x: float
    y: float
    a: float
    b: float
    turn: float
    value: float


#: A body with an organ that is denser, one that is less dense, and a small one of low contrast.
BODY = (
    Ellipse(0, 0, 50, 42, 0.2, 0.02),
    Ellipse(12, -14, 13, 9, 0.7, 0.005),
    Ellipse(-20, 10, 8, 10, 0.0, -0.01),
    Ellipse(15, 18, 4, 4, 0.0, 0.001),
)


def integrals(ellipses: Sequence[Ellipse], g: Parallel | Fan) -> Tensor:
    """Exact line integrals (view, detector) of a sum of ellipses."""
    p, d = (np.stack(a, 1) for a in zip(*rays(g)))
    total = np.zeros(p.shape[1])
    for e in ellipses:
        c, s = math.cos(e.turn), math.sin(e.turn)
        turn = np.array([[c / e.a, s / e.a], [-s / e.b, c / e.b]])
        q, v = turn @ (p - [[e.x], [e.y]]), turn @ d
        # |q + t v| = 1 has two solutions that are 2 sqrt(h) / |v|² apart
        square = (v * v).sum(0)
        h = (q * v).sum(0) ** 2 - square * ((q * q).sum(0) - 1)
        total += e.value * 2 * np.sqrt(np.maximum(h, 0)) / square
    return torch.from_numpy(total).reshape(g.angles.numel(), g.detectors)


def picture(ellipses: Sequence[Ellipse], n: int, voxel: float, fine: int = 8) -> Tensor:
    """The ellipses on n × n pixels, each the mean over fine × fine points."""
    at = ((torch.arange(n * fine, dtype=torch.float64) + 0.5) / fine - n / 2) * voxel
    y, x = at[:, None], at
    out = torch.zeros(n * fine, n * fine, dtype=torch.float64)
    for e in ellipses:
        c, s = math.cos(e.turn), math.sin(e.turn)
        a, b = ((x - e.x) * c + (y - e.y) * s) / e.a, (-(x - e.x) * s + (y - e.y) * c) / e.b
        out += e.value * (a * a + b * b < 1)
    return out.reshape(n, fine, n, fine).mean((1, 3))
