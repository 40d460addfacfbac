"""Partial Fourier: the missing side of k-space from conjugate symmetry, with a smooth phase estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import DataError
from recon.operators import fft, ifft


def homodyne(image: Tensor, axis: int, sampled: tuple[int, int], *, keep_phase: bool = False) -> Tensor:
    """Homodyne reconstruction of an image whose k-space is measured on one side and a little beyond the centre.

        m = Re(F⁻¹ W F x · exp(−iφ)),   φ = phase of F⁻¹ H F x

    W is 2 where only one of k and −k was measured, 1 in the symmetric centre with a linear ramp between, 0 elsewhere; H
    is a Hann window over the symmetric centre. `image` is complex (..., z, y, x), coil-combined; `axis` (−3, −2 or −1)
    is partially sampled, its k-space zero outside [lo, hi) = `sampled` with the centre at N // 2. The result is
    phase-corrected by definition: complex with zero imaginary part, positive where the phase estimate is correct. With
    `keep_phase` it is multiplied by exp(iφ).

    Raises DataError if the range does not contain the centre of k-space. Source: Noll, Nishimura and Macovski, IEEE
    Trans Med Imaging 10:154, 1991.
    """
    n, low, high, half = _symmetric(image, axis, sampled)
    if half is None:
        return image.clone() if keep_phase else image.abs().to(image.dtype)
    kspace = fft(image, (axis,))
    position = _along(torch.arange(n, device=image.device) - n // 2, axis).to(image.real.dtype)
    side = 1 if n // 2 - low < high - 1 - n // 2 else -1
    ramp = (1 + side * position / (half + 1)).clamp(0, 2)
    # The lowest frequency of an even length is its own partner.
    ramp = torch.where(2 * position == -n, torch.ones_like(ramp), ramp)
    measured = (position >= low - n // 2) & (position < high - n // 2)
    rotation = _phase(kspace, axis, half)
    real = (ifft(kspace * (ramp * measured), (axis,)) * rotation.conj()).real
    return real * rotation if keep_phase else torch.complex(real, torch.zeros_like(real))


def pocs(image: Tensor, axis: int, sampled: tuple[int, int], *, iterations: int = 12) -> Tensor:
    """Projection onto convex sets: an image with the estimated phase that agrees with every measured sample.

        x ← exp(iφ) Re(exp(−iφ) x);   (F x)[k] ← y[k] for lo ≤ k < hi

    Arguments as in `homodyne`. The result is complex and keeps its phase; the last step restores the measured samples,
    so that its k-space equals the input's on [lo, hi) exactly. Raises DataError if the range does not contain the
    centre. Source: Haacke, Lindskog and Lin, J Magn Reson 92:126, 1991.
    """
    n, low, high, half = _symmetric(image, axis, sampled)
    if half is None:
        return image.clone()
    kspace = fft(image, (axis,))
    rotation = _phase(kspace, axis, half)
    inside = _along(torch.arange(n, device=image.device), axis)
    measured = (inside >= low) & (inside < high)
    x = ifft(torch.where(measured, kspace, torch.zeros_like(kspace)), (axis,))
    for _ in range(iterations):
        guess = fft((x * rotation.conj()).real * rotation, (axis,))
        x = ifft(torch.where(measured, kspace, guess), (axis,))
    return x


def _symmetric(image: Tensor, axis: int, sampled: tuple[int, int]) -> tuple[int, int, int, int | None]:
    """Length, range and half width h of the symmetric centre (−h … h), or None if nothing is missing."""
    if axis not in (-3, -2, -1):
        raise DataError(
            f"partial Fourier axis {axis} is not one of −3 (z), −2 (y), −1 (x): choose the axis that was cut short"
        )
    n, (low, high) = image.shape[axis], sampled
    if not 0 <= low < high <= n:
        raise DataError(
            f"the sampled range [{low}, {high}) does not lie within the {n} samples of the axis: correct it"
        )
    if (low, high) == (0, n):
        return n, low, high, None
    half = min(n // 2 - low, high - 1 - n // 2)
    if half < 1:
        raise DataError(
            f"the sampled range [{low}, {high}) of {n} samples does not reach past the centre of k-space at {n // 2}: "
            f"choose zero filling"
        )
    return n, low, high, half


def _along(values: Tensor, axis: int) -> Tensor:
    return values.reshape([-1 if a == axis else 1 for a in (-3, -2, -1)])


def _phase(kspace: Tensor, axis: int, half: int) -> Tensor:
    """exp(iφ) of the image of the Hann-windowed symmetric centre."""
    n = kspace.shape[axis]
    position = (torch.arange(n, device=kspace.device) - n // 2).to(kspace.real.dtype)
    window = torch.cos(torch.pi / 2 * position / (half + 1)).square() * (position.abs() <= half)
    smooth = ifft(kspace * _along(window, axis), (axis,))
    return torch.polar(torch.ones_like(smooth.real), smooth.angle())
