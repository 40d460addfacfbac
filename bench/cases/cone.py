"""Projection of a 160³ volume in a cone beam, its exact transpose, and Feldkamp-Davis-Kress reconstruction.

Voxels are one unit wide, the source is 400 units from the axis, and the flat panel the same distance behind it. All get
the line integrals of the phantom's ellipsoids, so that errors are those of the reconstruction alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom
from arrays import tensor
from case import Array, Case, Data, Settings

from cases.projection import transpose_error

SIZES: dict[str, Settings] = {
    "160x160x160x180": {"n": 160, "elements": 240, "pitch": 1.5, "views": 180, "source": 400.0, "reach": 800.0}
}


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    n = settings["n"]
    sinogram = exact(settings, np.arange(settings["views"])).astype(np.float32)
    rng = np.random.default_rng(0)
    image = truth(n)
    made = {"image": image, "sinogram": sinogram, "speckled": image * rng.standard_normal(image.shape, np.float32)}
    made["noise"] = rng.standard_normal(sinogram.shape, np.float32)
    return made, settings


def truth(n: int, fine: int = 2) -> Array:
    """The phantom (z, y, x) on voxels around the origin, means over fine³ points."""
    at = ((np.arange(n * fine) + 0.5) / fine - n / 2) * (2 / n)
    out = np.zeros((n * fine,) * 3, np.float32)
    for value, cx, cy, cz, rx, ry, rz, angle in phantom.ELLIPSOIDS:
        c, s = np.cos(angle), np.sin(angle)
        u, v = at - cx, (at - cy)[:, None]
        flat = ((c * u + s * v) / rx) ** 2 + ((c * v - s * u) / ry) ** 2
        out += np.float32(value) * (flat + ((at - cz) / rz)[:, None, None] ** 2 <= 1)
    return out.reshape(n, fine, n, fine, n, fine).mean((1, 3, 5))


def exact(settings: Settings, views: Array) -> Array:
    """Line integrals (row, view, column) of the ellipsoids: twice the half chord √h / |v|² of |q + t v| = 1."""
    half, reach, far = settings["n"] / 2, settings["reach"], settings["source"]
    turn = (views * 2 * np.pi / settings["views"])[:, None]
    side = (np.arange(settings["elements"]) - (settings["elements"] - 1) / 2) * settings["pitch"]
    c, s = np.cos(turn), np.sin(turn)
    way = np.stack(np.broadcast_arrays(side * c - reach * s, side * s + reach * c, side[:, None, None] + 0 * c))
    way = way / np.sqrt((way * way).sum(0))
    source = np.stack([far * s, -far * c, 0 * c]) / half
    out = np.zeros(way.shape[1:])
    for value, cx, cy, cz, rx, ry, rz, angle in phantom.ELLIPSOIDS:
        a, b = np.cos(angle), np.sin(angle)
        into = np.array([[a / rx, b / rx, 0], [-b / ry, a / ry, 0], [0, 0, 1 / rz]])
        q = np.einsum("ij,j...->i...", into, source - np.array([cx, cy, cz])[:, None, None])[:, None]
        v = np.einsum("ij,j...->i...", into, way)
        square = (v * v).sum(0)
        h = (q * v).sum(0) ** 2 - square * ((q * q).sum(0) - 1)
        out += value * 2 * np.sqrt(np.maximum(h, 0)) / square
    return out * half


def operator_of(settings: Settings) -> Any:
    import torch

    from recon.operators import ConeXray
    from recon.operators.cone import Cone

    n, pitch, elements = settings["n"], settings["pitch"], settings["elements"]
    angles = torch.arange(settings["views"], dtype=torch.float64) * (2 * np.pi / settings["views"])
    behind = settings["reach"] - settings["source"]
    return ConeXray(Cone(angles, elements, elements, pitch, pitch, settings["source"], behind), (n, n, n), 1.0, 1.0)


def ours_projection(data: Data, settings: Settings) -> Callable[[], Any]:
    A, x = operator_of(settings), tensor(data["image"])
    return lambda: A(x)


def ours_backprojection(data: Data, settings: Settings) -> Callable[[], Any]:
    A, y = operator_of(settings), tensor(data["noise"])

    def run() -> Any:
        return A.adjoint(y)

    run.witness = float((A(tensor(data["speckled"])).double() * y).sum())  # type: ignore[attr-defined]
    return run


def ours_fdk(data: Data, settings: Settings) -> Callable[[], Any]:
    from recon.solve.fbp import fbp

    A, y = operator_of(settings), tensor(data["sinogram"])
    return lambda: fbp(y, A)


def projection_error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    found = result.reshape(data["sinogram"].shape)
    return float(np.linalg.norm(found - data["sinogram"]) / np.linalg.norm(data["sinogram"]))


def fdk_error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """Relative difference from the phantom in the two slices beside the plane of the source, within the circle."""
    n = settings["n"]
    at = np.arange(n) - (n - 1) / 2
    middle = (slice(n // 2 - 1, n // 2 + 1), at[None] ** 2 + at[:, None] ** 2 < (n / 2 - 2) ** 2)
    found, wanted = (v.reshape((n,) * 3)[middle[0]][:, middle[1]] for v in (result, data["image"]))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


_COMMON: dict[str, Any] = {
    "module": "cases.cone", "sizes": SIZES, "quick": (), "target": None, "peers": ("rtk",), "data": data
}  # fmt: skip
CASES = (
    Case(
        name="cone_projection",
        task="project",
        function="ours_projection",
        error=projection_error,
        measure="relative difference from the exact line integrals",
        floor=0.01,
        **_COMMON,
    ),
    Case(
        name="cone_backprojection",
        task="backproject",
        function="ours_backprojection",
        error=transpose_error,
        measure="dot test of projection and backprojection with speckled data",
        floor=1e-5,
        **_COMMON,
    ),
    Case(
        name="fdk",
        task="fdk",
        function="ours_fdk",
        error=fdk_error,
        measure="relative difference from the phantom beside the plane of the source, FDK of its exact line integrals",
        **_COMMON,
    ),
)
