"""ESPIRiT maps from k-space: the central 24 samples per axis, kernels of 6, one set of maps on the full grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantom
from arrays import tensor
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    "8x256x256": {"coils": 8, "shape": (1, 256, 256)},
    "16x320x320": {"coils": 16, "shape": (1, 320, 320)},
    "8x160x160x160": {"coils": 8, "shape": (160, 160, 160)},
}
#: The task on a GPU: the maps of a stack of slices, each from its own calibration.
STACK: dict[str, Settings] = {"20x16x320x320": {"coils": 16, "shape": (1, 320, 320), "slices": 20}}


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    shape = tuple(settings["shape"])
    image, maps = phantom.stack(settings.get("slices", 1), settings["coils"], shape)
    width = min(24, *(n for n in shape if n > 1))
    settings = {**settings, "width": width, "kernel": 6, "threshold": 0.02, "crop": 0.8}
    made = {"image": image, "maps": maps, "kspace": phantom.kspace(image, maps)}
    return made if len(image) > 1 else {k: v[0] for k, v in made.items()}, settings


def ours(data: Data, settings: Settings) -> Callable[[], Array]:
    from recon.prepare.espirit import espirit

    data = cartesian.laid_out(data, settings)
    kspace, width = tensor(data["kspace"]), settings["width"]
    shape = tuple(kspace.shape[-3:])

    def run() -> Array:
        block = kspace
        for axis, n in zip((-3, -2, -1), shape):
            block = block.narrow(axis, n // 2 - width // 2, width) if n > 1 else block
        maps = espirit(
            block, shape, kernel=settings["kernel"], threshold=settings["threshold"], crop=settings["crop"]
        ).maps
        return maps

    return run


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """RMS over voxels of the object of ‖S − e^{iφ} S_true‖ with the best phase in each voxel, cropped ones included."""
    truth, image = data["maps"], np.abs(data["image"])
    body = image > 0.1 * image.max()
    s, t = (np.moveaxis(a.reshape(truth.shape), -4, 0)[:, body] for a in (result, truth))
    along = np.abs((s * t.conj()).sum(0))
    square = (np.abs(s) ** 2).sum(0) + (np.abs(t) ** 2).sum(0) - 2 * along
    return float(np.sqrt(np.maximum(square, 0).mean()))


CASES = (
    Case(
        name="espirit",
        task="espirit",
        module="cases.espirit",
        sizes=SIZES,
        quick=("8x256x256",),
        target=3.0,
        peers=("espirit", "bart", "sigpy"),
        data=data,
        error=error,
        measure="RMS error of the maps in the object, after the best phase in each voxel",
        slow={("8x160x160x160", "sigpy"): "takes many minutes and much memory in 3D, tens of times the others'"},
    ),
)
