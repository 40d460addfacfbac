"""The ASTRA toolbox's CPU code with Joseph's ("linear") projector, whose backprojection is its transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import astra
import numpy as np

Task = Callable[[], Any]
Data = dict[str, Any]


def _algorithm(kind: str, data: Data, settings: Data) -> tuple[int, int, int]:
    """Identifiers of volume, sinogram and algorithm."""
    n = settings["n"]
    volume = astra.create_vol_geom(n, n)
    beam = astra.create_proj_geom("parallel", 1.0, settings["bins"], np.asarray(settings["angles"]))
    image, sinogram = astra.data2d.create("-vol", volume), astra.data2d.create("-sino", beam)
    config = astra.astra_dict(kind)
    config["ProjectorId"] = astra.create_projector("linear", beam, volume)
    config["ProjectionDataId"] = sinogram
    config["VolumeDataId" if kind == "FP" else "ReconstructionDataId"] = image
    return image, sinogram, astra.algorithm.create(config)


def _run(kind: str, data: Data, settings: Data) -> Callable[[Any], Any]:
    image, sinogram, algorithm = _algorithm(kind, data, settings)
    source, target = (image, sinogram) if kind == "FP" else (sinogram, image)

    def run(array: Any) -> Any:
        astra.data2d.store(source, array)
        astra.algorithm.run(algorithm)
        return astra.data2d.get(target)

    return run


def project(data: Data, settings: Data) -> Task:
    forward = _run("FP", data, settings)
    return lambda: forward(data["image"])


def backproject(data: Data, settings: Data) -> Task:
    back = _run("BP", data, settings)

    def run() -> Any:
        return back(data["sinogram"])

    projected = _run("FP", data, settings)(data["speckled"])
    run.witness = float((projected.astype(np.float64) * data["sinogram"]).sum())  # type: ignore[attr-defined]
    return run


def fbp(data: Data, settings: Data) -> Task:
    n = settings["n"]
    volume = astra.create_vol_geom(n, n)
    beam = astra.create_proj_geom("parallel", 1.0, settings["bins"], np.asarray(settings["angles"]))
    image, sinogram = astra.data2d.create("-vol", volume), astra.data2d.create("-sino", beam)
    config = astra.astra_dict("FBP")
    config["ProjectorId"] = astra.create_projector("linear", beam, volume)
    config["ProjectionDataId"], config["ReconstructionDataId"] = sinogram, image
    config["option"] = {"FilterType": "ram-lak"}
    algorithm = astra.algorithm.create(config)

    def run() -> Any:
        astra.data2d.store(sinogram, data["sinogram"])
        astra.algorithm.run(algorithm)
        return astra.data2d.get(image)

    return run
