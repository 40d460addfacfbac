"""GRAPPA, kernels of 5×5, calibration and synthesis; equispaced lines, 24 calibration lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    "8x256x256": {"coils": 8, "shape": (1, 256, 256), "slices": 1, "acceleration": 3},
    "16x320x320": {"coils": 16, "shape": (1, 320, 320), "slices": 1, "acceleration": 4},
}


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    made = cartesian.problem(settings, pattern="equispaced", acceleration=settings["acceleration"])
    ny = settings["shape"][1]
    acs = cartesian.calibration_lines(ny)
    block = made["kspace"][0][:, :, ny // 2 - acs // 2 : ny // 2 - acs // 2 + acs]
    return made | {"calibration": np.ascontiguousarray(block)}, {**settings, "lam": 0.1}


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    import torch

    from recon.solve.grappa import grappa

    data = cartesian.laid_out(data, settings)
    kspace, block = torch.from_numpy(data["kspace"][0]), torch.from_numpy(data["calibration"])
    mask = torch.from_numpy(data["mask"]) > 0
    return lambda: grappa(kspace, mask, block, sigma=cartesian.SIGMA, kernel=(1, 2, 5))


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """Error of the image combined with the true maps from the completed k-space."""
    full = result.reshape(data["kspace"].shape)
    image = (data["maps"].conj() * phantom.fft(full.astype(np.complex128), (-2, -1), inverse=True)).sum(1)
    return cartesian.in_body(image, data["image"])


CASES = (
    Case(
        name="grappa",
        task="grappa",
        module="cases.grappa",
        sizes=SIZES,
        quick=("8x256x256",),
        target=2.0,
        peers=("pygrappa", "pygrappa_grappa"),
        data=data,
        error=error,
        measure="relative error of the coil-combined image in the object",
    ),
)
