"""Objects of the gallery: bodies of validation volumes and analytic phantoms, their grey values and phases.

Everything is a function of (name, seed) at any coordinates u, v in units of half the longer side of the body, so that a
field of view may be larger or smaller than the body. Nothing here is shared with the training of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from recon.simulation.coil_array import loop_fields
from recon.simulation.phantom import HEAD_MM

#: Files of `validation` by what they show, and the axis that is cut first.
VOLUMES = {
    "T1": "bispmri_3t_patient4_T1w.npz",
    "T2": "bispmri_3t_patient4_T2w.npz",
    "FLAIR": "bispmri_3t_patient4_FLAIR.npz",
    "T1 contrast": "vsseg001_brain_t1gd_every5.nii.gz",
    "tumour": "pyradiomics_brain1.nii.gz",
    "knee": "pykneer_knee_t1rho_tsl1_12sl.nii.gz",
    "heart": "totalseg_heart_cta_1p5mm.nii.gz",
    "head CT": "invesalius_head_ct.nii.gz",
}
#: Centre, half axes, angle in degrees and added signal of the ellipses of a head phantom (Shepp and Logan, IEEE Trans
#: Nucl Sci 21:21, 1974, with the contrasts of Toft).
ELLIPSES = (
    (0, 0, 0.69, 0.92, 0, 1.0), (0, -0.0184, 0.6624, 0.874, 0, -0.8), (0.22, 0, 0.11, 0.31, -18, -0.2),
    (-0.22, 0, 0.16, 0.41, 18, -0.2), (0, 0.35, 0.21, 0.25, 0, 0.1), (0, 0.1, 0.046, 0.046, 0, 0.1),
    (0, -0.1, 0.046, 0.046, 0, 0.1), (-0.08, -0.605, 0.046, 0.023, 0, 0.1), (0, -0.606, 0.023, 0.023, 0, 0.1),
    (0.06, -0.605, 0.023, 0.046, 0, 0.1),
)  # fmt: skip


def body(name: str, seed: int, folder: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """The magnitude of a body at (u, v), its bright pixels near 1 and nothing around it."""
    rng = np.random.default_rng([seed, 1])
    if name in VOLUMES:
        return _sampled(_plane(folder / VOLUMES[name], rng))
    if name == "text":
        return _sampled(_text(rng))
    return {"ellipses": _ellipses, "rods": _rods, "lines": _lines, "nothing": _nothing}[name](rng)


def grey(name: str, m: Tensor) -> Tensor:
    """Magnitudes with another contrast."""
    inside = m > 0.04
    return {
        "plain": lambda: m,
        "inverted": lambda: torch.where(inside, (1.05 - m).clamp_min(0.02), m),
        "dark": lambda: m.clamp(0, 1) ** 3,
        "saturated": lambda: (3 * m).clamp_max(1),
        "posterised": lambda: torch.round(6 * m.clamp(0, 1)) / 6,
    }[name]()


def phase(name: str, seed: int, u: Tensor, v: Tensor, m: Tensor) -> Tensor:
    """Phase in radians at (u, v): smooth, or with a sharp component."""
    rng = np.random.default_rng([seed, 2])
    if name == "none":
        return torch.zeros_like(u)
    a = rng.uniform(-1, 1, 8)
    out = math.pi * a[0] + 2 * a[1] * u + 2 * a[2] * v
    for i, (p, q) in enumerate(((1, 1), (2, 0), (0, 2))):
        out = out + 0.8 * a[3 + i] * torch.cos(math.pi * (p * u + q * v) / 2 + 3 * a[6])
    if name == "steep":  # a poor shim and an echo off the centre
        out = out + 9 * u + 7 * v + 4 * (u * u - v * v)
    elif name == "fat and water":
        out = out + 2.6 * ((m > 0.45) & (m < 0.9)).to(u.dtype)
    elif name == "metal":  # field of a sphere, B ∝ (2 z² − x²) / r⁵, around a void (see `void`)
        x, y = _place(seed)
        r = ((u - x) ** 2 + (v - y) ** 2).sqrt().clamp_min(0.06)
        out = out + 0.004 * (2 * (v - y) ** 2 - (u - x) ** 2) / r**5
    elif name == "susceptibility":
        out = out + 0.8 * _field(m)
    elif name == "rough":
        for _ in range(40):
            k, s = rng.uniform(-14, 14, 2), rng.uniform(0, 2 * math.pi)
            out = out + 0.12 * torch.cos(math.pi * (k[0] * u + k[1] * v) + s)
    return out


def _field(m: Tensor) -> Tensor:
    """Field of tissue in air with standard deviation 1 over the body: that of an infinite cylinder across B₀, along y.

    χ ∗ F⁻¹(½ − ky²/k²), smoothed by a pixel: smooth within tissue, with jumps where it ends.
    """
    tissue = gaussian_filter((m > 0.08).numpy().astype(np.float32), 1)
    ky, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in m.shape), indexing="ij")
    k2 = np.where(ky**2 + kx**2 > 0, ky**2 + kx**2, 1)
    field = np.fft.ifft2(np.fft.fft2(tissue) * (0.5 - ky**2 / k2)).real
    inside = field[tissue > 0.5]
    if not inside.size:
        return torch.zeros_like(m)
    return torch.from_numpy(((field - inside.mean()) / max(float(inside.std()), 1e-9)).astype(np.float32))


def lesion(name: str, seed: int, u: Tensor, v: Tensor, m: Tensor) -> Tensor:
    """The magnitude with a lesion added."""
    rng = np.random.default_rng([seed, 3])
    x, y = _place(seed)
    r = ((u - x) ** 2 + (v - y) ** 2).sqrt()
    if name == "void":
        return torch.where(r < 0.09, 0.0, m)
    if name == "bright spots":
        for _ in range(12):
            x, y = rng.uniform(-0.5, 0.5, 2)
            m = torch.where((u - x) ** 2 + (v - y) ** 2 < rng.uniform(0.006, 0.02) ** 2, 3.0, m)
        return m
    if name == "faint disc":
        return m + 0.08 * (r < 0.07)
    if name == "needle":
        along = (u - x) * math.cos(1) + (v - y) * math.sin(1)
        across = (v - y) * math.cos(1) - (u - x) * math.sin(1)
        return torch.where((along.abs() < 0.4) & (across.abs() < 0.006), 0.0, m)
    return m


def maps(coils: int, seed: int, u: Tensor, v: Tensor) -> Tensor:
    """Receive sensitivities (coil, …) at (u, v), the fields of loops around a head; mean Σ|c|² over the body of 1.

    Fields by Biot-Savart's law (`recon.simulation.coil_array`) of a plane at a random height, interpolated from a
    grid of 33 × 33 points of u, v in −1.6 … 1.6.
    """
    if coils == 1:
        return torch.ones(1, *u.shape, dtype=torch.complex64)
    rng = np.random.default_rng([seed, 4])
    axis = np.linspace(-1.6, 1.6, 33)
    grid = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1)
    points = np.concatenate([grid * (HEAD_MM[0], HEAD_MM[1]), np.full((33, 33, 1), rng.uniform(-30, 40))], -1)
    fields = torch.from_numpy(loop_fields(coils, points).astype(np.complex64))
    central = torch.from_numpy((grid**2).sum(-1) < 1)
    fields = fields / fields.abs().square().sum(0)[central].mean().sqrt()
    # Near a wire the field is unbounded; no tissue is there.
    fields = fields / (fields.abs() / 3).clamp_min(1)
    parts = torch.cat([fields.real, fields.imag])[None]
    fine = F.grid_sample(parts, torch.stack([u, v], -1)[None] / 1.6, mode="bicubic", align_corners=True)[0]
    return torch.complex(fine[:coils], fine[coils:])


def ring(coils: int, seed: int, u: Tensor, v: Tensor) -> Tensor:
    """Receive sensitivities (coil, …) of a poor array: elements on a circle of radius 1.2 to 1.7 around the body.

    c_j = exp(i φ_j) / d_j with d_j the distance of element j and φ_j its direction, rotated with the element, so that
    neighbours see almost the same; mean Σ|c|² within the unit circle of 1. (The birdcage of Fessler's and Lustig's
    toolboxes, with gains of the elements that differ.)
    """
    rng = np.random.default_rng([seed, 4])
    radius, gains = float(rng.uniform(1.2, 1.7)), np.exp(0.4 * rng.normal(size=coils))
    found = []
    for j, gain in enumerate(gains):
        angle = 2 * math.pi * j / coils
        x, y = u - radius * math.cos(angle), v - radius * math.sin(angle)
        found.append(torch.polar(float(gain) / torch.hypot(x, y).clamp_min(0.1), torch.atan2(y, -x) - angle))
    c = torch.stack(found)
    inside = c[:, u**2 + v**2 < 1]
    return c / inside.abs().square().sum(0).mean().sqrt()


def _place(seed: int) -> tuple[float, float]:
    x, y = np.random.default_rng([seed, 5]).uniform(-0.35, 0.35, 2)
    return float(x), float(y)


@lru_cache(maxsize=4)
def _volume(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return np.asarray(stored["image"])
    import nibabel

    volume = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    return np.moveaxis(volume, int(np.argmin(volume.shape)), 0)


def _plane(path: Path, rng: np.random.Generator) -> Tensor:
    """A slice near the middle of a volume, cropped to the body."""
    volume = _volume(path)
    n = len(volume)
    v = volume[int(rng.integers(n // 4, max(n // 4 + 1, 3 * n // 4)))].astype(np.float32)
    v = np.clip(v, -200, 300) + 200 if v.min() < -500 else np.maximum(v, 0)
    v = np.clip(v / np.percentile(v[v > 0], 99), 0, 1.5)
    rows, columns = (np.nonzero(v.mean(1 - a) > 0.03)[0] for a in (0, 1))
    return torch.from_numpy(v[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())


def _sampled(plane: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    h, w = plane.shape
    longest = max(h, w)

    def at(u: Tensor, v: Tensor) -> Tensor:
        where = torch.stack([u * longest / w, v * longest / h], -1)
        return F.grid_sample(plane[None, None], where[None], mode="bicubic", align_corners=False)[0, 0].clamp_min(0)

    return at


def _text(rng: np.random.Generator) -> Tensor:
    """Lines of letters of several sizes on a grey disc."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("F", (512, 512), 0)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((8, 8, 503, 503), fill=0.35)
    y = 60
    for size in (64, 44, 32, 24, 18, 14, 11):
        letters = "".join(chr(int(c)) for c in rng.integers(65, 91, 400 // size + 3))
        pen.text((256 - 150, y), letters, fill=1.0, font=ImageFont.load_default(size))
        y += int(1.25 * size)
    return torch.from_numpy(np.asarray(picture, np.float32).copy())


def _ellipses(rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    turn = rng.uniform(-0.3, 0.3)

    def at(u: Tensor, v: Tensor) -> Tensor:
        x, y = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
        out = torch.zeros_like(u)
        for cx, cy, a, b, degrees, add in ELLIPSES:
            t = math.radians(degrees)
            p = (x - cx) * math.cos(t) + (y - cy) * math.sin(t)
            q = (y - cy) * math.cos(t) - (x - cx) * math.sin(t)
            out = out + add * ((p / a) ** 2 + (q / b) ** 2 < 1)
        return out.clamp_min(0)

    return at


def _rods(rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """A resolution phantom: a bright disc with blocks of holes of decreasing distance, and bars."""
    turn = rng.uniform(0, 0.4)

    def at(u: Tensor, v: Tensor) -> Tensor:
        x, y = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
        out = (u**2 + v**2 < 0.92**2).to(u.dtype)
        for i, step in enumerate((0.09, 0.06, 0.045, 0.03, 0.022, 0.016)):
            cx, cy = (i % 3 - 1) * 0.42, (i // 3) * 0.42 - 0.35
            inside = ((x - cx).abs() < 0.17) & ((y - cy).abs() < 0.17)
            fx, fy = (torch.remainder(t / step, 1) - 0.5 for t in (x - cx, y - cy))
            out = torch.where(inside & (fx**2 + fy**2 < 0.0625), 0.0, out)
        bars = (x.abs() < 0.5) & ((y - 0.55).abs() < 0.1) & (torch.remainder(8 / (x + 0.75), 1) < 0.5)
        return torch.where(bars, 0.1, out)

    return at


def _lines(rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """A grey disc crossed by thin bright and dark lines, and dots."""
    lines, dots = rng.uniform(-0.6, 0.6, (16, 2)), rng.uniform(-0.6, 0.6, (40, 2))
    angles, levels = rng.uniform(0, math.pi, 16), rng.choice([0.0, 1.0], 56)

    def at(u: Tensor, v: Tensor) -> Tensor:
        out = 0.4 * (u**2 + v**2 < 0.95**2).to(u.dtype)
        inside = out > 0
        for (x, y), t, level in zip(lines, angles, levels):
            across = (v - y) * math.cos(t) - (u - x) * math.sin(t)
            out = torch.where(inside & (across.abs() < 0.006), float(level), out)
        for (x, y), level in zip(dots, levels[16:]):
            out = torch.where((u - x) ** 2 + (v - y) ** 2 < 0.012**2, float(level), out)
        return out

    return at


def _nothing(rng: np.random.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda u, v: torch.zeros_like(u)
