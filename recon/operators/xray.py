"""X-ray projection of slices in parallel and fan beams."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import projector as kernel
from recon.operators.base import Linear
from recon.operators.derivatives import linear_map, refuse_learned

Rays = TypeVar("Rays")


@dataclass(frozen=True, eq=False)
class Parallel:
    """Parallel rays: p(θ, s) = ∫ f(s cos θ − t sin θ, s sin θ + t cos θ) dt.

    `angles` θ in radians (view,), in any order; `detectors` elements `spacing` mm apart, element u at
    s = (u − (detectors − 1)/2) · spacing + offset mm from the axis of rotation.
    """

    angles: Tensor
    detectors: int
    spacing: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        _check(self.angles, self.detectors, self.spacing, self.offset)

    @property
    def places(self) -> Tensor:
        """Distances s of the elements from the axis in mm."""
        return _places(self)

    @property
    def distances(self) -> Tensor:
        """Distance of the ray of each element from the axis, in mm: s."""
        return self.places


@dataclass(frozen=True, eq=False)
class Fan:
    """Rays from a point source, at −`source_distance` · d for d = (−sin β, cos β), to a detector across the axis.

    `angles` β in radians (view,); `source_distance` from the source to the axis of rotation and `detector_distance`
    from there to the detector, in mm. Element u lies at s = (u − (detectors − 1)/2) · spacing + offset mm from the
    central ray. On a flat detector s runs along (cos β, sin β). On a `curved` one it runs along the arc around the
    source, at the fan angle γ = s / (source_distance + detector_distance). The ray at fan angle γ is the parallel ray
    of θ = β − γ; with a distant source the beam is `Parallel`.
    """

    angles: Tensor
    detectors: int
    spacing: float
    source_distance: float
    detector_distance: float
    curved: bool = False
    offset: float = 0.0

    def __post_init__(self) -> None:
        _check(self.angles, self.detectors, self.spacing, self.offset)
        if not (0 < self.source_distance < math.inf and 0 <= self.detector_distance < math.inf):
            raise DataError(
                f"source_distance {self.source_distance} mm must be positive and detector_distance "
                f"{self.detector_distance} mm not negative: give their distances from the axis, or Parallel rays"
            )
        if self.curved and self.fan_angles.abs().max() >= math.pi / 2:
            raise DataError("the curved detector reaches beyond 90° from the central ray: check spacing and distances")

    @property
    def places(self) -> Tensor:
        """Distances s of the elements from the central ray in mm, along the detector."""
        return _places(self)

    @property
    def fan_angles(self) -> Tensor:
        """Angles γ between the rays and the central ray in radians."""
        t = self.places / (self.source_distance + self.detector_distance)
        return t if self.curved else t.atan()

    @property
    def distances(self) -> Tensor:
        """Distance of the ray of each element from the axis, in mm: source_distance · sin γ."""
        return self.source_distance * self.fan_angles.sin()


@dataclass(frozen=True, eq=False)
class Xray(Linear):
    """y = ∫ x along each ray of a scan by Joseph's method, and its exact transpose.

    Images (..., y, x) hold attenuation in 1/mm, `shape` = (y, x), with square pixels of `voxel` mm and their middle on
    the axis of rotation; x grows with the column and y with the row. Sinograms (..., view, detector) have no unit. Both
    are real or complex, in single or double precision.

    Raises DataError if the source lies within the image.

    P. M. Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE Trans. Med. Imaging 1 (1982).
    """

    geometry: Parallel | Fan
    shape: tuple[int, int]
    voxel: float

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not 0 < self.voxel < math.inf:
            raise DataError(f"an image of {self.shape} pixels of {self.voxel} mm is empty: give positive sizes")
        corner = math.hypot(self.shape[0] + 1, self.shape[1] + 1) / 2 * self.voxel
        if isinstance(self.geometry, Fan) and self.geometry.source_distance <= corner:
            raise DataError(
                f"the source is {self.geometry.source_distance} mm from the axis, within the image, whose corners are "
                f"at {corner:.4g} mm: take fewer or smaller pixels"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (..., view, detector)."""
        self._fits(x, self.shape, "image")
        return linear_map(self._project, self._transpose, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose: (..., y, x); each pixel is the sum of its shares in the rays."""
        self._fits(y, tuple(self.rays.rays.shape[:2]), "sinogram")
        return linear_map(self._transpose, self._project, y)

    @cached_property
    def rays(self) -> kernel.Rays:
        """The rays on the pixel grid, in the form the kernels take."""
        g = self.geometry
        angles, s = g.angles.detach().to("cpu", torch.float64)[:, None], g.places
        # Points on the rays and their directions, (view, detector), as (x, y) in mm.
        if isinstance(g, Parallel):
            turn, beam, per, far = angles.expand(-1, g.detectors), kernel.PARALLEL, 1 / g.spacing, math.inf
            point = torch.stack([s * angles.cos(), s * angles.sin()])
        else:
            far = g.source_distance
            turn, beam = angles - g.fan_angles, kernel.CURVED if g.curved else kernel.FLAT
            per = (far + g.detector_distance) / g.spacing
            point = torch.stack([far * angles.sin(), -far * angles.cos()]).expand(-1, -1, g.detectors)
        along_x, along_y = -turn.sin(), turn.cos()
        middle_y, middle_x = ((n - 1) / 2 for n in self.shape)
        x, y = point[0] / self.voxel + middle_x, point[1] / self.voxel + middle_y
        rows = along_y.abs() >= along_x.abs()
        slope = torch.where(rows, along_x, along_y) / torch.where(rows, along_y, along_x)
        at = torch.where(rows, x - slope * y, y - slope * x)
        step = self.voxel * (1 + slope**2).sqrt()
        # side = (x cos β + y sin β) / far and depth = 1 + (−x sin β + y cos β) / far
        unit = self.voxel * (1.0 if math.isinf(far) else 1 / far)
        deep = 0.0 if math.isinf(far) else unit
        cos, sin = angles[:, 0].cos(), angles[:, 0].sin()
        side = (-unit * (middle_x * cos + middle_y * sin), unit * sin, unit * cos)
        depth = (1 + deep * (middle_x * sin - middle_y * cos), deep * cos, -deep * sin)
        return kernel.Rays(
            torch.stack([at, slope, torch.where(rows, step, -step)], -1),
            torch.stack([*side, *depth], -1),
            beam,
            (g.detectors - 1) / 2 - g.offset / g.spacing,
            per,
            self.shape,
        )

    def smear(self, y: Tensor) -> Tensor:
        """Filtered projections, backprojected over the image without angular weights: see `kernels.projector`."""
        self._fits(y, tuple(self.rays.rays.shape[:2]), "sinogram")
        return linear_map(self._smear, self._smear_transposed, y)

    def _fits(self, t: Tensor, shape: tuple[int, ...], what: str) -> None:
        refuse_learned(self.geometry.angles, "angles")
        if tuple(t.shape[-2:]) != shape or not (t.is_floating_point() or t.is_complex()):
            raise DataError(f"the {what} is {t.dtype} {tuple(t.shape)}; the geometry needs real numbers (..., {shape})")

    def _project(self, x: Tensor) -> Tensor:
        return batched(kernel.project, x, self.rays)

    def _transpose(self, y: Tensor) -> Tensor:
        return batched(kernel.adjoint, y, self.rays)

    def _smear(self, y: Tensor) -> Tensor:
        return batched(kernel.smear, y, self.rays)

    def _smear_transposed(self, x: Tensor) -> Tensor:
        return batched(kernel.smear_transposed, x, self.rays)


def batched(f: Callable[[Tensor, Rays], Tensor], t: Tensor, rays: Rays, ndim: int = 2) -> Tensor:
    """Apply a kernel to every item of a batch; real and imaginary parts are separate items."""
    if t.is_complex():
        return torch.complex(batched(f, t.real, rays, ndim), batched(f, t.imag, rays, ndim))
    t = t.detach()
    wide = t if t.dtype in kernel.MARGIN else t.float()
    out = f(wide.reshape(math.prod(t.shape[:-ndim]), *t.shape[-ndim:]), rays)
    return out.reshape(*t.shape[:-ndim], *out.shape[-ndim:]).to(t.dtype)


def _places(g: Parallel | Fan) -> Tensor:
    return (torch.arange(g.detectors, dtype=torch.float64) - (g.detectors - 1) / 2) * g.spacing + g.offset


def _check(angles: Tensor, detectors: int, spacing: float, offset: float) -> None:
    refuse_learned(angles, "angles")
    if angles.ndim != 1 or not bool(torch.isfinite(angles).all()) or angles.numel() == 0:
        raise DataError(f"angles of shape {tuple(angles.shape)} are not a list of finite numbers: give radians (view,)")
    if detectors < 1 or not 0 < spacing < math.inf:
        raise DataError(f"{detectors} detector elements {spacing} mm apart cover nothing: give positive numbers")
    if not math.isfinite(offset):
        raise DataError(f"the detector offset is {offset} mm: give a finite number, 0 for none")
