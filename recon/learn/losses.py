"""The loss of a training: decibels relative to the classical start, and structural similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def log_error(x: Tensor, target: Tensor, start: Tensor, weight: Tensor, floor: float = 1e-7) -> Tensor:
    """Mean over items of ½·log of the squared error relative to the start's, of the complex image and its magnitude.

        L = ½ log(E(x) / E(x₀)),   E(x) = Σ w |x − t|² / Σ w + floor

    Minimising the logarithm maximises the mean PSNR: every scan has the same weight, whether its error is large or
    small. Multiplied by −20/ln 10 it is the gain over the start in decibels. Shapes (item, z, y, x).
    """
    complex_part = _log_mse(x - target, weight, floor) - _log_mse(start - target, weight, floor)
    flat = _log_mse(x.abs() - target.abs(), weight, floor) - _log_mse(start.abs() - target.abs(), weight, floor)
    return 0.25 * (complex_part + flat).mean()


def gain(x: Tensor, target: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """PSNR of |x| minus PSNR of |start| for each item in decibels, over pixels with weight one.

    A piece without such pixels, showing only air, is measured over all pixels that count. Finite for images without an
    error.
    """
    body = (weight >= 1).float()
    body = torch.where(body.amax((-3, -2, -1), keepdim=True) > 0, body, weight)
    ours, theirs = (_log_mse(v.abs() - target.abs(), body, 1e-20) for v in (x, start))
    return (theirs - ours) * (10 / torch.log(torch.tensor(10.0)))


def dissimilarity(x: Tensor, target: Tensor, weight: Tensor, window: int = 7) -> Tensor:
    """1 − SSIM of magnitudes, weighted, with the data range of each item's target; see `recon.metrics.ssim`."""
    a, t = x.abs().flatten(0, -3)[:, None], target.abs().flatten(0, -3)[:, None]
    peak = t.amax((-2, -1), keepdim=True).clamp_min(1e-6)
    a, t = a / peak, t / peak
    mean_a, mean_t = (F.avg_pool2d(v, window, 1) for v in (a, t))
    unbiased = window**2 / (window**2 - 1)
    var_a = unbiased * (F.avg_pool2d(a * a, window, 1) - mean_a**2)
    var_t = unbiased * (F.avg_pool2d(t * t, window, 1) - mean_t**2)
    both = unbiased * (F.avg_pool2d(a * t, window, 1) - mean_a * mean_t)
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * mean_a * mean_t + c1) * (2 * both + c2) / ((mean_a**2 + mean_t**2 + c1) * (var_a + var_t + c2))
    edge = window // 2
    w = weight.flatten(0, -3)[:, None, edge : weight.shape[-2] - edge, edge : weight.shape[-1] - edge]
    return ((1 - value) * w).sum() / w.sum()


def _log_mse(error: Tensor, weight: Tensor, floor: float) -> Tensor:
    square = error.real.square() + error.imag.square() if error.is_complex() else error.square()
    return ((square * weight).sum((-3, -2, -1)) / weight.sum((-3, -2, -1)).clamp_min(1e-12) + floor).log()
