"""The strength and the correlation of a CT image's noise, estimated from the image itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    return _found(image, soft)[0]


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
    usual, flat, lung = _found(image, soft, _soft_alone, _lung_alone)
    lower = (flat.level > 0) & (flat.level < BELIEVED * usual.level)
    return ImageNoise(
        torch.where(lower, flat.level, usual.level),
        torch.where(lower[..., None], flat.texture, usual.texture),
        (flat.level > 0) | (lung.level > 0),
    )


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


def _found(image: Tensor, *kinds: Callable[[Tensor], Tensor]) -> list[ImageNoise]:
    """Noise from each kind of windows that count."""
    x = image.detach().reshape(-1, 1, *image.shape[-2:]).float()
    mean, local = mean_in_windows(x).masked_fill(highest(_masked(x).float(), WINDOW) > 0, torch.nan), deviations(x)
    lead = image.shape[:-2]
    return [
        from_deviations(torch.stack([_lowest(kind(m[0]), [v[i, 0] for v in local]) for i, m in enumerate(mean)]), lead)
        for kind in kinds
    ]


def _masked(x: Tensor) -> Tensor:
    """Pixels of images (item, 1, y, x) in HU that a mask left at one value of tissue, as it left the first corner."""
    even = unmeasured(x) & (x > SOLID)
    return even & even[..., :1, :1] & ((x - x[..., :1, :1]).abs() < ALIKE)


def deviations(x: Tensor) -> list[Tensor]:
    """Deviations in the windows of images (item, 1, y, x) without their local mean, and of their octaves."""
    return [_deviation(x - mean_in_windows(x)), *(_deviation(b[:, None]) for b in octaves(x[:, 0])[:BANDS])]


def squared_slopes(x: Tensor) -> Tensor:
    """Mean squared slopes in the windows of an image (1, 1, y, x), after smoothing."""
    dy, dx = torch.gradient(_binomial(_binomial(x, 1), 1), dim=(-2, -1))
    return mean_in_windows(dy.square() + dx.square())


def from_deviations(found: Tensor, lead: torch.Size) -> ImageNoise:
    """Noise of images with the leading axes `lead`, from their lowest deviations (item, 1 + BANDS)."""
    values = found / torch.tensor(_WHITE, device=found.device)
    level = values[:, :1].clamp_min(1e-3)
    texture = (values[:, 1:].clamp_min(1e-4) / level).log()
    # Windows contain fewer independent values of coarse noise: their deviations vary more and lose more to their means.
    level = level * (1 + 0.27 * (-2 * (texture[:, :1].clamp_min(-2.2) + 1.535)).exp())
    level = torch.where(values[:, :1] > 0, level, 0.0)
    return ImageNoise(
        level.reshape(lead), texture.reshape(*lead, BANDS), torch.ones_like(level, dtype=torch.bool).reshape(lead)
    )


def soft(mean: Tensor) -> Tensor:
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


def _lowest(where: Tensor, found: list[Tensor]) -> Tensor:
    """The 30th percentile of each deviation over the windows that count; zeros if there are none."""
    if not bool(where.any()):
        return found[0].new_zeros(len(found))
    return in_windows(where, found).quantile(1 - STRUCTURED, dim=1)


def in_windows(where: Tensor, images: list[Tensor]) -> Tensor:
    """Values (image, window) of images at the centres of the windows that count, a selection if there are very many."""
    seen = torch.stack([d.reshape(d.shape[-2:])[4:-4:2, 4:-4:2][where] for d in images])
    return seen[:, :: 1 + seen.shape[1] // 1_000_000]


def _deviation(x: Tensor) -> Tensor:
    square = mean_in_windows(x * x)
    return square.clamp_min(0).sqrt()


def mean_in_windows(x: Tensor) -> Tensor:
    """Means in the windows of images (item, 1, y, x); at the border, of the part of a window that is inside."""
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
