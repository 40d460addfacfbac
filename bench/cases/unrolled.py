"""The unrolled network that ships, from masked k-space of some slices to images, including its classical start.

The error is the difference, on the first slice, from the same network in double precision on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    "16x320x320": {"coils": 16, "shape": (1, 320, 320), "slices": 1},
    "20x16x320x320": {"coils": 16, "shape": (1, 320, 320), "slices": 20},
}
SIGMA, WEIGHTS = 0.01, "mri-small"


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    made = cartesian.problem(settings, SIGMA)
    first = {k: v[:1] if k != "mask" else v for k, v in made.items()}
    exact = {k: v.astype("complex128" if v.dtype.kind == "c" else "float64") for k, v in first.items()}
    return made | {"exact": _exact(exact)}, settings


def _exact(data: Data) -> Array:
    """The network's result in double precision."""
    import torch

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made: Array = _images(data, "cpu", double=True)().numpy()
    finally:
        torch.set_default_dtype(usual)
    return made


def _images(data: Data, device: str, double: bool = False) -> Callable[[], Any]:
    from dataclasses import replace

    from recon.nets import unrolled, weights

    network = weights.load(WEIGHTS, device).network
    network = network.double() if double else network

    def run() -> Any:
        return unrolled.reconstruct(network, replace(cartesian.measurement(data), sigma=SIGMA))

    return run


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    return _images(data, settings.get("device", "cpu"))


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return cartesian.relative(result[:1], data["exact"])


CASES = (
    Case(
        name="unrolled",
        task="unrolled",
        module="cases.unrolled",
        sizes=SIZES,
        quick=(),
        target=None,
        peers=(),
        data=data,
        error=error,
        measure="relative difference of the first image from the same network in double precision",
        floor=1e-3,
    ),
)
