"""How much of what a denoiser takes away stays away: a share that is asked for, or one that follows the noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recon.recipe import CT

#: Smallest share that stays away, and the largest noise in HU that is blended back in. Both were chosen on validation
#: slices at 0.25, 0.1 and 0.05 of their dose: `python bench/ct.py ct-base ct-small` prints what to set here.
LEAST, LEFT = 0.7, 25.0


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


def blended(before: NDArray[np.float32], denoised: NDArray[np.float32], shares: Sequence[float]) -> NDArray[np.float32]:
    """Slices y + s·(x − y) (z, y, x) of those before and after denoising, each with its own share s."""
    s = np.asarray(shares, np.float32)[:, None, None]
    return before + s * (denoised - before)


def said(settings: CT, shares: Sequence[float]) -> str:
    """The sentence about shares that an image carries."""
    low, high = min(shares), max(shares)
    how = f"{low:.2f}" if round(low, 2) == round(high, 2) else f"{low:.2f} to {high:.2f}"
    if settings.strength == "auto":
        return f"strength {how} by the noise of each slice (auto): the rest of what denoising takes away was left in"
    return f"strength {low:g}: {1 - low:.0%} of what denoising takes away was left in"
