"""A CT scan of a volume in HU, or of the analytic phantom, at a given dose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import CTProjections, DataError, ReconError
from recon.hounsfield import WATER, attenuation, hounsfield
from recon.operators.cone import Cone, ConeXray
from recon.operators.xray import Fan, Parallel, Xray
from recon.prepare.image_noise import SOFT, measured
from recon.progress import Report, silent
from recon.simulation import ct, ct_cone, ct_phantom
from recon.simulation.ct import Beam
from recon.solve.fbp import fbp

#: Photons of the trial scan that shows how image noise depends on photons.
_TRIAL = 1e6


@dataclass(frozen=True)
class Scan:
    """Settings of a scan; lengths in mm, angles in degrees.

    `photons` in the middle of the beam without a body, or `dose`, the share of the source's own dose. With `elements` 0
    the detector covers the circle within the image, with elements as wide as `fineness` pixels at the axis; `rows` 0 of
    a cone beam likewise covers its slices. `offset` is the shift of the detector in elements; a quarter doubles the
    sampling of a full turn.
    """

    photons: float = 2e5
    dose: float = 0.0
    electronic: float = 5.0
    bow_tie: float = 0.5
    beam: Literal["parallel", "flat", "curved", "cone"] = "curved"
    views: int = 984
    arc: float = 0.0
    elements: int = 0
    rows: int = 0
    fineness: float = 0.8
    offset: float = 0.25
    source_distance: float = 595.0
    detector_distance: float = 490.0
    seed: int = 0


def rays(scan: Scan, size: int, voxel: float) -> Parallel | Fan:
    """The rays of a scan of `size` pixels of `voxel` mm a side; arc 0 means half a turn (parallel) or a full one (fan).

    Raises ReconError for a scan without rays.
    """
    angles = _angles(scan)
    radius, pitch = size * voxel / 2, scan.fineness * voxel
    if scan.beam == "parallel":
        n = scan.elements or 2 * math.ceil(radius / pitch) + 2
        return Parallel(angles, n, pitch, scan.offset * pitch)
    reach, far = scan.source_distance + scan.detector_distance, scan.source_distance
    if not far > radius:
        raise ReconError(f"the source is {far:g} mm from the axis, within the body; give a larger --source-distance")
    spacing = pitch * reach / far
    gamma = math.asin(radius / far)
    half = reach * (gamma if scan.beam == "curved" else math.tan(gamma))
    n = scan.elements or 2 * math.ceil(half / spacing) + 2
    return Fan(angles, n, spacing, far, scan.detector_distance, scan.beam == "curved", scan.offset * spacing)


def _angles(scan: Scan) -> Tensor:
    if scan.views < 1 or scan.elements < 0 or scan.rows < 0:
        raise ReconError(f"{scan.views} views of {scan.elements} elements measure nothing; give positive numbers")
    arc = math.radians(scan.arc or (180 if scan.beam == "parallel" else 360))
    return torch.arange(scan.views, dtype=torch.float64) * (arc / scan.views)


def _cone(scan: Scan, shape: tuple[int, int, int], voxel: float, step: float) -> Cone:
    return ct_cone.rays(
        _angles(scan), shape, voxel, step, scan.fineness, scan.offset, scan.source_distance, scan.detector_distance,
        scan.elements, scan.rows,
    )  # fmt: skip


def of_volume(
    hu: NDArray[np.float32],
    voxel: float,
    positions: tuple[float, ...],
    thickness: float,
    scan: Scan,
    report: Report = silent,
) -> CTProjections:
    """Projections of the slices (z, y, x) of a volume in HU, square in x and y, with the requested noise.

    Outside the circle within the image everything is set to air, because a detector that covers more would see a square
    body. With `scan.dose`, the volume's noise is taken as that of its own dose, which determines the added noise.
    """
    slices, ny, nx = hu.shape
    if scan.beam == "cone":
        return _of_cone(hu, voxel, positions, thickness, scan, report)
    g = rays(scan, min(ny, nx), voxel)
    A = Xray(g, (ny, nx), voxel)
    y, x = np.ogrid[:ny, :nx]
    circle = (y - (ny - 1) / 2) ** 2 + (x - (nx - 1) / 2) ** 2 < (min(ny, nx) / 2) ** 2
    photons, notes = scan.photons, []
    if scan.dose:
        photons = own_photons(hu[slices // 2], A, scan)
        notes.append(_shared(photons, scan))
    beam = Beam(photons, scan.electronic, scan.bow_tie, 0.35 * min(ny, nx) * voxel)
    air = ct.air(beam, g.distances)
    counts = np.empty((slices, g.angles.numel(), g.detectors), np.float32)
    for k in range(slices):
        report("project", k, slices)
        mu = attenuation(torch.from_numpy(np.where(circle, np.maximum(hu[k], -1000), -1000).astype(np.float32)))
        counts[k] = _noisy(A(mu), air, scan, k).numpy()
    report("project", slices, slices)
    return _projections(scan, g, counts, air, voxel, (ny, nx), positions, thickness, tuple(notes))


def _of_cone(
    hu: NDArray[np.float32], voxel: float, positions: tuple[float, ...], thickness: float, scan: Scan, report: Report
) -> CTProjections:
    step = float(np.diff(positions).mean()) if len(positions) > 1 else thickness
    g = _cone(scan, hu.shape, voxel, step)
    A = ConeXray(g, hu.shape, voxel, step)
    report("project", 0, 1)
    body = ct_cone.cylinder(hu)
    p = A(attenuation(torch.from_numpy(body)))
    report("project", 1, 1)
    if not scan.dose:
        return _of_rays(scan, g, p, voxel, hu.shape, step)
    # Slices near the plane of the source, where a circle measures everything, are used to measure the noise. There are
    # several, because the noise of a slice falls towards the middle between two detector rows.
    nz = hu.shape[0]
    few = min(nz, 4 + nz % 2)
    near = ConeXray(g, (few, *hu.shape[1:]), voxel, step)
    own = _photons(body[(nz - few) // 2 : (nz + few) // 2], p, near, scan)
    return _of_rays(replace(scan, photons=own), g, p, voxel, hu.shape, step, (_shared(own, scan),))


def _of_rays(
    scan: Scan, g: Cone, p: Tensor, voxel: float, shape: tuple[int, int, int], step: float, notes: tuple[str, ...] = ()
) -> CTProjections:
    """Counts of the line integrals (row, view, column) of a cone beam."""
    air = ct.air(Beam(scan.photons, scan.electronic, scan.bow_tie, 0.35 * min(shape[1:]) * voxel), g.distances)
    counts = np.stack([_noisy(p[k], air, scan, k).float().numpy() for k in range(len(p))])
    positions = tuple(float(v) for v in (np.arange(shape[0]) - (shape[0] - 1) / 2) * step)
    return _projections(scan, g, counts, air, voxel, shape[1:], positions, step, notes)


def of_phantom(size: int, scan: Scan, slices: int = 1) -> tuple[CTProjections, NDArray[np.float32]]:
    """Projections of the analytic phantom, free of pixel errors, and its HU (z, y, x) on pixels.

    A body in 380 mm; for a cone beam a head in 220 mm with as many slices as pixels a side.

    Raises ReconError for a `scan` with a share of a dose, because a phantom has no dose.
    """
    if scan.dose:
        raise ReconError("the phantom has no noise, so no dose to take a share of; give --photons instead of --dose")
    if scan.beam == "cone":
        shape, voxel = (size, size, size), 220 / size
        cone = _cone(scan, shape, voxel, voxel)
        made = _of_rays(scan, cone, ct_cone.integrals(ct_cone.HEAD, cone), voxel, shape, voxel)
        return made, ct_cone.picture(ct_cone.HEAD, shape, voxel, voxel).numpy()
    voxel = 380 / size
    g = rays(scan, size, voxel)
    p = ct_phantom.integrals(ct_phantom.BODY, g)
    air = ct.air(Beam(scan.photons, scan.electronic, scan.bow_tie, 0.35 * size * voxel), g.distances)
    counts = np.stack([_noisy(p, air, scan, k).float().numpy() for k in range(slices)])
    truth = ct_phantom.picture(ct_phantom.BODY, size, voxel).float().numpy()
    made = _projections(scan, g, counts, air, voxel, (size, size), tuple(float(k) for k in range(slices)), 1.0, ())
    return made, np.repeat(truth[None], slices, 0)


def own_photons(hu: NDArray[np.float32], A: Xray, scan: Scan) -> float:
    """The number of photons at which filtered backprojection of this slice would be as noisy as the slice itself.

    Noise is proportional to 1/√photons; a trial scan gives the factor. Raises DataError for a slice without noise.
    """
    return _photons(hu, A(attenuation(torch.from_numpy(np.maximum(hu, -1000).astype(np.float32)))), A, scan)


def _photons(hu: NDArray[np.float32], p: Tensor, A: Xray | ConeXray, scan: Scan) -> float:
    """`own_photons` of the slices, or of the one, that A makes of line integrals `p`."""
    image = torch.from_numpy(np.maximum(hu, -1000).astype(np.float32))
    own = float(measured(image).level.median())
    inside = (image > SOFT[0]) & (image < SOFT[1])
    if not own > 0 or int(inside.sum()) < 500:
        raise DataError("no noise was found in the source's soft tissue, so its dose is unknown; give --photons")
    air = ct.air(Beam(_TRIAL, 0, scan.bow_tie, 0.35 * min(A.shape[-2:]) * A.voxel), A.geometry.distances)
    generator = torch.Generator().manual_seed(scan.seed)
    noise = ct.variance(p, air).sqrt() * torch.randn(p.shape, generator=generator)
    trial = hounsfield(fbp(noise, A, "hann")).reshape(image.shape) + 1000
    return _TRIAL * (float(trial[inside].std()) / own) ** 2


def _shared(photons: float, scan: Scan) -> str:
    """The note on a source whose own noise corresponds to that many photons."""
    return f"the source's own noise is that of {photons:.3g} photons, of which {scan.dose:g} remain"


def _noisy(p: Tensor, air: Tensor, scan: Scan, k: int) -> Tensor:
    """Counts of one slice; their noise depends only on the seed and the slice number."""
    generator = torch.Generator().manual_seed(scan.seed * 1_000_003 + k)
    if not scan.dose:
        return ct.measured(p, air, scan.electronic, generator)
    low = ct.at_dose(p, air, scan.dose, scan.electronic, generator)
    return scan.dose * air.to(p.dtype) * (-low).exp()


def _projections(
    scan: Scan, g: Parallel | Fan | Cone, counts: NDArray[np.float32], air: Tensor, voxel: float,
    matrix: tuple[int, int], positions: tuple[float, ...], thickness: float, notes: tuple[str, ...],
) -> CTProjections:  # fmt: skip
    return CTProjections(
        values=counts,
        kind="counts",
        angles=g.angles.numpy(),
        beam=scan.beam,
        spacing=g.spacing,
        offset=g.offset,
        source_distance=0.0 if isinstance(g, Parallel) else g.source_distance,
        detector_distance=0.0 if isinstance(g, Parallel) else g.detector_distance,
        row_spacing=g.row_spacing if isinstance(g, Cone) else 0.0,
        row_offset=g.row_offset if isinstance(g, Cone) else 0.0,
        air=((scan.dose or 1.0) * air).float().numpy(),
        electronic_noise=scan.electronic,
        water=WATER,
        matrix=matrix,
        voxel=voxel,
        positions=positions,
        thickness=thickness,
        source="simulated CT projections",
        notes=notes,
    )
