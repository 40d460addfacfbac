"""deepinv: centred, orthonormal, complex numbers as two channels (batch, 2, …)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peers.torchvision_operators  # noqa: F401  (before deepinv, which imports torchvision)

# isort: split
import torch
from deepinv.optim.linear import conjugate_gradient
from deepinv.physics import MultiCoilMRI, Tomography

Task = Callable[[], Any]
Data = dict[str, Any]


def _physics(data: Data) -> tuple[Any, bool]:
    maps, mask = torch.from_numpy(data["maps"]), torch.from_numpy(data["mask"])
    volume = maps.shape[2] > 1
    maps = maps if volume else maps[:, :, 0]
    full = mask[..., None].expand(maps.shape[-3:]) if volume else mask[0][:, None].expand(maps.shape[-2:])
    return MultiCoilMRI(mask=full, coil_maps=maps, three_d=volume), volume


def _channels(x: Any) -> Any:
    return torch.view_as_real(x).movedim(-1, 1).contiguous()


def _complex(x: Any, shape: Any) -> Any:
    return torch.view_as_complex(x.movedim(1, -1).contiguous()).reshape(shape)


def sense_normal(data: Data, settings: Data) -> Task:
    physics, volume = _physics(data)
    image = torch.from_numpy(data["image"])
    x = _channels(image if volume else image[:, 0])

    def run() -> Any:
        with torch.no_grad():
            return physics.A_adjoint(physics.A(x))

    def result() -> Any:
        return _complex(run(), image.shape)

    return result


def cg_sense(data: Data, settings: Data) -> Task:
    kspace = torch.from_numpy(data["kspace"])
    y = _channels(kspace if kspace.shape[2] > 1 else kspace[:, :, 0])

    def run() -> Any:
        with torch.no_grad():
            physics, _ = _physics(data)

            def normal(v: Any) -> Any:
                return physics.A_adjoint(physics.A(v)) + settings["lam"] * v

            x = conjugate_gradient(normal, physics.A_adjoint(y), max_iter=settings["iterations"], tol=0.0)
            return _complex(x, data["image"].shape)

    return run


def _tomography(settings: Data) -> Any:
    angles = torch.rad2deg(torch.tensor(settings["angles"], dtype=torch.float32))
    return Tomography(
        angles=angles,
        img_width=settings["n"],
        circle=False,
        normalize=False,
        adjoint_via_backprop=True,
        parallel_computation=False,
    )


def project(data: Data, settings: Data) -> Task:
    physics, x = _tomography(settings), torch.from_numpy(data["image"])[None, None]

    def run() -> Any:
        with torch.no_grad():
            return physics.A(x)[0, 0].T

    return run


def backproject(data: Data, settings: Data) -> Task:
    physics, x = _tomography(settings), torch.from_numpy(data["speckled"])[None, None]
    y = torch.from_numpy(data["sinogram"].T.copy())[None, None]

    def run() -> Any:
        return physics.A_adjoint(y)[0, 0].detach()

    run.witness = float((physics.A(x).detach().double() * y).sum())  # type: ignore[attr-defined]
    return run


def fbp(data: Data, settings: Data) -> Task:
    physics = _tomography(settings)
    y = torch.from_numpy(data["sinogram"].T.copy())[None, None]

    def run() -> Any:
        with torch.no_grad():
            return physics.A_dagger(y, fbp=True)[0, 0]

    return run
