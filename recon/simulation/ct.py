"""The effects of a detector on X-rays: Poisson and electronic noise, bow-tie filter, photon starvation, lower doses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import DataError
from recon.hounsfield import WATER
from recon.prepare.ct import FLOOR


@dataclass(frozen=True)
class Beam:
    """The X-ray beam and the electronic noise.

    `photons` reach a detector element in the middle of the beam without a body. `electronic` is the standard deviation
    of the electronics in photons. `bow_tie` is 0 for no filter and 1 if all rays through a cylinder of water of
    `radius` mm are equally bright.
    """

    photons: float
    electronic: float = 0.0
    bow_tie: float = 0.0
    radius: float = 160.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.photons) and self.photons > 0):
            raise DataError(f"{self.photons:g} photons are not possible; give a number above 0, for instance 2e4")
        if not (math.isfinite(self.electronic) and self.electronic >= 0):
            raise DataError(f"electronic noise cannot be {self.electronic:g} photons; give 0 or more")
        if not 0 <= self.bow_tie <= 1 or not self.radius > 0:
            raise DataError(
                f"a bow-tie of {self.bow_tie:g} for {self.radius:g} mm is not possible; give 0 to 1 and a radius"
            )


def air(beam: Beam, distances: Tensor, water: float = WATER) -> Tensor:
    """Expected photons without a body (detector,), for rays that pass the axis at `distances` in mm.

    I₀(s) = photons · exp(−bow_tie · μ_w · (2R − 2√(R² − s²))),   √ of 0 beyond R
    """
    chord = 2 * (beam.radius**2 - distances.double() ** 2).clamp_min(0).sqrt()
    return beam.photons * (-beam.bow_tie * water * (2 * beam.radius - chord)).exp()


def measured(
    p: Tensor, air: Tensor, electronic: float | Tensor = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Counts of line integrals `p` (..., view, detector): Poisson(I₀ e^−p) + N(0, electronic²), some of them negative.

    On the device and in the precision of `p`; `electronic` is one number or a tensor that broadcasts to `p`.
    """
    expected = air.to(p.device, p.dtype) * (-p).exp()
    counts = torch.poisson(expected, generator=generator)
    if isinstance(electronic, Tensor) or electronic:
        counts = counts + electronic * torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
    return counts


def line_integrals(counts: Tensor, air: Tensor, floor: float = FLOOR) -> Tensor:
    """p = ln I₀ − ln max(counts, floor): starved rays are set to the largest value that can be measured."""
    return air.to(counts.device, counts.dtype).log() - counts.clamp_min(floor).log()


def variance(p: Tensor, air: Tensor, electronic: float = 0.0) -> Tensor:
    """Variance of a measured line integral to first order: (N + electronic²) / N², N = I₀ e^−p, at least FLOOR."""
    n = (air.to(p.device, p.dtype) * (-p).exp()).clamp_min(FLOOR)
    return (n + electronic**2) / n**2


def at_dose(
    p: Tensor, air: Tensor, dose: float, electronic: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Line integrals as they would be at `dose` (0 to 1) of the measured dose, with I₀ = `air`.

        p' = p + ξ √( (1 − a)/(a N) · (1 + (1 + a) σ² / (a N)) ),   N = I₀ e^−p,
        a = dose,   ξ standard normal

    which adds the variance at the lower dose, 1/(aN) + σ²/(aN)², minus the variance that p already has. (L. Yu et al.,
    J Comput Assist Tomogr 36:760, 2012; S. Zabić et al., Med Phys 40:031102, 2013.) Raises DataError for a dose outside
    0 … 1.
    """
    if not 0 < dose <= 1:
        raise DataError(f"a share of {dose:g} of the source's dose is not possible; give a share above 0 and at most 1")
    n = (air.to(p.device, p.dtype) * (-p).exp()).clamp_min(FLOOR)
    added = (1 - dose) / (dose * n) * (1 + (1 + dose) * electronic**2 / (dose * n))
    return p + added.sqrt() * torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
