"""Primal-dual splitting, and total-variation reconstruction with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from recon.data import Measurement
from recon.kernels.vectors import dot
from recon.operators import Linear
from recon.operators.gradient import Gradient
from recon.solve import replay
from recon.solve.cg import Solution, rss
from recon.solve.fista import step_size


def pdhg(
    normal: Linear,
    b: Tensor,
    K: Linear,
    dual_prox: Callable[[Tensor, float], Tensor],
    *,
    bound: float,
    K_bound: float,
    balance: float = 1.0,
    project: Callable[[Tensor], Tensor] | None = None,
    x0: Tensor | None = None,
    iterations: int = 200,
    tolerance: float = 1e-5,
    ndim: int = 3,
    graphs: bool = False,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """The minimiser of ½ xᴴNx − Re bᴴx + h(Kx) + δ_C(x); with N = AᴴA, b = Aᴴy that of ½‖Ax − y‖² + h(Kx) on C.

    x⁺ = P_C(x − τ(Nx − b + Kᴴp)), p⁺ = prox_{s h*}(p + s K(2x⁺ − x)), with `bound` ≥ ‖N‖, `K_bound` ≥ ‖K‖² and 1/τ −
    s‖K‖² ≥ ‖N‖/2 (Condat, J Optim Theory Appl 158:460, 2013; Vũ, Adv Comput Math 38:667, 2013). `dual_prox(p, s)` is
    prox of s·h*, `project` the projection onto C. s = `balance` / ‖K‖: 1 suits denoising, 0.1 undersampled data. Kx and
    p have one axis more than x, in front. The last `ndim` axes of `b` are one problem; it is finished and frozen when
    ‖x⁺ − x‖ ≤ `tolerance`·‖x⁺‖ and the same holds for p. Solution.residual is the larger relative change. `graphs` says
    that `K`, `dual_prox` and `project` never read values back from a GPU (see `replay`).
    """
    wide = (..., *(None,) * ndim)
    s = balance / K_bound**0.5
    tau = 1 / (0.5 * bound + s * K_bound)
    x = torch.zeros_like(b) if x0 is None else x0.expand(b.shape).clone(memory_format=torch.contiguous_format)
    p = torch.zeros_like(K(x))
    size = torch.zeros_like(dot(b, b, ndim))
    change, count = torch.full_like(size, torch.inf), torch.zeros(size.shape, dtype=torch.int64, device=b.device)
    active, tiny = torch.ones_like(size, dtype=torch.bool), torch.finfo(size.dtype).tiny
    on_cpu = b.device.type == "cpu"

    def step(x: Tensor, p: Tensor, change: Tensor, active: Tensor, count: Tensor) -> replay.State:
        new = x - tau * (normal(x) - b + K.adjoint(p))
        new = new if project is None else project(new)
        dual = dual_prox(p + s * K(2 * new - x), s)
        if not on_cpu or not bool(active.all()):  # reading from a GPU waits for it
            new, dual = torch.where(active[wide], new, x), torch.where(active[wide], dual, p)
        moved = _relative(new - x, new, ndim, tiny)
        turned = torch.stack([_relative(d - q, d, ndim, tiny) for d, q in zip(dual, p)]).amax(0)
        change = torch.where(active, torch.maximum(moved, turned), change)
        return new, dual, change, active & (change > tolerance), count + active

    start = x, p, change, active, count
    for k, state in enumerate(replay.states(step, start, iterations, graphs=graphs and callback is None)):
        x, _, change, active, count = state
        if callback is not None:
            callback(k, x)
        if replay.due(k, b.device) and not bool(active.any()):
            break
    return Solution(x, count, change)


def _relative(step: Tensor, of: Tensor, ndim: int, tiny: float) -> Tensor:
    ratio: Tensor = dot(step, step, ndim) / dot(of, of, ndim).clamp_min(tiny)
    return ratio.sqrt()


def tv(
    measurement: Measurement,
    *,
    lam: float = 0.2,
    iterations: int = 200,
    tolerance: float = 1e-5,
    axes: tuple[int, ...] | None = None,
    spacing: tuple[float, ...] | None = None,
    constraint: Literal["none", "real", "nonnegative"] = "none",
    balance: float = 0.1,
    x0: Tensor | None = None,
    ndim: int = 3,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """x̂ = argmin ½‖Ax − y‖² + λσ Σ_r |(∇x)(r)|₂: isotropic total variation, also of complex images.

    |·|₂ combines the `axes` (by default those of the last three that are longer than one), real and imaginary part and,
    with `ndim` 4, the sets of maps. `spacing` holds the voxel sizes along `axes` for anisotropic voxels (see
    `Gradient`). λ is in units of the noise's standard deviation σ. `constraint` "real" or "nonnegative" restricts the
    image; iterations start from `x0`, by default Aᴴy. In a denoised image (A = I) a disc of radius r loses 2λσ/r of its
    height. (Rudin, Osher and Fatemi, Physica D 60:259, 1992; Chambolle and Pock, J Math Imaging Vis 40:120, 2011.)
    """
    A, normal = measurement.A, measurement.A.normal()
    b = A.adjoint(measurement.y)
    axes = tuple(a for a in (-3, -2, -1) if b.shape[a] > 1) if axes is None else axes
    gradient, limit = Gradient(axes, spacing), lam * measurement.sigma

    def clip(p: Tensor, _: float) -> Tensor:
        size = rss(p, 0, -4) if ndim == 4 else rss(p, 0)
        return p * (limit / size.clamp_min(limit)) if limit > 0 else torch.zeros_like(p)

    def real(x: Tensor) -> Tensor:
        part = (x.real if x.is_complex() else x).clamp_min(0.0 if constraint == "nonnegative" else -torch.inf)
        return part.to(x.dtype)

    return pdhg(
        normal,
        b,
        gradient,
        clip,
        bound=1 / step_size(A, normal, b, ndim),
        K_bound=gradient.squared_norm,
        balance=balance,
        x0=b if x0 is None else x0,
        project=None if constraint == "none" else real,
        iterations=iterations,
        tolerance=tolerance,
        ndim=ndim,
        graphs=True,
        callback=callback,
    )
