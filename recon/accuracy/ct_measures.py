"""Measures of CT images: error, noise power, transfer at edges, and an observer's detection of discs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from recon.metrics import ssim

Slices = NDArray[np.float32]
Floats = NDArray[np.float64]

#: Data range of PSNR and SSIM in HU.
RANGE = 1400.0
#: Radius of the discs that the observer looks for, and the side of the square in which it looks, in pixels.
RADIUS, SPOT = 5.0, 32
#: Widths in pixels and contrasts in HU of the discs whose remaining contrast is measured.
WIDTHS, HEIGHTS = (4, 6, 10, 15), (10, 20, 40)
#: How far an edge is followed on either side, and the width of the bins there, in pixels.
REACH, BIN = 8.0, 0.1
#: Side of the squares in which noise power is measured, in pixels.
PATCH = 64


@dataclass(frozen=True)
class Rod:
    """A round insert in a slice: its centre (y, x) and radius in pixels."""

    slice: int
    y: float
    x: float
    radius: float


@dataclass(frozen=True, eq=False)
class Transfer:
    """Modulation transfer over `frequency` in cycles per pixel, and where it falls to one half and to one tenth."""

    frequency: Floats
    value: Floats
    mtf50: float
    mtf10: float


def errors(x: Slices, reference: Slices) -> dict[str, float]:
    """PSNR, SSIM (data range 1400 HU) and root mean square error in HU over the body."""
    body = reference > -900
    rmse = float(np.sqrt(np.square(x - reference)[body].mean()))
    shown, truth = (np.clip(v, -1000, 1000) for v in (x, reference))
    return {
        "psnr": 20 * math.log10(RANGE / max(rmse, 1e-6)),
        "ssim": ssim(shown, truth, data_range=RANGE, mask=body),
        "rmse_HU": rmse,
    }


def phantom(contrast: float = 15.0, size: int = 320) -> tuple[Slices, Slices, list[tuple[int, int]], tuple[Rod, Rod]]:
    """An elliptic body of 40 HU without and with discs of `contrast` HU, the discs' positions, and two rods.

    The rods are of bone, 760 HU above the body, and faint, 100 HU above it.
    """
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    absent = np.where((x / (0.47 * size)) ** 2 + (y / (0.36 * size)) ** 2 < 1, 40.0, -1000.0)
    middle = (size - 1) / 2
    rods = (
        Rod(0, middle, middle + 0.34 * size, 0.05 * size),
        Rod(0, middle, middle - 0.34 * size, 0.05 * size),
    )
    for rod, above in zip(rods, (760.0, 100.0)):
        absent += above / (1 + np.exp(np.minimum((_far(absent.shape, rod) - rod.radius) / 0.25, 60.0)))
    places = [(int(size / 2 + SPOT * j), int(size / 2 + SPOT * i)) for i in range(-2, 3) for j in range(-2, 3)]
    present = absent.copy()
    for cy, cx in places:
        far = _far(absent.shape, Rod(0, cy, cx, RADIUS))
        present += contrast / (1 + np.exp(np.minimum((far - RADIUS) / 0.35, 60.0)))
    return absent[None].astype(np.float32), present[None].astype(np.float32), places, rods


def discs(shape: tuple[int, int], places: Sequence[tuple[int, int]], turn: int) -> tuple[Slices, list[tuple[int, int]]]:
    """A slice (1, y, x) of discs of all WIDTHS and HEIGHTS at some positions, and the (width, height) of each.

    `turn` determines their order, so that images with different turns show every disc at many positions.
    """
    kinds = [(w, h) for w in WIDTHS for h in HEIGHTS]
    found, out = [kinds[(n + 7 * turn) % len(kinds)] for n in range(len(places))], np.zeros(shape)
    for (cy, cx), (width, height) in zip(places, found):
        far = _far(shape, Rod(0, cy, cx, width / 2)) - width / 2
        out += height / (1 + np.exp(np.clip(far / 0.35, -60.0, 60.0)))
    return out[None].astype(np.float32), found


def contrast_left(
    absent: Slices, present: Slices, drawn: Slices, places: Sequence[tuple[int, int]], kinds: Sequence[Sequence[Any]]
) -> dict[tuple[int, int], float]:
    """Share of their contrast that discs keep, by (width, height), of images (n, y, x) with equal noise.

        mean over a disc of (f(noise + body + discs) − f(noise + body)) / mean over it of the disc

    Noise that is the same in both cancels. `drawn` are the discs, `kinds` the (width, height) of those of each image.
    """
    half, found = SPOT // 2, dict[tuple[int, int], list[float]]()
    for a, p, d, there in zip(absent, present, drawn, kinds):
        for (cy, cx), kind in zip(places, there):
            cut = (slice(cy - half, cy + half), slice(cx - half, cx + half))
            on = d[cut] > 0.5 * kind[1]
            found.setdefault(tuple(kind), []).append(float((p - a)[cut][on].mean() / d[cut][on].mean()))
    return {k: float(np.mean(v)) for k, v in sorted(found.items())}


def detectability(absent: Slices, present: Slices, places: Sequence[tuple[int, int]]) -> float:
    """d' of a channelised Hotelling observer for discs at known positions, from images (n, y, x) with and without them.

        d'² = Δvᵀ S⁻¹ Δv,
        v = the image through nine difference-of-Gaussians channels

    (C. K. Abbey and H. H. Barrett, J Opt Soc Am A 18:473, 2001.)
    """
    half = SPOT // 2
    r = np.hypot(*(np.mgrid[:SPOT, :SPOT] - half))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(SPOT), np.fft.fftfreq(SPOT)))
    bands = [0.015 * 1.4**k for k in range(9)]
    responses = [np.exp(-((f / (1.67 * b)) ** 2) / 2) - np.exp(-((f / b) ** 2) / 2) for b in bands]
    channels = np.stack([np.fft.fftshift(np.fft.ifft2(h).real) for h in responses])
    channels = (channels * (r < half)).reshape(len(channels), -1)

    def seen(images: Slices) -> Floats:
        cut = [i[y - half : y + half, x - half : x + half].ravel() for i in images for y, x in places]
        return np.asarray(np.stack(cut) @ channels.T, np.float64)

    a, p = seen(absent), seen(present)
    d = p.mean(0) - a.mean(0)
    s = (np.cov(a.T) + np.cov(p.T)) / 2
    return float(np.sqrt(d @ np.linalg.solve(s + 1e-9 * np.trace(s) * np.eye(len(d)), d)))


def transfer(image: Slices, rods: Sequence[Rod]) -> Transfer:
    """Modulation transfer of slices (z, y, x) at the rims of round inserts.

    Values over the distance from the rim are the edge spread function. Its derivative, tapered at its ends, is the line
    spread function. The Fourier transform of that, over its value at zero, is the modulation transfer. An insert of 0
    contrast has none: raises ValueError.

    S. Richard et al., Towards task-based assessment of CT performance, Med. Phys. 39 (2012) 4115.
    """
    bins = round(2 * REACH / BIN)
    total, count, sign = np.zeros(bins), np.zeros(bins), 0.0
    for rod in rods:
        far = _far(image.shape[-2:], rod) - rod.radius
        near = np.abs(far) < REACH
        which = ((far[near] + REACH) / BIN).astype(int).clip(0, bins - 1)
        one = np.bincount(which, image[rod.slice][near], bins), np.bincount(which, minlength=bins)
        profile = one[0] / np.maximum(one[1], 1)
        sign += float(profile[: bins // 4].mean() - profile[-bins // 4 :].mean())
        total, count = total + one[0], count + one[1]
    if not rods or sign == 0:
        raise ValueError("the transfer function needs an edge")
    at = (np.arange(bins) + 0.5) * BIN - REACH
    edge = np.interp(at, at[count > 0], total[count > 0] / count[count > 0])
    line = np.diff(edge) / BIN * signal.windows.tukey(bins - 1, 0.4)
    # A rim is curved: outer rings are longer, but the mean over a ring already accounts for this.
    f: Floats = np.fft.rfftfreq(8 * bins, BIN).astype(np.float64)
    value = np.abs(np.fft.rfft(line, 8 * bins))
    value = value / value[0] if value[0] > 0 else np.zeros_like(value)
    kept = f <= 1.0
    return Transfer(f[kept], value[kept], _falls(f, value, 0.5), _falls(f, value, 0.1))


def rods_of(image: Slices) -> list[Rod]:
    """Round, uniform inserts in air of a phantom's slices (z, y, x), of 8 pixels radius and more.

    An insert fills π/4 of the square around it, and its values are those of soft tissue or plastic.
    """
    found = []
    for k, x in enumerate(image):
        smooth = ndimage.uniform_filter(x, 3)
        labels, _ = ndimage.label((smooth > -480) & (smooth < 350))
        for n, box in enumerate(ndimage.find_objects(labels), 1):
            height, width = (s.stop - s.start for s in box)
            area = int((labels[box] == n).sum())
            if (
                min(height, width) < 16
                or abs(height - width) > 2
                or abs(area / (height * width) / (np.pi / 4) - 1) > 0.06
            ):
                continue
            wide = tuple(slice(max(0, s.start - 10), s.stop + 10) for s in box)
            piece = x[wide]
            inside = ndimage.binary_erosion(labels[wide] == n, iterations=3)
            high, low = float(np.median(piece[inside])), -1000.0
            around = ndimage.binary_dilation(labels[wide] == n, iterations=9)
            outside = around & ~ndimage.binary_dilation(labels[wide] == n, iterations=4)
            if abs(float(np.median(piece[outside])) - low) > 60 or float((piece[outside] > -800).mean()) > 0.01:
                continue
            share = np.where(around, (piece - low) / (high - low), 0.0).clip(0, 1)
            cy, cx = ndimage.center_of_mass(share)
            found.append(Rod(k, wide[0].start + cy, wide[1].start + cx, float(np.sqrt(share.sum() / np.pi))))
    return found


def uniform(image: Slices, side: int = 21) -> NDArray[np.bool_]:
    """Middles of squares of `side` pixels that show one soft material, of slices (z, y, x)."""
    smooth = ndimage.uniform_filter(image, (0, 5, 5))
    high, low = (f(smooth, (1, side, side)) for f in (ndimage.maximum_filter, ndimage.minimum_filter))
    soft: NDArray[np.bool_] = (low > -250) & (high < 300)
    edge = side // 2
    soft[:, :edge], soft[:, -edge:], soft[..., :edge], soft[..., -edge:] = False, False, False, False
    if not soft.any():
        return soft
    spread = high - low
    return np.asarray(soft & (spread <= 1.5 * np.quantile(spread[soft], 0.2)))


def noise_in(image: Slices, middles: NDArray[np.bool_], side: int = 21, order: int = 0) -> float:
    """Standard deviation in HU within the squares around some pixels, each less its best-fitting polynomial.

    `order` 0 subtracts the mean. Shading, for instance from beam hardening and scatter, is not noise: order 2 removes
    it, as reports of noise power do (AAPM Task Group 233, 2019).
    """
    x = image.astype(np.float64)
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, side), order + 1, increasing=True))[0].T
    left, terms = ndimage.correlate1d(ndimage.correlate1d(x * x, np.ones(side), 1), np.ones(side), 2), 0
    for i, u in enumerate(basis):
        along = ndimage.correlate1d(x, u, 1)
        for v in basis[: order + 1 - i]:
            left, terms = left - np.square(ndimage.correlate1d(along, v, 2)), terms + 1
    return float(np.sqrt(left[middles].clip(0).mean() / (side * side - terms)))


def noise_power(noise: Slices, voxel: float, squares: Sequence[tuple[int, int, int]]) -> tuple[Floats, Floats]:
    """Noise power spectrum in HU²·mm² over frequencies in cycles/mm, radially averaged over squares (slice, y, x).

    NPS(f) = voxel² / PATCH² · E |DFT(n − n̄)|²
    """
    cut = np.stack([noise[k, y : y + PATCH, x : x + PATCH] for k, y, x in squares]).astype(np.float64)
    power = np.square(np.abs(np.fft.fft2(cut - cut.mean((-2, -1), keepdims=True)))).mean(0) * (voxel / PATCH) ** 2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(PATCH), np.fft.fftfreq(PATCH)))
    ring = np.rint(f * PATCH).astype(int).ravel()
    size = np.bincount(ring)
    kept = slice(1, PATCH // 2 + 1)
    return np.arange(len(size))[kept] / PATCH / voxel, (np.bincount(ring, power.ravel()) / size)[kept]


def mean_frequency(frequency: Floats, power: Floats) -> float:
    """Mean frequency of the power under a radially averaged spectrum: Σ f·(f·NPS) / Σ f·NPS; 0 without any noise."""
    weight = frequency * power
    return float((frequency * weight).sum() / weight.sum()) if weight.sum() > 0 else 0.0


def _far(shape: tuple[int, ...], rod: Rod) -> Floats:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(y - rod.y, x - rod.x))


def _falls(f: Floats, value: Floats, to: float) -> float:
    """Where a curve first falls below a value, between its points."""
    n = int(np.argmax(value < to))
    if n == 0:
        return float(f[-1])
    return float(f[n - 1] + (value[n - 1] - to) / (value[n - 1] - value[n]) * (f[n] - f[n - 1]))
