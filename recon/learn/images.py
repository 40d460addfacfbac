"""Complex images for training: real magnitudes, shapes, fractals and textures, with smooth and sharp phase."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recon.learn.draw import Draw, grid
from recon.learn.volumes import Sources

#: Standard deviations of the phase of a susceptibility field over tissue, in radians.
FIELD = (0.2, 1.5)


def image(
    draw: Draw, sources: Sources, shape: tuple[int, int], real: float = 0.7, susceptibility: float = 0.0
) -> Tensor:
    """One complex image (y, x), with its largest magnitudes near 1; a real magnitude with probability `real`.

    With probability `susceptibility` its phase contains the field of its tissue in air.
    """
    if sources.magnitudes and draw.chance(real):
        m = _photograph(draw, draw.one_of(sources.magnitudes), shape)
    else:
        m = draw.one_of((_shapes, _fractal, _texture), (0.5, 0.3, 0.2))(draw, shape)
    m = _contrast(draw, m)
    if draw.chance(0.6):
        m = m * (draw.uniform(0, 0.4) * draw.field(shape, 3.5)).exp()
    peak = m.flatten().kthvalue(max(1, int(0.995 * m.numel()))).values
    return torch.polar(m / peak.clamp_min(1e-6), phase(draw, m, susceptibility))


def phase(draw: Draw, magnitude: Tensor, susceptibility: float = 0.0) -> Tensor:
    """A phase (y, x) in radians: constant, linear, smooth, and sometimes with sharp jumps, veins or rough parts.

    With probability `susceptibility` it contains the field of the tissue in air.
    """
    shape = (magnitude.shape[0], magnitude.shape[1])
    y, x = grid(shape, draw.device)
    out = draw.uniform(-math.pi, math.pi) + draw.uniform(-3, 3) * y + draw.uniform(-3, 3) * x
    out = out + draw.uniform(0, 1.2) * draw.field(shape, 3.0)
    if draw.chance(0.3):
        out = out + draw.uniform(0, 0.5) * draw.field(shape, 2.0)
    if draw.chance(0.2):
        # Two chemical species, fat and water, each with its own phase; the border follows the image or a field.
        border = magnitude - draw.uniform(0.4, 0.8) * magnitude.max() if draw.chance(0.5) else draw.field(shape, 2.2)
        out = out + draw.uniform(-math.pi, math.pi) * (border > 0)
    if draw.chance(0.15):
        out = out + draw.uniform(-1.5, 1.5) * (draw.field(shape, 2.0).abs() < 0.04)
    # Without it no random number is drawn, so scans of recipes without it stay the same.
    if susceptibility and draw.chance(susceptibility):
        tissue = magnitude > draw.uniform(0.05, 0.15) * magnitude.max()
        found = field(tissue, draw.uniform(0, math.pi))
        within = found[tissue] if bool(tissue.any()) else found
        # A field that hardly changes inside the body, such as that of a disc, is not amplified.
        out = out + draw.uniform(*FIELD) * (found - within.mean()) / within.std().clamp_min(0.02)
    return out


def field(tissue: Tensor, angle: float) -> Tensor:
    """Field (y, x) of tissue (y, x) in air over its susceptibility times B₀, which lies in the plane.

        F⁻¹((⅓ − (k·b)² / k²) · F(tissue)),   b = (cos angle, sin angle) along (y, x)

    The body is assumed constant across the plane, and the field is smoothed by a Gaussian of one pixel: smooth within
    tissue, with jumps at its edges. Periodic. (Marques and Bowtell, Concepts Magn Reson B 25:65, 2005.)
    """
    ny, nx = tissue.shape
    ky, kx = torch.fft.fftfreq(ny, device=tissue.device)[:, None], torch.fft.fftfreq(nx, device=tissue.device)
    square = ky.square() + kx.square()
    along = (math.cos(angle) * ky + math.sin(angle) * kx).square()
    dipole = torch.where(square > 0, 1 / 3 - along / square.clamp_min(1e-12), 0)
    smooth = torch.exp(-2 * math.pi**2 * square)
    out: Tensor = torch.fft.ifft2(torch.fft.fft2(tissue.float()) * dipole * smooth).real
    return out


def _photograph(draw: Draw, volume: NDArray[np.float32], shape: tuple[int, int]) -> Tensor:
    """A slice rotated, mirrored, scaled and shifted, sampled on the grid."""
    plane = torch.from_numpy(volume[draw.integer(0, len(volume) - 1)]).to(draw.device)
    rows, columns = (torch.nonzero(plane.mean(1 - a) > 0.02).flatten() for a in (0, 1))
    if len(rows) < 16 or len(columns) < 16:
        rows, columns = torch.arange(plane.shape[0]), torch.arange(plane.shape[1])
    plane = plane[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    turns = draw.integer(0, 3) * math.pi / 2 + draw.uniform(-0.3, 0.3)
    y, x = grid(shape, draw.device)
    if draw.chance(0.5):
        x = -x
    u = math.cos(turns) * x - math.sin(turns) * y + draw.uniform(-0.1, 0.1)
    v = math.sin(turns) * x + math.cos(turns) * y + draw.uniform(-0.1, 0.1)
    # The field of view is `room` times the longer side of the body.
    room, stretch = draw.uniform(0.95, 1.5), draw.uniform(0.9, 1.1)
    h, w = plane.shape
    longest = max(h, w)
    at = torch.stack([u * room * stretch * longest / w, v * room * longest / h], -1)
    out = F.grid_sample(plane[None, None], at[None], mode="bicubic", padding_mode="zeros", align_corners=False)
    return out[0, 0].clamp_min(0)


def _contrast(draw: Draw, m: Tensor) -> Tensor:
    """Grey values through a random curve that keeps air dark."""
    m = (m / m.max().clamp_min(1e-6)).clamp(0, 1)
    if draw.chance(0.5):
        return m ** draw.uniform(0.7, 1.5)
    if draw.chance(0.4):
        knots = torch.cat([m.new_zeros(1), 0.1 + 0.9 * draw.uniforms(6)])
        at = (m * 5.999).clamp(0, 5.999)
        low = at.long()
        return torch.lerp(knots[low], knots[low + 1], at - low)
    return m


def _body(draw: Draw, shape: tuple[int, int]) -> Tensor:
    y, x = grid(shape, draw.device)
    a, b = draw.uniform(0.6, 0.95), draw.uniform(0.6, 0.95)
    wobble = 1 + 0.08 * draw.field(shape, 3.0)
    return ((x / a).square() + (y / b).square() < wobble).float()


def _shapes(draw: Draw, shape: tuple[int, int]) -> Tensor:
    """Nested, folded regions of constant signal: quantised smooth fields, ellipses and thin lines in a body."""
    y, x = grid(shape, draw.device)
    out = draw.uniforms(1)[0].expand(shape)
    for _ in range(draw.integer(1, 3)):
        levels = draw.integer(2, 6)
        field = draw.field(shape, draw.uniform(1.6, 3.0))
        index = ((field + 2.5) * levels / 5).long().clamp(0, levels - 1)
        region = draw.field(shape, 3.0) > draw.uniform(-1, 1)
        out = torch.where(region, draw.uniforms(levels)[index], out)
    for _ in range(draw.integer(0, 12)):
        cy, cx, angle = draw.uniform(-0.7, 0.7), draw.uniform(-0.7, 0.7), draw.uniform(0, math.pi)
        u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        inside = (u / draw.log_uniform(0.01, 0.4)).square() + (v / draw.log_uniform(0.01, 0.4)).square() < 1
        out = torch.where(inside, draw.uniforms(1)[0], out)
    if draw.chance(0.6):
        out = out * (1 + draw.uniform(0, 0.3) * draw.field(shape, draw.uniform(0.5, 1.5))).clamp_min(0)
    return out * _body(draw, shape)


def _fractal(draw: Draw, shape: tuple[int, int]) -> Tensor:
    """Escape times of a Julia set z ← z² + c in a random window."""
    y, x = grid(shape, draw.device)
    zoom, angle = draw.log_uniform(0.2, 1.6), draw.uniform(0, 2 * math.pi)
    z = torch.complex(x, y) * zoom * complex(math.cos(angle), math.sin(angle))
    z = z + complex(draw.uniform(-0.6, 0.6), draw.uniform(-0.6, 0.6))
    turn = draw.uniform(0, 2 * math.pi)
    # Points near the border of the main cardioid of the Mandelbrot set: rich sets.
    c = complex(math.cos(turn), math.sin(turn)) / 2 - complex(math.cos(2 * turn), math.sin(2 * turn)) / 4
    c *= draw.uniform(1.0, 1.1)
    time = torch.zeros(shape, device=draw.device)
    for _ in range(32):
        z = z * z + c
        size = z.abs()
        time += torch.exp(-size)
        z = torch.where(size > 8, z / size * 8, z)
    out = 0.5 + 0.5 * torch.sin(time * draw.uniform(0.2, 1.5) + draw.uniform(0, 6))
    return out * _body(draw, shape) if draw.chance(0.8) else out


def _texture(draw: Draw, shape: tuple[int, int]) -> Tensor:
    """Fields with a power-law spectrum, rectified or not."""
    f = draw.field(shape, draw.uniform(1.0, 2.5))
    f = f.abs() if draw.chance(0.5) else (f + draw.uniform(1, 3)).clamp_min(0)
    return f * _body(draw, shape)
