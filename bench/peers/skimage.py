"""scikit-image: projection by rotating the image; its unfiltered backprojection is only approximately the transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from skimage.transform import iradon, radon

Task = Callable[[], Any]
Data = dict[str, Any]


def project(data: Data, settings: Data) -> Task:
    angles = np.rad2deg(settings["angles"])
    return lambda: radon(data["image"], angles, circle=False).T


def backproject(data: Data, settings: Data) -> Task:
    angles = np.rad2deg(settings["angles"])
    y = data["sinogram"].T.copy()

    def run() -> Any:
        image = iradon(y, angles, output_size=settings["n"], filter_name=None, circle=False)
        return image * (2 * len(angles) / np.pi)

    projected = radon(data["speckled"], angles, circle=False)
    run.witness = float((projected.astype(np.float64) * y).sum())  # type: ignore[attr-defined]
    return run


def fbp(data: Data, settings: Data) -> Task:
    angles, y = np.rad2deg(settings["angles"]), data["sinogram"].T.copy()
    return lambda: iradon(y, angles, output_size=settings["n"], filter_name="ramp", circle=False)
