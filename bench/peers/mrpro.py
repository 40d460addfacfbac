"""mrpro: torch operators, centred and orthonormal, (other, coil, z, y, x)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers.torchvision_operators  # noqa: F401  (before mrpro, which imports torchvision)

# isort: split
import torch
from arrays import tensor
from launch import peak_run
from mrpro.algorithms.optimizers import cg, pgd
from mrpro.data import KTrajectory, SpatialDimension
from mrpro.operators import FastFourierOp, IdentityOp, NonUniformFastFourierOp, SensitivityOp, WaveletOp
from mrpro.operators.functionals import L1NormViewAsReal, L2NormSquared

Task = Callable[[], Any]
Data = dict[str, Any]


def _sense(data: Data) -> tuple[Any, Any, Any]:
    """Sensitivity and Fourier operator, and the masked Fourier operator."""
    maps = tensor(data["maps"])
    mask = tensor(data["mask"])[..., None].to(torch.complex64)
    fourier = FastFourierOp(dim=tuple(a for a in (-3, -2, -1) if maps.shape[a] > 1))
    return SensitivityOp(maps), fourier, mask * fourier


def _normal(data: Data) -> Any:
    """SᴴFᴴMFS, one multiplication by the binary mask."""
    coils, fourier, masked = _sense(data)
    return coils.H @ fourier.H @ masked @ coils


def sense_normal(data: Data, settings: Data) -> Task:
    normal, x = _normal(data), tensor(data["image"])[:, None]

    def run() -> Any:
        with torch.no_grad():
            return normal(x)[0][:, 0]

    return run


def cg_sense(data: Data, settings: Data) -> Task:
    y = tensor(data["kspace"])

    def run() -> Any:
        with torch.no_grad():
            coils, fourier, _ = _sense(data)
            (b,) = (coils.H @ fourier.H)(y)
            regularised = _normal(data) + settings["lam"] * IdentityOp()
            (x,) = cg(regularised, b, max_iterations=settings["iterations"], tolerance=0.0)
            return x[:, 0]

    return run


def l1_wavelet(data: Data, settings: Data) -> Task:
    y = tensor(data["kspace"])
    wavelet = WaveletOp(domain_shape=y.shape[-2:], dim=(-2, -1), wavelet_name="db2", level=4)

    def run() -> Any:
        with torch.no_grad():
            coils, _, masked = _sense(data)
            A = masked @ coils
            # The transform is orthonormal except at its borders: the problem is solved in its coefficients.
            f = 0.5 * L2NormSquared(target=y) @ A @ wavelet.H
            start = wavelet((masked @ coils).H(y)[0])[0]
            g = settings["lam"] * L1NormViewAsReal()
            (c,) = pgd(f, g, start, stepsize=0.95, max_iterations=settings["iterations"])
            return wavelet.H(c)[0]

    return run


def radial(data: Data, settings: Data) -> Task:
    maps, y = tensor(data["maps"]), tensor(data["kspace"])[None, :, None]
    points = tensor(data["points"])
    n = data["image"].shape[-1]

    def run() -> Any:
        with torch.no_grad():
            ky, kx = points[None, None, None, ..., 0], points[None, None, None, ..., 1]
            trajectory = KTrajectory(torch.zeros(1, 1, 1, 1, 1, device=ky.device), ky, kx)
            size = SpatialDimension(1, n, n)
            fourier = NonUniformFastFourierOp(("y", "x"), size, size, trajectory)
            coils = SensitivityOp(maps[None])
            (b,) = (coils.H @ fourier.H)(y)
            normal = coils.H @ fourier.gram @ coils + settings["lam"] * IdentityOp()
            (x,) = cg(normal, b, max_iterations=settings["iterations"], tolerance=0.0)
            return x

    return run


def help(data: Data, settings: Data) -> Task:
    """Importing the package in a new interpreter; it has no command line."""
    command = [sys.executable, "-c", "import peers.torchvision_operators, mrpro"]

    def run() -> Any:
        seconds, peak = peak_run(command, cwd=Path(__file__).parent.parent)
        return torch.zeros(0), seconds, peak

    return run
