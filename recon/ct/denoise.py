"""Denoising of CT images: A = I, noise estimated from the image, the same solvers as for other scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.ct import learned, strength
from recon.data import Measurement, ReconError
from recon.operators import Identity
from recon.prepare import series_noise
from recon.progress import Report
from recon.recipe import Recipe
from recon.solve import pdhg

#: Weight of total variation in units of the recipe's `solve.tv` and the noise. k-space noise is white, but noise of a
#: CT image is grainy, and an edge is harder to distinguish from grains.
TV_WEIGHT = 2.0
TV_ITERATIONS = 60


@dataclass(frozen=True)
class Denoised:
    """A denoised volume (z, y, x) in HU, and how it was made.

    `provenance` is added to that of the image (for a network `weights`, `weights_sha256`), `trust` holds the numbers on
    how far the image can be trusted, `uncertainty` its standard deviation in HU.
    """

    data: NDArray[np.float32]
    method: str
    why: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trust: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    uncertainty: NDArray[np.float32] | None = None


def denoise_images(
    volume: NDArray[np.float32],
    recipe: Recipe,
    device: torch.device,
    report: Report,
    rays: learned.Rays | None = None,
    *,
    into: NDArray[np.float32] | None = None,
) -> Denoised:
    """The volume (z, y, x) in HU with less noise; if `rays` of it were measured, a network's image is fitted to them.

    The result is written into the array `into`, which may be the volume itself if it is no longer needed.

    `solve.method` "unrolled", and "auto" if a network for CT ships, use the network. "tv" is total variation in the
    plane of each slice. The result is blended by `strength.written`. `provenance` holds the share s of each slice as
    `strength`; if something was removed, a note says how much contrast faint discs keep. Raises ReconError for a method
    for projections.
    """
    out = np.empty_like(volume) if into is None else into
    found = _denoised(volume, recipe, device, report, rays, out)
    noise, coarse = found.provenance["noise_HU"], found.provenance["coarse_pixels"]
    shares = [strength.share(recipe.ct, level) for level in noise]
    items = found.trust.get("items") or [{"reasons": ()}] * len(volume)
    # From unchanged slices, and from air, nothing was removed.
    slices = [
        (replace(recipe.ct, coarse=c), level)
        for c, level, item in zip(coarse, noise, items, strict=True)
        if level > 0 and not (item["reasons"] and recipe.trust.fallback)
    ]
    whole = not recipe.ct.coarse and all(strength.share(s, level) == 1 for s, level in slices)
    notes = found.notes if whole or not slices or not max(shares) else (*found.notes, strength.said(slices))
    return replace(found, provenance={**found.provenance, "strength": [round(s, 3) for s in shares]}, notes=notes)


def _denoised(
    volume: NDArray[np.float32],
    recipe: Recipe,
    device: torch.device,
    report: Report,
    rays: learned.Rays | None,
    out: NDArray[np.float32],
) -> Denoised:
    """The output of the recipe's method, written into `out`."""
    method = recipe.solve.method
    if method == "unrolled" or (method == "auto" and (learned.best() or recipe.solve.weights != "auto")):
        found = learned.denoise(volume, recipe, device, report, rays, out)
        name = found.provenance["weights"]
        why = f"unrolled: {'asked for' if method == 'unrolled' else f'CT images, which {name} was trained for'}"
        return Denoised(found.data, "unrolled", why, found.provenance, found.trust, found.notes, found.uncertainty)
    if method == "auto":
        return total_variation(volume, recipe, device, report, "tv: CT images, and no network for CT is installed", out)
    if method == "tv":
        return total_variation(volume, recipe, device, report, "tv: asked for", out)
    raise ReconError(
        f"{method} needs projections or a raw scan, and these are CT images; use --method auto, unrolled or tv"
    )


def total_variation(
    volume: NDArray[np.float32],
    recipe: Recipe,
    device: torch.device,
    report: Report,
    why: str,
    into: NDArray[np.float32] | None = None,
) -> Denoised:
    """`strength.written` of x̂ = argmin ½‖x − y‖² + λσ TV(x) slice by slice, λ = TV_WEIGHT · `solve.tv`, σ of the slice.

    The result is written into `into`, which may be the volume itself.
    """
    out = np.empty_like(volume) if into is None else into
    noises, said = series_noise.of_volume(volume, torch.device("cpu"))
    sigma = [float(n.level) for n in noises]
    for k in range(len(volume)):
        report("denoise", k, len(volume))
        s = sigma[k]
        if s == 0:
            out[k] = volume[k]
            continue
        y = torch.from_numpy(volume[k : k + 1]).to(device)
        # In units of the noise, with air at 0, so that the solver's tolerance means the same for every slice.
        m = Measurement((y + 1000) / s, Identity(), 1.0)
        lam, n = TV_WEIGHT * recipe.solve.tv, recipe.solve.iterations or TV_ITERATIONS
        x = pdhg.tv(m, lam=lam, iterations=n, axes=(-2, -1), balance=1.0).x
        found = (x[0] * s - 1000).cpu()
        how = strength.sampled(recipe.ct, noises[k])
        out[k] = strength.written(torch.from_numpy(volume[k]), found, how, round(s, 2)).numpy()
    report("denoise", len(volume), len(volume))
    note = f"noise estimated from the image: {strength.span(sigma, 0)} HU"
    coarse = [round(strength.sampled(recipe.ct, n).coarse, 2) for n in noises]
    told = {"noise_HU": [round(s, 2) for s in sigma], "coarse_pixels": coarse}
    return Denoised(out, "tv", why, told, notes=(note, *said))
