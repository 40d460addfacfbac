"""The SENSE normal operator AᴴA x alone, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import phantom
from arrays import tensor
from case import Array, Case, Data, Settings

from cases import cartesian


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    shape = tuple(settings["shape"])
    image, maps = phantom.stack(settings["slices"], settings["coils"], shape)
    return {"image": image, "maps": maps, "mask": cartesian.mask(shape)}, settings


def ours(data: Data, settings: Settings) -> Callable[[], Array]:
    data = cartesian.laid_out(data, settings)
    normal, x = cartesian.sense_of(data)[0].normal(), tensor(data["image"])
    return lambda: normal(x)


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return cartesian.relative(result, cartesian.normal(data["maps"], data["mask"])(data["image"]))


CASES = (
    Case(
        name="sense_normal",
        task="sense_normal",
        module="cases.sense_normal",
        sizes=cartesian.SIZES,
        quick=cartesian.QUICK,
        target=3.0,
        peers=("bart", "mrpro", "deepinv", "sigpy", "fastmri", "loop"),
        data=data,
        error=error,
        measure="relative difference from a double precision loop over coils",
        floor=1e-5,
    ),
)
