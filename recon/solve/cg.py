"""Conjugate gradients for (AᴴA + λI) x = b, and CG-SENSE on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import DataError, Measurement
from recon.kernels import vectors
from recon.kernels.vectors import dot
from recon.operators import Linear
from recon.solve import replay


@dataclass(frozen=True)
class Solution:
    """A solver's result: `x`, and for each problem of the batch the number of iterations and the final `residual`.

    The solver that returns it defines what the residual measures.
    """

    x: Tensor
    iterations: Tensor
    residual: Tensor

    def __repr__(self) -> str:
        n, r = (self.iterations.max(), self.residual.max()) if self.iterations.numel() else (0, 0)
        kind = str(self.x.dtype).removeprefix("torch.")
        return (
            f"Solution(x={kind} {'×'.join(map(str, self.x.shape))}, iterations ≤ {int(n)}, residual ≤ {float(r):.3g})"
        )


def rss(x: Tensor, *axes: int) -> Tensor:
    """Root sum of squares |x|₂ over `axes`, which are kept with length one; |x| without axes."""
    # Several times faster on the CPU than the vector norm of complex numbers along leading axes.
    square = x.real.square().addcmul_(x.imag, x.imag) if x.is_complex() else x.square()
    return (square.sum(axes, keepdim=True) if axes else square).sqrt_()


def cg(
    normal: Linear,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    lam: float | Tensor = 0.0,
    reference: Tensor | None = None,
    iterations: int = 30,
    tolerance: float = 1e-6,
    ndim: int = 3,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """The solution of (N + λI) x = b + λ x_ref by conjugate gradients, N = AᴴA self-adjoint and positive.

    With b = Aᴴy this minimises ‖Ax − y‖² + λ‖x − x_ref‖² (x_ref = 0 without `reference`). The last `ndim` axes of `b`
    are one problem; the axes before are independent problems. Each stops when its residual ‖b − (N + λI)x‖ falls below
    `tolerance`·‖b‖ and is then frozen; `lam` may hold one value for each. Starts from `x0` (zero). `callback(iteration,
    x)` receives every iterate and must not change it. Solution.residual is the relative residual. No argument is
    changed. Raises DataError for λ < 0, where there is no minimum. (Hestenes and Stiefel, J Res Natl Bur Stand 49:409,
    1952.)
    """
    wide = (..., *(None,) * ndim)
    kind, device = b.real.dtype, b.device
    shift = lam.to(device, kind) if isinstance(lam, Tensor) else torch.full((), lam, dtype=kind, device=device)
    if bool((shift < 0).any()):
        raise DataError(
            f"lam is {float(shift.min()):g} and must not be negative: it is the weight of the squared norm of the image"
        )
    wide_shift = shift[wide] if shift.ndim else shift
    b = b if reference is None else b + wide_shift * reference
    x = torch.zeros_like(b, memory_format=torch.contiguous_format)
    r = b.clone(memory_format=torch.contiguous_format)
    if x0 is not None:
        x.copy_(x0.expand(b.shape))
        r -= normal(x) + wide_shift * x
    p = r.clone()
    scale, rr = dot(b, b, ndim), dot(r, r, ndim)
    goal = tolerance**2 * scale
    active, zero = rr > goal, torch.zeros_like(rr)
    count = torch.zeros(rr.shape, dtype=torch.int64, device=b.device)

    def step(x: Tensor, r: Tensor, p: Tensor, rr: Tensor, active: Tensor, count: Tensor) -> replay.State:
        q, curvature = vectors.curvature(p, normal(p), shift, ndim)
        active = active & (curvature > 0)
        length = torch.where(active, rr / curvature, zero)
        previous, rr = rr, torch.where(active, vectors.advance(x, p, r, q, length, ndim), rr)
        count = count + active
        active = active & (rr > goal)
        vectors.turn(p, r, torch.where(active, rr / previous, zero), ndim)
        return x, r, p, rr, active, count

    # Solved problems are frozen, so the few extra iterations on a GPU change nothing.
    if b.device.type != "cpu" or bool(active.any()):
        start = x, r, p, rr, active, count
        for k, state in enumerate(replay.states(step, start, iterations, graphs=callback is None)):
            x, _, _, rr, active, count = state
            if callback is not None:
                callback(k, x)
            if replay.due(k, b.device) and not bool(active.any()):
                break
    tiny = torch.finfo(rr.dtype).tiny
    return Solution(x, count, (rr / scale.clamp_min(tiny)).sqrt())


def noise_to_signal(measurement: Measurement, ndim: int = 3, b: Tensor | None = None) -> Tensor:
    """The natural λ of CG-SENSE: noise power over image power, per voxel and problem.

    For ‖Ax − y‖² + λ‖x‖² with complex noise of variance 2σ² and an image of mean square τ², the maximum a posteriori
    estimate has λ = 2σ²/τ². τ² is estimated as (‖y‖² − 2σ²M) / V with M measured samples and V voxels of the image.
    This assumes that A has norm 1 and that the k-space centre, which holds nearly all of the energy, was measured. Data
    without signal give λ = 1. `b` is Aᴴy, if already known; it gives the shape of an image.
    """
    y = measurement.y
    x = measurement.A.adjoint(y) if b is None else b
    lead = x.ndim - ndim
    energy = dot(y, y, y.ndim - lead)
    samples = torch.count_nonzero(y.reshape(*y.shape[:lead], -1), dim=-1)
    return 2 * measurement.sigma**2 / signal_power(energy, samples, measurement.sigma, x.shape[-3:].numel())


def signal_power(energy: Tensor, samples: Tensor, sigma: float, voxels: int) -> Tensor:
    """Mean power of an image's voxels, τ² = (‖y‖² − 2σ²M) / V, from the energy of its M samples; at least 2σ²."""
    noise = 2 * sigma**2
    signal = (energy - noise * samples.to(energy.dtype)) / voxels
    return torch.maximum(signal, torch.full_like(signal, noise))


def sense(
    measurement: Measurement,
    *,
    lam: float | Tensor | None = None,
    iterations: int = 30,
    tolerance: float = 1e-6,
    ndim: int = 3,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """CG-SENSE: x̂ = argmin ‖Ax − y‖² + λ‖x‖² by conjugate gradients on the normal equations.

    λ is relative to the eigenvalues of AᴴA, which lie in [0, 1] for A of unit norm; it has no unit and does not depend
    on intensities. Without `lam` it is `noise_to_signal(measurement)`. `ndim` is 3 for images (..., z, y, x) and 4 for
    several sets of maps (..., set, z, y, x). (Pruessmann et al., Magn Reson Med 46:638, 2001.)
    """
    b = measurement.A.adjoint(measurement.y)
    lam = noise_to_signal(measurement, ndim, b) if lam is None else lam
    return cg(
        measurement.A.normal(), b, lam=lam, iterations=iterations, tolerance=tolerance, ndim=ndim, callback=callback
    )
