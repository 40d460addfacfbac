"""From CT projections to attenuation: the same solvers as for other scans on A = Weight(w) @ Xray(geometry)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.data import CTProjections, DataError, Measurement, ReconError, counted
from recon.hounsfield import hounsfield
from recon.operators import ConeXray, Weight, Xray
from recon.operators.xray import Fan, Parallel
from recon.prepare import ct as prepare
from recon.prepare import image_noise
from recon.recipe import Recipe
from recon.solve import cg, pdhg, truncated
from recon.solve.fbp import Window, fbp, view_weights
from recon.solve.power import largest_eigenvalue
from recon.solve.sirt import sirt

#: Window of the ramp if the recipe names none. A network finds edges in noise that Hann's window would have removed
#: together with the noise, and shepp-logan is near the sharpest kernel of its training (bench/ct_consistency.py
#: --windows).
WINDOW: dict[str, Window] = {"fbp": "hann", "unrolled": "shepp-logan"}
ITERATIONS = {"sirt": 50, "cgls": 10, "tv": 100}
#: Below this number of views total variation takes more iterations, in proportion to the missing views, up to a maximum
#: factor: few views converge more slowly, and each iteration is cheaper (60, 120 and 360 views of the phantom).
MANY_VIEWS, SLOWER = 240, 4
#: Weight of total variation in units of the recipe's `solve.tv` over the noise of a filtered backprojection.
TV_WEIGHT = 2.0
#: Line integrals with more elements at either end, and how many (`truncated.continued`).
Continued = tuple[Tensor, tuple[int, int]]
#: Fewer views than this share of the detector's elements leave streaks in a filtered backprojection.
SPARSE = 0.25


def choose(wanted: str, scan: CTProjections, A: Xray | ConeXray) -> tuple[str, str]:
    """The method and the sentence with the reason; "auto" is fbp if there are enough views, otherwise tv.

    Raises ReconError for a method for MRI.
    """
    if wanted in ("fbp", "sirt", "cgls", "tv"):
        return wanted, f"{wanted}: asked for"
    if wanted == "unrolled":
        return wanted, "unrolled: filtered backprojection"
    if wanted != "auto":
        raise ReconError(f"{wanted} reconstructs MRI scans, and these are CT projections; use fbp, sirt, cgls or tv")
    views, elements = scan.values.shape[1:]
    if views < SPARSE * elements:
        return "tv", f"tv: {counted(views, 'view is', 'views are')} too few for {elements} detector elements"
    try:
        view_weights(A)
    except DataError:
        return "tv", "tv: the views cover a smaller angle than filtered backprojection needs"
    if isinstance(A.geometry, Parallel) and float(np.ptp(scan.angles)) * (1 + 1 / views) < 0.97 * np.pi:
        return "tv", "tv: the views cover less than 180°"
    return "fbp", f"fbp: {views} views, enough and over a sufficient angle"


def solve(method: str, data: prepare.Projected, A: Xray | ConeXray, recipe: Recipe, water: float) -> Tensor:
    """Attenuation (slice, y, x) in 1/mm that explains the line integrals.

        fbp, unrolled   filtered backprojection with the window `ct.filter`
        sirt   min Σ w (p − Ax)² / (A 1), x ≥ 0, stopped after `iterations`
        cgls   min ‖w (p − Ax)‖² by conjugate gradients, stopped after `iterations`
        tv     min ½‖w (p − Ax)‖² + β TV(x), x ≥ 0, β = TV_WEIGHT · `solve.tv` / s

    w are the inverse standard deviations of the rays, and s is their noise after filtered backprojection. Iterations
    start from the filtered backprojection if there are enough views for one. A body that extends beyond the detector is
    extrapolated (`truncated`), and the image grid is enlarged during the iterations.
    """
    views = truncated.continued(data.p, A, water)
    if method in ("fbp", "unrolled"):
        return fbp(views[0], A, WINDOW[method] if recipe.ct.filter == "auto" else recipe.ct.filter, views[1])
    around, margin = _enlarged(A, max(views[1]))
    x = _iterated(method, data, around, views, recipe, water)
    return x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]


def _enlarged(A: Xray | ConeXray, beyond: int) -> tuple[Xray | ConeXray, int]:
    """The projection of an image enlarged on each side so that it holds a body `beyond` the detector.

    Otherwise iterations would pile up what lies outside an image on its rim. The enlarged image stays clear of the
    source and within twice the size.
    """
    if isinstance(A, ConeXray) or not beyond:
        return A, 0
    needed = float(A.geometry.distances.abs().max()) + beyond * truncated.spacing(A)
    margin = min(math.ceil(needed / A.voxel - min(A.shape) / 2), min(A.shape) // 2)
    if isinstance(A.geometry, Fan):
        side = math.sqrt(2) * A.geometry.source_distance / A.voxel - 2
        margin = min(margin, math.floor((side - max(A.shape)) / 2))
    if margin <= 0:
        return A, 0
    return replace(A, shape=(A.shape[0] + 2 * margin, A.shape[1] + 2 * margin)), margin


def _iterated(
    method: str, data: prepare.Projected, A: Xray | ConeXray, views: Continued, recipe: Recipe, water: float
) -> Tensor:
    """The image of an iterative method, from one of the extrapolated views."""
    m = Measurement(data.weights * data.p, Weight(data.weights) @ A)
    n = recipe.solve.iterations or ITERATIONS[method]
    start = _start(data.p, A, views)
    if method == "sirt":
        return sirt(m, x0=start, iterations=n).x
    normal, b = m.A.normal(), m.A.adjoint(m.y)
    if method == "cgls":
        return cg.cg(normal, b, x0=start, iterations=n, tolerance=recipe.solve.tolerance).x
    norm = 1.05 * float(largest_eigenvalue(normal, b).max()) ** 0.5
    beta = TV_WEIGHT * recipe.solve.tv / _noise(data, A, start, water)
    if not recipe.solve.iterations:
        n = round(n * min(SLOWER, max(1.0, MANY_VIEWS / data.p.shape[-2])))
    # A and y divided by the norm of A, because the solver's steps are made for operators of norm 1.
    scaled = Measurement(m.y / norm, (1 / norm) * m.A, 1 / norm)
    return pdhg.tv(
        scaled, lam=beta / norm, iterations=n, tolerance=1e-4, constraint="nonnegative", x0=start, **_axes(A)
    ).x


def _axes(A: Xray | ConeXray) -> dict[str, Any]:
    """Slices of a fan are independent; a volume varies along z, too, in voxels that may be thick."""
    if not isinstance(A, ConeXray):
        return {"axes": (-2, -1)}
    axes = tuple(a for a in (-3, -2, -1) if A.shape[a] > 1)
    return {"axes": axes, "spacing": tuple({-3: A.step / A.voxel}.get(a, 1.0) for a in axes)}


def _noise(data: prepare.Projected, A: Xray | ConeXray, start: Tensor, water: float) -> float:
    """Standard deviation in 1/mm within the body that the noise of the rays has after filtered backprojection.

    Streaks from few views are not included, though they would look like noise in the image. If there are too few views
    for a filtered backprojection, the noise is estimated from the image itself.
    """
    weights = data.weights.expand(data.p.shape)
    white = torch.randn(data.p.shape, generator=torch.Generator().manual_seed(0), dtype=data.p.dtype).to(data.p.device)
    noise = torch.where(weights > 0, white / weights.clamp_min(1e-6), 0.0)
    try:
        seen = fbp(noise, A, "hann").abs()[start > 0.5 * water]
    except DataError:
        return float(image_noise.measured(hounsfield(start, water)).level.median()) / 1000 * water or 1e-4 * water
    return 1.4826 * float(seen[:: 1 + seen.numel() // 1_000_000].median()) if seen.numel() else 1e-4 * water


def _start(p: Tensor, A: Xray | ConeXray, views: Continued) -> Tensor:
    """A first image: filtered backprojection if there are enough views, otherwise a few conjugate gradients."""
    try:
        return fbp(views[0], A, "hann", views[1]).clamp_min(0)
    except DataError:
        return cg.cg(A.normal(), A.adjoint(p), iterations=10).x.clamp_min(0)
