"""finufft in a plain conjugate gradient loop, one plan for all coils; sums scaled to be unitary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import finufft
import numpy as np

Task = Callable[[], Any]
Data = dict[str, Any]


def radial(data: Data, settings: Data) -> Task:
    maps, y = data["maps"][:, 0], data["kspace"].reshape(len(data["maps"]), -1)
    n, conj = maps.shape[-1], data["maps"][:, 0].conj()

    def run() -> Any:
        angles = [np.ascontiguousarray(data["points"][..., d].ravel() * np.float32(2 * np.pi / n)) for d in (0, 1)]
        options = {"n_trans": len(maps), "eps": 1e-4, "dtype": "complex64", "nthreads": settings["threads"]}
        forward = finufft.Plan(2, (n, n), isign=-1, **options)
        back = finufft.Plan(1, (n, n), isign=1, **options)
        forward.setpts(*angles)
        back.setpts(*angles)

        def adjoint(k: Any) -> Any:
            return (conj * back.execute(k)).sum(0) / n

        def normal(x: Any) -> Any:
            return adjoint(forward.execute(maps * x)) / np.float32(n) + np.float32(settings["lam"]) * x

        return solve(normal, adjoint(y), settings["iterations"])

    return run


def solve(normal: Callable[[Any], Any], b: Any, iterations: int) -> Any:
    """Conjugate gradients from zero."""
    x, r, p = np.zeros_like(b), b.copy(), b.copy()
    rr = np.vdot(r, r).real
    for _ in range(iterations):
        q = normal(p)
        step = rr / np.vdot(p, q).real
        x += step * p
        r -= step * q
        old, rr = rr, np.vdot(r, r).real
        p = r + (rr / old) * p
    return x
