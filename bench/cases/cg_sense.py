"""CG-SENSE from masked k-space to the image, until the residual of the normal equations is 1.6e-4.

All start from zero and solve (AᴴA + λ) x = Aᴴy. Tools that only count iterations get the number that plain conjugate
gradients need, for each slice if they process slices one by one. Whether they converged is judged by the residual of
their result.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from case import Array, Case, Data, Settings

from cases import cartesian

LAMBDA, RESIDUAL = 2e-3, 1.6e-4


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    made = cartesian.problem(settings)
    alone = needed(made, 3)
    together = needed(made, 4) if len(alone) > 1 else alone
    settings = {**settings, "lam": LAMBDA, "residual": RESIDUAL}
    return made, {**settings, "iterations": together[0], "iterations_of_slices": alone}


def needed(made: Data, ndim: int) -> list[int]:
    """Iterations of plain conjugate gradients to the residual: of each slice (3), or of all as one problem (4)."""
    from recon.solve.cg import cg

    m = cartesian.measurement(made)
    found = cg(m.A.normal(), m.A.adjoint(m.y), lam=LAMBDA, tolerance=RESIDUAL, iterations=200, ndim=ndim)
    if float(found.residual.max()) > RESIDUAL:
        raise RuntimeError(f"conjugate gradients do not reach a residual of {RESIDUAL}")
    return [int(n) for n in found.iterations.reshape(-1)]


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    from recon.solve.cg import cg

    data = cartesian.laid_out(data, settings)

    def run() -> Any:
        m = cartesian.measurement(data)
        b = m.A.adjoint(m.y)
        return cg(m.A.normal(), b, lam=settings["lam"], tolerance=settings["residual"], iterations=200).x

    return run


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """‖b − (AᴴA + λ) x‖ / ‖b‖, over all slices."""
    b = cartesian.adjoint(data["maps"], data["kspace"])
    x = result.reshape(b.shape)
    r = b - cartesian.normal(data["maps"], data["mask"])(x) - settings["lam"] * x
    return float(np.linalg.norm(r) / np.linalg.norm(b))


def nrmse(data: Data, settings: Settings, result: Array) -> dict[str, float]:
    return {"nrmse": round(cartesian.in_body(result.reshape(data["image"].shape), data["image"]), 4)}


CASES = (
    Case(
        name="cg_sense",
        task="cg_sense",
        module="cases.cg_sense",
        sizes=cartesian.SIZES,
        quick=cartesian.QUICK,
        target=3.0,
        peers=("bart", "deepinv", "mrpro", "sigpy", "loop"),
        data=data,
        error=error,
        measure="relative residual of the normal equations",
        floor=1.05 * RESIDUAL,
        more=nrmse,
    ),
)
