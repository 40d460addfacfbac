"""CT images in, CT images out: reading, denoising, blending with the original; padding values are kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np
import torch
from numpy.typing import NDArray

from recon.ct.denoise import denoise_images
from recon.data import CTImages, Image, ReconError
from recon.job import described, fingerprint, provenance
from recon.progress import Report
from recon.recipe import Recipe

#: Nothing attenuates less than air. A scanner's padding outside its circle has lower values and is kept.
_FILLING = -1100.0


def reconstruct(scan: CTImages, recipe: Recipe, device: torch.device, stack: int, report: Report) -> Image:
    """The image of one series, denoised by `denoise_images`; padding outside the circle is kept.

    Raises ReconError if the series does not exist, DataError for files that cannot be read.
    """
    started = datetime.now(timezone.utc)
    if not 0 <= stack < len(scan.series):
        raise ReconError(
            f"the folder has {len(scan.series)} CT series, so there is no number {stack + 1}; `recon info` lists them"
        )
    if recipe.ct.consistency == "rays":
        raise ReconError('ct.consistency = "rays" needs projections, and these are CT images; set it to "none"')
    series = scan.series[stack]
    volume = series.voxels.read(0, series.geometry.shape[0])
    sha256, filling = fingerprint(volume), fillings(volume, series.fillings)
    # Series of a thousand slices fill the memory, so an array that belongs to recon is changed in place.
    volume = volume if volume.flags.owndata else volume.copy()
    if len(filled := volume[filling]):
        volume[filling] = -1000
    found = None
    if recipe.ct.strength != 0 or recipe.trust.replicas:
        found = denoise_images(volume, recipe, device, report, into=volume)
    data = found.data if found else volume
    if len(filled):
        data[filling] = filled
    method, why = (found.method, found.why) if found else ("none", "none: strength 0 leaves the image unchanged")
    notes = [why, *(found.notes if found else ())]
    return Image(
        data=np.ascontiguousarray(data, dtype=np.float32),
        geometry=series.geometry,
        units="HU",
        header=described(series.header, recipe),
        provenance={
            **provenance(recipe, device, started),
            "scan_sha256": sha256,
            "method": method,
            "why": why,
            "derived": True,
            **(found.provenance if found else {}),
        },
        trust=found.trust if found else {},
        notes=tuple(dict.fromkeys((*scan.notes, *series.notes, *notes))),
        uncertainty=found.uncertainty if found else None,
        source=series.source,
    )


def fillings(volume: NDArray[np.float32], declared: Sequence[float] = ()) -> NDArray[np.bool_]:
    """Voxels with a padding value below anything measurable, which scanners put outside their circle.

    Values in HU that the files declare as padding count. Without a declaration, padding is the most frequent of all
    values that are this low, and not a single dark voxel of a streak.
    """
    if declared:
        known: NDArray[np.bool_] = np.isin(volume, np.array(declared, volume.dtype))
        return known
    low = volume < _FILLING
    count = int(low.sum())
    if count < 0.005 * volume.size:
        return np.zeros(volume.shape, bool)
    values, counts = np.unique(volume[low][:: 1 + count // 1_000_000], return_counts=True)
    filled: NDArray[np.bool_] = volume == values[counts.argmax()]
    return filled if int(filled.sum()) >= 0.005 * volume.size else np.zeros(volume.shape, bool)
