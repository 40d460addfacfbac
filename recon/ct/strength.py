"""How much of what a denoiser takes away stays away: of fine texture a share, of coarse variations little."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.recipe import CT

#: Smallest share that stays away, and the largest noise in HU that is blended back in. Both were chosen on validation
#: slices at 0.25, 0.1 and 0.05 of their dose: `python bench/ct.py ct-base ct-small` prints what to set here.
LEAST, LEFT = 0.7, 25.0

#: Noise in HU up to which all that is coarse is given back. Beyond, faint lesions are lost in any case, and rays that
#: starve make coarse streaks: chosen on validation slices, where anything from 25 to 150 is within 0.1 dB.
FAINT = 75.0


def share(settings: CT, noise: float, least: float = LEAST, left: float = LEFT) -> float:
    """The share s of a denoised image in what is written, for a slice with `noise` σ in HU.

        s = max(least, 1 − left / σ)   where `ct.strength` is "auto"

    of the noise that a slice came with, (1 − s)·σ is blended back in as its texture: some of it keeps a picture like
    those that eyes are used to, but never more than `left` HU, which would hide what denoising has brought out. A
    number that is asked for is that number, whatever the noise.
    """
    if settings.strength != "auto":
        return settings.strength
    return max(least, 1 - left / noise) if noise > 0 else least


def written(before: Tensor, denoised: Tensor, settings: CT, noise: float) -> Tensor:
    """What is written of a slice (..., y, x) in HU with `noise` σ, of what it was before and after denoising.

        y + s·(d − b·G d),   d = x̂ − y

    s by `share`, b by `back`, G d by `coarser` with `ct.coarse` pixels: see there.
    """
    taken = denoised - before
    return before + share(settings, noise) * (taken - back(noise) * coarser(taken, settings.coarse))


def back(noise: float) -> float:
    """The share of what is coarse that is given back of a slice with `noise` σ in HU: min(1, FAINT / σ)."""
    return min(1.0, FAINT / noise) if noise > 0 else 1.0


def coarser(taken: Tensor, pixels: float) -> Tensor:
    """Of what is taken away (..., y, x) the part that a Gaussian of `pixels` standard deviation leaves; 0: nothing.

    Noise of filtered backprojection has a spectrum that grows with |f| from nothing at all (Riederer, Pelc and
    Chesler, Phys Med Biol 23:446, 1978): what is coarse in a difference image is hardly noise, and faint lesions are
    coarse. Given back, it costs next to no noise, and an observer loses no lesion.
    """
    if pixels == 0:
        return torch.zeros_like(taken)
    reach = math.ceil(4 * pixels)
    at = torch.arange(-reach, reach + 1, dtype=taken.dtype, device=taken.device)
    w = (-(at**2) / (2 * pixels**2)).exp()
    w = w / w.sum()
    x = F.pad(taken.reshape(-1, 1, *taken.shape[-2:]), (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, w.reshape(1, 1, -1, 1)), w.reshape(1, 1, 1, -1)).reshape(taken.shape)


def said(settings: CT, shares: Sequence[float]) -> str:
    """The sentence about shares that an image carries."""
    low, high = min(shares), max(shares)
    how = f"{low:.2f}" if round(low, 2) == round(high, 2) else f"{low:.2f} to {high:.2f}"
    coarse = f", and what is coarser than {settings.coarse:g} pixels" if settings.coarse else ""
    if settings.strength == "auto":
        rest = f"the rest of what denoising takes away was left in{coarse}"
        return f"strength {how} by the noise of each slice (auto): {rest}"
    return f"strength {low:g}: {1 - low:.0%} of what denoising takes away was left in{coarse}"
