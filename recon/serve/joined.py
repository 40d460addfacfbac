"""The image of a scan whose frames were reconstructed one by one while later ones were still being measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone

import numpy as np

from recon import trust
from recon.data import Image, RawScan, ReconError
from recon.job import Job, devices
from recon.pipeline import Solved, described_image, place, prepare
from recon.recipe import Recipe
from recon.serve.counting import Key, key_of


def joined(
    scan: RawScan, recipe: Recipe, frames: Mapping[Key, Solved], *, device: str = "auto", stack: int = 0
) -> Image:
    """The image of a stack of a scan, made of its frames without further reconstruction.

    It equals `reconstruct(scan, recipe, stack=stack)` if each frame has the pixels that it has within the scan. Raises
    ReconError if a frame is missing, or was made by another method than the first one.
    """
    job = prepare(scan, recipe, place(device), None, stack)
    return described_image(job, _solved(job, frames), datetime.now(timezone.utc))


def _solved(job: Job, frames: Mapping[Key, Solved]) -> Solved:
    """The frames of a job as its volumes, with all of their notes."""
    order = sorted(job.frames, key=lambda key: (key[1], key[0]))
    try:
        parts = [frames[key_of(job.frames[key])] for key in order]
    except KeyError:
        raise ReconError("an image of the scan was not made; reconstruct the scan as a whole") from None
    if len({part.how["method"] for part in parts}) > 1:
        raise ReconError("the images of the scan were made with different methods; reconstruct the scan as a whole")
    first = parts[0].how
    shape = len(job.volumes), *job.stack.geometry.shape
    data = np.empty(shape, np.complex64)
    spread = None if first.get("uncertainty") is None else np.zeros(shape, np.float32)
    instead = first.get("instead", "classical")
    notes: list[str] = []
    for (volume, z), part in zip(order, parts):
        here = slice(z, z + part.data.shape[1])  # one slice, or all of a volume
        data[volume, here] = part.data[0]
        if spread is not None:
            spread[volume, here] = part.how["uncertainty"][0]
        alone = trust.not_trusted(part.how.get("trust", {}), instead, job.recipe.trust.fallback)
        notes += [note for note in part.notes if note not in alone]
    told = trust.together([part.how.get("trust", {}) for part in parts])
    notes += trust.not_trusted(told, instead, job.recipe.trust.fallback)
    device = devices(*(part.how["device"] for part in parts))
    return Solved(data, {**first, "uncertainty": spread, "trust": told, "device": device}, notes)
