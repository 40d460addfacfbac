"""The strength and the correlation of a CT image's noise, estimated from the image itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from recon.operators.windows import box, highest

#: Width in pixels of the window in which a local standard deviation is computed.
WINDOW = 9

#: Share of the windows that are assumed to contain more than noise.
STRUCTURED = 0.7

#: Mean HU of a window that may contain soft tissue or water, and of anything but air.
SOFT, SOLID = (-200.0, 250.0), -900.0

#: Mean HU of a window that may contain lung, if there is no soft tissue from which to estimate noise.
LUNG = (-950.0, -600.0)

#: Share of an image's pixels that must be soft tissue for the rest to be left out.
ENOUGH = 0.005

#: Windows of one homogeneous soft material above which only these count; and the share of `estimate`'s level below
#: which they are trusted more, because `estimate` takes edges of thin walls in air for soft tissue. Both were chosen on
#: validation slices with known noise (bench/ct_noise.py), which is found within 20 % at 5 to 250 HU.
FLAT, BELIEVED = 25, 0.85

#: Number of measured slices whose median a slice without a place to measure is compared with, and how far above it may
#: be.
NEAR, ABOVE = 5, 1.3

#: The regression that separates noise from structure in a difference of slices. STEPS: number of iterations. BEYOND:
#: how far above the line, as a share of it, a window has half the weight. EVENLY: relative variance of the slopes below
#: which they carry little information. LEAST: smallest accepted noise, relative to the windows' 10th percentile.
STEPS, BEYOND, EVENLY, LEAST = 8, 0.5, 0.05, 0.5

#: Noise that neighbouring slices share. If less than SAME of the finest band's noise is left in their difference, the
#: slices are copies, or interpolated. If neighbours share noise, about as much is left of the second band; if the slice
#: has structure, far less. Between the ratios AGREE of the two, the correction fades in. EVENEST: share of the windows,
#: those with the smallest slopes relative to their noise, that give the first value.
#: All of these were chosen on slices of `train` and `validation` with added noise (bench/ct_kinds.py).
SAME, AGREE, EVENEST = 0.1, (0.6, 0.85), 0.1

#: Largest difference in HU between values within EVEN × EVEN pixels where nothing was measured: noise differs by more.
ALIKE, EVEN = 0.1, 5

#: Number of values that describe a correlation.
BANDS = 3

#: Share of the finest band in the noise of filtered backprojections of validation slices, as they are. After
#: interpolation to z times as many pixels along each axis it falls as z to the power of −1/FALLS, up to 2 times (linear
#: and cubic).
FINEST, FALLS = 0.55, 0.8

#: Result of `_lowest` for white noise of unit strength: the level and the bands, the finest first.
_WHITE = (0.948, 0.7590, 0.2514, 0.1010)


@dataclass(frozen=True, eq=False)
class ImageNoise:
    """Noise of images: `level` (...,) in HU, `texture` (..., BANDS).

    `texture` holds log(σ_band / σ_white band) − log(level) for three octaves from the finest: zero for white noise,
    negative in the first values if a smooth kernel or interpolation removed fine noise. `sure` (...,) says that the
    slice has homogeneous soft tissue or lung; without it edges may look like noise, and the level is an upper bound.
    """

    level: Tensor
    texture: Tensor
    sure: Tensor


def estimate(image: Tensor) -> ImageNoise:
    """Noise of images (..., y, x) in HU, each separately; the image's own values decide where it is measured.

    The local standard deviation is computed in windows of 9 × 9 pixels, for the image without its local mean and for
    three band-pass images (differences of binomial averages). Windows lie in soft tissue, or in everything but air if
    there is no soft tissue. Windows with only noise have a small deviation: the level is the 30th percentile. It is an
    estimate of the noise in soft tissue of the image; noise varies within the image. An image of air has level 0.

    Similar in kind to O. Christianson et al., Automated technique to measure noise in clinical CT examinations, AJR
    Am. J. Roentgenol. 205 (2015) W93, which takes the mode.
    """
    return _found(image, _soft)[0]


def sharpness(noise: ImageNoise) -> float:
    """How many pixels a sample of a slice takes, from 1 to 2, by how much of its finest noise is missing.

        z = min(2, max(1, (FINEST / σ_finest) ^ FALLS)),
        σ_finest over that of white noise of the same level

    2 if a matrix of 512² was interpolated to 1024², or if a smooth kernel left equally little fine detail.
    """
    finest = float(noise.texture.reshape(-1, BANDS)[0, 0].exp())
    return float(min(2.0, max(1.0, (FINEST / finest) ** FALLS)))


def measured(image: Tensor) -> ImageNoise:
    """Noise as found by `estimate`, or by windows within one soft material if they show far less.

    Phantoms, and skulls without a brain, show more edges than tissue: the mean of a window across a thin wall of bone
    is that of tissue, and its deviation is not noise.
    """
    usual, flat, lung = _found(image, _soft, _soft_alone, _lung_alone)
    lower = (flat.level > 0) & (flat.level < BELIEVED * usual.level)
    return ImageNoise(
        torch.where(lower, flat.level, usual.level),
        torch.where(lower[..., None], flat.texture, usual.texture),
        (flat.level > 0) | (lung.level > 0),
    )


def beside(image: Tensor, near: Tensor, own: ImageNoise) -> ImageNoise:
    """Noise of a slice (1, y, x), from its estimate `own` and from the neighbours `near` (n, y, x), n ≤ 3.

        (x₁ − 2x₂ + x₃) / √6,   of two slices (x₁ − x₂) / √2

    If the noise of the slices is independent, this difference has the noise of one slice. Of the anatomy it contains
    only the curvature from slice to slice, which is largest where the image is steep. In a window its variance is
    modelled as σ² + β·S, with S the squared slopes of the slices' mean, without noise, and σ² is the result (`_flat`).

    Noise that neighbours share (overlapping or interpolated slices) cancels in the difference, so the level is divided
    by the share that is left of the finest band. The slice keeps `own` if it has no neighbour, if fewer than FLAT
    windows count, if the slices are copies, or if the result is not below BELIEVED of it.
    """
    if len(near) < 2:
        return own
    x, weights = image.float()[:, None], near.new_tensor([1.0, -2.0, 1.0] if len(near) == 3 else [1.0, -1.0])
    apart = (near.float() * weights[:, None, None] / weights.norm()).sum(0)[None, None]
    # Windows that contain the edge of a padded region or of clipped air show that edge instead of noise.
    whole = highest(unmeasured(image)[0].float(), WINDOW)[4:-4:2, 4:-4:2] == 0
    windows = _soft(_box(x)[0, 0]) & whole
    if int(windows.sum()) < FLAT:
        return own
    alone, differ = (_seen(windows, _local(v)) for v in (x, apart))
    steep, noise = _seen(windows, [_slopes(near.float().mean(0)[None, None]), _slopes(apart)])
    # Noise varies over the body, as slopes do. So the share of the noise that is left in the difference is read first
    # from the windows with the smallest slopes relative to their noise; then from all windows, with slopes corrected
    # for the noise that was found first.
    least = steep / differ[0].square().clamp_min(1e-12)
    left = _left((differ / alone.clamp_min(1e-6))[:, least <= least.quantile(EVENEST)].quantile(0.5, dim=1))
    if left > 0:
        anatomy = steep - noise * _in_mean(left**2, len(near))
        left = _left(_flat(differ, anatomy) / _flat(alone, anatomy).clamp_min(1e-6))
    if left == 0:
        return own
    flat, most = _flat(differ, steep - noise * _in_mean(left**2, len(near))), BELIEVED * float(own.level)
    found = _noise(flat[None], own.level.shape)
    if float(found.level) >= left * most:
        return own
    return ImageNoise(found.level / left, found.texture, own.sure)


def _left(ratios: Tensor) -> float:
    """Share of one slice's noise that is left in the difference, from the ratios (1 + BANDS,); 0 for copies."""
    _, fine, coarser, _ = ratios.tolist()
    agree = min(1.0, max(0.0, (coarser / max(fine, 1e-6) - AGREE[0]) / (AGREE[1] - AGREE[0])))
    return float(min(1.0, fine**agree)) if fine >= SAME else 0.0


def _in_mean(apart: float, slices: int) -> float:
    """Noise variance of the mean of neighbouring slices, relative to that of their difference.

    `apart` is the variance of the difference relative to one slice. The correlation r of neighbours is assumed to fall
    linearly with distance: for three slices the difference has 1 − 4r/3 and the mean (3 + 4r)/9 up to r = ½, and
    (2 − 2r)/3 and (1 + 8r)/9 beyond.
    """
    if slices == 2:
        return (1 - apart / 2) / apart
    return ((2 - apart) / 3 if apart > 1 / 3 else 1 - 4 * apart / 3) / apart


def octaves(image: Tensor) -> list[Tensor]:
    """Images (item, y, x) as BANDS octaves from the finest, differences of binomial averages, and what is coarser."""
    finer, bands = image[:, None], list[Tensor]()
    for step in (2**b for b in range(BANDS)):
        coarser = _binomial(finer, step)
        bands.append((finer - coarser)[:, 0])
        finer = coarser
    return [*bands, finer[:, 0]]


def unmeasured(image: Tensor) -> Tensor:
    """Pixels of images (..., y, x) in HU within EVEN × EVEN pixels of one value: clipped air, or padding."""
    even = highest(image, EVEN) + highest(-image, EVEN) < ALIKE
    # Windows at the border contain fewer pixels, which could be equal by chance.
    even[..., : EVEN // 2, :] = even[..., -(EVEN // 2) :, :] = False
    even[..., : EVEN // 2] = even[..., -(EVEN // 2) :] = False
    return highest(even.float(), EVEN) > 0


def drawn(noise: ImageNoise, shape: tuple[int, int]) -> Tensor:
    """Noise (item, y, x) with the level and texture of `noise`, made of octaves of white noise, always the same."""
    white = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(noise.level.device)
    bands = torch.stack(octaves(white)[:BANDS], 1)
    coloured = (bands * noise.texture.exp()[..., None, None]).sum(1)
    return coloured * (noise.level / coloured.std((-2, -1)).clamp_min(1e-6))[:, None, None]


def of_series(slices: Sequence[ImageNoise]) -> tuple[list[ImageNoise], int]:
    """Noise of the slices of one series, each (1,), and how many were given that of their neighbours.

    A skull without brain, an arm, or a table has no place where noise could be distinguished from edges, which are ten
    to a hundred times as strong. If such a slice seems noisier by ABOVE than the median of the NEAR sure slices next to
    it, it takes level and texture of the one with the median level.
    """
    sure = [k for k, s in enumerate(slices) if bool(s.sure.all())]
    out, taken = list(slices), 0
    for k, own in enumerate(slices):
        near = sorted(sure, key=lambda i: abs(i - k))[:NEAR]
        if bool(own.sure.all()) or not near:
            continue
        middle = slices[sorted(near, key=lambda i: float(slices[i].level))[len(near) // 2]]
        if float(own.level) > ABOVE * float(middle.level):
            out[k], taken = middle, taken + 1
    return out, taken


def of_volume(volume: NDArray[np.float32], device: torch.device) -> tuple[list[ImageNoise], tuple[str, ...]]:
    """Noise of the slices (z, y, x) in HU of a series, by `beside` and `of_series`, and notes."""
    limited = []
    for k in range(len(volume)):
        first = max(0, min(k - 1, len(volume) - 3))
        near = torch.from_numpy(volume[first : first + 3]).to(device)
        image = near[k - first : k - first + 1]
        limited.append(beside(image, near, measured(image)))
    found, taken = of_series(limited)
    if not taken:
        return found, ()
    return found, (
        f"{taken} of {len(found)} slices have no soft tissue or lung in which noise can be measured, and use "
        "the noise of their neighbours",
    )


def _found(image: Tensor, *kinds: Callable[[Tensor], Tensor]) -> list[ImageNoise]:
    """Noise from each kind of windows that count."""
    x = image.detach().reshape(-1, 1, *image.shape[-2:]).float()
    mean, local = _box(x).masked_fill(highest(_masked(x).float(), WINDOW) > 0, torch.nan), _local(x)
    lead = image.shape[:-2]
    return [
        _noise(torch.stack([_lowest(windows(mean[i, 0]), [v[i, 0] for v in local]) for i in range(len(x))]), lead)
        for windows in kinds
    ]


def _masked(x: Tensor) -> Tensor:
    """Pixels of images (item, 1, y, x) in HU that a mask left at one value of tissue, as it left the first corner."""
    even = unmeasured(x) & (x > SOLID)
    return even & even[..., :1, :1] & ((x - x[..., :1, :1]).abs() < ALIKE)


def _local(x: Tensor) -> list[Tensor]:
    """Deviations in the windows of images (item, 1, y, x) without their local mean, and of their octaves."""
    return [_deviation(x - _box(x)), *(_deviation(b[:, None]) for b in octaves(x[:, 0])[:BANDS])]


def _slopes(x: Tensor) -> Tensor:
    """Mean squared slopes in the windows of an image (1, 1, y, x), after smoothing."""
    dy, dx = torch.gradient(_binomial(_binomial(x, 1), 1), dim=(-2, -1))
    return _box(dy.square() + dx.square())


def _flat(deviations: Tensor, slopes: Tensor) -> Tensor:
    """Low quantile of each deviation (1 + BANDS, window) at zero slope: the σ² of its square σ² + β·S.

    Robust regression with relative errors over the windows with the smallest slopes; windows far above the line have
    less weight.
    """
    plain = slopes <= slopes.quantile(1 - STRUCTURED)
    square, steep = deviations[:, plain].square(), slopes[plain].clamp_min(0)
    steep = steep / steep.mean().clamp_min(1e-12)
    lowest = square.quantile(0.1, dim=1, keepdim=True) * LEAST**2
    level, slope = square.quantile(1 - STRUCTURED, dim=1, keepdim=True), torch.zeros_like(lowest)
    for _ in range(STEPS):
        line = (level + slope * steep).clamp_min(1e-9)
        weight = line**-2 / (1 + ((square / line - 1).clamp_min(0) / BEYOND).square())
        weight = weight / weight.sum(1, keepdim=True)
        mean, middle = ((weight * v).sum(1, keepdim=True) for v in (square, steep))
        spread = (weight * (steep - middle).square()).sum(1, keepdim=True) + EVENLY * middle.square() + 1e-12
        slope = ((weight * (steep - middle) * square).sum(1, keepdim=True) / spread).clamp_min(0)
        level = mean - slope * middle
        through = (weight * steep * (square - lowest)).sum(1, keepdim=True) / (weight * steep.square()).sum(1, True)
        slope, level = torch.where(level < lowest, through, slope), torch.maximum(level, lowest)
    share = level / (level + slope * steep).clamp_min(1e-9)
    return (square * share).quantile(1 - STRUCTURED, dim=1).sqrt()


def _noise(found: Tensor, lead: torch.Size) -> ImageNoise:
    """Level and texture from the lowest deviations (item, 1 + BANDS), relative to those of white noise."""
    values = found / torch.tensor(_WHITE, device=found.device)
    level = values[:, :1].clamp_min(1e-3)
    texture = (values[:, 1:].clamp_min(1e-4) / level).log()
    # Windows contain fewer independent values of coarse noise: their deviations vary more and lose more to their means.
    level = level * (1 + 0.27 * (-2 * (texture[:, :1].clamp_min(-2.2) + 1.535)).exp())
    level = torch.where(values[:, :1] > 0, level, 0.0)
    return ImageNoise(
        level.reshape(lead), texture.reshape(*lead, BANDS), torch.ones_like(level, dtype=torch.bool).reshape(lead)
    )


def _soft(mean: Tensor) -> Tensor:
    """Windows that count, of a mean (y, x): soft tissue, or everything but air if there is none."""
    m = mean[4:-4:2, 4:-4:2]
    where = (m > SOFT[0]) & (m < SOFT[1])
    return where if where.sum() >= ENOUGH * where.numel() else m > SOLID


def _soft_alone(mean: Tensor) -> Tensor:
    """Windows in soft tissue surrounded by soft tissue; none if there are few."""
    return _alone(mean, SOFT)


def _lung_alone(mean: Tensor) -> Tensor:
    """The same for lung."""
    return _alone(mean, LUNG)


def _alone(mean: Tensor, kind: tuple[float, float]) -> Tensor:
    high, low = highest(mean, WINDOW), -highest(-mean, WINDOW)
    where = ((low > kind[0]) & (high < kind[1]))[4:-4:2, 4:-4:2]
    return where if int(where.sum()) >= FLAT else torch.zeros_like(where)


def _lowest(where: Tensor, deviations: list[Tensor]) -> Tensor:
    """The 30th percentile of each deviation over the windows that count; zeros if there are none."""
    if not bool(where.any()):
        return deviations[0].new_zeros(len(deviations))
    return _seen(where, deviations).quantile(1 - STRUCTURED, dim=1)


def _seen(where: Tensor, images: list[Tensor]) -> Tensor:
    """Values (image, window) of images in the windows that count, a selection if there are very many."""
    seen = torch.stack([d.reshape(d.shape[-2:])[4:-4:2, 4:-4:2][where] for d in images])
    return seen[:, :: 1 + seen.shape[1] // 1_000_000]


def _deviation(x: Tensor) -> Tensor:
    square = _box(x * x)
    return square.clamp_min(0).sqrt()


def _box(x: Tensor) -> Tensor:
    return box(x, WINDOW, inside=True)


def _binomial(x: Tensor, step: int) -> Tensor:
    """Weights ¼, ½, ¼ at distances of `step` pixels along both axes, mirrored at the borders."""
    pad = [min(step, n - 1) for n in x.shape[-2:]]
    x = F.pad(x, (pad[1], pad[1], pad[0], pad[0]), mode="reflect")
    weights = torch.tensor([0.25, 0.5, 0.25], device=x.device, dtype=x.dtype)
    if pad[0] == step:
        x = F.conv2d(x, weights.reshape(1, 1, 3, 1), dilation=(step, 1))
    if pad[1] == step:
        x = F.conv2d(x, weights.reshape(1, 1, 1, 3), dilation=(1, step))
    return x
