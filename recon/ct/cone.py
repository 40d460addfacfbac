"""The volume of a cone beam in HU, solved as a whole."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from recon import plan
from recon.ct.denoise import Denoised, denoise_images
from recon.ct.made import Made
from recon.ct.solving import choose, solve
from recon.data import CTProjections, ReconError
from recon.errors import TooLarge
from recon.geometry import Geometry
from recon.hounsfield import attenuation, hounsfield
from recon.operators import ConeXray
from recon.prepare import ct as prepare
from recon.progress import Report
from recon.recipe import Recipe
from recon.solve import truncated


def volume(
    scan: CTProjections, recipe: Recipe, device: torch.device, water: float, report: Report, memory: int | None
) -> Made:
    """The volume, by the solvers used for slices on a `ConeXray`; the networks process it slice by slice.

    Raises TooLarge if the memory does not suffice, ReconError if rays are to be used inside a network.
    """
    if recipe.ct.consistency == "rays":
        raise ReconError(
            'ct.consistency = "rays" works on slices of a fan beam only, and this is a cone beam; set it to "none"'
        )
    A = prepare.volume_operator(scan, recipe.ct.matrix, recipe.ct.voxel, recipe.ct.thickness)
    method, why = choose(recipe.solve.method, scan, A)
    fits(scan, A, method, memory)
    report(method, 0, 1)
    data = prepare.projected(scan, 0, len(scan.values))
    rays = replace(data, p=data.p.to(device), weights=data.weights.to(device))
    beyond = truncated.cut(rays.p, A)
    if beyond:
        fits(scan, A, method, memory, cut=True)
    hu = hounsfield(solve(method, rays, A, recipe, water), water).cpu().numpy()
    report(method, 1, 1)
    notes = [*data.notes, *([approximate(A)] if method in ("fbp", "unrolled") else [])]
    seen = prepare.field_of_view(A.geometry)
    made = Made(hu, grid(scan, A), method, why, seen, tuple(n for n in notes if n), {"acquisition": "3D"})
    made = made.streaked(data.lost).cut(beyond)
    if method != "unrolled":
        return made
    return made.denoised(explained(denoise_images(hu, recipe, device, report), hu, rays, A, water, recipe))


def fits(scan: CTProjections, A: ConeXray, method: str, memory: int | None, *, cut: bool = False) -> None:
    """Raises TooLarge if the volume of a scan is predicted to need more memory than is free, or than `memory` allows.

    `cut` says that the body extends beyond the detector.
    """
    bytes_, free = plan.cone(scan.values.size, math.prod(A.shape), method, cut=cut), plan.budget(memory)
    if bytes_ > free:
        raise TooLarge(
            f"a volume of {'×'.join(map(str, A.shape))} from {'×'.join(map(str, scan.values.shape))} rays by {method} "
            f"needs {bytes_ / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are allowed",
            "lower ct.matrix or raise ct.thickness in the recipe, or take --method fbp",
        )


def approximate(A: ConeXray) -> str:
    """The note on filtered backprojection for a volume that leaves the plane of the source."""
    half = (A.shape[0] - 1) / 2 * A.step + abs(A.height)
    angle = math.degrees(math.atan(half / A.geometry.source_distance))
    if angle < 1:
        return ""
    return (
        f"a circular orbit measures only the plane of the orbit completely: slices up to {half:.0f} mm from "
        f"it, seen at a cone angle of {angle:.0f}°, may be too dark between dense parts; iterative methods "
        "reduce that"
    )


def explained(
    found: Denoised, start: np.ndarray, rays: prepare.Projected, A: ConeXray, water: float, recipe: Recipe
) -> Denoised:
    """The network's volume, compared with all rays like the filtered backprojection, as in `explained.examined`.

    There is one residual for the volume; if it is too large, the whole volume falls back.
    """
    if not found.trust:
        return found

    def misfit(hu: np.ndarray) -> float:
        mu = attenuation(torch.from_numpy(hu).to(rays.p.device), water)
        return float((rays.weights * (A(mu) - rays.p)).square().mean())

    ours, theirs = misfit(found.data), misfit(start)
    trust = {**found.trust, "residual": ours, "classical_residual": theirs}
    if ours <= recipe.trust.residual * max(1.0, theirs):
        return replace(found, trust=trust)
    reason = (
        f"the residual of the learned volume in the projections is {ours:.2f} times the power of the noise, "
        f"that of filtered backprojection {theirs:.2f} times"
    )
    back = recipe.trust.fallback
    trust |= {"reasons": sorted({*trust["reasons"], reason}), "fallbacks": len(start) if back else trust["fallbacks"]}
    notes = (*found.notes, f"all slices show the filtered backprojection: {reason}") if back else found.notes
    return replace(found, data=start if back else found.data, trust=trust, notes=notes)


def grid(scan: CTProjections, A: ConeXray) -> Geometry:
    """The position of the volume: the axis of rotation at x = y = 0 of LPS, the plane of the source at z = 0."""
    (nz, ny, nx), v = A.shape, A.voxel
    low = A.height - (nz - 1) / 2 * A.step
    return Geometry(
        (-(nx - 1) / 2 * v, -(ny - 1) / 2 * v, low), (1, 0, 0), (0, 1, 0), (0, 0, 1), (v, v, A.step),
        (nz, ny, nx), A.step, scan.header.study.patient_position != "",
    )  # fmt: skip
