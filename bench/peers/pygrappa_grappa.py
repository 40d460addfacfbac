"""pygrappa's GRAPPA in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pygrappa import grappa as numpy_grappa

Task = Callable[[], Any]
Data = dict[str, Any]


def grappa(data: Data, settings: Data) -> Task:
    kspace, block = data["kspace"][0, :, 0], data["calibration"][:, 0]
    return lambda: numpy_grappa(kspace, block, kernel_size=(5, 5), coil_axis=0, lamda=settings["lam"])
