"""Accelerated proximal gradient method, and L1-wavelet reconstruction with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recon.data import Measurement
from recon.kernels import bridge
from recon.kernels import wavelet as kernel
from recon.kernels.vectors import dot
from recon.operators import Linear
from recon.operators.wavelet import Wavelet
from recon.solve import replay
from recon.solve.cg import Solution, rss
from recon.solve.power import largest_eigenvalue, squared_norm_bound

#: prox(v, step, k): argmin_x g(x) + ‖x − v‖² / (2 step) in iteration k, which is a number.
Prox = Callable[[Tensor, float, Any], Tensor]


def fista(
    normal: Linear,
    b: Tensor,
    prox: Prox,
    *,
    step: float,
    x0: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 0.0,
    restart: bool = True,
    ndim: int = 3,
    graphs: bool = False,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """The minimiser of ½ xᴴNx − Re bᴴx + g(x), which is ½‖Ax − y‖² + g(x) for N = AᴴA and b = Aᴴy.

    x⁺ = prox(v − step·(Nv − b)), v = x⁺ + ((t − 1) / t⁺) (x⁺ − x), t⁺ = (1 + √(1 + 4t²)) / 2, with `step` at most
    1/‖N‖. With `restart` the momentum of a problem is reset when it points uphill, ⟨v − x⁺, x⁺ − x⟩ > 0 (O'Donoghue and
    Candès, Found Comput Math 15:715, 2015). The last `ndim` axes of `b` are one problem; it is finished when ‖x⁺ − x‖ ≤
    `tolerance`·‖x⁺‖ and is then frozen. Solution.residual is this relative change. `graphs` says that the proximal
    operator never reads values back from a GPU; there it receives k as a tensor (1,): see `replay`. (Beck and Teboulle,
    SIAM J Imaging Sci 2:183, 2009.)
    """
    wide = (..., *(None,) * ndim)
    b = b.resolve_conj()
    x = torch.zeros_like(b) if x0 is None else x0.expand(b.shape).clone(memory_format=torch.contiguous_format)
    v = x.clone()
    t = torch.ones_like(dot(b, b, ndim))
    change, count = torch.full_like(t, torch.inf), torch.zeros(t.shape, dtype=torch.int64, device=b.device)
    active = torch.ones_like(t, dtype=torch.bool)
    tiny = torch.finfo(t.dtype).tiny
    on_cpu = b.device.type == "cpu"
    # On pairs of real numbers an update is one pass over memory; a real factor times complex numbers takes several.
    real = torch.view_as_real if b.is_complex() else _itself
    whole = torch.view_as_complex if b.is_complex() else _itself
    pairs = (..., *(None,) * (ndim + b.is_complex()))

    def one(
        x: Tensor, v: Tensor, t: Tensor, change: Tensor, active: Tensor, count: Tensor, k: int | Tensor
    ) -> replay.State:
        downhill = real(v), real(normal(v).resolve_conj()) - real(b)
        new = prox(whole(torch.add(*downhill, alpha=-step)), step, k)
        if not on_cpu or not bool(active.all()):  # reading from a GPU waits for it
            new = torch.where(active[wide], new, x)
        move = whole(real(new) - real(x))
        if restart:
            t = torch.where(dot(whole(real(v) - real(new)), move, ndim) > 0, torch.ones_like(t), t)
        following = (1 + (1 + 4 * t * t).sqrt()) / 2
        v = whole(torch.addcmul(real(new), ((t - 1) / following)[pairs], real(move)))
        size = (dot(move, move, ndim) / dot(new, new, ndim).clamp_min(tiny)).sqrt()
        change = torch.where(active, size, change)
        return new, v, following, change, active & (change > tolerance), count + active, k + 1

    # Python numbers would be the same in every replay.
    first = torch.zeros(1, dtype=torch.int64, device=b.device) if graphs and not on_cpu else 0
    start = x, v, t, change, active, count, first
    for k, state in enumerate(replay.states(one, start, iterations, graphs=graphs and callback is None)):
        x, _, _, change, active, count, _ = state
        if callback is not None:
            callback(k, x)
        if replay.due(k, b.device) and not bool(active.any()):
            break
    return Solution(x, count, change)


def _itself(x: Tensor) -> Tensor:
    return x


def step_size(A: Linear, normal: Linear, like: Tensor, ndim: int = 3) -> float:
    """1/‖A‖² from a known bound on the parts of A, otherwise by power iteration with a margin of 5 %."""
    bound = squared_norm_bound(A)
    if bound is None:
        bound = 1.05 * float(largest_eigenvalue(normal, like, ndim=ndim).max())
    return 1.0 / bound if bound > 0 else 1.0


def shrink(x: Tensor, threshold: float | Tensor, *, p: float = 1.0, joint: int | None = None) -> Tensor:
    """x · max(0, 1 − (threshold / |x|)^(2 − p)): soft thresholding for p = 1, which is the prox of threshold · Σ|x|.

    Smaller p shrinks large coefficients less; p = 0 is the non-negative garrote. For p < 1 these are proximal operators
    of non-convex penalties (Chartrand, ISBI 2009). With `joint` the magnitude is the root sum of squares over that
    axis, so that its entries vanish together. A threshold that is a tensor must be positive and on the device of x.
    """
    if not isinstance(threshold, Tensor) and threshold <= 0:
        return x
    learned = isinstance(threshold, Tensor) and bridge.watched(threshold)
    if joint is None and not learned and kernel.shrinks(x):
        out = x.clone(memory_format=torch.contiguous_format)
        kernel.shrink(out, threshold, 2 - p)
        return out
    size = rss(x) if joint is None else rss(x, joint)
    ratio = threshold / size.clamp_min(threshold)
    return x * (1 - (ratio if p == 1 else ratio ** (2 - p)))


def l1_wavelet(
    measurement: Measurement,
    *,
    lam: float = 0.5,
    iterations: int = 50,
    tolerance: float = 0.0,
    axes: tuple[int, ...] | None = None,
    p: float = 0.5,
    wavelet: str = "db2",
    levels: int | None = None,
    cycle_spin: bool = True,
    continuation: float = 1.0,
    seed: int = 0,
    ndim: int = 3,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """x̂ = argmin ½‖Ax − y‖² + λσ‖Ψx‖_p by FISTA, Ψ the details of an orthonormal wavelet transform.

    λ is in units of the noise's standard deviation σ: with A of unit norm a wavelet coefficient of pure noise has
    standard deviation σ per real and imaginary part. The approximation band is not thresholded: it is not sparse, and
    thresholding would only darken the image.

    With `cycle_spin` each iteration transforms the image shifted by a random offset, drawn from `seed`. The shrinkage
    is then, on average, that of a shift-invariant transform and leaves no blocks (Coifman and Donoho, 1995; Figueiredo
    and Nowak, IEEE Trans Image Process 12:906, 2003).

    `axes` are the transformed axes (by default those of the last three that are longer than one); with `ndim` 4 the
    image is (..., set, z, y, x) and the sets share their threshold. With `continuation` c > 1 the threshold starts c
    times as large and falls geometrically over the first 70 % of the iterations, so that fewer are needed (Hale, Yin,
    Zhang, SIAM J Optim 19:1107, 2008).

    `p` chooses the penalty (see `shrink`). p = 1 is the convex L1 norm and works best with λ near 0.2. Smaller p
    preserves the height of edges, needs a larger λ, and its minimum is local. (Lustig et al., Magn Reson Med 58:1182,
    2007.)
    """
    A, normal = measurement.A, measurement.A.normal()
    b = A.adjoint(measurement.y)
    axes = tuple(a for a in (-3, -2, -1) if b.shape[a] > 1) if axes is None else axes
    transform = Wavelet(axes, wavelet, levels)
    step = step_size(A, normal, b, ndim)
    threshold = lam * measurement.sigma
    falling = [continuation ** max(0.0, 1 - k / (0.7 * iterations)) for k in range(iterations)]
    thresholds: Any = [step * (threshold * f) for f in falling]
    shifts: Any = _shifts(b.shape, transform, iterations, seed)
    if b.device.type != "cpu":
        thresholds = torch.tensor(thresholds, dtype=b.real.dtype).to(b.device)
        shifts = torch.tensor(shifts).to(b.device)

    def prox(v: Tensor, _: float, k: int | Tensor) -> Tensor:
        shift = _row(shifts, k) if cycle_spin else ()
        c = transform.rolled(v, shift)
        kept = transform.coarse(c).clone()
        if threshold > 0:
            c = shrink(c, _row(thresholds, k), p=p, joint=-4 if ndim == 4 else None)
        transform.coarse(c).copy_(kept)
        return transform.rolled_adjoint(c, shift)

    return fista(
        normal,
        b,
        prox,
        step=step,
        iterations=iterations,
        tolerance=tolerance,
        ndim=ndim,
        graphs=True,
        callback=callback,
    )


def _row(rows: Any, k: int | Tensor) -> Any:
    """Row k of a list, or of a tensor on a GPU, where k is not read back."""
    return rows.index_select(0, k)[0] if isinstance(k, Tensor) else rows[k]


def _shifts(shape: torch.Size, transform: Wavelet, iterations: int, seed: int) -> list[tuple[int, ...]]:
    """One offset per axis and iteration, the same for every problem of a batch.

    If all levels halve evenly, offsets repeat after 2^levels.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = transform.shapes(shape)
    spans = [n // m if n % m == 0 else n for n, m in zip(sizes[0], sizes[-1])]
    return [tuple(int(torch.randint(n, (), generator=generator)) for n in spans) for _ in range(iterations)]
