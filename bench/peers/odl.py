"""ODL's ray transform on ASTRA's CPU code. Its axes are (x, y)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import odl
from odl.applications import tomo

Task = Callable[[], Any]
Data = dict[str, Any]


def _transform(settings: Data) -> Any:
    n, bins, count = settings["n"], settings["bins"], len(settings["angles"])
    space = odl.uniform_discr([-n / 2, -n / 2], [n / 2, n / 2], [n, n], dtype="float32")
    step = np.pi / count
    angles = odl.uniform_partition(-step / 2, np.pi - step / 2, count)
    geometry = tomo.Parallel2dGeometry(angles, odl.uniform_partition(-bins / 2, bins / 2, bins))
    return tomo.RayTransform(space, geometry, impl="astra_cpu")


def _turned(image: Any) -> Any:
    """Rows from the top down (y, x) as (x, y)."""
    return np.ascontiguousarray(image[::-1].T)


def project(data: Data, settings: Data) -> Task:
    transform = _transform(settings)
    x = transform.domain.element(_turned(data["image"]))
    return lambda: transform(x).asarray()


def backproject(data: Data, settings: Data) -> Task:
    transform = _transform(settings)
    y = transform.range.element(data["sinogram"])
    projected = transform(transform.domain.element(_turned(data["speckled"]))).asarray()

    def run() -> Any:
        return transform.adjoint(y).asarray().T[::-1]

    run.witness = float((projected.astype(np.float64) * data["sinogram"]).sum())  # type: ignore[attr-defined]
    return run


def fbp(data: Data, settings: Data) -> Task:
    transform = _transform(settings)
    y = transform.range.element(data["sinogram"])
    operator = tomo.fbp_op(transform, filter_type="Ram-Lak")
    return lambda: operator(y).asarray().T[::-1]
