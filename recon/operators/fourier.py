"""The centred, unitary discrete Fourier transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import fourier as kernel
from recon.operators.base import Identity, Linear, check_tensor

_HALVES = (torch.float16, torch.bfloat16, torch.complex32)


def fft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Centred, unitary FFT: X[k] = N^(−1/2) Σ_n x[n] exp(−2πi (n − N//2)(k − N//2) / N) along each of `axes`.

    Raises DataError for anything that is not a tensor, for a tensor without these axes, and for half precision on the
    CPU.
    """
    return _centred(x, tuple(axes), inverse=False)


def ifft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Inverse (and adjoint) of `fft`."""
    return _centred(x, tuple(axes), inverse=True)


def _centred(x: Tensor, axes: tuple[int, ...], inverse: bool) -> Tensor:
    check_tensor(x, "fft and ifft take")
    check_has(x.shape, axes)
    if not axes or not x.numel():
        return x  # MKL does not accept an empty batch
    if x.dtype in _HALVES and x.device.type == "cpu":
        raise DataError(f"the CPU has no Fourier transform for {x.dtype}; give x.to(torch.complex64)")
    x = torch.fft.ifftshift(x, dim=axes)
    if kernel.scipy_serves(x, axes):
        x = kernel.scipy_transform(x, axes, inverse)
    else:
        x = (torch.fft.ifftn if inverse else torch.fft.fftn)(x, dim=axes, norm="ortho")
    shifted: Tensor = torch.fft.fftshift(x, dim=axes)
    return shifted


@dataclass(frozen=True, eq=False)
class Fourier(Linear):
    """Image → k-space along `axes` (negative, counted from the end), centred and unitary, zero at index N // 2.

    Its normal operator is the identity. A fully sampled axis can be left out entirely. Raises DataError for axes
    counted from the front.
    """

    axes: tuple[int, ...] = (-2, -1)

    def __post_init__(self) -> None:
        check_axes(self.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Centred FFT."""
        return fft(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        """Centred inverse FFT."""
        return ifft(y, self.axes)

    def normal(self, inner: Linear | None = None) -> Linear:
        """The identity; around an inner operator F⁻¹ · inner · F."""
        return Identity() if inner is None else super().normal(inner)


def check_axes(axes: Sequence[int]) -> None:
    """Raises DataError for axes that are not negative: batch axes in front of an image would shift the others."""
    if not isinstance(axes, Sequence) or any(a >= 0 for a in axes) or len(set(axes)) != len(axes):
        raise DataError(f"axes={axes!r} must be negative numbers, each once, counted from the end: (-2, -1) is (y, x)")


def check_has(shape: Sequence[int], axes: Sequence[int]) -> None:
    """Raises DataError for an image whose shape lacks one of `axes`."""
    if any(not -len(shape) <= a < len(shape) for a in axes):
        raise DataError(f"an image of shape {tuple(shape)} lacks one of the axes {tuple(axes)}; give (..., z, y, x)")
