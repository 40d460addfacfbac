"""Filtered backprojection of exact projections onto a 512² slice, 720 angles, with the plain ramp.

Bins are one pixel wide and y points up. All get the line integrals of the phantom's ellipses, so that errors are those
of the reconstruction and not of a projector.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from arrays import tensor
from case import Array, Case, Data, Settings

from cases.cartesian import laid_out
from cases.projection import CENTRES, SIZES, exact, operator_of, truth


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    n, count = settings["n"], settings["angles_count"]
    angles = np.arange(count) * np.pi / count
    # Odd: all agree on which bin is the middle.
    bins = int(np.ceil(np.sqrt(2) * n)) | 1
    made = {"sinogram": exact(angles, bins, n, (0.0, 0.0)).astype(np.float32)}
    return made, {**settings, "angles": angles.tolist(), "bins": bins}


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    from recon.solve.fbp import fbp

    A, y = operator_of(settings), tensor(laid_out(data, settings)["sinogram"])
    return lambda: fbp(y, A)


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """Relative difference from the phantom inside the circle that every view covers, around the nearest centre."""
    n = settings["n"]
    at = np.arange(n) - (n - 1) / 2
    circle = at[None] ** 2 + at[:, None] ** 2 < (n / 2 - 2) ** 2
    found = result.reshape(n, n)[circle]
    truths = (truth(n, c)[circle] for c in CENTRES)
    return float(min(np.linalg.norm(found - t) / np.linalg.norm(t) for t in truths))


CASES = (
    Case(
        name="fbp",
        task="fbp",
        module="cases.fbp",
        sizes=SIZES,
        quick=(),
        target=1.5,
        peers=("odl", "astra", "deepinv", "skimage"),
        data=data,
        error=error,
        measure="relative difference from the phantom, filtered backprojection of its exact line integrals",
    ),
)
