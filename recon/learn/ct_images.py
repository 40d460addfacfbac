"""CT slices for training, in HU: real ones, and simulated ones with organs, bones and faint lesions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError
from recon.learn import images, volumes
from recon.learn.draw import Draw, grid

AIR = -1000.0


@dataclass(frozen=True, eq=False)
class Library:
    """CT volumes (slice, y, x) in HU, int16, and magnitudes of any kind that give shapes to simulated slices."""

    ct: tuple[NDArray[np.int16], ...]
    others: volumes.Sources


def read(folder: Path) -> Library:
    """The content of a folder; volumes with values below −500 are CT.

    Raises DataError if there is no CT at all, and as `volumes.each` does.
    """
    found: list[NDArray[np.int16]] = []
    for _, arrays in volumes.each(folder):
        for array in arrays:
            if not np.iscomplexobj(array) and array.min() < -500:
                hu = np.clip(array, AIR, 3000).astype(np.int16)
                body = (hu > -300).reshape(len(hu), -1).mean(1)
                found.append(np.ascontiguousarray(hu[body > 0.05]))
    if not found:
        raise DataError(f"{folder} holds no CT in HU; give --data a folder whose `train` contains CT")
    return Library(tuple(found), volumes.read(folder))


def slice_of(draw: Draw, library: Library, size: int, real: float, heads: float = 0.0) -> tuple[Tensor, bool]:
    """One slice (size, size) in HU, and whether it is real with its own noise, which has probability `real`.

    A share `heads` of the simulated ones are heads.
    """
    scanned = draw.chance(real)
    # A share of 0 draws no random number, so recipes without heads still give the same slices.
    head = not scanned and heads > 0 and draw.chance(heads)
    x = (_photograph if scanned else _head if head else _drawn)(draw, library, size)
    return _lesions(draw, x) if draw.chance(0.7) else x, scanned


def _photograph(draw: Draw, library: Library, size: int) -> Tensor:
    """A slice rotated, mirrored, shifted and scaled; made smaller, it has less noise and finer detail."""
    volume = draw.one_of(library.ct, [math.sqrt(v.size) for v in library.ct])
    x = torch.from_numpy(volume[draw.integer(0, len(volume) - 1)]).to(draw.device, torch.float32)[None, None]
    # Below about 200 pixels across, further reduction leaves nothing to see.
    natural = min(1.0, x.shape[-1] / size)
    scale = draw.log_uniform(0.5, 1.15) if natural > 0.7 else draw.uniform(1.3, 2.4)
    if scale < 1:
        x = F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
        scale = 1.0
    angle = draw.uniform(-0.3, 0.3) + draw.integer(0, 3) * math.pi / 2
    y, u = grid((size, size), draw.device)
    u = -u if draw.chance(0.5) else u
    u, y = u + draw.uniform(-0.08, 0.08), y + draw.uniform(-0.08, 0.08)
    rows, columns = x.shape[-2:]
    at = torch.stack(
        [
            (math.cos(angle) * u - math.sin(angle) * y) * size / columns / scale,
            (math.sin(angle) * u + math.cos(angle) * y) * size / rows / scale,
        ],
        -1,
    )
    # Air beyond the borders.
    out = F.grid_sample(x - AIR, at[None], mode="bicubic", padding_mode="zeros", align_corners=False)
    return (out[0, 0] + AIR).clamp_min(AIR)


def _drawn(draw: Draw, library: Library, size: int) -> Tensor:
    """Grey values of MR, shapes, fractals or textures as tissue, with or without bones."""
    shape = (size, size)
    g = images.image(draw, library.others, shape, 0.45).abs().clamp(0, 1.2)
    inside = F.max_pool2d((g > 0.06).float()[None, None], 5, 1, 2)[0, 0] > 0
    kind = draw.one_of(("soft", "wide", "lung"), (0.55, 0.25, 0.2))
    if kind == "soft":
        x = draw.uniform(-60, 100) + draw.log_uniform(20, 500) * (g - 0.5)
    elif kind == "wide":
        x = AIR + draw.uniform(1000, 2400) * g
    else:
        x = -880 + draw.uniform(600, 1000) * g.square()
    if draw.chance(0.5):
        # A wall of muscle and fat around it.
        y, u = grid(shape, draw.device)
        a, b = draw.uniform(0.55, 0.95), draw.uniform(0.5, 0.9)
        r = (u / a).square() + (y / b).square() + 0.05 * draw.field(shape, 3.0)
        inside = r < 1
        rim = draw.uniform(0.6, 0.95)
        x = torch.where(r > rim, draw.uniform(-120, 70), x)
        if draw.chance(0.4):
            # The bone of a skull under it, with darker marrow.
            deep = rim - draw.uniform(0.04, 0.16)
            x = torch.where((r > deep) & (r < rim), draw.uniform(600, 1900), x)
            if draw.chance(0.5):
                third = (rim - deep) / 3
                x = torch.where((r > deep + third) & (r < rim - third), draw.uniform(150, 900), x)
    if draw.chance(0.6):
        thin = draw.field(shape, draw.uniform(2.6, 3.6)).abs() < draw.uniform(0.03, 0.12)
        bone = thin & (draw.field(shape, 2.5) > draw.uniform(0, 1.5))
        x = torch.where(bone, draw.uniform(200, 1500), x)
    x = torch.where(inside, x, AIR)
    return _blurred(x, draw.uniform(0.3, 1.0)).clamp(AIR, 3000)


def _head(draw: Draw, library: Library, size: int) -> Tensor:
    """A head: scalp, a skull of two tables with marrow between, brain; at its base air cells and dense bone."""
    shape = (size, size)
    y, u = grid(shape, draw.device)
    a = draw.uniform(0.45, 0.8)
    r = ((u / a).square() + (y / min(0.9, a * draw.uniform(1.0, 1.35))).square()).sqrt()
    r = r + draw.uniform(0, 0.05) * draw.field(shape, 3.0) + draw.uniform(0, 0.01) * draw.field(shape, 2.0)
    # Depths of the outer and the inner table; the inner one has ridges.
    outer = draw.uniform(0.82, 0.96) + draw.uniform(0, 0.02) * draw.field(shape, 3.0)
    thick = draw.log_uniform(0.03, 0.14) * (draw.uniform(0, 0.5) * draw.field(shape, 2.6)).exp()
    inner = outer - thick
    dense = draw.uniform(700, 1900)
    x = torch.where(draw.field(shape, 2.5) > draw.uniform(-1.5, 1.5), draw.uniform(-120, -60), draw.uniform(10, 70))
    x = torch.where(r < outer, dense * (1 + 0.1 * draw.field(shape, 2.5)), x)
    middle, half = (outer + inner) / 2, thick * draw.uniform(0.1, 0.35)
    marrow = draw.uniform(50, 700) + draw.uniform(0, 200) * draw.field(shape, draw.uniform(0.5, 1.5))
    x = torch.where((r - middle).abs() < half, marrow, x)
    brain = draw.uniform(20, 45) + draw.uniform(5, 40) * (images.image(draw, library.others, shape, 0.8).abs() - 0.5)
    x = torch.where(r < inner, brain.clamp(-20, 110), x)
    if draw.chance(0.7):
        # Bone, tissue and air cells mixed, fine and coarse.
        where = draw.field(shape, 2.8) > draw.uniform(-0.3, 1.2)
        # Waves of a smooth field give its contours: walls of a labyrinth, finer with more waves.
        cells, wall = draw.field(shape, draw.uniform(1.8, 2.8)), draw.log_uniform(0.05, 0.5)
        if draw.chance(0.75):
            cells = (draw.log_uniform(1, 10) * cells).sin() + draw.uniform(0, 0.7) * draw.field(shape, 1.5)
        edge = draw.uniform(-0.9, 0.9)
        inside = draw.uniform(20, 70) if draw.chance(0.5) else draw.uniform(300, 1500)
        part = torch.where(cells > edge, draw.uniform(-1000, -700), inside + 60 * draw.field(shape, 2.0))
        part = torch.where((cells - edge).abs() < wall, draw.uniform(150, 1400), part)
        x = torch.where(where & (r < draw.uniform(0.85, 1.0)), part, x)
    if draw.chance(0.5):
        count = draw.integer(1, 16)
        numbers = draw.uniforms(count, 4)
        far = (
            (u - numbers[:, :1, None] * 1.2 + 0.6).square() + (y - numbers[:, 1:2, None] * 1.2 + 0.6).square()
        ).sqrt()
        for d, number in zip(far, numbers):
            x = torch.where(d < 0.01 + 0.04 * number[2], 500 + 2000 * number[3], x)
    x = torch.where(r < 1, x, AIR)
    if draw.chance(0.4):
        # The head rest.
        rest = (u.square() + (y - draw.uniform(-0.4, 0.4)).square()).sqrt() - draw.uniform(0.85, 1.1)
        x = torch.where((rest.abs() < draw.uniform(0.004, 0.015)) & (r > 1), draw.uniform(-700, 500), x)
    # From sharp kernels with coarse pixels to smooth kernels with fine ones.
    return _blurred(x, draw.log_uniform(0.3, 1.8)).clamp(AIR, 3000)


def _lesions(draw: Draw, x: Tensor) -> Tensor:
    """Faint discs of 5 to 60 HU, with a radius of 1.5 to 12 pixels, wherever there is tissue."""
    count = draw.integer(2, 24)
    n = x.shape[0]
    place = draw.uniforms(count, 2) * n
    numbers = draw.uniforms(count, 3)
    radius = 1.5 * (8 ** numbers[:, 0])
    depth = 5 * (12 ** numbers[:, 1]) * torch.where(numbers[:, 2] < 0.5, -1.0, 1.0)
    edge = 0.6 + draw.uniforms(count)
    at = torch.arange(n, device=x.device, dtype=torch.float32)
    far = ((at[None, :, None] - place[:, :1, None]).square() + (at[None, None, :] - place[:, 1:, None]).square()).sqrt()
    disc = torch.sigmoid((radius[:, None, None] - far) / (0.35 * edge[:, None, None]))
    added = (depth[:, None, None] * disc).sum(0)
    return torch.where(x > -300, x + added, x)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    n = 4 if sigma <= 1 else 7
    at = torch.arange(-n, n + 1, device=x.device, dtype=torch.float32)
    w = (-(at**2) / (2 * sigma**2)).exp()
    w = w / w.sum()
    x = F.pad(x[None, None], (n, n, n, n), mode="replicate")
    return F.conv2d(F.conv2d(x, w.reshape(1, 1, -1, 1)), w.reshape(1, 1, 1, -1))[0, 0]
