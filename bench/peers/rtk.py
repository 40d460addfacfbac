"""The Reconstruction Toolkit's CPU code: Joseph's projector in a cone beam, its transpose, and FDK.

Its axis of rotation is y, and its projections are (view, row, column).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import itk
import numpy as np
from itk import RTK as rtk

Task = Callable[[], Any]
Data = dict[str, Any]

VERSIONS = {"itk-rtk": importlib.metadata.version("itk-rtk")}
_IMAGE = itk.Image[itk.F, 3]


def _image(values: Any, spacing: float) -> Any:
    """An image of a volume, or of projections, around the origin."""
    made = itk.image_from_array(np.ascontiguousarray(values, np.float32))
    steps = [spacing, spacing, 1.0]
    made.SetSpacing(steps)
    made.SetOrigin([-(n - 1) / 2 * d for n, d in zip(values.shape[::-1], steps)])
    return made


def _turned(volume: Any) -> Any:
    """(z, y, x) of a volume with the axis of rotation along z as RTK's with it along y, and back."""
    return volume.transpose(1, 0, 2)[::-1]


def _back(volume: Any) -> Any:
    return volume[::-1].transpose(1, 0, 2)


def _volume(values: Any) -> Any:
    return _image(_turned(values), 1.0)


def _projections(values: Any, settings: Data) -> Any:
    return _image(values.transpose(1, 0, 2), settings["pitch"])


def _geometry(settings: Data) -> Any:
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(settings["threads"])
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(settings["threads"])
    made = rtk.ThreeDCircularProjectionGeometry.New()
    for k in range(settings["views"]):
        made.AddProjection(settings["source"], settings["reach"], 360.0 * k / settings["views"], 0.0, 0.0)
    return made


def _run(filter_: Any, settings: Data, first: Any, second: Any, laid: Callable[[Any], Any]) -> Task:
    filter_.SetInput(0, first)
    filter_.SetInput(1, second)
    filter_.SetGeometry(_geometry(settings))
    if hasattr(filter_, "InPlaceOff"):
        # Otherwise a second run finds its first input gone.
        filter_.InPlaceOff()

    def run() -> Any:
        filter_.Modified()
        filter_.UpdateLargestPossibleRegion()
        return laid(itk.array_view_from_image(filter_.GetOutput()))

    return run


def _forward(data: Data, settings: Data, image: Any) -> Task:
    empty = _projections(np.zeros_like(data["sinogram"]), settings)
    made = rtk.JosephForwardProjectionImageFilter[_IMAGE, _IMAGE].New()
    return _run(made, settings, empty, _volume(image), lambda p: p.transpose(1, 0, 2))


def project(data: Data, settings: Data) -> Task:
    return _forward(data, settings, data["image"])


def backproject(data: Data, settings: Data) -> Task:
    empty, y = _volume(np.zeros_like(data["image"])), data["noise"]
    made = rtk.JosephBackProjectionImageFilter[_IMAGE, _IMAGE].New()
    run = _run(made, settings, empty, _projections(y, settings), _back)
    run.witness = float(  # type: ignore[attr-defined]
        (_forward(data, settings, data["speckled"])().astype(np.float64) * y).sum()
    )
    return run


def fdk(data: Data, settings: Data) -> Task:
    empty = _volume(np.zeros_like(data["image"]))
    made = rtk.FDKConeBeamReconstructionFilter[_IMAGE].New()
    return _run(made, settings, empty, _projections(data["sinogram"], settings), _back)
