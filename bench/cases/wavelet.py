"""L1-wavelet reconstruction with λ and iterations as in BART, with random shifts.

Judged by the error against the truth. The objective ½‖Ax − y‖² + λ ⟨‖Ψ x‖₁⟩ is averaged over shifts, because iterations
with random shifts minimise this average; it is computed with PyWavelets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantom
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    "8x256x256": {"coils": 8, "shape": (1, 256, 256), "slices": 1},
    "16x320x320": {"coils": 16, "shape": (1, 320, 320), "slices": 1},
}
LAMBDA, ITERATIONS = 2e-3, 50


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    return cartesian.problem(settings), {**settings, "lam": LAMBDA, "iterations": ITERATIONS}


def ours(data: Data, settings: Settings) -> Callable[[], Any]:
    from recon.solve.fista import l1_wavelet

    data = cartesian.laid_out(data, settings)

    def run() -> Any:
        m = cartesian.measurement(data)
        return l1_wavelet(m, lam=settings["lam"], iterations=settings["iterations"], p=1.0, axes=(-2, -1)).x

    return run


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return cartesian.in_body(result.reshape(data["image"].shape), data["image"])


def objective(data: Data, settings: Settings, result: Array) -> dict[str, float]:
    """The objective and the PSNR in dB."""
    import pywt

    truth = data["image"]
    x = result.reshape(truth.shape).astype(np.complex128)
    misfit = 0.0
    for c in range(data["maps"].shape[1]):
        r = phantom.fft(data["maps"][:, c] * x, (-2, -1)) * data["mask"][..., None] - data["kspace"][:, c]
        misfit += 0.5 * float(np.linalg.norm(r) ** 2)
    size = 0.0
    rng = np.random.default_rng(0)
    for shift in rng.integers(0, 32, (8, 2)):
        parts = pywt.wavedec2(np.roll(x, shift, (-2, -1)), "db2", "periodization", level=4, axes=(-2, -1))
        size += sum(float(np.abs(d).sum()) for level in parts[1:] for d in level) / 8
    body = np.abs(truth) > 0.1 * np.abs(truth).max()
    mse = float((np.abs(np.abs(x) - np.abs(truth))[body] ** 2).mean())
    return {
        "objective": float(f"{misfit + settings['lam'] * size:.6g}"),
        "psnr": round(20 * float(np.log10(np.abs(truth).max())) - 10 * float(np.log10(mse)), 2),
    }


CASES = (
    Case(
        name="l1_wavelet",
        task="l1_wavelet",
        module="cases.wavelet",
        sizes=SIZES,
        quick=("8x256x256",),
        target=3.0,
        peers=("bart", "sigpy", "mrpro"),
        data=data,
        error=error,
        measure="relative error of the image in the object",
        more=objective,
    ),
)
