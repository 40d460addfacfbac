"""The centred, unitary discrete Fourier transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.operators.base import Identity, Linear


def fft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Centred, unitary FFT: X[k] = N^(−1/2) Σ_n x[n] exp(−2πi (n − N//2)(k − N//2) / N) along each of `axes`."""
    return _centred(torch.fft.fftn, x, tuple(axes))


def ifft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Inverse (and adjoint) of `fft`."""
    return _centred(torch.fft.ifftn, x, tuple(axes))


def _centred(transform: Callable[..., Tensor], x: Tensor, axes: tuple[int, ...]) -> Tensor:
    if not axes:
        return x
    x = torch.fft.ifftshift(x, dim=axes)
    shifted: Tensor = torch.fft.fftshift(transform(x, dim=axes, norm="ortho"), dim=axes)
    return shifted


@dataclass(frozen=True, eq=False)
class Fourier(Linear):
    """Image → k-space along `axes` (negative, counted from the end), centred and unitary, zero at index N // 2.

    Its normal operator is the identity. Along an axis that was fully sampled it may be left out altogether.
    """

    axes: tuple[int, ...] = (-2, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Centred FFT."""
        return fft(x, self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        """Centred inverse FFT."""
        return ifft(y, self.axes)

    def normal(self, inner: Linear | None = None) -> Linear:
        """The identity; around an inner operator F⁻¹ · inner · F."""
        return Identity() if inner is None else super().normal(inner)
