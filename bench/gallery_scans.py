"""The scans of the gallery: a base, and cases that each change one thing. All are SIMULATED.

A body or phantom is drawn on a finer grid over the field of view, multiplied by coil maps, cropped in k-space, given
noise, faults and a mask, and returned as the lines of a raw scan. The image of a full scan is known, with noise and
without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import gallery_objects as objects
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import masks
from recon.data import Flag, RawScan, flag_bits
from recon.io.arrays import scan_from_array
from recon.io.samples import join, lines_from_array
from recon.operators import fft, ifft


@dataclass(frozen=True)
class Scene:
    """One kind of scan; `noise` is that of a full scan over the peak, `room` the field of view over the body."""

    body: str = "T1"
    grey: str = "plain"
    phase: str = "smooth"
    lesion: str = ""
    shape: tuple[int, int] = (192, 192)
    room: tuple[float, float] = (1.25, 1.25)
    coils: int = 8
    noise: float = 0.01
    mask: str = "equispaced"
    R: float = 4
    acs: int = 24
    partial: float = 1.0
    fault: str = ""
    array: str = ""
    noise_scan: bool = False


@dataclass(frozen=True, eq=False)
class Acquired:
    """The raw scan of a scene, and coil images of a full scan with noise and without, (coil, y, x)."""

    scan: RawScan
    noisy: Tensor
    clean: Tensor
    effective: float


def acquired(scene: Scene, seed: int, folder: Path) -> Acquired:
    """The scan of a scene and a seed; `folder` holds the validation volumes."""
    rng = np.random.default_rng([seed, 0])
    mask = _mask(scene, seed)
    clean = _kspace(scene, seed, folder)
    noise = _noise(scene, clean, seed)
    k = _with_line_faults(scene, clean, mask, rng) + noise
    if scene.fault == "clipped":
        parts = torch.view_as_real(k)
        top = 0.25 * float(parts.abs().max())
        k = torch.view_as_complex(parts.clamp(-top, top).contiguous())
    full, clean, k = _as_stored(scene, clean + noise, clean, k, rng)
    keep = torch.from_numpy(mask.reshape(mask.shape[0], -1))
    y = (k * keep).numpy()
    scan = scan_from_array(y, ("coil", "y", "x"), source="numpy", name="gallery", voxel=(1.0, 1.0, 1.0))
    if scene.fault == "oversampled readout":
        e, nx = scan.encodings[0], scene.shape[1]
        fov = (e.encoded_fov[0] / 2, *e.encoded_fov[1:])
        scan = replace(scan, encodings=(replace(e, recon_matrix=(nx, *e.recon_matrix[1:]), recon_fov=fov),))
    extra = []
    if scene.fault.startswith("calibration"):
        extra.append(_calibration(scene, seed, folder, noise))
    if scene.noise_scan:
        sample = noise[:, :64].numpy()[None, :, None]
        extra.append(lines_from_array(sample, flags=flag_bits(Flag.NOISE)))
    if extra:
        lines, samples = join((scan.lines, scan.samples), *extra)
        scan = replace(scan, lines=lines, samples=samples)
    return Acquired(scan, *(_cut(scene, ifft(t, (-2, -1))) for t in (full, clean)), masks.effective(mask))


def _kspace(scene: Scene, seed: int, folder: Path) -> Tensor:
    """Noise-free k-space (coil, ky, kx) of a body drawn 1.5 to 2 times as finely; anything outside wraps around."""
    ny, nx = scene.shape
    ry, rx = scene.room
    if scene.fault == "oversampled readout":
        nx, rx = 2 * nx, 2 * rx
    finer = 2.0 if scene.coils <= 8 else 1.5
    fine = [2 * round(n * finer / 2) for n in (ny, nx)]
    # Pixels are square unless the scene says otherwise: the longer side of the matrix covers more.
    ry, rx = ry * max(1, ny / nx), rx * max(1, nx / ny)
    if scene.fault == "pixels 2 to 1":
        ry, rx = scene.room
    v, u = (r * (2 * torch.arange(m) / m - 1) for r, m in zip((ry, rx), fine))
    draw, images = objects.body(scene.body, seed, folder), torch.zeros((), dtype=torch.complex64)
    maps = objects.ring if scene.array == "ring" else objects.maps
    for fold in (0,) if ry >= 1 else (-1, 0, 1):
        vv, uu = (t.contiguous() for t in torch.broadcast_tensors((v + 2 * ry * fold)[:, None], u[None]))
        m = objects.lesion(scene.lesion, seed, uu, vv, objects.grey(scene.grey, draw(uu, vv)))
        x = torch.polar(m, objects.phase(scene.phase, seed, uu, vv, m))
        images = images + maps(scene.coils, seed, uu, vv) * x
    k = fft(images, (-2, -1)) * math.sqrt(ny * nx / math.prod(fine))
    for axis, n in ((-2, ny), (-1, nx)):
        k = k.narrow(axis, k.shape[axis] // 2 - n // 2, n)
    return k.contiguous()


def _noise(scene: Scene, k: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(7919 + seed)
    noise = torch.complex(*(torch.randn(k.shape, generator=draw) for _ in range(2))) * (scene.noise / math.sqrt(2))
    if scene.array == "correlated noise":
        n = len(k)
        mixing = torch.eye(n) + 0.6 * torch.rand(n, n, generator=draw) / math.sqrt(n)
        noise = torch.tensordot(mixing.to(noise.dtype), noise, 1)
    if scene.array == "one noisy coil":
        noise[len(k) // 2] *= 10
    return noise


def _with_line_faults(scene: Scene, k: Tensor, mask: NDArray[np.bool_], rng: np.random.Generator) -> Tensor:
    """K-space with a fault of the acquisition, before noise."""
    ny, nx = k.shape[-2:]
    row = torch.arange(ny)[:, None]
    ky, kx = (row - ny // 2) / ny, ((torch.arange(nx) - nx // 2) / nx)[None]
    turn = torch.cumsum(torch.from_numpy(mask.reshape(ny, -1).any(1)).int(), 0)[:, None]
    shift = torch.exp(-2j * math.pi * (1.5 * ky + 2 * kx))
    if scene.fault == "motion in the middle of the scan":
        return torch.where(row > ny // 2 + 20, k * shift, k)
    if scene.fault == "motion between shots":
        return torch.where(turn % 2 == 0, k * shift, k)
    if scene.fault == "ghost":
        return torch.where(turn % 2 == 0, k * torch.exp(1j * (0.4 + 2 * math.pi * 0.25 * kx)), k)
    if scene.fault == "gain drifts":
        return k * (1 - 0.5 * (row / ny))
    if scene.fault == "gain jumps":
        return torch.where(row % 16 < 8, k, 0.8 * k)
    if scene.fault == "phase drifts":
        return k * torch.exp(1j * math.radians(70) * (2 * ky) ** 2)
    if scene.fault == "phase drifts by 25°":
        return k * torch.exp(1j * math.radians(25) * (2 * ky) ** 2)
    if scene.fault.startswith("phase wanders"):
        steps = rng.normal(size=ny) * math.radians(float(scene.fault.split()[-1].rstrip("°")))
        walk = torch.from_numpy(np.cumsum(steps).astype(np.float32))[:, None]
        return k * torch.exp(1j * (walk - walk[ny // 2]))
    if scene.fault == "a line lost":
        return torch.where(row == ny // 2 + 3, 0, k)
    if scene.fault == "a line lost beside the ACS":
        outer = np.nonzero(mask.reshape(ny, -1).any(1))[0]
        return torch.where(row == int(outer[outer > ny // 2 + 14][0]), 0, k)
    if scene.fault == "rows one off":
        inner = (row - ny // 2 + scene.acs // 2 >= 0) & (row - ny // 2 + scene.acs // 2 < scene.acs)
        return torch.where(inner, k, torch.roll(k, 1, -2))
    if scene.fault == "spike":
        k = k.clone()
        at = np.nonzero(mask.reshape(ny, -1).any(1))[0]
        k[:, int(at[len(at) // 3]), nx // 3] += 0.5 * float(k.abs().max())
        return k
    if scene.fault == "drops to half in T2 decay":  # an echo train with centric order
        return k * torch.exp(-1.4 * ky.abs() / 0.5)
    return k


def _as_stored(
    scene: Scene, full: Tensor, clean: Tensor, k: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """All three as a scanner stores them: filtered, interpolated, scaled, with a dead coil."""
    ny, nx = k.shape[-2:]
    every = [full, clean, k]
    if scene.fault == "Hamming filter":
        w = torch.outer(*(torch.hamming_window(n, periodic=True) for n in (ny, nx)))
        every = [t * w for t in every]
    if scene.fault.startswith("interpolated"):
        share = float(scene.fault.split()[-1])
        inside = [((torch.arange(n) - n // 2).abs() < share * n / 2) for n in (ny, nx)]
        every = [t * (inside[0][:, None] & inside[1]) for t in every]
    scale = torch.ones(len(k), 1, 1)
    scale = scale * {"tiny numbers": 1e-9, "huge numbers": 1e7}.get(scene.array, 1.0)
    if scene.array == "one coil 300 times the others":
        scale[1] = 300
    if scene.array == "dead coil":
        scale[len(k) // 3] = 0
    if scene.array == "half of the coils at a tenth":
        scale[::2] = 0.1
    full, clean, k = (t * scale for t in every)
    if scene.array == "one coil of noise alone":
        full[2] -= clean[2]
        k[2], clean[2] = full[2], 0
    return full, clean, k


def _calibration(scene: Scene, seed: int, folder: Path, noise: Tensor) -> tuple[NDArray[np.void], object]:
    """Separate calibration lines: of the same slice, another slice, or a patient who has moved since."""
    k = _kspace(scene, seed + 1000 if scene.fault.endswith("another slice") else seed, folder)
    ny = k.shape[-2]
    if scene.fault.endswith("moved"):
        ky = (torch.arange(ny)[:, None] - ny // 2) / ny
        k = k * torch.exp(-2j * math.pi * 10 * ky)
    k = k + noise.roll((31, 17), (-2, -1))
    rows = np.zeros((1, 1, ny), bool)
    rows[..., ny // 2 - 12 : ny // 2 + 12] = True
    return lines_from_array(k.numpy()[None, :, None], rows, flags=flag_bits(Flag.CALIBRATION))


def _mask(scene: Scene, seed: int) -> NDArray[np.bool_]:
    (ny, nx), R, acs = scene.shape, scene.R, scene.acs
    if scene.mask == "poisson":
        return masks.poisson_disc((ny, nx), R, acs, seed)
    if scene.mask == "caipi":
        return masks.caipi((ny, nx), (2, int(R / 2)), acs, seed)
    if scene.mask == "random points":
        return masks.variable_density((ny, nx), R, acs, seed)
    if scene.mask == "equispaced":
        m = masks.equispaced((ny,), int(R), acs, seed)
    elif scene.mask == "alternating":
        m = masks.centre((ny,), acs)
        m[:: int(2 * R)] = m[int(R / 2) :: int(2 * R)] = True
    elif scene.mask == "one side":
        m = masks.equispaced((ny,), int(R), acs, seed)
        m[: ny // 2 - acs // 2] = False
    else:
        make = {"fraction": masks.equispaced_fraction, "random": masks.random, "variable": masks.variable_density}
        m = make["fraction" if scene.mask == "gaps" else scene.mask]((ny,), R, acs, seed)
    if scene.mask == "gaps":
        for at in (ny // 5, ny // 2 + ny // 5):
            m[at : at + ny // 9] = False
    return m & masks.partial_fourier(ny, scene.partial) if scene.partial < 1 else m


def _cut(scene: Scene, x: Tensor) -> Tensor:
    return x[..., scene.shape[1] // 2 : scene.shape[1] // 2 + scene.shape[1]] if "oversampled" in scene.fault else x
