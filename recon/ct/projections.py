"""CT projections to images in HU: the solvers of every other scan on A = Weight(w) @ Xray(geometry)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import torch
from torch import Tensor

from recon.ct.denoise import denoise_images
from recon.ct.explained import examined
from recon.data import CTProjections, DataError, Image, Measurement, ReconError
from recon.geometry import Geometry
from recon.hounsfield import WATER, hounsfield
from recon.job import described, fingerprint, provenance
from recon.operators import Weight, Xray
from recon.operators.xray import Parallel
from recon.prepare import ct as prepare
from recon.prepare import image_noise
from recon.progress import Report
from recon.recipe import Recipe
from recon.solve import cg, pdhg
from recon.solve.fbp import Window, fbp, view_weights
from recon.solve.power import largest_eigenvalue
from recon.solve.sirt import sirt

#: Window of the ramp where the recipe leaves it open: a network finds edges beneath noise that Hann's would have taken
#: away with it, and shepp-logan is near the sharpest kernel of its training (bench/ct_consistency.py --windows).
WINDOW: dict[str, Window] = {"fbp": "hann", "unrolled": "shepp-logan"}
ITERATIONS = {"sirt": 50, "cgls": 10, "tv": 100}
#: Weight of total variation in units of the recipe's `solve.tv` over the noise of a filtered backprojection.
TV_WEIGHT = 2.0
#: Slices that are solved at once.
CHUNK = 4
#: Pixels along a side from which rays cost quality where the views are this many a pixel: they gained at 160², and at
#: 512² of 90 views, and lost at 512² of 480 (docs/how-to/ct-denoising.md); between was not measured.
FINE, ENOUGH = 320, 0.5
#: Fewer views than this part of the detector's elements leave streaks in a filtered backprojection.
SPARSE = 0.25


def reconstruct(scan: CTProjections, recipe: Recipe, device: torch.device, stack: int, report: Report) -> Image:
    """The slices of a scan in HU; raises ReconError for a method that takes no projections."""
    started = datetime.now(timezone.utc)
    if stack != 0:
        raise ReconError(f"projections hold one stack of slices and no number {stack + 1}; leave --stack out")
    if recipe.trust.replicas:
        raise ReconError(
            "replicas are made of Cartesian scans of MRI and of CT images, and these are projections; set "
            "trust.replicas = 0"
        )
    A = prepare.operator(scan, recipe.ct.matrix, recipe.ct.voxel)
    method, why = choose(recipe.solve.method, scan, A)
    water = recipe.ct.water or scan.water or WATER

    def measured(first: int, last: int) -> prepare.Projected:
        rays = prepare.projected(scan, first, last)
        return replace(rays, p=rays.p.to(device), weights=rays.weights.to(device))

    out = np.empty((len(scan.values), *A.shape), np.float32)
    notes: list[str] = []
    for first in range(0, len(out), CHUNK):
        report(method, first, len(out))
        last = min(len(out), first + CHUNK)
        data = measured(first, last)
        out[first:last] = hounsfield(solve(method, data, A, recipe, water), water).cpu().numpy()
        notes += data.notes
    report(method, len(out), len(out))
    g = grid(scan, A)
    extra, trust = {}, {}
    if method == "unrolled":

        def rays(k: int) -> Measurement:
            data = measured(k, k + 1)
            return Measurement(data.weights * data.p, water * (Weight(data.weights) @ A))

        held = recipe.ct.consistency == "rays"
        # What is coarse the rays decide, and nothing of the start is to be given back.
        plan = replace(recipe, ct=replace(recipe.ct, coarse=0.0)) if held else recipe
        found = denoise_images(out, plan, device, report, rays if held else None)
        notes += ["after each cascade the rays that were measured had a say"] if held else []
        notes += costly(A) if held else []
        if found.trust:
            found = examined(found, out, measured, A, water, recipe.trust, device, CHUNK)
        out = found.data
        extra, trust, notes, why = (
            dict(found.provenance),
            dict(found.trust),
            [*notes, *found.notes],
            f"{why}, then {found.why}",
        )
    seen = prepare.field_of_view(A.geometry)
    if seen < min(A.shape) * A.voxel - 1e-6:
        notes.append(f"beyond the circle of {seen:.0f} mm that the detector sees values are no HU")
    return Image(
        data=np.ascontiguousarray(out, dtype=np.float32),
        geometry=g,
        units="HU",
        header=described(scan.header, recipe),
        provenance={
            **provenance(recipe, device, started),
            "scan_sha256": scan.sha256() if scan.sha256 else fingerprint(scan.values),
            "method": method,
            "why": why,
            "water_per_mm": water,
            "acquisition": "2D",
            **extra,
        },
        trust=trust,
        notes=tuple(dict.fromkeys((*scan.notes, why, *notes))),
    )


def costly(A: Xray) -> list[str]:
    """What to say of rays that have a say in a network's image: a sentence where that was measured to cost quality."""
    if min(A.shape) < FINE or len(A.geometry.angles) < ENOUGH * min(A.shape):
        return []
    return [
        "pixels are fine and views suffice: there rays bring noise back, and were measured to cost 0.2 to 2.2 dB; set "
        'ct.consistency = "none", or a lower ct.matrix'
    ]


def choose(wanted: str, scan: CTProjections, A: Xray) -> tuple[str, str]:
    """The method and the sentence that says why; "auto" is fbp where the views suffice, otherwise tv.

    Raises ReconError for a method of MRI.
    """
    if wanted in ("fbp", "sirt", "cgls", "tv"):
        return wanted, f"{wanted}: asked for"
    if wanted == "unrolled":
        return wanted, "unrolled: filtered backprojection"
    if wanted != "auto":
        raise ReconError(
            f"{wanted} reconstructs scans of MRI and these are projections of CT; use fbp, sirt, cgls or tv"
        )
    views, elements = scan.values.shape[1:]
    if views < SPARSE * elements:
        return "tv", f"tv: {views} views are few for {elements} detector elements"
    try:
        view_weights(A)
    except DataError:
        return "tv", "tv: the views cover less than filtered backprojection needs"
    if isinstance(A.geometry, Parallel) and float(np.ptp(scan.angles)) * (1 + 1 / views) < 0.97 * np.pi:
        return "tv", "tv: the views cover less than half a turn"
    return "fbp", f"fbp: {views} views cover what it needs"


def solve(method: str, data: prepare.Projected, A: Xray, recipe: Recipe, water: float) -> Tensor:
    """Attenuation (slice, y, x) in 1/mm that explains the line integrals.

        fbp, unrolled   filtered backprojection with the window `ct.filter`
        sirt   min Σ w (p − Ax)² / (A 1), x ≥ 0, stopped after `iterations`
        cgls   min ‖w (p − Ax)‖² by conjugate gradients, stopped after `iterations`
        tv     min ½‖w (p − Ax)‖² + β TV(x), x ≥ 0, β = TV_WEIGHT · `solve.tv` / s

    w are the inverse standard deviations of the rays, s the noise of a filtered backprojection of the same data, from
    which iterations start where the views allow one.
    """
    if method in ("fbp", "unrolled"):
        return fbp(data.p, A, WINDOW[method] if recipe.ct.filter == "auto" else recipe.ct.filter)
    m = Measurement(data.weights * data.p, Weight(data.weights) @ A)
    n = recipe.solve.iterations or ITERATIONS[method]
    if method == "sirt":
        return sirt(m, x0=_start(data, A), iterations=n).x
    normal, b = m.A.normal(), m.A.adjoint(m.y)
    if method == "cgls":
        return cg.cg(normal, b, x0=_start(data, A), iterations=n, tolerance=recipe.solve.tolerance).x
    norm = 1.05 * float(largest_eigenvalue(normal, b).max()) ** 0.5
    start = _start(data, A)
    s = float(image_noise.measured(hounsfield(start, water)).level.median()) / 1000 * water or 1e-4 * water
    beta = TV_WEIGHT * recipe.solve.tv / s
    # A and y over the norm of A: the solver's steps are made for operators of norm 1.
    scaled = Measurement(m.y / norm, (1 / norm) * m.A, 1 / norm)
    return pdhg.tv(
        scaled, lam=beta / norm, iterations=n, tolerance=1e-4, axes=(-2, -1), constraint="nonnegative", x0=start
    ).x


def _start(data: prepare.Projected, A: Xray) -> Tensor:
    """A first image: filtered backprojection where the views allow one, else a few conjugate gradients."""
    try:
        return fbp(data.p, A, "hann").clamp_min(0)
    except DataError:
        return cg.cg(A.normal(), A.adjoint(data.p), iterations=10).x.clamp_min(0)


def grid(scan: CTProjections, A: Xray) -> Geometry:
    """The place of the slices: the axis of rotation at x = y = 0 of LPS, x to the left, y to the back, z upwards."""
    (ny, nx), v = A.shape, A.voxel
    steps = np.diff(scan.positions)
    step = float(steps.mean()) if len(steps) else scan.thickness
    return Geometry(
        (-(nx - 1) / 2 * v, -(ny - 1) / 2 * v, scan.positions[0]), (1, 0, 0), (0, 1, 0), (0, 0, 1), (v, v, step),
        (len(scan.values), ny, nx), scan.thickness, scan.header.study.patient_position != "",
    )  # fmt: skip
