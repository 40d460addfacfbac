"""How much of a denoiser's effect is applied: a share of fine texture, little of coarse variations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.prepare.image_noise import ImageNoise, sharpness
from recon.recipe import CT

#: Smallest share that stays removed, and largest noise in HU that is blended back in. Both were chosen on validation
#: slices at 0.25, 0.1 and 0.05 of their dose: `python bench/ct.py ct-base ct-small` prints the values for this place.
LEAST, LEFT = 0.7, 25.0

#: How often coarse detail is extracted from the remainder. A single Gaussian of the same sharpness costs contrast or
#: lets noise back in: chosen on validation slices and discs of 4 to 15 mm (`coarser`).
TIMES = 3

#: Widths in pixels of the faint discs for which an image states the remaining contrast.
SPOTS = (4, 10)

#: Noise in HU up to which all coarse detail is given back. Above it, faint lesions are lost in any case, and starved
#: rays make coarse streaks: chosen on validation slices, where all values from 25 to 150 are within 0.1 dB.
FAINT = 75.0


def share(settings: CT, noise: float, least: float = LEAST, left: float = LEFT) -> float:
    """The share s of the denoised image in the output, for a slice with `noise` σ in HU.

        s = max(least, 1 − left / σ)   if `ct.strength` is "auto"

    A part (1 − s)·σ of the noise remains as texture. Some of it keeps the usual look of an image, but never more than
    `left` HU, which would hide what denoising reveals. A number in `ct.strength` is used as it is, for any noise.
    """
    if settings.strength != "auto":
        return settings.strength
    return max(least, 1 - left / noise) if noise > 0 else least


def sampled(settings: CT, noise: ImageNoise) -> CT:
    """The settings for a slice with that noise, with `ct.coarse` converted from samples of the scan to pixels.

    A sample takes `sharpness` pixels: noise of an interpolated slice or a smooth kernel is coarser by this factor.
    """
    return replace(settings, coarse=settings.coarse * sharpness(noise))


def written(before: Tensor, denoised: Tensor, settings: CT, noise: float) -> Tensor:
    """The output for a slice (..., y, x) in HU with `noise` σ, from the slice before and after denoising.

        y + s·(d − b·G d),   d = x̂ − y

    s by `share`, b by `back`, G d by `coarser` with `ct.coarse` pixels.
    """
    taken = denoised - before
    return before + share(settings, noise) * (taken - back(noise) * coarser(taken, settings.coarse))


def back(noise: float) -> float:
    """Share of coarse detail that is given back in a slice with `noise` σ in HU: min(1, FAINT / σ)."""
    return min(1.0, FAINT / noise) if noise > 0 else 1.0


def coarser(taken: Tensor, pixels: float) -> Tensor:
    """The coarse part of what is removed, d (..., y, x), by a Gaussian G of `pixels`; 0 pixels: nothing.

        d − (1 − G)ⁿ d,   n = TIMES

    The spectrum of noise after filtered backprojection rises with |f| from zero (Riederer, Pelc and Chesler, Phys Med
    Biol 23:446, 1978). So the coarse part of a difference image is hardly noise, but faint lesions are coarse. Giving
    it back costs little noise and keeps lesions visible. What G leaves out is smoothed again (twicing; J. W. Tukey,
    Exploratory Data Analysis, 1977), which separates coarse from fine detail more sharply.
    """
    left = taken
    for _ in range(TIMES if pixels else 0):
        left = left - smoothed(left, pixels)
    return taken - left


def smoothed(taken: Tensor, pixels: float) -> Tensor:
    """Images (..., y, x) smoothed by a Gaussian of `pixels`, extended beyond their borders by the border values."""
    reach = math.ceil(4 * pixels)
    at = torch.arange(-reach, reach + 1, dtype=taken.dtype, device=taken.device)
    w = (-(at**2) / (2 * pixels**2)).exp()
    w = w / w.sum()
    x = F.pad(taken.reshape(-1, 1, *taken.shape[-2:]), (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, w.reshape(1, 1, -1, 1)), w.reshape(1, 1, 1, -1)).reshape(taken.shape)


def kept(width: float, settings: CT, noise: float) -> float:
    """The minimum share of its contrast that a faint disc `width` pixels across keeps in a slice with `noise` σ in HU.

        1 − s·(1 − b·h),   h = Σₙ −(−1)ⁿ (TIMES choose n) g(n)
        g(n) = 1 − e⁻ᶻ (I₀(z) + I₁(z)),   z = (width/2)² / (n · coarse²)

    This is the mean over a disc that a denoiser removes completely: g(n) is what n Gaussians of `ct.coarse` pixels
    leave of it; s and b are those of `written`.
    """
    h, n = 0.0, torch.arange(1, TIMES + 1, dtype=torch.float64)
    if settings.coarse:
        z = (width / 2 / settings.coarse) ** 2 / n
        g = 1 - torch.special.i0e(z) - torch.special.i1e(z)
        h = sum(-((-1) ** k) * math.comb(TIMES, k) * float(v) for k, v in enumerate(g, 1))
    return 1 - share(settings, noise) * (1 - back(noise) * h)


def said(slices: Sequence[tuple[CT, float]]) -> str:
    """The sentence on shares and contrast that an image carries, from the settings and the noise σ in HU of slices."""
    settings, shares = slices[0][0], [share(s, level) for s, level in slices]
    how, pixels = span(shares, 2), span([s.coarse for s, _ in slices], 1)
    coarse = f", and so was all detail coarser than {pixels} pixels" if settings.coarse else ""
    faint = " and ".join(f"{min(kept(w, s, level) for s, level in slices):.0%} ({w} pixels across)" for w in SPOTS)
    contrast = f"; faint discs keep at least {faint} of their contrast"
    if settings.strength == "auto":
        rest = f"the rest of the noise was left in{coarse}"
        return f"strength {how}, chosen by the noise of each slice (auto): {rest}{contrast}"
    low = settings.strength
    return f"strength {low:g}: {1 - low:.0%} of what the denoiser would remove was left in{coarse}{contrast}"


def span(values: Sequence[float], digits: int) -> str:
    """The range of some numbers in words, or the number if all are equal."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"
