"""Filtered backprojection of parallel and fan beams, full turns and short scans."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from recon.data import DataError
from recon.operators.xray import Fan, Xray

#: Neighbouring angles further apart than this many typical steps have a gap between them.
GAP = 3.0

Window = Literal["ramp", "shepp-logan", "hann"]


def fbp(y: Tensor, A: Xray, window: Window = "ramp") -> Tensor:
    """Attenuation (..., y, x) in 1/mm from line integrals `y` (..., view, detector) by filtered backprojection.

    f(r) = Σ_views Δ · (h ∗ w y)(position of r) / distance², with the band-limited ramp h times `window`. Angles may
    come in any order and spacing: each view counts for its share Δ of the half turn, or for a fan of the whole turn,
    which measures every ray twice. A fan over less than a turn, but at least 180° and the fan's opening, is weighted so
    that the two measurements of a ray share 1 between them, smoothly in angle. Where parallel angles leave a gap,
    nothing is made up for it.

    Raises DataError for an unknown window, and for a fan whose angles are too few.

    A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, IEEE Press (1988), chapter 3;
    D. L. Parker, Optimal short scan convolution reconstruction for fan beam CT, Med. Phys. 9 (1982).
    """
    if window not in get_args(Window):
        raise DataError(f"the window {window!r} is unknown: choose one of {', '.join(get_args(Window))}")
    g = A.geometry
    weights = view_weights(A)
    angles = g.fan_angles if isinstance(g, Fan) else None
    if angles is not None:
        weights = weights * angles.cos()
    return A.smear(_filtered(y * weights.to(y.device, y.real.dtype), A, window))


def view_weights(A: Xray) -> Tensor:
    """Share of each view, or with a short scan of each ray, in the integral over angles: (view, 1) or (view, detector).

    They add up to π over the measurements of one ray. Raises DataError for a fan whose angles are too few.
    """
    g = A.geometry
    angles = g.angles.detach().to("cpu", torch.float64)
    if not isinstance(g, Fan):
        return _shares(angles, math.pi, closed=True)[:, None]
    gap, typical, first = _gaps(angles)
    if gap <= GAP * typical:
        return _shares(angles, 2 * math.pi, closed=True)[:, None] / 2
    beta = (angles - first) % (2 * math.pi)
    beta = torch.where(2 * math.pi - beta < 1e-9, 0.0, beta)
    gamma = g.fan_angles
    needed = math.pi + 2 * float(gamma.abs().max())
    covered = float(beta.max())
    # Half a step on either side belongs to the first and last view.
    if covered + 1.01 * covered / max(1, angles.numel() - 1) < needed:
        raise DataError(
            f"the views cover {math.degrees(covered):.1f}° where filtered backprojection of this fan needs "
            f"{math.degrees(needed):.1f}°: take an iterative method, which asks for no minimum"
        )
    return _shares(beta, 2 * math.pi, closed=False)[:, None] * _parker(beta[:, None], gamma, covered)


def _parker(beta: Tensor, gamma: Tensor, covered: float) -> Tensor:
    """Weights w(β, γ) with w(β, γ) + w(β + π − 2γ, −γ) = 1, continuous and zero at both ends of a scan over `covered`.

    The ray (β, γ) is measured again from β + π − 2γ at −γ. M. D. Silver, Med. Phys. 27 (2000), spreads the weights over
    a scan that is longer than it must be.
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
    """Median of the gaps between angles that differ."""
    return float(gaps[gaps > 1e-9].median())


def _shares(angles: Tensor, period: float, closed: bool) -> Tensor:
    """Half the distance to the neighbours on both sides, modulo `period` where `closed`; (view,).

    A gap of more than GAP typical steps is no step: the view beside it counts as far to that side as to the other.
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


def _filtered(y: Tensor, A: Xray, window: Window) -> Tensor:
    """Convolution along the detector with the ramp, as an integral over mm (or over angles, curved detectors)."""
    g = A.geometry
    n = g.detectors
    length = 1 << max(1, 2 * n - 1).bit_length()
    lag = torch.arange(length, dtype=torch.float64)
    lag = torch.minimum(lag, length - lag)
    # Positions in source distances for a fan, whose depth is in them too; the filter is homogeneous of degree -2.
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
