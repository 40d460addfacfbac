"""From the encoded grid to the image's grid: removal of oversampling, cropping, zero-fill interpolation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def inner_size(encoded: int, encoded_fov: float, recon_fov: float) -> int:
    """Samples of the encoded grid that cover the reconstructed field of view: ⌈N · FOV_recon / FOV_encoded⌉, at most N.

    A quotient within 1 % of a sample of a whole number counts as whole, because headers hold rounded millimetres.
    """
    exact = encoded * recon_fov / encoded_fov
    return min(encoded, max(1, round(exact) if abs(exact - round(exact)) < 1e-2 else math.ceil(exact)))


def crop(x: Tensor, axis: int, n: int) -> Tensor:
    """The middle `n` samples of an axis, so that index N // 2 becomes index n // 2; a view."""
    size = x.shape[axis]
    return x.narrow(axis, size // 2 - n // 2, n)


def to_hybrid(columns: Tensor, n: int) -> Tensor:
    """Readouts (..., kx) in k-space to `n` samples in the middle of image space (..., x): F⁻¹ along x, then crop.

    Removing readout oversampling this way loses nothing of the object inside, and the noise stays white.
    """
    x = torch.fft.ifft(torch.fft.ifftshift(columns, dim=-1), norm="ortho")
    # The middle n of the shifted samples, without a shifted copy of all of them.
    return torch.cat([x.narrow(-1, x.shape[-1] - n // 2, n // 2), x.narrow(-1, 0, n - n // 2)], -1)


def resample(x: Tensor, axis: int, spacing_in: float, spacing_out: float, n_out: int) -> Tensor:
    """Band-limited interpolation of an axis onto `n_out` samples with another spacing, around the same centre N // 2.

        y[j] = (1/N) Σ_k X[k] exp(2πi k r_j / N),
        r_j = (j − n_out//2) · spacing_out / spacing_in

    with X the centred DFT of x. With equal spacings this crops or zero-pads in image space. A finer spacing is
    zero-filling of k-space, a coarser one leaves out the edge of k-space. Values are kept (not the energy). Complex
    input, new tensor.
    """
    n_in = x.shape[axis]
    if math.isclose(spacing_in, spacing_out, rel_tol=1e-4):
        if n_out <= n_in:
            return crop(x, axis, n_out).clone()
        padded = list(x.shape)
        padded[axis] = n_out
        out = x.new_zeros(padded)
        crop(out, axis, n_in).copy_(x)
        return out
    ratio = spacing_out / spacing_in
    band = min(1.0, 1.0 / ratio)
    k = torch.arange(n_in, dtype=torch.float64, device=x.device) - n_in // 2
    # Quotients of millimetres are not exact: the lowest frequency belongs to the band, the highest does not.
    k = k[(k >= -n_in / 2 * band - 1e-6) & (k < n_in / 2 * band - 1e-6)] if band < 1 else k
    r = (torch.arange(n_out, dtype=torch.float64, device=x.device) - n_out // 2) * ratio
    m = torch.arange(n_in, dtype=torch.float64, device=x.device) - n_in // 2
    synthesis = torch.exp(2j * math.pi * torch.outer(r, k) / n_in)
    analysis = torch.exp(-2j * math.pi * torch.outer(k, m) / n_in)
    matrix = (synthesis @ analysis / n_in).to(x.dtype)
    outside = (r < -(n_in // 2) - 0.5 - 1e-6) | (r > (n_in - 1) // 2 + 0.5 + 1e-6)
    matrix[outside] = 0
    return torch.matmul(x.movedim(axis, -1), matrix.T).movedim(-1, axis)
