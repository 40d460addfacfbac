"""From CT projections to a measurement: counts become line integrals, rays an operator, noise the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recon.data import CTProjections, DataError, counted
from recon.operators.cone import Cone, ConeXray
from recon.operators.windows import box
from recon.operators.xray import Fan, Parallel, Xray
from recon.prepare import elements

#: Largest share of rays without any photon; a larger one means a wrong dark field or data that are not counts.
STARVED = 0.25
#: Counts below this are set to it before the logarithm is taken, as scanners do for photon-starved rays.
FLOOR = 0.5
#: A ray counts as lost if its count is below this many standard deviations. Above this share of lost rays in a slice,
#: streaks are reported: up to it, the bias of the logarithm stayed below 10 HU in 99 % of the body of simulated scans
#: (bench/ct_starved.py).
LOST, MANY_LOST = 3.0, 1e-3
#: Number of detector elements and of views over which the noise of line integrals is averaged if there are no counts.
WINDOW = 9


@dataclass(frozen=True)
class Projected:
    """Line integrals `p` (slice, view, detector), the inverse `weights` = 1/√variance of each ray, and notes.

    `lost` is the share of lost rays (count below LOST standard deviations) in the worst slice, or in the worst detector
    row of a cone beam; for line integrals without counts it is `drowned`.
    """

    p: Tensor
    weights: Tensor
    notes: tuple[str, ...] = ()
    lost: float = 0.0


def streaked(lost: float) -> str:
    """The warning for a scan whose worst slice lost this share of its rays; empty for a small share."""
    if lost <= MANY_LOST:
        return ""
    return (
        f"{lost:.2%} of the rays of a slice are lost in noise (below {LOST:g} standard deviations): streaks "
        "along them are artefacts, however smooth they look, and soft tissue there may be off by 10 HU or more"
    )


def geometry(scan: CTProjections) -> Parallel | Fan:
    """The rays of a scan; raises DataError if no ray reaches the image."""
    angles, n = torch.from_numpy(np.ascontiguousarray(scan.angles)), scan.values.shape[-1]
    if scan.beam == "parallel":
        return Parallel(angles, n, scan.spacing, scan.offset)
    return Fan(
        angles, n, scan.spacing, scan.source_distance, scan.detector_distance, scan.beam == "curved", scan.offset
    )


def cone(scan: CTProjections) -> Cone:
    """The rays of a cone beam; raises DataError if no ray reaches the image."""
    rows, _, columns = scan.values.shape
    return Cone(
        torch.from_numpy(np.ascontiguousarray(scan.angles)), rows, columns, scan.row_spacing, scan.spacing,
        scan.source_distance, scan.detector_distance, scan.row_offset, scan.offset,
    )  # fmt: skip


def field_of_view(g: Parallel | Fan | Cone) -> float:
    """Diameter in mm of the circle that every view covers completely, or a shifted detector covers from one side."""
    return 2 * float(g.distances.abs().max())


def operator(scan: CTProjections, matrix: int = 0, voxel: float = 0.0) -> Xray:
    """The projection operator of a scan's slices; `matrix` and `voxel` replace the file's values, 0 keeps them.

    If the file gives none, the image has 512 pixels a side and covers the circle that is seen. Raises DataError if the
    source lies within the image.
    """
    g = geometry(scan)
    return Xray(g, *_plane(scan, matrix, voxel, field_of_view(g)))


def volume_operator(scan: CTProjections, matrix: int = 0, voxel: float = 0.0, thickness: float = 0.0) -> ConeXray:
    """The projection operator of a cone beam's volume; `thickness` replaces the file's thickness and positions.

    If the file gives none, slices are as thick as pixels are wide and cover what the detector rows see at the axis.
    Raises as `operator`.
    """
    g = cone(scan)
    shape, size = _plane(scan, matrix, voxel, field_of_view(g))
    if scan.positions and not thickness:
        # The volume is ordered along the axis, whatever the order of the requested slices.
        step = abs(float(np.diff(scan.positions).mean())) if len(scan.positions) > 1 else scan.thickness or size
        return ConeXray(g, (len(scan.positions), *shape), size, step, float(np.mean(scan.positions)))
    step = thickness or scan.thickness or size
    ends = (g.heights[[0, -1]] + torch.tensor([-0.5, 0.5]) * g.row_spacing) * g.source_distance
    low, high = (ends / (g.source_distance + g.detector_distance)).tolist()
    return ConeXray(g, (max(1, int((high - low) / step + 1e-6)), *shape), size, step, (low + high) / 2)


def _plane(scan: CTProjections, matrix: int, voxel: float, seen: float) -> tuple[tuple[int, int], float]:
    """Matrix and pixel size of a slice: those requested, those of the file, or 512 pixels over the diameter `seen`."""
    ny, nx = (matrix, matrix) if matrix else (scan.matrix if min(scan.matrix) else (512, 512))
    return (ny, nx), voxel or (scan.voxel if scan.voxel and not matrix else 0.0) or seen / max(ny, nx)


def projected(scan: CTProjections, first: int, last: int) -> Projected:
    """Line integrals of the slices first … last − 1, with the weight of each ray.

        p = ln(I₀ / I),   I = max(counts − dark, ½ photon),
        variance (N + σ²) / N² in photons

    Line integrals without counts get equal weights; their noise is estimated from neighbouring elements. Rays of a few
    faulty elements are interpolated from their neighbours and get weight zero. Faulty are those that `elements.faulty`
    finds, and those whose flat field is not above the dark field. Raises DataError for flat fields without light and
    for data that are not counts.
    """
    values = torch.from_numpy(np.ascontiguousarray(scan.values[first:last]))
    if scan.kind == "line integrals":
        sigma = _rough(values)
        weights = torch.full((1, 1, 1), 1 / sigma if sigma > 0 else 1.0)
        return _mended(Projected(values, weights, lost=drowned(values)), torch.zeros(values.shape[0], values.shape[-1]))
    assert scan.air is not None
    dark = torch.zeros(()) if scan.dark is None else torch.from_numpy(scan.dark)
    air = (torch.from_numpy(scan.air) - dark) * scan.counts_per_unit
    blind = (air <= 0).broadcast_to(values.shape).any(-2)
    if elements.too_many(blind):
        raise DataError(
            f"{int((air <= 0).sum())} of {air.numel()} elements have no counts in air (flat minus dark is 0 or "
            "less): correct the flat and dark fields, or leave those elements out"
        )
    photons = (values - dark) * scan.counts_per_unit
    seen = ~blind[:, None].expand(photons.shape)
    starved = float((photons < FLOOR)[seen].float().mean())
    if starved > STARVED:
        raise DataError(
            f"{starved:.0%} of the rays have no photons (counts minus dark are 0 or less): correct the dark "
            "field, or mark line integrals as such"
        )
    n = photons.clamp_min(FLOOR)
    p = torch.where(air > 0, air, 1.0).log() - n.log()
    bright = float((p < -0.5)[seen].float().mean())
    if bright > 0.01:
        raise DataError(
            f"{bright:.0%} of the rays are brighter behind the body than in air: the flat field belongs to "
            "another exposure; give the one of this exposure"
        )
    electronic = scan.electronic_noise * scan.counts_per_unit
    return _mended(Projected(p, n / (n + electronic**2).sqrt()), blind, photons)


def _mended(data: Projected, blind: Tensor, photons: Tensor | None = None) -> Projected:
    """The rays, with those of faulty elements and of `blind` (slice, detector) filled in, and a note."""
    few = data.weights < LOST if photons is not None else torch.zeros_like(data.p, dtype=torch.bool)
    bad = elements.faulty(data.p, few) | blind.bool()
    many = int(bad.any(0).sum())
    if elements.too_many(bad):
        what = "detector elements are dead or stuck, too many to fill in: rings in the image are artefacts"
        return _counted(data, photons, (f"{many} {what}",))
    if not many:
        return _counted(data, photons, ())
    good = (~bad)[:, None]
    weights = (data.weights * good).expand(data.p.shape)
    ones = counted(many, "detector element is", "detector elements are")
    note = f"{ones} dead or stuck: their rays were interpolated from neighbouring elements"
    kept = photons if photons is None else torch.where(good, photons, torch.inf)
    return _counted(Projected(elements.filled(data.p, bad), weights, lost=data.lost), kept, (note,), good)


def _counted(data: Projected, photons: Tensor | None, notes: tuple[str, ...], good: Tensor | None = None) -> Projected:
    """The rays, the share of lost rays among `good` elements, and a note on photon-starved rays."""
    if photons is None:
        return replace(data, notes=notes)
    starved = photons < FLOOR
    share, few = float(starved.float().mean()), data.weights < LOST
    lost = float((few if good is None else few & good).float().mean((-2, -1)).max())
    # A few rays in millions would be rounded to 0 %.
    many = f"{share:.2%} of the rays" if share >= 1e-4 else counted(int(starved.sum()), "ray")
    said = (f"photon starvation: {many} without a detected photon, given almost no weight",) if share > 0 else ()
    return replace(data, notes=(*notes, *said), lost=lost)


def drowned(p: Tensor) -> float:
    """Share of rays in the worst slice of line integrals (..., view, detector) whose noise σ is above 1/LOST.

    Because var p ≈ 1/N, these are the rays whose counts are below LOST standard deviations. For Gaussian noise the mean
    size of second differences along the detector is √(12/π) σ; it is averaged over WINDOW × WINDOW rays, few of which
    cross an edge of the body.
    """
    if p.shape[-1] < 3:
        return 0.0
    second = (p[..., 2:] - 2 * p[..., 1:-1] + p[..., :-2]).abs()
    sigma = box(second, WINDOW, inside=True) / math.sqrt(12 / math.pi)
    return float((sigma > 1 / LOST).float().mean((-2, -1)).max())


def _rough(p: Tensor) -> float:
    """Standard deviation of line integrals, from second differences along the detector; 0 where there are none."""
    if p.shape[-1] < 3:
        return 0.0
    d = p[..., 2:] - 2 * p[..., 1:-1] + p[..., :-2]
    return float(d.abs().flatten()[:: max(1, d.numel() // 1_000_000)].median()) / (0.6745 * math.sqrt(6))
