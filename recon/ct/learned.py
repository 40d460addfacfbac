"""CT images denoised by a network, with the evidence for and against each slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.ct import strength
from recon.ct.evidence import evidence, in_short
from recon.data import Measurement, ReconError, counted
from recon.nets import denoiser, weights
from recon.operators.windows import box
from recon.prepare import image_noise, series_noise
from recon.prepare.image_noise import ImageNoise
from recon.progress import Report
from recon.recipe import Recipe

#: Networks for CT images that may ship, the best first.
PREFERRED = ("ct-base", "ct-small")

#: The measurement of one slice: rays with unit noise, and A on attenuation relative to water.
Rays = Callable[[int], Measurement]


@dataclass(frozen=True, eq=False)
class Learned:
    """A volume (z, y, x) in HU, evidence for each slice, and its standard deviation in HU or None."""

    data: NDArray[np.float32]
    provenance: dict[str, Any]
    trust: dict[str, Any]
    notes: tuple[str, ...]
    uncertainty: NDArray[np.float32] | None


def best() -> str | None:
    """The name of the best network for CT images that ships, None if none does."""
    return next(iter(shipped()), None)


def shipped() -> list[str]:
    """Names of the networks for CT images that ship, the best first."""
    there = weights.available()
    return [name for name in PREFERRED if name in there]


def denoise(
    volume: NDArray[np.float32],
    recipe: Recipe,
    device: torch.device,
    report: Report,
    rays: Rays | None = None,
    into: NDArray[np.float32] | None = None,
) -> Learned:
    """Every slice of a volume (z, y, x) in HU denoised by the recipe's network, or unchanged if that cannot be trusted.

    The output is `strength.written` of the network's slices, with a smaller share if that would blur them (`share` of
    `evidence`). `trust` holds the `evidence` on each slice as it would be written with the full share, but without
    `rays`, which are used as `denoiser.denoised` describes. The result is written into `into`, which may be the volume.
    Raises ReconError for weights of another kind of network.
    """
    name = (best() or "") if recipe.solve.weights == "auto" else recipe.solve.weights
    if not name:
        raise ReconError("no network for CT images is installed; use --method tv, or give --weights FOLDER")
    loaded = network(name, device)
    known = trained(name)
    out = np.empty_like(volume) if into is None else into
    items, coarse, spread = list[dict[str, Any]](), list[float](), list[NDArray[np.float32]]()
    found_noise, said = series_noise.of_volume(volume, device)
    for k, noise in enumerate(found_noise):
        report("denoise", k, len(volume))
        y, level = torch.from_numpy(volume[k : k + 1]).to(device), float(noise.level)
        x = _denoised(loaded, y, noise)
        how = strength.sampled(recipe.ct, noise)
        coarse.append(how.coarse)
        shown = strength.written(y, x, how, level)
        found = evidence(y[0], shown[0], level, recipe.trust, known, image_noise.sharpness(noise))
        if rays and not (found["reasons"] and recipe.trust.fallback):
            # Changes made by rays are not noise; rays influence what the network shows.
            x = _denoised(loaded, y, noise, rays(k))
            shown = strength.written(y, x, how, level)
        items.append(found)
        kept = found["share"] if recipe.trust.fallback else 1.0
        if kept < 1:
            shown = y + kept * (shown - y)
        if recipe.trust.replicas:
            spread.append(_deviation(loaded, y, x, noise, replace(recipe, ct=how), kept).cpu().numpy())
        if out is not volume or not (found["reasons"] and recipe.trust.fallback):
            out[k] = (y if found["reasons"] and recipe.trust.fallback else shown)[0].cpu().numpy()
    report("denoise", len(volume), len(volume))
    reasons = sorted({r for i in items for r in i["reasons"]})
    back = sum(bool(i["reasons"]) for i in items) if recipe.trust.fallback else 0
    levels = [i["noise"] for i in items]
    notes = [f"noise estimated from the image: {strength.span(levels, 0)} HU", *said]
    if back:
        them = counted(len(items), "slice was left unchanged", "slices were left unchanged")
        notes.append(f"{back} of {them}: {'; '.join(in_short(reasons))}")
    parts = [i for i in items if i["share"] < 1 and not i["reasons"]] if recipe.trust.fallback else []
    if parts:
        share, blurs = (strength.span([i[n] for i in parts], 2) for n in ("share", "blur"))
        notes.append(
            f"{len(parts)} of {counted(len(items), 'slice is', 'slices are')} denoised only in part: {share} "
            f"of what the network would remove was removed, since all of it would blur edges by {blurs} pixels"
        )
    worst = {n: max(i[n] for i in items) for n in ("removed", "blur", "patch")}
    return Learned(
        out,
        {
            "weights": loaded.name,
            "weights_sha256": loaded.sha256,
            "noise_HU": [round(v, 2) for v in levels],
            "coarse_pixels": [round(v, 2) for v in coarse],
        },
        {**worst, "share": min(i["share"] for i in items), "fallbacks": back, "reasons": reasons, "items": items},
        tuple(notes),
        np.stack(spread) if spread else None,
    )


def _denoised(loaded: weights.Loaded, y: Tensor, noise: ImageNoise, rays: Measurement | None = None) -> Tensor:
    """The network's image of slices (1, y, x) in HU; places without a measurement are returned unchanged.

    Meanwhile they are filled with noise like that of the slice: in training no place was without noise, and within 64
    pixels of such a place the networks take all noise for structure.
    """
    blank = image_noise.unmeasured(y)
    drawn = image_noise.drawn(noise, (y.shape[-2], y.shape[-1])) if bool(blank.any()) else torch.zeros_like(y)
    x = denoiser.denoised(loaded.network, y + blank * drawn, noise.level, noise.texture, rays)
    return torch.where(blank, y, x)


def _deviation(loaded: weights.Loaded, y: Tensor, x: Tensor, noise: ImageNoise, recipe: Recipe, share: float) -> Tensor:
    """Standard deviation of images of x̂ with fresh noise, denoised with the slice's strength and share.

    Fresh noise is what was removed, with random phases: it has the same spectrum, and at each place the strength of
    what was removed around it. The map shows the random part of the error, not the errors that the network makes every
    time.
    """
    count = recipe.trust.replicas
    generator = torch.Generator().manual_seed(recipe.solve.seed)
    d = y - x
    local = box(d.square(), 31, inside=True).sqrt().clamp_min(1e-3)
    spectrum = torch.fft.rfft2(d / local).abs()
    total, square = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(count):
        white = torch.randn(x.shape, generator=generator).to(x.device)
        turned = torch.fft.rfft2(white)
        fresh = torch.fft.irfft2(spectrum * turned / turned.abs().clamp_min(1e-9), s=x.shape[-2:]) * local
        again = _denoised(loaded, x + fresh, noise) - x
        again = fresh + share * (strength.written(fresh, again, recipe.ct, float(noise.level)) - fresh)
        total, square = total + again, square + again.square()
    return ((square - total.square() / count) / max(1, count - 1)).clamp_min(0).sqrt()[0]


@lru_cache(maxsize=4)
def trained(name: str) -> tuple[float, float] | None:
    """The noise in HU that the recipe beside the weights states; None without a recipe."""
    from recon.learn import ct_train  # takes a tenth of a second, which MRI scans need not wait for

    path = weights.find(name) / "recipe.toml"
    return ct_train.load(path).data.noise if path.is_file() else None


def network(name: str, device: torch.device) -> weights.Loaded:
    """The network for CT images of this name or folder; raises ReconError if there is none, or one for MRI."""
    loaded = _network(name, str(device))
    if not loaded.network.shape.real:
        raise ReconError(f"{loaded.name} is a network for MRI scans; give one for CT, for instance ct-small")
    return loaded


@lru_cache(maxsize=4)
def _network(name: str, device: str) -> weights.Loaded:
    return weights.load(name, device)
