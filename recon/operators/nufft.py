"""The non-uniform Fourier transform: from an image to samples anywhere in k-space."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from recon.data import DataError, MissingPackage
from recon.kernels import bridge
from recon.operators.base import Chain, Identity, Linear, Scale, complex_numbers
from recon.operators.derivatives import learned, linear_map
from recon.operators.sampling import Sample, Weight
from recon.operators.toeplitz import Toeplitz, toeplitz
from recon.operators.trajectory import learned_map

#: Work space, in bytes, of all threads of a transform together: large volumes use fewer threads.
WORKSPACE = 1 << 30
#: Plans that an operator keeps for its next call.
_KEPT = 32

# Plans hold sorted points and work space, never results; they are deleted with the operator. A plan is removed while in
# use, so that two threads never share one.
_PLANS: WeakKeyDictionary[Nufft, dict[tuple[Any, ...], list[Any]]] = WeakKeyDictionary()

_Kind = Literal[1, 2]


@dataclass(frozen=True, eq=False)
class Nufft(Linear):
    """Image → samples at any points of k-space, centred and unitary as `Fourier` is.

        y_j = (Π N)^(−1/2) Σ_n x[n] exp(−2πi Σ_d k_jd (n_d − N_d//2) / N_d)

    `points` k are cycles per field of view (−N/2 … N/2), last axis in the order (ky, kx) or (kz, ky, kx); `shape` is
    (y, x) or (z, y, x) in the same order. The samples replace the last three axes, so that the coil axis stays where
    every other operator expects it:

        points (line, sample, 2)       (..., coil, z, y, x) → (..., coil, z, line, sample)  every slice alike
        points (z, line, sample, 2)    (..., coil, z, y, x) → (..., coil, z, line, sample)  a trajectory per slice
        points (line, sample, 3)       (..., coil, z, y, x) → (..., coil, 1, line, sample)

    Points of shape (sample, ndim) are one line. At the points of a Cartesian grid this is `recon.operators.fft`. `eps`
    is the relative accuracy, 1e-6 in single and 1e-12 in double precision when None; in single precision the rounding
    of the points leaves about 1e-5 at N = 256. The normal operator is a Toeplitz convolution.

    Also differentiable in the points, if they require a gradient: see `recon.operators.trajectory`.

    Two runs on a CPU give identical bits for any number of threads or coils, because each coil is gridded by one
    thread. On a GPU the adjoint adds in varying order and may differ in the last bits. Uses finufft, and cufinufft on a
    GPU (Barnett et al., SIAM J Sci Comput 41:C479, 2019). Raises MissingPackage without it, and DataError if points,
    shape or data do not fit.
    """

    points: Tensor
    shape: tuple[int, ...]
    eps: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not isinstance(self.points, Tensor):
            raise DataError(
                f"points are a {type(self.points).__name__}; torch.as_tensor(points) makes a tensor of them"
            )
        ndim = self.points.shape[-1]
        if ndim not in (2, 3) or len(self.shape) != ndim or self.points.ndim not in (2, 3, 4 if ndim == 2 else 3):
            raise DataError(
                f"points of shape {tuple(self.points.shape)} do not fit a grid of shape {self.shape}; give points "
                "(line, sample, 2) or (slice, line, sample, 2) with (y, x), or (line, sample, 3) with (z, y, x)"
            )
        # Within `vmap` the values of points cannot be read; those of each item are checked when it is transformed.
        values = None if bridge.traced(self.points) else self.points
        if not self.points.is_floating_point() or (values is not None and not bool(torch.isfinite(values).all())):
            raise DataError(
                "the points of the trajectory are not all finite real numbers; give them in cycles per field of view"
            )

    @property
    def lines(self) -> tuple[int, int]:
        """Number of lines and of samples in each."""
        return (1, self.points.shape[0]) if self.points.ndim == 2 else (self.points.shape[-3], self.points.shape[-2])

    def forward(self, x: Tensor) -> Tensor:
        """Type 2: the image's spectrum at the points; raises DataError for an image on another grid."""
        if x.shape[-len(self.shape) :] != self.shape or x.ndim < 3:
            raise DataError(
                f"an image of shape {tuple(x.shape)} does not end in (z, y, x) with the grid {self.shape}; crop it"
            )
        self._check_slices(x.shape[-3])
        return self._differentiable(False, complex_numbers(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Type 1: the samples spread over the grid, not an inverse (`recon.prepare.density`); raises as `forward`."""
        if y.ndim < 3 or y.shape[-2:] != self.lines or (len(self.shape) == 3 and y.shape[-3] != 1):
            raise DataError(
                f"samples of shape {tuple(y.shape)} do not fit {self.lines[0]} lines of {self.lines[1]} points; they "
                "must be (..., slice, line, sample), with one slice where the trajectory is 3D"
            )
        self._check_slices(y.shape[-3])
        return self._differentiable(True, complex_numbers(y))

    def _differentiable(self, adjoint: bool, data: Tensor) -> Tensor:
        if learned(self.points):
            return learned_map(self, adjoint, data)
        there, back = (self._grid, self._spectrum) if adjoint else (self._spectrum, self._grid)
        return linear_map(there, back, data)

    def normal(self, inner: Linear | None = None) -> Linear:
        """A Toeplitz convolution, also for diagonal inner operators; otherwise Aᴴ · inner · A."""
        weights = _diagonal(inner)
        return super().normal(inner) if weights is None else self._toeplitz(weights)

    def _toeplitz(self, weights: Tensor | complex) -> Toeplitz:
        exact = self.points.dtype == torch.float64
        if not isinstance(weights, Tensor):
            kind = torch.complex128 if isinstance(weights, complex) else torch.float64
            weights = torch.tensor(weights, dtype=kind, device=self.points.device)
        slices = self.points.shape[0] if self.points.ndim == 4 else 1
        y = weights.to(torch.complex128)
        y = y.expand(np.broadcast_shapes(y.shape, (slices, *self.lines)))
        # On the doubled grid points are in cycles per doubled field of view, so the angles per voxel stay the same. A
        # kernel is computed once and used many times, hence in double precision.
        eps = self.eps / 10 if self.eps is not None else (1e-13 if exact else 1e-8)
        double = Nufft(self.points.double() * 2, tuple(2 * n for n in self.shape), eps)
        lags = double.adjoint(y) * (math.sqrt(math.prod(double.shape)) / math.prod(self.shape))
        return toeplitz(lags, len(self.shape), real=not weights.is_complex(), dtype=self.points.dtype)

    def _check_slices(self, z: int) -> None:
        if self.points.ndim == 4 and z != self.points.shape[0]:
            raise DataError(f"{z} slices do not fit a trajectory for {self.points.shape[0]}; give one for each slice")

    def _spectrum(self, x: Tensor) -> Tensor:
        y = self._transform(2, x.reshape(-1, *self._slices(x.shape), *self.shape), (math.prod(self.lines),))
        return y.reshape(*(x.shape[:-2] if len(self.shape) == 2 else (*x.shape[:-3], 1)), *self.lines)

    def _grid(self, y: Tensor) -> Tensor:
        x = self._transform(1, y.reshape(-1, *self._slices(y.shape), math.prod(self.lines)), self.shape)
        return x.reshape(*(y.shape[:-2] if len(self.shape) == 2 else y.shape[:-3]), *self.shape)

    def _slices(self, shape: torch.Size) -> tuple[int]:
        """Number of slices with trajectories of their own."""
        return (shape[-3] if self.points.ndim == 4 else 1,)

    def _transform(self, kind: _Kind, data: Tensor, out_shape: tuple[int, ...]) -> Tensor:
        """Every (item, slice) of `data` by its own plan, times (Π N)^(−1/2)."""
        data = data.resolve_conj().resolve_neg().contiguous()
        out = torch.empty((*data.shape[:2], *out_shape), dtype=data.dtype, device=data.device)
        transform = _on_gpu if data.is_cuda else _on_cpu
        transform(self, kind, data, out)
        return out.mul_(1 / math.sqrt(math.prod(self.shape)))

    def angles(self, s: int, dtype: torch.dtype) -> list[Tensor]:
        """Points of slice `s` in radians per voxel, one tensor for each axis, in the precision of complex `dtype`."""
        points = self.points.detach().reshape(-1, math.prod(self.lines), len(self.shape))[s].double()
        real = torch.float32 if dtype == torch.complex64 else torch.float64
        return [(points[:, d] * (2 * math.pi / n)).to(real).contiguous() for d, n in enumerate(self.shape)]

    def accuracy(self, dtype: torch.dtype) -> float:
        """The relative accuracy of the transform in the precision of `dtype`."""
        floor = 1e-6 if dtype == torch.complex64 else 1e-14
        return max(floor, self.eps) if self.eps is not None else (1e-6 if dtype == torch.complex64 else 1e-12)


def _on_cpu(op: Nufft, kind: _Kind, data: Tensor, out: Tensor) -> None:
    try:
        from finufft import Plan
    except ImportError as error:
        raise MissingPackage(
            "trajectories off the Cartesian grid need finufft; install it with: pip install finufft"
        ) from error

    eps = op.accuracy(data.dtype)

    def plan(s: int) -> Any:
        # One thread for each transform: threads that share one add in varying order, which changes the last bits.
        made = Plan(
            kind, op.shape, eps=eps, isign=1 if kind == 1 else -1, nthreads=1,
            dtype="complex64" if data.dtype == torch.complex64 else "complex128",
            upsampfac=1.25 if eps >= 1e-4 else 2.0,
        )  # fmt: skip
        made.setpts(*(a.numpy() for a in op.angles(s, data.dtype)))
        return made

    kept = _PLANS.setdefault(op, {})
    source, target = data.numpy(), out.numpy()

    def work(s: int, items: range) -> None:
        free = kept.setdefault((kind, data.dtype, s), [])
        try:
            current = free.pop()
        except IndexError:
            current = plan(s)
        for i in items:
            current.execute(source[i, s], out=target[i, s])
        if sum(map(len, list(kept.values()))) < _KEPT:
            free.append(current)

    items, slices = data.shape[:2]
    grid_bytes = math.prod(2 * n for n in op.shape) * data.element_size()
    threads = max(1, min(torch.get_num_threads(), items * slices, WORKSPACE // grid_bytes))
    shares = max(1, min(items, threads // slices if slices < threads else 1))
    jobs = [(s, range(first, items, shares)) for s in range(slices) for first in range(shares)]
    if threads == 1:
        for job in jobs:
            work(*job)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result()


def _on_gpu(op: Nufft, kind: _Kind, data: Tensor, out: Tensor) -> None:
    try:
        from cufinufft import Plan
    except ImportError as error:
        raise MissingPackage(
            "trajectories off the Cartesian grid need cufinufft on a GPU; install it with: pip install cufinufft, or "
            "reconstruct on the CPU"
        ) from error
    items, slices = data.shape[:2]
    with torch.cuda.device(data.device):
        stream = torch.cuda.current_stream().cuda_stream
        for s in range(slices):
            plan = Plan(
                kind, op.shape, 1, op.accuracy(data.dtype), 1 if kind == 1 else -1,
                "complex64" if data.dtype == torch.complex64 else "complex128",
                gpu_stream=stream, gpu_device_id=data.device.index or 0, upsampfac=2.0,
            )  # fmt: skip
            plan.setpts(*op.angles(s, data.dtype))
            for i in range(items):
                plan.execute(data[i, s], out=out[i, s])


def _diagonal(inner: Linear | None) -> Tensor | complex | None:
    """Weights of an operator that multiplies each sample by a number, None for any other operator."""
    if inner is None or isinstance(inner, Identity):
        return 1.0
    if isinstance(inner, Scale):
        return inner.a
    if isinstance(inner, Weight):
        return inner.w
    if isinstance(inner, Sample):
        return inner.mask
    if isinstance(inner, Chain):
        parts = [_diagonal(op) for op in inner.ops]
        product: Tensor | complex = 1.0
        for part in parts:
            if part is None:
                return None
            product = product * part
        return product
    return None
