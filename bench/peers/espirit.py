"""The package espirit; its threshold is the square of a singular value's, as in BART."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from espirit import espirit as maps_of

Task = Callable[[], Any]
Data = dict[str, Any]


def espirit(data: Data, settings: Data) -> Task:
    kspace = torch.from_numpy(np.squeeze(data["kspace"]))

    def run() -> Any:
        return maps_of(
            kspace,
            calib_size=settings["width"],
            kernel_size=settings["kernel"],
            threshold=settings["threshold"] ** 2,
            mask_threshold=settings["crop"],
            device="cpu",
        )

    return run
