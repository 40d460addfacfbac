"""How well images of projections fit the measured rays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.ct.denoise import Denoised
from recon.errors import counted
from recon.hounsfield import attenuation
from recon.operators import Xray
from recon.prepare.ct import Projected
from recon.recipe import Trust


def misfit(hu: Tensor, data: Projected, A: Xray, water: float) -> Tensor:
    """χ² = Σ (w (A x − p))² / M of slices (slice, y, x) in HU over the M rays of each, w the rays' 1/σ.

    1 for an image that fits the data, below 1 if it also fits their noise. A filtered backprojection misses them by
    what its window removes at edges.
    """
    rays: Tensor = (data.weights * (A(attenuation(hu, water)) - data.p)).square().mean((-2, -1))
    return rays


def examined(
    found: Denoised,
    start: NDArray[np.float32],
    measured: Callable[[int, int], Projected],
    A: Xray,
    water: float,
    limits: Trust,
    device: torch.device,
    chunk: int,
) -> Denoised:
    """The denoised slices (z, y, x), compared with their projections, as is the filtered backprojection `start`.

    `measured(first, last)` gives the projections of some slices. Adds χ² as `residual` and `classical_residual` to
    the evidence on each slice. A slice whose χ² exceeds `limits.residual` times that of its start, or of the noise if
    that is more, gets a reason against it and is replaced by its start.
    """
    data, items = found.data.copy(), []
    old = list(found.trust["items"])
    for first in range(0, len(data), chunk):
        last = min(len(data), first + chunk)
        rays = measured(first, last)
        ours, theirs = (
            misfit(torch.from_numpy(v[first:last]).to(device), rays, A, water).tolist() for v in (data, start)
        )
        for k, item, residual, classical in zip(range(first, last), old[first:last], ours, theirs):
            reasons = item["reasons"]
            if not residual <= limits.residual * max(1.0, classical):
                reasons = (
                    *reasons,
                    f"the residual of the learned image in the projections is {residual:.2f} times the power "
                    f"of the noise, that of filtered backprojection {classical:.2f} times",
                )
            if reasons and limits.fallback:
                data[k] = start[k]
            items.append({**item, "residual": residual, "classical_residual": classical, "reasons": reasons})
    reasons = sorted({r for i in items for r in i["reasons"]})
    back = sum(bool(i["reasons"]) for i in items) if limits.fallback else 0
    notes = found.notes
    if back > found.trust["fallbacks"]:
        them = counted(len(items), "slice shows the filtered backprojection", "slices show the filtered backprojection")
        notes = (*notes, f"{back} of {them}: {'; '.join(reasons)}")
    worst = {"residual": max(i["residual"] for i in items), "fallbacks": back, "reasons": reasons, "items": items}
    return replace(found, data=data, trust={**found.trust, **worst}, notes=notes)
