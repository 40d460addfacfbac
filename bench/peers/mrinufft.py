"""mri-nufft on finufft in a plain conjugate gradient loop; its own norm is half of the unitary one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peers.torchvision_operators  # noqa: F401  (before mrinufft, which imports torchvision)

# isort: split
import numpy as np
from mrinufft import get_operator

from peers.finufft import solve

Task = Callable[[], Any]
Data = dict[str, Any]


def radial(data: Data, settings: Data) -> Task:
    maps, y = data["maps"][:, 0], data["kspace"].reshape(len(data["maps"]), -1)
    n = maps.shape[-1]

    def run() -> Any:
        points = (data["points"].reshape(-1, 2) / n).astype(np.float32)
        operator = get_operator("finufft")(points, (n, n), n_coils=len(maps), smaps=maps, squeeze_dims=True, eps=1e-4)
        scale = operator.norm_factor / n

        def normal(x: Any) -> Any:
            return operator.adj_op(operator.op(x)) * np.float32(scale**2) + np.float32(settings["lam"]) * x

        return solve(normal, operator.adj_op(y) * np.float32(scale), settings["iterations"])

    return run
