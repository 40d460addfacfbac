"""Density compensation: the area or volume of k-space that each sample of a trajectory represents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon.data import DataError
from recon.operators.nufft import Nufft


def pipe(points: Tensor, shape: tuple[int, ...], iterations: int = 10, *, keep: Tensor | None = None) -> Tensor:
    """Weights w of any trajectory for which AᴴWA is nearest to the identity, with A = Nufft(points, shape).

        w ← w / Ψw,   (Ψw)_i = Σ_j |⟨a_i, a_j⟩|² w_j,
        ⟨a_i, a_j⟩ = Π_d N_d⁻¹ Σ_n exp(2πi (k_j − k_i)_d n / N_d)

    Ψw = 1 is the condition for the smallest ‖AᴴWA − 1‖ in the Frobenius norm (Sedarat & Nishimura, IEEE Trans Med
    Imaging 19:306, 2000). The iteration is that of Pipe & Menon (Magn Reson Med 41:179, 1999). The kernel |⟨a_i, a_j⟩|²
    is positive, so the weights stay positive. It is applied as a triangular window on the doubled field of view.

    `points` and `shape` are as for Nufft; the result has the points' shape without its last axis. A weight is an area
    (2D) or volume (3D) of k-space in units of a Cartesian sample: the weights of a full Cartesian grid are 1, and Aᴴ W
    y is on the scale of the image. Samples at the edge also represent some of the empty space outside. Where `keep` is
    False or 0, the sample is ignored and its weight is 0.
    """
    double = Nufft(points.double() * 2, tuple(2 * n for n in shape), 1e-6)
    window = torch.ones((), dtype=torch.float64, device=points.device)
    for n in double.shape:
        window = window[..., None] * (1 - (torch.arange(n, device=points.device) - n // 2).abs() / (n // 2))
    lines = points.shape[:-1] if points.ndim == 4 else (1, *double.lines)
    w = torch.ones(lines, dtype=torch.float64, device=points.device)
    if keep is not None:
        w = w * keep.to(w.dtype)
    for _ in range(iterations):
        spread = double.forward(window * double.adjoint(w)).real * 2 ** len(shape)
        w = w / spread.reshape(w.shape).clamp_min(torch.finfo(torch.float32).tiny)
    weights: Tensor = w.reshape(points.shape[:-1]).to(points.dtype)
    return weights


def ramp(points: Tensor) -> Tensor:
    """Weights of straight lines through the centre of k-space, from edge to edge, sampled in equal steps Δ.

        2D   w = γ (|r| Δ + b),         γ the angle to the lines on either side, halved
        3D   w = (2π / lines) r² Δ,     for directions that fill the sphere evenly

    which is the trapezoidal rule for ∫ f |r| dr and ∫ f r² dr. At the corner of |r| the rule is too small by b = Δ² / 6
    (Euler–Maclaurin); a sample's own area, Δ² / 4, would raise the whole image. If the centre lies between two samples,
    at the fraction θ, they share b = Δ² (θ² − θ + 1/6). `points` is (line, sample, 2 or 3) in cycles per field of view.
    Weights are in units of a Cartesian sample, as in `pipe`; but lines that are too far apart represent all of the
    space between them. Raises DataError for lines of any other kind.
    """
    if points.ndim != 3 or points.shape[-1] not in (2, 3) or points.shape[-2] < 3:
        raise DataError(f"radial weights need points (line, sample, 2 or 3), not {tuple(points.shape)}; use pipe")
    k = points.double()
    lines, samples = k.shape[:2]
    step = (k[:, -1] - k[:, 0]).norm(dim=-1, keepdim=True) / (samples - 1)
    direction = (k[:, -1] - k[:, 0]) / (step * (samples - 1)).clamp_min(1e-12)
    r = (k * direction[:, None]).sum(-1)
    even = r[:, :1] + step * torch.arange(samples, device=k.device)
    off = (k - even[..., None] * direction[:, None]).norm(dim=-1)
    if bool((off > 0.1 * step).any()) or bool((-r[:, 0] < 0.8 * r[:, -1]).any() | (r[:, -1] < -0.8 * r[:, 0]).any()):
        raise DataError(
            "the lines of this trajectory are not straight, equally spaced diameters of k-space; use weights "
            "for any trajectory (pipe)"
        )
    if k.shape[-1] == 3:
        ball: Tensor = r**2 * step * (2 * math.pi / lines)
        return ball.to(points.dtype)
    at = -r[:, :1] / step
    before = at.floor().long()
    theta = at - before
    corner = step**2 * (theta**2 - theta + 1 / 6)
    w: Tensor = r.abs() * step
    w = w.scatter_add(1, before, corner * (1 - theta)).scatter_add(1, before + 1, corner * theta)
    angle = torch.atan2(direction[:, 0], direction[:, 1]).remainder(math.pi)
    order = angle.argsort()
    gaps = torch.diff(angle[order], append=angle[order][:1] + math.pi)
    share = torch.empty_like(angle)
    share[order] = (gaps + gaps.roll(1)) / 2
    return (w * share[:, None]).to(points.dtype)
