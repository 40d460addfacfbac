"""pygrappa's compiled GRAPPA; it computes in double precision and needs double input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pygrappa import cgrappa

Task = Callable[[], Any]
Data = dict[str, Any]


def grappa(data: Data, settings: Data) -> Task:
    kspace = np.ascontiguousarray(data["kspace"][0, :, 0].astype(np.complex128))
    block = np.ascontiguousarray(data["calibration"][:, 0].astype(np.complex128))
    return lambda: cgrappa(kspace, block, kernel_size=(5, 5), coil_axis=0, lamda=settings["lam"])
