"""Convolution with a kernel as long as the image: the normal operator of a non-uniform Fourier transform."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recon.data import DataError
from recon.kernels import toeplitz as kernel
from recon.kernels.sense import QUICK_FACTOR, smooth
from recon.operators.base import Linear, complex_numbers
from recon.operators.derivatives import learned, linear_map

#: Voxels convolved at a time by each thread (small enough for its cache), and by a GPU.
CHUNK, CHUNK_GPU = 1 << 16, 1 << 25


@dataclass(frozen=True, eq=False)
class Toeplitz(Linear):
    """y[n] = Σ_m t[n − m] x[m] over the last `ndim` axes, m and n in 0 … N − 1, without periodicity.

    The convolution of period 2N that contains it is split into its even and odd frequencies along each axis. This gives
    2^ndim convolutions of period N between phases:

        T x = Σ_{a ∈ {0,1}^ndim} conj(D_a) F⁻¹ K_a F D_a x
        D_a[n] = exp(−πi a·n/N),   K_a[k] = DFT_2N(t)[2k + a] / 2^ndim

    so that nothing larger than the image is ever transformed (the embedding: Fessler et al., IEEE Trans Signal Process
    53:3393, 2005). `kernels` are the K_a, shape (2^ndim, ..., N…). They are real if t is Hermitian, as for real
    weights: T is then its own adjoint. Leading axes of the kernels broadcast against those of the image, whose sides
    are `shape`. If the kernels' sides are longer, the image is zero-padded and the result cropped. Kernels that require
    a gradient, such as those of learned weights or points, use plain torch.
    """

    kernels: Tensor
    shape: tuple[int, ...]

    @property
    def H(self) -> Linear:
        """The operator itself if the kernel is Hermitian."""
        return super().H if self.kernels.is_complex() else self

    def forward(self, x: Tensor) -> Tensor:
        """T x; raises DataError for an image with other sides."""
        return self._apply(x, self.kernels, self.kernels.conj())

    def adjoint(self, y: Tensor) -> Tensor:
        """Tᴴ y; raises as `forward`."""
        return self._apply(y, self.kernels.conj(), self.kernels)

    def _apply(self, x: Tensor, kernels: Tensor, adjoint: Tensor) -> Tensor:
        if x.shape[-len(self.shape) :] != self.shape:
            raise DataError(f"an image of shape {tuple(x.shape)} does not end in the grid {self.shape}; crop it")
        x = complex_numbers(x)
        single = x.dtype == torch.complex64
        kind = (torch.complex64, torch.float32) if single else (torch.complex128, torch.float64)
        forward, back = (k.to(kind[not k.is_complex()]) for k in (kernels, adjoint))
        ndim = len(self.shape)
        if learned(kernels):
            return _open(x, forward, ndim)
        return linear_map(lambda v: _convolve(v, forward, ndim), lambda v: _convolve(v, back, ndim), x)


def toeplitz(lags: Tensor, ndim: int, *, real: bool, dtype: torch.dtype) -> Toeplitz:
    """The convolution with t given at lags −N … N − 1 over the last `ndim` axes; lag −N occurs for no pair of voxels.

    `real` says that t[−n] = conj(t[n]); `dtype` is the real precision of the kernel. A side N with a prime factor above
    5, whose transforms take longer, is replaced by the next one without.
    """
    axes = tuple(range(-ndim, 0))
    shape = tuple(n // 2 for n in lags.shape[-ndim:])
    more = [next(m for m in itertools.count(n) if smooth(m, QUICK_FACTOR)) - n for n in shape]
    lags = F.pad(lags, [m for m in reversed(more) for _ in range(2)])
    spectrum = torch.fft.fftn(torch.fft.ifftshift(lags, dim=axes), dim=axes) / 2**ndim
    spectrum = spectrum.real if real else spectrum
    split = []
    for which in itertools.product((slice(0, None, 2), slice(1, None, 2)), repeat=ndim):
        index = (Ellipsis, *which)
        split.append(spectrum[index])
    kind = dtype if real else (torch.complex64 if dtype == torch.float32 else torch.complex128)
    return Toeplitz(torch.stack(split).to(kind).contiguous(), shape)


def _open(x: Tensor, kernels: Tensor, ndim: int) -> Tensor:
    """`_convolve` in steps that autograd can trace: for learned kernels, or kernels of learned weights or points."""
    axes, shape = tuple(range(-ndim, 0)), kernels.shape[-ndim:]
    wide = F.pad(x, [v for axis in reversed(axes) for v in (0, shape[axis] - x.shape[axis])])
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for k, phase in zip(kernels, _phases(shape, x), strict=True):
        total = total + torch.fft.ifftn(torch.fft.fftn(wide * phase, dim=axes) * k, dim=axes) * phase.conj()
    for axis in axes:
        total = total.narrow(axis, 0, x.shape[axis])
    return total


def _phases(shape: tuple[int, ...], like: Tensor) -> Iterator[Tensor]:
    """D_a for each a, in the order of the kernels."""
    ramps = [_ramp(n, len(shape) - 1 - d, like) for d, n in enumerate(shape)]
    for bits in itertools.product((False, True), repeat=len(shape)):
        phase = torch.ones((), dtype=like.dtype, device=like.device)
        for ramp, bit in zip(ramps, bits, strict=True):
            phase = phase * ramp if bit else phase
        yield phase


def _convolve(x: Tensor, kernels: Tensor, ndim: int) -> Tensor:
    shape, own = kernels.shape[-ndim:], x.shape[-ndim:]
    axes = tuple(range(-ndim, 0))
    if own != shape:
        more = [m - n for m, n in zip(shape, own, strict=True)]
        wide = _convolve(F.pad(x, [v for m in reversed(more) for v in (0, m)]), kernels, ndim)
        for axis, n in zip(axes, own, strict=True):
            wide = wide.narrow(axis, 0, n)
        return wide.contiguous()
    lead = np.broadcast_shapes(x.shape[:-ndim], kernels.shape[1:-ndim])
    items = x.expand(*lead, *shape).reshape(-1, *shape)
    numbers = np.arange(kernels.shape[1:-ndim].numel()).reshape(kernels.shape[1:-ndim])
    which = np.broadcast_to(numbers, lead).ravel().tolist()  # the kernel of each item
    kernels = kernels.reshape(2**ndim, -1, *shape)
    if kernel.serves(items, kernels, ndim):
        done: Tensor = kernel.convolve(items, kernels, np.asarray(which, np.int32))
        return done.reshape(*lead, *shape)
    out = torch.empty_like(items, memory_format=torch.contiguous_format)
    voxels = CHUNK_GPU if x.is_cuda else CHUNK * torch.get_num_threads()
    step = max(1, voxels // math.prod(shape))
    for first in range(0, len(items), step):
        part, total, mine = items[first : first + step], out[first : first + step], which[first : first + step]
        for a, phase in enumerate(_phases(shape, x)):
            k = kernels[a, mine] if len(set(mine)) > 1 else kernels[a, mine[0]]
            v = torch.fft.fftn(part * phase if a else part, dim=axes).mul_(k)
            v = torch.fft.ifftn(v, dim=axes)
            if a:
                total.addcmul_(v, phase.conj_physical())
            else:
                total.copy_(v)
    return out.reshape(*lead, *shape)


def _ramp(n: int, behind: int, like: Tensor) -> Tensor:
    """exp(−πi m / n) along an axis with `behind` axes after it."""
    angle = torch.arange(n, dtype=torch.float64, device=like.device) * (-math.pi / n)
    return torch.polar(torch.ones_like(angle), angle).to(like.dtype).reshape(-1, *(1,) * behind)
