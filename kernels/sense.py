"""Multi-coil encoding along one or two phase encodes: A = m F S, its adjoint and its normal operator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels import bridge, fourier, launch, proofs
from recon.kernels.build import native

#: Largest prime factor that the transforms accept, and the largest for which they are fast: a length with a greater one
#: is filtered in a longer transform. Measured on one core, columns of 169 = 13² take 2.3 times as long as within 360,
#: of 392 = 8·7² 2.1 times as long as within 800, of 224 = 32·7 1.1 times as long as within 450.
LARGEST_FACTOR, QUICK_FACTOR = 13, 5


@dataclass(frozen=True)
class Filter:
    """Weights of k-space as `sense_normal` takes them: (item, z, ky) in the FFT's order, scaled by 1/(kz·ky).

    `length` = (kz, ky) are the transforms' lengths, kz = 1 if z stays in image space.
    """

    weights: Tensor
    length: tuple[int, int]

    @cached_property
    def compiled(self) -> tuple[fourier.Compiled, ...]:
        """How a GPU's kernels are compiled for these lengths, (y,) or (y, z); empty if that is impossible."""
        found = [fourier.compiled(n) for n in self.length[::-1] if n > 1 or self.length[0] > 1]
        return tuple(c for c in found if c) if all(found) else ()

    @cached_property
    def ordered(self) -> Tensor:
        """The weights in the order in which those kernels leave k-space: (item, z, ky), for a volume (item, ky, kz)."""
        w = self.weights
        for c, axis in zip(self.compiled, (-1, -2)):
            w = w.index_select(axis, fourier.table_on(c, w.device)[1])
        return (w.transpose(-1, -2) if len(self.compiled) > 1 else w).contiguous()


def smooth(n: int, largest: int = LARGEST_FACTOR) -> bool:
    """Whether n has no prime factor above `largest`."""
    for p in (2, 3, 5, 7, 11, 13):
        while p <= largest and n % p == 0:
            n //= p
    return n == 1


def transforms(n: int, device: torch.device) -> bool:
    """Whether `encode` and `decode` accept lines of n samples: on a CPU of any length, on a GPU of smooth ones."""
    return smooth(n) or (device.type == "cpu" and hasattr(native(), "any_length"))


def prepare(weights: Tensor, volume: bool) -> Filter:
    """The filter F⁻¹ w F for centred, real weights (item, z, ky); `volume` transforms z too.

    A length N with a prime factor above 5 (for a volume above 13) becomes a circular convolution of the next length M ≥
    2N − 1 without a prime factor above 5. Its kernel is c[d mod N], d = −(N−1) … N−1, within M. The spectrum is real
    because c[−d] = conj c[d].
    """
    axes = (-2, -1) if volume else (-1,)
    w = torch.fft.ifftshift(weights.to(torch.float64), dim=axes)
    for axis in axes:
        n = w.shape[axis]
        if smooth(n, LARGEST_FACTOR if volume else QUICK_FACTOR):  # two longer axes of a volume are four times the work
            continue
        m = next(m for m in range(2 * n - 1, 4 * n) if smooth(m, QUICK_FACTOR))
        lag = torch.arange(m, device=w.device)
        lag = torch.where(lag < n, lag, lag - m)
        kernel = torch.fft.ifft(w, dim=axis).index_select(axis, lag.remainder(n))
        within = (lag > -n).reshape(-1, *(1,) * (-axis - 1))
        w = torch.fft.fft(kernel * within, dim=axis).real
    length = (w.shape[-2] if volume else 1, w.shape[-1])
    return Filter((w / math.prod(length)).to(torch.float32).contiguous(), length)


def serves(*tensors: Tensor, volume: bool = False, length: int = 1) -> bool:
    """Whether the kernels accept these tensors: complex64 (or float32), on the CPU, or on a GPU with proven kernels.

    `volume` transforms z, too; `length` is that of a transform along y, which a GPU holds in shared memory.
    """
    device = tensors[0].device
    if any(t.device != device or t.dtype not in (torch.complex64, torch.float32) for t in tensors):
        return False
    if device.type == "cpu":
        return native() is not None
    fits: bool = volume or 8 * (length | 1) <= bridge.SHARED
    return fits and bool(proofs.stands("coils" if volume else "sense", device))


def normal(x: Tensor, maps: Tensor, w: Filter) -> Tensor:
    """Σ_c conj(S_c) F⁻¹ w F S_c x for x (item, set, z, y, x) and maps (item or 1, set, coil, z, y, x)."""
    if x.is_cuda:
        return _normal_on_gpu(x, maps, w)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    module = native()
    assert module is not None
    module.sense_normal(_array(x), _array(maps), _array(w.weights), *w.length, _array(out), torch.get_num_threads())
    return out


def _normal_on_gpu(x: Tensor, maps: Tensor, w: Filter) -> Tensor:
    made: Tensor
    if maps.shape[1] == 1 and proofs.fits(x, maps, w.compiled):
        y, *z = w.compiled
        made = launch.planned_volume(x, maps, w.ordered, z[0], y) if z else launch.planned(x, maps, w.ordered, y)
    else:
        made = (launch.normal_volume if w.length[0] > 1 else launch.normal)(x, maps, w.weights)
    return made


def encode(x: Tensor, maps: Tensor, weights: Tensor, volume: bool) -> Tensor:
    """w F(S_c x) as (item, coil, z, y, x); `weights` (item or 1, z or 1, ky), centred and scaled by (kz·ky)^(−½).

    A GPU accepts only planes, not `volume`.
    """
    if x.is_cuda:
        made: Tensor = launch.encode(x, maps, weights)
        return made
    y = x.new_empty(x.shape[0], maps.shape[2], *x.shape[-3:])
    module = native()
    assert module is not None
    module.sense_encode(_array(x), _array(maps), _array(weights), volume, _array(y), torch.get_num_threads())
    return y


def decode(y: Tensor, maps: Tensor, weights: Tensor, volume: bool) -> Tensor:
    """Σ_c conj(S_c) F⁻¹ (w y_c) as (item, set, z, y, x), the adjoint of `encode`."""
    if y.is_cuda:
        made: Tensor = launch.decode(y, maps, weights)
        return made
    x = y.new_empty(y.shape[0], maps.shape[1], *y.shape[-3:])
    module = native()
    assert module is not None
    module.sense_decode(_array(y), _array(maps), _array(weights), volume, _array(x), torch.get_num_threads())
    return x


def _array(t: Tensor) -> NDArray[np.generic]:
    array: NDArray[np.generic] = bridge.settled(t).numpy()
    return array
