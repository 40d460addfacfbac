"""Single-slice rebinning: from the cone beam of a helix, or of circles, to a fan beam for each slice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import CTProjections, CTViews, DataError
from recon.prepare.rays import Family, families, sections, spots

#: Thinnest slices made if no thickness is requested, in mm.
THICKNESS = 1.0
#: Weight of a ray outside the detector or too far from the slice: it is used only if there is no other.
_LAST = 1e-4


@dataclass(frozen=True)
class Plan:
    """Where the slices lie: `positions` along the gantry's z in mm, rising; views are within `reach` of a slice.

    `turn` is the table travel per rotation, or from circle to circle, in mm. `beyond` is how far the rays that the
    slices need lie outside the detector's rows, in mm at the axis.
    """

    positions: NDArray[np.float64]
    thickness: float
    reach: float
    turn: float
    beyond: float = 0.0


def fans(scan: CTViews, thickness: float = 0.0) -> CTProjections:
    """Full-turn fan-beam sinograms of contiguous slices, each `thickness` mm thick, computed on request.

    The ray at (β, γ) of a slice at z is made from rays of the cone beam that lie in the same plane parallel to the axis
    and meet the slice where they pass the axis, from views on both sides of the slice:

        p(β, γ) = Σᵢ wᵢ cos κᵢ pᵢ / Σᵢ wᵢ,   tan κᵢ = Δzᵢ / ℓ,   ℓ = ρ cos γ,
        wᵢ = max(0, 1 − |Δzᵢ| / H)

    with Δzᵢ from the source to the slice, and H wide enough that views from both sides of the slice always count. Each
    ray starts at the true position of a flying focal spot. Slices thicker than a row are means over positions within
    them. Raises DataError if the table is too fast for the detector, if focal spots follow no pattern, and if circles
    are too short.

    F. Noo, M. Defrise and R. Clackdoyle, Single-slice rebinning method for helical cone-beam CT, Phys. Med. Biol. 44,
    561 (1999).
    """
    row = scan.spacing[0] * scan.radius / scan.distance
    thick = thickness or max(THICKNESS, row)
    rays = families(scan)
    plan = _helix(scan, rays, thick) if scan.helical else _circles(scan, rays, thick)
    turned, mirrored, up = _to_patient(scan.header.study.patient_position, virtual(scan))
    columns, step = scan.shape[1], scan.spacing[1]
    offset = ((columns - 1) / 2 - scan.centre[1]) * step
    positions = up * plan.positions
    order = slice(None, None, 1 if up > 0 else -1)
    within = max(1, round(thick / row))
    values = Rebinned(scan, rays, replace(plan, positions=plan.positions[order]), within, mirrored)
    notes = [f"{'helical' if scan.helical else 'axial'} cone beam: rebinned to fans, slice by slice"]
    states = len(spots(scan.shifts)[0])
    if states > 1:
        notes.append(f"flying focal spot: {states} positions of the X-ray source")
    if plan.beyond > 0.5 * row:
        notes.append(f"rays up to {plan.beyond:.1f} mm beyond the outermost detector row were taken from that row")
    if not scan.header.study.patient_position:
        notes.append("the patient position is not given: head first, supine is assumed")
    return CTProjections(
        values=cast(NDArray[np.float32], values), kind="line integrals", angles=turned,
        beam="curved" if scan.curved else "flat", spacing=step, offset=-offset if mirrored else offset,
        source_distance=scan.radius, detector_distance=scan.distance - scan.radius, water=scan.water,
        positions=tuple(float(z) for z in positions[order]), thickness=thick, header=scan.header, source=scan.source,
        notes=(*scan.notes, *notes), sha256=scan.views.sha256,
    )  # fmt: skip


def virtual(scan: CTViews) -> NDArray[np.float64]:
    """Angles φ of the virtual views: a full turn from the first view on, with as many views as the scanner measures."""
    count = max(1, round(2 * math.pi / abs(float(np.median(np.diff(scan.angles))))))
    return np.asarray(scan.angles[0] + 2 * math.pi * np.arange(count) / count)


def _helix(scan: CTViews, rays: list[Family], thick: float) -> Plan:
    turn = abs(float(np.polyfit(scan.angles, scan.positions, 1)[0])) * 2 * math.pi
    row = scan.spacing[0] * scan.radius / scan.distance
    low, high = float(scan.positions.min()) + turn / 2, float(scan.positions.max()) - turn / 2
    if abs(scan.angles[-1] - scan.angles[0]) < 2 * math.pi or high < low:
        raise DataError(
            f"the helix covers {math.degrees(abs(scan.angles[-1] - scan.angles[0])):.0f}°, less than one turn, "
            "too little for a slice; give the whole scan"
        )
    fan = float(np.abs(rays[0].fan).max())
    # If both sides of a ray are measured, its views are at most `reach` apart, and the nearest at most half of that.
    reach = turn * (math.pi + 2 * fan) / (2 * math.pi)
    need = turn * (math.pi + 2 * np.abs(rays[0].fan)) / (4 * math.pi)
    seen = scan.shape[0] / 2 * scan.spacing[0] * rays[0].near / rays[0].far
    beyond = float((need - seen).max())
    middle = int(np.abs(rays[0].fan).argmin())
    if need[middle] > seen[middle] + row:
        raise DataError(
            f"the table moves {turn:.1f} mm per turn, but the detector covers only {2 * seen[middle]:.1f} mm: "
            "the pitch leaves gaps that rebinning cannot fill"
        )
    count = int((high - low) / thick) + 1
    positions = (low + high) / 2 + (np.arange(count) - (count - 1) / 2) * thick
    return Plan(positions.astype(np.float64), thick, max(reach, row), turn, max(0.0, beyond))


def _circles(scan: CTViews, rays: list[Family], thick: float) -> Plan:
    """Slices over the range that adjacent circles cover, or one slice per circle if there are gaps between them."""
    row = scan.spacing[0] * scan.radius / scan.distance
    half = (scan.shape[0] - 1) / 2 * row
    at = np.sort([float(scan.positions[part].mean()) for part in sections(scan)])
    steps = np.diff(at)
    step = float(np.median(steps)) if len(steps) else 2 * half + 2 * row
    if len(steps) and np.ptp(steps) > 0.05 * step:
        raise DataError(
            f"the circles are {steps.min():.2f} to {steps.max():.2f} mm apart; give scans with one step of the table"
        )
    if step > 2 * half + 2.05 * row:
        return Plan(at.astype(np.float64), thick, max(row, thick), step)
    low, high = at[0] - half, at[-1] + half
    count = int((high - low) / thick + 1e-6) + 1
    positions = (low + high) / 2 + (np.arange(count) - (count - 1) / 2) * thick
    fan = float(np.abs(rays[0].fan).max())
    return Plan(positions, thick, max(step, row), step, half / math.cos(fan) - half)


def _to_patient(position: str, phi: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool, int]:
    """Angles β of the virtual views for the patient (x left, y back), whether columns are flipped, and the sign of z.

    The gantry's axes, seen from the table, are x to the right, y up, z away. Away is towards the head for a patient who
    lies head first. Up is the front of a supine patient, and the right side of one lying on the left side.
    """
    away = np.array([0, 0, -1.0 if position.startswith("FF") else 1.0])
    up = {"P": (0, 1, 0), "DL": (-1, 0, 0), "DR": (1, 0, 0)}.get(position[2:], (0, -1, 0))
    right = np.cross(away, up)
    plane = np.stack([right[:2], up[:2]], 1)
    source = plane @ np.stack([-np.sin(phi), np.cos(phi)])
    beta = np.arctan2(source[0], -source[1])
    along = plane @ np.stack([np.cos(phi), np.sin(phi)])
    return beta, bool((along[0] * np.cos(beta) + along[1] * np.sin(beta))[0] < 0), int(away[2])


@dataclass
class Rebinned:
    """Line integrals (slice, view, column) of the planned slices, each computed on request.

    Keeps the views around the last slice, so that slices requested in order read each file once.
    """

    scan: CTViews
    rays: list[Family]
    plan: Plan
    within: int
    mirrored: bool
    _held: tuple[int, int, NDArray[np.uint16]] | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, views of a turn, columns."""
        return len(self.plan.positions), len(virtual(self.scan)), self.scan.shape[1]

    def __len__(self) -> int:
        return len(self.plan.positions)

    def __getitem__(self, which: slice) -> NDArray[np.float32]:
        out = [self._slice(float(z)) for z in self.plan.positions[which]]
        return np.stack(out) if out else np.empty((0, *self.shape[1:]), np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("line integrals are computed on demand: leave copy=False out")
        return np.asarray(self[:], dtype=dtype)

    def _slice(self, z: float) -> NDArray[np.float32]:
        """The mean sinogram of the positions within a slice."""
        parts = ((np.arange(self.within) + 0.5) / self.within - 0.5) * self.plan.thickness
        total = torch.zeros(self.shape[1:])
        for part in parts:
            total += self._at(z + float(part))
        mean = (total / self.within).numpy()
        return np.ascontiguousarray(mean[:, ::-1]) if self.mirrored else mean

    def _at(self, z: float) -> Tensor:
        """One sinogram (view, column): weighted means over all families of rays."""
        phi, columns = torch.from_numpy(virtual(self.scan)), self.shape[2]
        above, below = torch.zeros(len(phi) * columns), torch.full((len(phi) * columns,), 1e-12)
        parts = []
        for rays in self.rays:
            away = np.abs(self.scan.positions[rays.views] + rays.axial - z)
            near = np.nonzero(away <= self.plan.reach)[0]
            if len(near) > 1:
                parts.append((rays, int(near[0]), int(near[-1]) + 1))
        data, first = self._stored(
            min(int(rays.views[a:b].min()) for rays, a, b in parts),
            max(int(rays.views[a:b].max()) for rays, a, b in parts) + 1,
        )
        for rays, a, b in parts:
            value, weight = self._on_slice(rays, rays.views[a:b], z, data, first)
            _gather(rays, a, b, value * weight, weight, above, below, phi)
        return (above / below).reshape(len(phi), columns)

    def _on_slice(
        self, rays: Family, views: NDArray[np.intp], z: float, data: NDArray[np.uint16], first: int
    ) -> tuple[Tensor, Tensor]:
        """Line integrals (view, column) of rays through the slice, scaled to their length within it, and weights."""
        s = self.scan
        rows, columns = s.shape
        delta = torch.from_numpy(z - s.positions[views] - rays.axial).float()[:, None]
        near, far = (torch.from_numpy(v).float()[None] for v in (rays.near, rays.far))
        # The ray leaves the source at z0 + Δz and meets the slice at distance `near` of the distance `far` to the
        # detector.
        row = s.centre[0] - (rays.axial + delta * far / near) / s.spacing[0]
        over = torch.maximum(-row, row - (rows - 1))
        row = row.clamp(0, rows - 1)
        lower = row.floor().clamp_max(max(0, rows - 2))
        share = row - lower
        base = torch.from_numpy(views - first)[:, None] * (rows * columns) + lower.long() * columns
        flat = torch.from_numpy(data.view(np.int16)).reshape(-1)
        next_row = columns if rows > 1 else 0
        value = torch.zeros_like(row)
        for column, part in zip(rays.columns, rays.parts, strict=True):
            at = base + torch.from_numpy(column)[None]
            low, high = _unsigned(flat[at]), _unsigned(flat[at + next_row])
            value += torch.from_numpy(part).float()[None] * torch.lerp(low, high, share)
        scale = torch.from_numpy(s.scale[views]).float()
        value = (value * scale[:, :1] + scale[:, 1:]) / (1 + (delta / near) ** 2).sqrt()
        seen = (rows + 1) / 2 * s.spacing[0] * near / far
        reach = seen.clamp_max(self.plan.reach)
        weight = (1 - delta.abs() / reach).clamp_min(_LAST) * (1 - over).clamp(_LAST, 1)
        return value, weight * torch.from_numpy(rays.trust).float()[None]

    def _stored(self, first: int, last: int) -> tuple[NDArray[np.uint16], int]:
        """The stored views from `first` to at least last − 1, and the number of the first one returned."""
        if self._held is not None and self._held[0] <= first and last <= self._held[1]:
            return self._held[2], self._held[0]
        if self._held is not None and self._held[0] < last and first < self._held[1]:
            low, high, data = self._held
            keep = data[max(0, first - low) : last - low]
            pieces = [self.scan.views.stored(first, low)] if first < low else []
            pieces.append(keep)
            pieces += [self.scan.views.stored(high, last)] if high < last else []
        else:
            pieces = [self.scan.views.stored(first, last)]
        self._held = (first, last, np.concatenate(pieces))
        return self._held[2], first


def _gather(
    rays: Family, a: int, b: int, value: Tensor, weight: Tensor, above: Tensor, below: Tensor, phi: Tensor
) -> None:
    """Add the views a … b − 1 of a family, interpolated at the angles of the virtual views."""
    turn = torch.from_numpy(rays.turn[a:b])
    wanted = phi[:, None] + torch.from_numpy(rays.lag)[None]
    columns = value.shape[1]
    column = torch.arange(columns)[None]
    round_ = 2 * math.pi
    for m in range(
        math.ceil((float(turn[0]) - float(wanted.max())) / round_),
        math.floor((float(turn[-1]) - float(wanted.min())) / round_) + 1,
    ):
        at = wanted + round_ * m
        inside = (at >= turn[0] - 1e-9) & (at <= turn[-1] + 1e-9)
        upper = torch.searchsorted(turn, at.contiguous()).clamp(1, len(turn) - 1)
        before = turn[upper - 1]
        share = ((at - before) / (turn[upper] - before)).clamp(0, 1).float()
        here, there = (upper - 1) * columns + column, upper * columns + column
        flat_v, flat_w = value.reshape(-1), weight.reshape(-1)
        if rays.spots > 1:
            # With a flying focal spot, each spot counts near its own views: triangular weights that add up to 1.
            inside = inside * (1 - rays.spots * torch.minimum(share, 1 - share)).clamp_min(_LAST)
        low, high = (1 - share) * inside, share * inside
        above += (low * flat_v[here] + high * flat_v[there]).reshape(-1)
        below += (low * flat_w[here] + high * flat_w[there]).reshape(-1)


def _unsigned(x: Tensor) -> Tensor:
    """16-bit values stored without a sign, as single precision."""
    wide = x.float()
    return torch.where(wide < 0, wide + 65536, wide)
