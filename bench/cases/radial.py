"""Radial CG-SENSE: 400 spokes of 512 samples, 15 iterations, from samples and trajectory to the image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom
from arrays import tensor
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {"8x256x256": {"coils": 8, "shape": (1, 256, 256), "spokes": 400, "samples": 512}}
LAMBDA, ITERATIONS = 0.1, 15


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    from recon.simulation.trajectories import radial

    n = settings["shape"][-1]
    image, maps = phantom.stack(1, settings["coils"], tuple(settings["shape"]))
    # (ky, kx) in cycles per field of view.
    points = np.ascontiguousarray(radial(settings["spokes"], settings["samples"])[..., ::-1] * n).astype(np.float32)
    clean = spectrum(maps[0, :, 0].astype(np.complex128) * image[0, 0], points)
    made = {"image": image[0], "maps": maps[0], "points": points}
    made["kspace"] = clean.astype(np.complex64) + phantom.noise(clean.shape, 0.01, 0)
    return made, {**settings, "lam": LAMBDA, "iterations": ITERATIONS}


def spectrum(x: Array, points: Array) -> Array:
    """Unitary non-uniform DFT (coil, line, sample) in double precision."""
    import finufft

    n = x.shape[-1]
    angles = [np.ascontiguousarray(points[..., d].ravel().astype(np.float64) * (2 * np.pi / n)) for d in (0, 1)]
    out = finufft.nufft2d2(*angles, np.ascontiguousarray(x), eps=1e-12, isign=-1) / n
    return out.reshape(len(x), *points.shape[:2])


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    from recon.operators import Coils
    from recon.operators.nufft import Nufft
    from recon.solve.cg import cg

    data = cartesian.laid_out(data, settings)
    maps, y = tensor(data["maps"]), tensor(data["kspace"])[:, None]
    points, shape = tensor(data["points"]), tuple(settings["shape"][1:])

    def run() -> Any:
        A = Nufft(points, shape) @ Coils(maps)
        b = A.adjoint(y)
        return cg(A.normal(), b, lam=settings["lam"], iterations=settings["iterations"], tolerance=0.0).x

    return run


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return cartesian.in_body(result.reshape(data["image"].shape), data["image"])


CASES = (
    Case(
        name="radial",
        task="radial",
        module="cases.radial",
        sizes=SIZES,
        quick=("8x256x256",),
        target=1.5,
        peers=("mrpro", "finufft", "torchkbnufft", "bart", "mrinufft", "sigpy"),
        data=data,
        error=error,
        measure="relative error of the image in the object",
    ),
)
