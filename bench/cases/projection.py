"""Parallel-beam projection of a 512² slice at 720 angles, and its exact transpose.

Pixels and bins are one unit wide, y points up (row 0 is on top), and bin s at angle θ is the line x cos θ + y sin θ =
s.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom
from arrays import tensor
from case import Array, Case, Data, Settings

from cases.cartesian import laid_out

SIZES: dict[str, Settings] = {"512x512x720": {"n": 512, "angles_count": 720}}
#: Most tools rotate about the middle of the image, some about the middle of a pixel: both are accepted.
CENTRES = ((0.0, 0.0), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    n, count = settings["n"], settings["angles_count"]
    image = truth(n)
    angles = np.arange(count) * np.pi / count
    bins = int(np.ceil(np.sqrt(2) * n))
    sinogram = exact(angles, bins, n, (0.0, 0.0)).astype(np.float32)
    rng = np.random.default_rng(0)
    # Positive data would hide a wrong transpose: both sides of the dot test get noise.
    sinogram *= rng.standard_normal(sinogram.shape, np.float32)
    made = {"image": image, "sinogram": sinogram, "speckled": image * rng.standard_normal(image.shape, np.float32)}
    return made, {**settings, "angles": angles.tolist(), "bins": bins}


def truth(n: int, centre: tuple[float, float] = (0.0, 0.0), fine: int = 4) -> Array:
    """The phantom (y, x), rows from the top down, on pixels whose middle lies `centre` pixels from the axis."""
    at = (np.arange(n * fine) - (n * fine - 1) / 2) / fine
    x, y = (at + centre[0])[None] * (2 / n), (centre[1] - at)[:, None] * (2 / n)
    image = np.zeros((n * fine, n * fine), np.float32)
    for value, cx, cy, cz, rx, ry, rz, angle in phantom.ELLIPSOIDS:
        shrink = np.sqrt(max(0.0, 1 - (cz / rz) ** 2))
        c, s = np.cos(angle), np.sin(angle)
        u, v = x - cx, y - cy
        image += np.float32(value) * (
            ((c * u + s * v) / (rx * shrink)) ** 2 + ((c * v - s * u) / (ry * shrink)) ** 2 <= 1
        )
    return image.reshape(n, fine, n, fine).mean((1, 3))


def exact(angles: Array, bins: int, n: int, centre: tuple[float, float]) -> Array:
    """Line integrals of the phantom (angle, bin) about a centre of rotation, in pixels from the middle."""
    offsets = np.arange(bins) - (bins - 1) / 2
    out = np.empty((len(angles), bins))
    for i, theta in enumerate(angles):
        moved = offsets + centre[0] * np.cos(theta) + centre[1] * np.sin(theta)
        # A bin is as wide as a pixel: the mean over it.
        fine = (moved[:, None] + (np.arange(4) - 1.5) / 4).ravel()
        out[i] = phantom.line_integrals(np.array([theta]), fine, n / 2)[0].reshape(-1, 4).mean(1)
    return out


def operator_of(settings: Settings) -> Any:
    import torch

    from recon.operators.xray import Parallel, Xray

    # In recon y grows with the row: the same rays rotate the other way.
    angles = -torch.tensor(settings["angles"], dtype=torch.float64)
    return Xray(Parallel(angles, settings["bins"], 1.0), (settings["n"], settings["n"]), 1.0)


def ours_projection(data: Data, settings: Settings) -> Callable[[], Any]:
    operator, x = operator_of(settings), tensor(laid_out(data, settings)["image"])
    return lambda: operator(x)


def ours_backprojection(data: Data, settings: Settings) -> Callable[[], Any]:
    data = laid_out(data, settings)
    operator, y = operator_of(settings), tensor(data["sinogram"])

    def run() -> Any:
        return operator.adjoint(y)

    run.witness = float((operator(tensor(data["speckled"])).double() * y).sum())  # type: ignore[attr-defined]
    return run


def projection_error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    angles = np.asarray(settings["angles"])[::8]
    found = result.reshape(len(settings["angles"]), -1)[::8]
    truths = [exact(angles, found.shape[1], settings["n"], c) for c in CENTRES]
    return float(min(np.linalg.norm(found - t) / np.linalg.norm(t) for t in truths))


def transpose_error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    """|⟨Ax, y⟩ − ⟨x, Aᵀy⟩| / (‖x‖ ‖Aᵀy‖)."""
    x, back = data["speckled"].astype(np.float64), result.reshape(data["speckled"].shape).astype(np.float64)
    assert witness is not None
    return float(abs(float(witness) - (x * back).sum()) / (np.linalg.norm(x) * np.linalg.norm(back)))


CASES = (
    Case(
        name="projection",
        task="project",
        module="cases.projection",
        function="ours_projection",
        sizes=SIZES,
        quick=(),
        target=1.5,
        peers=("astra", "odl", "deepinv", "skimage"),
        data=data,
        error=projection_error,
        measure="relative difference from the exact line integrals",
        floor=0.01,
    ),
    Case(
        name="backprojection",
        task="backproject",
        module="cases.projection",
        function="ours_backprojection",
        sizes=SIZES,
        quick=(),
        target=1.5,
        peers=("astra", "odl", "deepinv", "skimage"),
        data=data,
        error=transpose_error,
        measure="dot test of projection and backprojection with speckled data",
        floor=1e-5,
    ),
)
