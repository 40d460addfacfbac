"""sigpy: centred, orthonormal; one problem at a time, so slices in a loop. Arrays of CuPy are processed on the GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import sigpy as sp
import sigpy.mri as mr
from launch import peak_run

Task = Callable[[], Any]
Data = dict[str, Any]


def _squeezed(data: Data) -> tuple[Any, Any]:
    """Maps (slice, coil, …) and mask without axes of length one."""
    maps = data["maps"]
    keep = (0, 1, *(a for a in (2, 3, 4) if maps.shape[a] > 1))
    mask = np.broadcast_to(data["mask"][..., None], maps.shape[2:])
    return maps.reshape([maps.shape[a] for a in keep]), mask.reshape([maps.shape[a] for a in keep[2:]])


def sense_normal(data: Data, settings: Data) -> Task:
    maps, mask = _squeezed(data)
    images = data["image"].reshape(len(maps), *mask.shape)
    normals = [mr.linop.Sense(s, weights=mask).N for s in maps]
    return lambda: np.stack([n(x) for n, x in zip(normals, images)]).reshape(data["image"].shape)


def espirit(data: Data, settings: Data) -> Task:
    kspace = np.squeeze(data["kspace"])
    stack = data["kspace"].ndim > 4

    def one(y: Any) -> Any:
        return mr.app.EspiritCalib(
            y,
            calib_width=settings["width"],
            thresh=settings["threshold"],
            kernel_width=settings["kernel"],
            crop=settings["crop"],
            device=sp.get_device(y),
            show_pbar=False,
        ).run()

    return lambda: np.stack([one(y) for y in kspace]) if stack else one(kspace)


def cg_sense(data: Data, settings: Data) -> Task:
    maps, mask = _squeezed(data)
    kspace = data["kspace"].reshape(maps.shape)

    def one(y: Any, s: Any, iterations: int) -> Any:
        return mr.app.SenseRecon(
            y,
            s,
            lamda=settings["lam"],
            weights=mask,
            max_iter=iterations,
            tol=0,
            device=sp.get_device(y),
            show_pbar=False,
        ).run()

    return lambda: np.stack([one(*each) for each in zip(kspace, maps, settings["iterations_of_slices"])])


def l1_wavelet(data: Data, settings: Data) -> Task:
    maps, mask = _squeezed(data)
    kspace = data["kspace"].reshape(maps.shape)

    def run() -> Any:
        return mr.app.L1WaveletRecon(
            kspace[0],
            maps[0],
            settings["lam"],
            weights=mask,
            max_iter=settings["iterations"],
            device=sp.get_device(maps),
            show_pbar=False,
        ).run()

    return run


def radial(data: Data, settings: Data) -> Task:
    maps = data["maps"][:, 0]

    def run() -> Any:
        return mr.app.SenseRecon(
            data["kspace"],
            maps,
            lamda=settings["lam"],
            coord=data["points"],
            max_iter=settings["iterations"],
            tol=0,
            device=sp.get_device(data["kspace"]),
            show_pbar=False,
        ).run()

    return run


def help(data: Data, settings: Data) -> Task:
    """Importing the package in a new interpreter; it has no command line."""

    def run() -> Any:
        seconds, peak = peak_run([sys.executable, "-c", "import sigpy.mri"])
        return np.zeros(0), seconds, peak

    return run
