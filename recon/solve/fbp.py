"""Filtered backprojection of parallel, fan and cone beams, full turns and short scans."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from recon.data import DataError
from recon.operators.cone import ConeXray
from recon.operators.xray import Fan, Parallel, Xray

#: Neighbouring angles further apart than this many typical steps have a gap between them.
GAP = 3.0

#: A detector that lacks more elements than this on one side is treated as shifted.
SHIFTED = 4

Window = Literal["ramp", "shepp-logan", "hann"]


def fbp(y: Tensor, A: Xray | ConeXray, window: Window = "ramp", beyond: tuple[int, int] = (0, 0)) -> Tensor:
    """Attenuation (..., y, x) in 1/mm from line integrals `y` (..., view, detector) by filtered backprojection.

    f(r) = Σ_views Δ · (h ∗ w y)(position of r) / distance², with the band-limited ramp h times `window`. Angles may
    have any order and spacing: each view is weighted with its share Δ of the half turn, or for a fan of the full turn,
    which measures every ray twice.

    A fan over less than a turn, but at least 180° plus the fan angle, is weighted so that the two measurements of a ray
    add up to 1, smoothly in angle. The same is done for a full turn of a detector that is shifted to one side. A gap
    between parallel angles is not compensated. `beyond` is the number of elements by which `y` exceeds the detector on
    each side (`recon.solve.truncated`).

    A cone beam, (..., z, y, x) from (..., row, view, column), is filtered row by row with the weights of its fan and
    the cosine of the cone angle (Feldkamp, Davis and Kress). This is exact in the plane of the source and for objects
    that do not change along the axis. Further off, a circular orbit does not measure enough for an exact image.

    Raises DataError for an unknown window, and for a fan that covers too few angles.

    A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, IEEE Press (1988), chapter 3;
    D. L. Parker, Optimal short scan convolution reconstruction for fan beam CT, Med. Phys. 9 (1982); L. A. Feldkamp,
    L. C. Davis and J. W. Kress, Practical cone-beam algorithm, J. Opt. Soc. Am. A 1 (1984).
    """
    if window not in get_args(Window):
        raise DataError(f"the window {window!r} is unknown: choose one of {', '.join(get_args(Window))}")
    g = A.plane.geometry if isinstance(A, ConeXray) else A.geometry
    weights = view_weights(A)
    if isinstance(A, ConeXray):
        # The cosine of the angle between a ray and the central one, also for rays above the fan.
        reach = A.geometry.source_distance + A.geometry.detector_distance
        away = A.geometry.heights[:, None, None] ** 2 + A.plane.geometry.places**2
        weights = weights * reach / (reach**2 + away).sqrt()
    elif isinstance(g, Fan):
        weights = weights * g.fan_angles.cos()
    if weights.shape[-1] > 1 and any(beyond):
        ends = (
            weights[..., :1].expand(*weights.shape[:-1], beyond[0]),
            weights[..., -1:].expand(*weights.shape[:-1], beyond[1]),
        )
        weights = torch.cat([ends[0], weights, ends[1]], -1)
    y, A = _evened(y * weights.to(y.device, y.real.dtype), A, g, beyond)
    return A.smear(_filtered(y, A.plane.geometry if isinstance(A, ConeXray) else A.geometry, window))


def _evened(
    y: Tensor, A: Xray | ConeXray, g: Parallel | Fan, beyond: tuple[int, int]
) -> tuple[Tensor, Xray | ConeXray]:
    """Weighted sinograms of a shifted detector, zero-padded to a symmetric one, and the operator A for them.

    The filter spreads the data beyond the detector, into a part of the body that this view does not see.
    """
    short = shifted_by(g) if isinstance(g, Fan) else 0
    before, after = max(0, short - beyond[0]), max(0, -short - beyond[1])
    y = torch.nn.functional.pad(y, (before, after))
    return y, _widened(A, g, before + beyond[0], after + beyond[1])


def _widened(A: Xray | ConeXray, g: Parallel | Fan, before: int, after: int) -> Xray | ConeXray:
    """The same rays with `beyond` more elements on each side of the detector."""
    if not before + after:
        return A
    count, offset = g.detectors + before + after, g.offset + (after - before) * g.spacing / 2
    if isinstance(A, ConeXray):
        return replace(A, geometry=replace(A.geometry, columns=count, offset=offset))
    return replace(A, geometry=replace(A.geometry, detectors=count, offset=offset))


def shifted_by(g: Fan) -> int:
    """Elements missing on the detector's lower side (upper: negative) for a symmetric one; 0 for only a few."""
    lacks = round(float(g.places[0] + g.places[-1]) / g.spacing)
    return lacks if abs(lacks) > SHIFTED else 0


def view_weights(A: Xray | ConeXray) -> Tensor:
    """Weight of each view, or in a short scan of each ray, in the integral over angles: (view, 1) or (view, detector).

    They add up to π over the measurements of one ray. Raises DataError for a fan that covers too few angles.
    """
    g = A.plane.geometry if isinstance(A, ConeXray) else A.geometry
    angles = g.angles.detach().to("cpu", torch.float64)
    if not isinstance(g, Fan):
        return _shares(angles, math.pi, closed=True)[:, None]
    gap, typical, first = _gaps(angles)
    if gap <= GAP * typical:
        return _shares(angles, 2 * math.pi, closed=True)[:, None] * _one_sided(g)
    beta = (angles - first) % (2 * math.pi)
    beta = torch.where(2 * math.pi - beta < 1e-9, 0.0, beta)
    gamma = g.fan_angles
    needed = math.pi + 2 * float(gamma.abs().max())
    covered = float(beta.max())
    # The first and last view each cover half a step on either side.
    if covered + 1.01 * covered / max(1, angles.numel() - 1) < needed:
        raise DataError(
            f"the views cover {math.degrees(covered):.1f}° where filtered backprojection of this fan needs "
            f"{math.degrees(needed):.1f}°: use an iterative method, which has no minimum"
        )
    return _shares(beta, 2 * math.pi, closed=False)[:, None] * _parker(beta[:, None], gamma, covered)


def _one_sided(g: Fan) -> Tensor:
    """Weights w(γ) with w(γ) + w(−γ) = 1 for a full turn: ½; for a shifted detector ½ + ½ sin(π/2 · γ/γ₀), then 1.

    The ray at γ is measured again from the other side at −γ, except for rays beyond the detector's shorter end γ₀. G.
    Wang, X-ray micro-CT with a displaced detector array, Med. Phys. 29 (2002).
    """
    gamma, shift = g.fan_angles, shifted_by(g)
    if not shift:
        return torch.full((1, 1), 0.5, dtype=torch.float64)
    near = min(float(gamma[-1]), -float(gamma[0]))
    inside = (math.copysign(1, shift) * gamma / max(near, 1e-9)).clamp(-1, 1)
    return 0.5 + 0.5 * (math.pi / 2 * inside).sin()


def _parker(beta: Tensor, gamma: Tensor, covered: float) -> Tensor:
    """Weights w(β, γ) with w(β, γ) + w(β + π − 2γ, −γ) = 1, continuous and zero at both ends of a scan over `covered`.

    The ray (β, γ) is measured again from β + π − 2γ at −γ. M. D. Silver, Med. Phys. 27 (2000), spreads the weights over
    scans that are longer than necessary.
    """
    spare = (covered - math.pi) / 2
    early, late = (spare + gamma).clamp_min(1e-9), (spare - gamma).clamp_min(1e-9)
    rise = (math.pi / 4 * beta / early).clamp(0, math.pi / 2).sin() ** 2
    fall = (math.pi / 4 * (covered - beta) / late).clamp(0, math.pi / 2).sin() ** 2
    return rise * fall


def _gaps(angles: Tensor) -> tuple[float, float, float]:
    """The largest gap between neighbouring angles around the turn, the typical one, and the angle after the largest."""
    a = (angles % (2 * math.pi)).sort().values
    gaps = torch.cat([a[1:] - a[:-1], a[:1] + 2 * math.pi - a[-1:]])
    widest = int(gaps.argmax())
    typical = _typical(gaps) if a.numel() > 1 else 0.0
    return float(gaps[widest]), typical, float(a[(widest + 1) % a.numel()])


def _typical(gaps: Tensor) -> float:
    """Median of the gaps between different angles."""
    return float(gaps[gaps > 1e-9].median())


def _shares(angles: Tensor, period: float, closed: bool) -> Tensor:
    """Half the distance to the neighbours on both sides, modulo `period` if `closed`; (view,).

    A gap of more than GAP typical steps is ignored: the view beside it gets the same share on both sides.
    """
    a, order = (angles % period if closed else angles).sort()
    n = a.numel()
    if n == 1:
        return torch.full((1,), period, dtype=torch.float64)
    after = torch.cat([a[1:] - a[:-1], a[:1] + period - a[-1:]])
    typical = _typical(after)
    before = after.roll(1)
    limit = GAP * typical
    nearer = torch.minimum(after, before)
    nearer = torch.where(nearer > limit, typical, nearer)
    shares = (torch.where(after > limit, nearer, after) + torch.where(before > limit, nearer, before)) / 2
    out = torch.empty_like(shares)
    out[order] = shares
    return out


def _filtered(y: Tensor, g: Parallel | Fan, window: Window) -> Tensor:
    """Convolution along the detector with the ramp, as an integral over mm (over angles for curved detectors)."""
    n = g.detectors
    length = 1 << max(1, 2 * n - 1).bit_length()
    lag = torch.arange(length, dtype=torch.float64)
    lag = torch.minimum(lag, length - lag)
    # Fan positions in units of the source distance, like the depth; the filter is homogeneous of degree −2.
    if not isinstance(g, Fan):
        step = g.spacing
        scale = step
    else:
        step = g.spacing / (g.source_distance + g.detector_distance)
        scale = step / g.source_distance
    across = (step * lag).sin() if isinstance(g, Fan) and g.curved else step * lag
    odd = (lag % 2 == 1) & (lag < n)
    h = torch.where(odd, -1 / (math.pi * torch.where(odd, across, 1.0)) ** 2, 0.0)
    h[0] = 1 / (4 * step**2)
    spectrum = torch.fft.rfft(h).real * scale
    f = torch.linspace(0, 1, spectrum.numel(), dtype=torch.float64)
    if window == "hann":
        spectrum = spectrum * (0.5 + 0.5 * (math.pi * f).cos())
    elif window == "shepp-logan":
        spectrum = spectrum * torch.sinc(f / 2)
    if y.is_complex():
        return torch.complex(_convolved(y.real, spectrum, length, n), _convolved(y.imag, spectrum, length, n))
    return _convolved(y, spectrum, length, n)


def _convolved(y: Tensor, spectrum: Tensor, length: int, n: int) -> Tensor:
    k = torch.fft.rfft(y, length, dim=-1) * spectrum.to(y.device, y.dtype)
    out: Tensor = torch.fft.irfft(k, length, dim=-1)[..., :n]
    return out
