"""ESPIRiT maps from k-space: the central 24 samples per axis, kernels of 6, one set of maps on the full grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantom
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    "8x256x256": {"coils": 8, "shape": (1, 256, 256)},
    "16x320x320": {"coils": 16, "shape": (1, 320, 320)},
    "8x160x160x160": {"coils": 8, "shape": (160, 160, 160)},
}


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    shape = tuple(settings["shape"])
    image, maps = phantom.stack(1, settings["coils"], shape)
    width = min(24, *(n for n in shape if n > 1))
    settings = {**settings, "width": width, "kernel": 6, "threshold": 0.02, "crop": 0.8}
    return {"image": image[0], "maps": maps[0], "kspace": phantom.kspace(image, maps)[0]}, settings


def ours(data: Data, settings: Settings) -> Callable[[], Array]:
    import torch

    from recon.prepare.espirit import espirit

    data = cartesian.laid_out(data, settings)
    kspace, width = torch.from_numpy(data["kspace"]), settings["width"]
    shape = tuple(kspace.shape[-3:])

    def run() -> Array:
        block = kspace
        for axis, n in enumerate(shape, start=1):
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
    s, t = result.reshape(truth.shape)[:, body], truth[:, body]
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
