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
    for angle in g.angles.tolist():
        e, d = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
        for u in range(g.detectors):
            s = (u - (g.detectors - 1) / 2) * g.spacing + g.offset
            if isinstance(g, Parallel):
                yield s * e, d
                continue
            source, reach = -g.source_distance * d, g.source_distance + g.detector_distance
            gamma = s / reach
            element = source + reach * (math.cos(gamma) * d + math.sin(gamma) * e) if g.curved else (
                g.detector_distance * d + s * e
            )  # fmt: skip
            yield source, (element - source) / np.linalg.norm(element - source)


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
    out = []
    for p, d in rays(g):
        total = 0.0
        for e in ellipses:
            c, s = math.cos(e.turn), math.sin(e.turn)
            turn = np.array([[c / e.a, s / e.a], [-s / e.b, c / e.b]])
            q, v = turn @ (p - (e.x, e.y)), turn @ d
            # |q + t v| = 1 has two solutions that are 2 sqrt(h) / |v|² apart
            h = (q @ v) ** 2 - (v @ v) * (q @ q - 1)
            total += e.value * 2 * math.sqrt(h) / (v @ v) if h > 0 else 0.0
        out.append(total)
    return torch.tensor(out, dtype=torch.float64).reshape(g.angles.numel(), g.detectors)


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
