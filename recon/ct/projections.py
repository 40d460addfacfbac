"""CT projections to images in HU."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import torch

from recon.ct import cone
from recon.ct.denoise import denoise_images
from recon.ct.explained import examined
from recon.ct.made import Made
from recon.ct.solving import choose, solve
from recon.data import CTProjections, Image, Measurement, ReconError
from recon.geometry import Geometry
from recon.hounsfield import WATER, hounsfield
from recon.job import described, fingerprint, provenance
from recon.operators import Weight, Xray
from recon.prepare import ct as prepare
from recon.progress import Report
from recon.recipe import Recipe
from recon.solve import truncated

#: Slices that are solved at once.
CHUNK = 4
#: Pixels along a side above which rays reduce quality if there are no more than this many views per pixel: they gained
#: at 160², and at 512² with 90 views, and lost at 512² with 480 (docs/how-to/ct-denoising.md); values between were not
#: measured.
FINE, ENOUGH = 320, 0.5


def reconstruct(
    scan: CTProjections, recipe: Recipe, device: torch.device, stack: int, report: Report, memory: int | None = None
) -> Image:
    """The slices of a scan in HU; raises ReconError for a method that does not apply to projections.

    `memory` limits the bytes that the volume of a cone beam may take; slices are solved a few at a time.
    """
    started = datetime.now(timezone.utc)
    if stack != 0:
        raise ReconError(f"projections hold one stack of slices, so there is no number {stack + 1}; leave --stack out")
    if recipe.trust.replicas:
        raise ReconError(
            "replicas can be made of Cartesian MRI scans and of CT images, not of projections; set trust.replicas = 0"
        )
    water = recipe.ct.water or scan.water or WATER
    if scan.beam == "cone":
        made = cone.volume(scan, recipe, device, water, report, memory)
    else:
        made = slices(scan, recipe, device, water, report)
    notes = [made.why, *made.notes]
    if made.seen < min(made.geometry.shape[1:]) * made.geometry.voxel[0] - 1e-6:
        notes.append(f"outside the circle of {made.seen:.0f} mm that the detector covers, values are not in HU")
    return Image(
        data=np.ascontiguousarray(made.data, dtype=np.float32),
        geometry=made.geometry,
        units="HU",
        header=described(scan.header, recipe),
        provenance={
            **provenance(recipe, device, started),
            "scan_sha256": scan.sha256() if scan.sha256 else fingerprint(scan.values),
            "method": made.method,
            "why": made.why,
            "water_per_mm": water,
            **made.provenance,
        },
        trust=made.trust,
        notes=tuple(dict.fromkeys((*scan.notes, *notes))),
    )


def slices(scan: CTProjections, recipe: Recipe, device: torch.device, water: float, report: Report) -> Made:
    """The slices of parallel rays or of a fan, each separately, a few at a time."""
    A = prepare.operator(scan, recipe.ct.matrix, recipe.ct.voxel)
    method, why = choose(recipe.solve.method, scan, A)

    def measured(first: int, last: int) -> prepare.Projected:
        rays = prepare.projected(scan, first, last)
        return replace(rays, p=rays.p.to(device), weights=rays.weights.to(device))

    out = np.empty((len(scan.values), *A.shape), np.float32)
    notes: list[str] = []
    lost, ends = list[float](), list[float]()
    for first in range(0, len(out), CHUNK):
        report(method, first, len(out))
        last = min(len(out), first + CHUNK)
        data = measured(first, last)
        out[first:last] = hounsfield(solve(method, data, A, recipe, water), water).cpu().numpy()
        notes += data.notes
        lost.append(data.lost)
        ends.append(truncated.cut(data.p, A))
    report(method, len(out), len(out))
    seen = prepare.field_of_view(A.geometry)
    made = Made(out, grid(scan, A), method, why, seen, tuple(notes), {"acquisition": "2D"}).streaked(max(lost))
    made = made.cut(max(ends))
    if method != "unrolled":
        return made

    def rays(k: int) -> Measurement:
        data = measured(k, k + 1)
        return Measurement(data.weights * data.p, water * (Weight(data.weights) @ A))

    held = recipe.ct.consistency == "rays"
    # Coarse structure is determined by the rays, so nothing of the start is given back.
    plan = replace(recipe, ct=replace(recipe.ct, coarse=0.0)) if held else recipe
    found = denoise_images(out, plan, device, report, rays if held else None)
    said = (
        ("data consistency: each cascade of the network was corrected by the measured rays", *costly(A)) if held else ()
    )
    if found.trust:
        found = examined(found, out, measured, A, water, recipe.trust, device, CHUNK)
    return replace(made, notes=(*notes, *said)).denoised(found)


def costly(A: Xray) -> list[str]:
    """The warning on using rays inside a network, if that was measured to reduce quality."""
    if min(A.shape) < FINE or len(A.geometry.angles) < ENOUGH * min(A.shape):
        return []
    return [
        "with fine pixels and enough views, data consistency with the rays brings noise back and cost 0.2 to "
        '2.2 dB in tests; set ct.consistency = "none", or a lower ct.matrix'
    ]


def grid(scan: CTProjections, A: Xray) -> Geometry:
    """The position of the slices: the axis of rotation at x = y = 0 of LPS, x to the left, y to the back, z upwards."""
    (ny, nx), v = A.shape, A.voxel
    steps = np.diff(scan.positions)
    step = float(steps.mean()) if len(steps) else scan.thickness
    return Geometry(
        (-(nx - 1) / 2 * v, -(ny - 1) / 2 * v, scan.positions[0]), (1, 0, 0), (0, 1, 0), (0, 0, 1), (v, v, step),
        (len(scan.values), ny, nx), scan.thickness, scan.header.study.patient_position != "",
    )  # fmt: skip
