"""X-ray projection of volumes in a cone beam whose source moves on a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import cone as kernel
from recon.operators.base import Linear
from recon.operators.derivatives import linear_map, refuse_learned
from recon.operators.xray import Fan, Xray, batched

#: Steepest rise of a ray, per mm across the axis, that lines of the image still sample well.
STEEPEST = 0.7


@dataclass(frozen=True, eq=False)
class Cone:
    """Rays from a point source, at −`source_distance` · d for d = (−sin β, cos β, 0), to a flat detector of many rows.

    `angles` β in radians (view,). Column u of `columns` lies (u − (columns − 1)/2) · spacing + offset mm from the
    central ray along (cos β, sin β, 0), row w of `rows` (w − (rows − 1)/2) · row_spacing + row_offset mm above the
    plane of the circle, which is z = 0; `source_distance` from the source to the axis of rotation and
    `detector_distance` from there to the detector, in mm. The rays of z = 0 are those of `fan`.
    """

    angles: Tensor
    rows: int
    columns: int
    row_spacing: float
    spacing: float
    source_distance: float
    detector_distance: float
    row_offset: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 < self.row_spacing < math.inf or not math.isfinite(self.row_offset):
            raise DataError(
                f"{self.rows} detector rows {self.row_spacing} mm apart cover nothing; give positive numbers"
            )
        steepest = float(self.heights.abs().max()) / (self.fan.source_distance + self.detector_distance)
        if steepest > STEEPEST:
            raise DataError(
                f"the detector's last row is {math.degrees(math.atan(steepest)):.0f}° above the plane of the source, "
                f"and rays of up to {math.degrees(math.atan(STEEPEST)):.0f}° are followed; leave out rows, or check "
                "row_spacing, row_offset and the distances"
            )

    @cached_property
    def fan(self) -> Fan:
        """The rays in the plane of the circle; raises DataError if they form no fan."""
        return Fan(
            self.angles, self.columns, self.spacing, self.source_distance, self.detector_distance, False, self.offset
        )

    @property
    def detectors(self) -> int:
        """Elements of a row, as of a fan."""
        return self.columns

    @property
    def heights(self) -> Tensor:
        """Distances of the rows from the plane of the circle in mm, along the detector."""
        rows = torch.arange(self.rows, dtype=torch.float64) - (self.rows - 1) / 2
        return rows * self.row_spacing + self.row_offset

    @property
    def distances(self) -> Tensor:
        """Distance of the ray of each column from the axis, in mm."""
        return self.fan.distances


@dataclass(frozen=True, eq=False)
class ConeXray(Linear):
    """y = ∫ x along each ray of a cone beam by Joseph's method, and its exact transpose.

    Volumes (..., z, y, x) of attenuation in 1/mm, `shape` = (z, y, x), square pixels of `voxel` mm in slices `step` mm
    apart, their middle on the axis of rotation and `height` mm above the plane of the circle; x, y and z grow with
    column, row and slice. Sinograms (..., row, view, column) without unit. Real or complex, in single or double
    precision, and so is the result. Rays cross planes of x or of y, whichever they cross more steeply, and volumes are
    interpolated linearly in both directions of such a plane.

    Raises DataError where the source lies within the volume.

    P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1 (1982).
    """

    geometry: Cone
    shape: tuple[int, int, int]
    voxel: float
    step: float
    height: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not (
            0 < self.voxel < math.inf and 0 < self.step < math.inf and math.isfinite(self.height)
        ):
            raise DataError(
                f"a volume of {self.shape} voxels of {self.voxel} mm in slices {self.step} mm apart is empty: give "
                "positive sizes"
            )
        _ = self.plane

    @cached_property
    def plane(self) -> Xray:
        """The projection of the plane z = 0; raises DataError where the source lies within it."""
        return Xray(self.geometry.fan, self.shape[1:], self.voxel)

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (..., row, view, column)."""
        self._fits(x, self.shape, "volume")
        return linear_map(self._project, self._transpose, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose: (..., z, y, x); each voxel is the sum of its shares in the rays."""
        self._fits(y, self.tracks.sinogram, "sinogram")
        return linear_map(self._transpose, self._project, y)

    def smear(self, y: Tensor) -> Tensor:
        """Filtered projections, backprojected over the volume without angular weights: see `kernels.cone`."""
        self._fits(y, self.tracks.sinogram, "sinogram")
        return linear_map(self._smear, self._smear_transposed, y)

    @cached_property
    def tracks(self) -> kernel.Tracks:
        """The rays on the voxel grid, in the form the kernels take."""
        g, rays = self.geometry, self.plane.rays
        reach = g.source_distance + g.detector_distance
        turn = g.angles.detach().to("cpu", torch.float64)[:, None]
        # The path of a ray from source to detector is reach · d + s · e; lines lie across x or y.
        s, d, e = g.fan.places, (-turn.sin(), turn.cos()), (turn.cos(), turn.sin())
        rows = rays.rays[..., 2] > 0
        way = torch.where(rows, reach * d[1] + s * e[1], reach * d[0] + s * e[0])
        source = torch.where(rows, -g.source_distance * d[1], -g.source_distance * d[0])
        first = -torch.where(rows, self.shape[1] - 1, self.shape[2] - 1).double() / 2 * self.voxel
        tracks = torch.stack([*rays.rays.unbind(-1), (first - source) / way, self.voxel / way], -1)
        centre = (g.rows - 1) / 2 - g.row_offset / g.row_spacing
        low = (self.shape[0] - 1) / 2 - self.height / self.step
        frame = (rays.centre, rays.per, low, centre, g.row_spacing / self.step, g.source_distance / reach)
        return kernel.Tracks(
            tracks, rays.views, torch.tensor(frame, dtype=torch.float64), self.shape, g.rows, self.step
        )

    def _fits(self, t: Tensor, shape: tuple[int, ...], what: str) -> None:
        refuse_learned(self.geometry.angles, "angles")
        if tuple(t.shape[-3:]) != shape or not (t.is_floating_point() or t.is_complex()):
            raise DataError(f"the {what} is {t.dtype} {tuple(t.shape)}; the geometry needs real numbers (..., {shape})")

    def _project(self, x: Tensor) -> Tensor:
        return batched(kernel.project, x, self.tracks, 3)

    def _transpose(self, y: Tensor) -> Tensor:
        return batched(kernel.adjoint, y, self.tracks, 3)

    def _smear(self, y: Tensor) -> Tensor:
        return batched(kernel.smear, y, self.tracks, 3)

    def _smear_transposed(self, x: Tensor) -> Tensor:
        return batched(kernel.smear_transposed, x, self.tracks, 3)
