"""Common data of the cases: a phantom with smooth phase, smooth coils, complex noise. Only numpy and scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Complexes = NDArray[np.complex64]
Floats = NDArray[np.float64]

#: Value, centre (x, y, z), semi-axes (x, y, z) and angle in the xy-plane of each ellipsoid; the field of view is ±1.
ELLIPSOIDS = (
    (1.0, 0.0, 0.0, 0.0, 0.70, 0.90, 0.85, 0.0),
    (-0.55, 0.0, -0.02, 0.0, 0.65, 0.85, 0.80, 0.0),
    (0.25, 0.22, 0.0, 0.0, 0.12, 0.32, 0.40, -0.3),
    (-0.25, -0.22, 0.0, 0.0, 0.16, 0.41, 0.45, 0.3),
    (0.30, 0.0, 0.35, 0.05, 0.21, 0.25, 0.35, 0.0),
    (0.25, 0.0, -0.12, 0.0, 0.046, 0.046, 0.30, 0.0),
    (0.35, -0.08, -0.605, 0.0, 0.046, 0.023, 0.25, 0.0),
    (-0.30, 0.06, -0.605, 0.0, 0.023, 0.046, 0.25, 0.0),
    (0.20, 0.35, 0.45, 0.0, 0.08, 0.05, 0.30, 0.8),
    (0.20, -0.40, 0.42, 0.0, 0.03, 0.12, 0.30, -0.5),
)


def _axes(shape: Sequence[int], z: float) -> tuple[Floats, Floats, Floats]:
    """Coordinates (z, y, x) in ±1 of an image; a single partition lies at `z`."""
    nz, ny, nx = ((np.arange(n) - n // 2) * 2.0 / n for n in shape)
    nz = nz if shape[0] > 1 else np.array([z])
    return nz[:, None, None], ny[:, None], nx


def density(shape: Sequence[int], z: float = 0.0) -> Floats:
    """The ellipsoids alone, real, (z, y, x)."""
    zz, yy, xx = _axes(shape, z)
    out = np.zeros(tuple(shape))
    for value, cx, cy, cz, rx, ry, rz, angle in ELLIPSOIDS:
        c, s = np.cos(angle), np.sin(angle)
        u, v, w = xx - cx, yy - cy, zz - cz
        inside = ((c * u + s * v) / rx) ** 2 + ((c * v - s * u) / ry) ** 2 + (w / rz) ** 2 <= 1
        out += value * inside
    return out


def image(shape: Sequence[int], z: float = 0.0) -> Complexes:
    """Complex phantom (z, y, x): ellipsoids, weak texture, a phase of about one radian."""
    zz, yy, xx = _axes(shape, z)
    texture = 1 + 0.06 * np.sin(23 * xx + 5 * yy) * np.cos(17 * yy - 9 * zz)
    phase = 0.8 * xx - 0.5 * yy + 0.9 * xx * yy + 0.4 * zz
    return (density(shape, z) * texture * np.exp(1j * phase)).astype(np.complex64)


def maps(coils: int, shape: Sequence[int], z: float = 0.0) -> Complexes:
    """Smooth coils on a ring around the object, two in a volume, (coil, z, y, x), root sum of squares one."""
    zz, yy, xx = _axes(shape, z)
    out = np.empty((coils, *shape), np.complex64)
    rings = 1 if coils <= 4 or shape[0] == 1 else 2
    for c in range(coils):
        turn = 2 * np.pi * (c + 0.5 * (c % rings)) / coils
        px, py, pz = 1.2 * np.cos(turn), 1.2 * np.sin(turn), (0.7 * (2 * (c % rings) - 1) if rings > 1 else 0.0)
        square = (xx - px) ** 2 + (yy - py) ** 2 + (zz - pz) ** 2
        out[c] = np.exp(1j * (turn + 0.7 * (xx * py - yy * px) + 0.3 * zz * pz)) / (square + 0.1)
    out /= np.sqrt((out.real**2 + out.imag**2).sum(0))
    return out


def stack(slices: int, coils: int, shape: Sequence[int]) -> tuple[Complexes, Complexes]:
    """Images (slice, z, y, x) and maps (slice, coil, z, y, x) of several slices, or of one volume."""
    places = np.linspace(-0.5, 0.5, slices) if slices > 1 else np.zeros(1)
    return np.stack([image(shape, z) for z in places]), np.stack([maps(coils, shape, z) for z in places])


def fft(x: NDArray[np.complexfloating], axes: Sequence[int], inverse: bool = False) -> NDArray[np.complexfloating]:
    """Centred, unitary FFT along `axes`."""
    transform = scipy.fft.ifftn if inverse else scipy.fft.fftn
    shifted = scipy.fft.ifftshift(x, axes=axes)
    return scipy.fft.fftshift(transform(shifted, axes=axes, norm="ortho", overwrite_x=True, workers=-1), axes=axes)


def noise(shape: Sequence[int], sigma: float, seed: int) -> Complexes:
    """White complex noise, σ per real and imaginary part."""
    rng = np.random.default_rng(seed)
    pair = rng.standard_normal((*shape, 2), np.float32) * np.float32(sigma)
    return pair.view(np.complex64)[..., 0]


def kspace(x: Complexes, s: Complexes, sigma: float = 0.01, seed: int = 0) -> Complexes:
    """Noisy k-space (slice, coil, z, y, x) of images seen through coils."""
    axes = [a for a in (-3, -2, -1) if x.shape[a] > 1]
    out = np.empty(s.shape, np.complex64)
    for one, image_, coils in zip(out, x, s):
        for k, coil in zip(one, coils):
            k[:] = fft(coil * image_, axes)
    return out + noise(out.shape, sigma, seed)


def line_integrals(angles: Floats, offsets: Floats, scale: float) -> Floats:
    """Exact parallel projections of the ellipses at z = 0, (angle, offset): along x cos θ + y sin θ = s.

    `scale` is half the field of view in the unit of the offsets.
    """
    theta, s = angles[:, None], offsets[None] / scale
    out = np.zeros((len(angles), len(offsets)))
    for value, cx, cy, cz, rx, ry, rz, angle in ELLIPSOIDS:
        shrink = np.sqrt(max(0.0, 1 - (cz / rz) ** 2))
        a, b = rx * shrink, ry * shrink
        square = (a * np.cos(theta - angle)) ** 2 + (b * np.sin(theta - angle)) ** 2
        t = s - cx * np.cos(theta) - cy * np.sin(theta)
        out += value * 2 * a * b * np.sqrt(np.maximum(square - t * t, 0)) / square
    return out * scale
