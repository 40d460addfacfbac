"""NMSE, PSNR and SSIM of a real image against a reference, each with its data range stated by the caller."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recon.data import ReconError

#: Constants of SSIM: C₁ = (K₁·R)², C₂ = (K₂·R)² for the data range R.
K1, K2 = 0.01, 0.03


def nmse(x: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """Energy of the error relative to the energy of the reference.

        nmse = ‖x − r‖² / ‖r‖²

    `x` and `reference` are real arrays of one shape; `mask` (bool, broadcastable to that shape) restricts both sums.
    0 is perfect. Raises ReconError for complex, non-finite or differently shaped arrays and a reference of zeros.
    """
    a, r, m = _checked(x, reference, mask)
    energy = float(np.sum(np.square(r[m])))
    if energy == 0:
        raise ReconError(
            "the reference image is zero everywhere, so NMSE is undefined; check that the right file is read"
        )
    return float(np.sum(np.square(a[m] - r[m]))) / energy


def psnr(x: ArrayLike, reference: ArrayLike, *, data_range: float, mask: ArrayLike | None = None) -> float:
    """Peak signal-to-noise ratio in decibels.

        psnr = 10·log₁₀(R² / mean((x − r)²))

    R is `data_range` in the units of the images, for example the maximum of the reference volume; `mask` (bool,
    broadcastable) restricts the mean. Infinite for equal images. Raises ReconError as `nmse` and for R ≤ 0.
    """
    a, r, m = _checked(x, reference, mask)
    peak = _range(data_range)
    mse = float(np.mean(np.square(a[m] - r[m])))
    return float("inf") if mse == 0 else float(10 * np.log10(peak**2 / mse))


def ssim(
    x: ArrayLike, reference: ArrayLike, *, data_range: float, window: int = 7, mask: ArrayLike | None = None
) -> float:
    """Mean structural similarity over all slices, as the fastMRI challenge computes it.

        ssim(p) = (2μₓμᵣ + C₁)(2σₓᵣ + C₂) / ((μₓ² + μᵣ² + C₁)(σₓ² + σᵣ² + C₂)),   C₁ = (0.01·R)², C₂ = (0.03·R)²

    Means and (co)variances are taken in a uniform `window`×`window` square around pixel p in the plane of the last two
    axes, the covariances with divisor window² − 1; the mean runs over pixels whose square lies within the image and,
    with `mask` (bool, broadcastable), whose centre lies in the mask. Leading axes are slices. R is `data_range`; the
    challenge takes the maximum of the reference volume. Raises ReconError as `psnr` and for a window that is even,
    below 3 or larger than the image.
    Source: Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Process. 13 (2004) 600; Knoll et al., Magn. Reson. Med.
    84 (2020) 3054.
    """
    a, r, m = _checked(x, reference, mask)
    values, inside = ssim_map(a, r, data_range=data_range, window=window)
    chosen = m & inside
    if not chosen.any():
        raise ReconError(
            f"no pixel of the mask lies {window // 2} pixels or more from the border, so SSIM is undefined; "
            "give a larger mask or a smaller window"
        )
    return float(values[chosen].mean())


def ssim_map(
    x: ArrayLike, reference: ArrayLike, *, data_range: float, window: int = 7
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """SSIM at every pixel, and the pixels whose window lies within the image (formula and errors as `ssim`)."""
    from scipy.ndimage import uniform_filter

    a, r, _ = _checked(x, reference, None)
    peak = _range(data_range)
    if a.ndim < 2 or window < 3 or window % 2 == 0 or window > min(a.shape[-2:]):
        raise ReconError(
            f"an SSIM window of {window} does not fit an image of shape {a.shape}; it must be odd, at least 3 and no "
            "larger than the last two axes"
        )
    size = (1,) * (a.ndim - 2) + (window, window)
    mean_a, mean_r = uniform_filter(a, size), uniform_filter(r, size)
    unbiased = window**2 / (window**2 - 1)
    var_a = unbiased * (uniform_filter(a * a, size) - mean_a**2)
    var_r = unbiased * (uniform_filter(r * r, size) - mean_r**2)
    cov = unbiased * (uniform_filter(a * r, size) - mean_a * mean_r)
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    values = (2 * mean_a * mean_r + c1) * (2 * cov + c2) / ((mean_a**2 + mean_r**2 + c1) * (var_a + var_r + c2))
    inside = np.zeros(a.shape, dtype=bool)
    edge = window // 2
    inside[..., edge : a.shape[-2] - edge, edge : a.shape[-1] - edge] = True
    return values, inside


def _checked(
    x: ArrayLike, reference: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    a, r = np.asarray(x), np.asarray(reference)
    for name, v in (("image", a), ("reference", r)):
        if np.iscomplexobj(v):
            raise ReconError(f"the {name} is complex ({v.dtype}); compare magnitudes, for example numpy.abs of both")
        if not (np.issubdtype(v.dtype, np.number) or v.dtype == bool):
            raise ReconError(f"the {name} holds {v.dtype}, not numbers; give a real array")
    if a.shape != r.shape:
        raise ReconError(
            f"the image has shape {a.shape} and the reference {r.shape}; crop or resample them to one grid first"
        )
    if a.size == 0:
        raise ReconError(f"the images are empty (shape {a.shape}); there is nothing to compare")
    a, r = a.astype(np.float64), r.astype(np.float64)
    for name, v in (("image", a), ("reference", r)):
        if not np.isfinite(v).all():
            raise ReconError(f"the {name} holds NaN or infinite values; mend them before comparing")
    if mask is None:
        return a, r, np.ones(a.shape, dtype=bool)
    m = np.asarray(mask)
    if m.dtype != bool:
        raise ReconError(f"the mask holds {m.dtype}, expected bool; compare it first, for example mask > 0")
    try:
        m = np.broadcast_to(m, a.shape)
    except ValueError:
        raise ReconError(f"the mask has shape {m.shape}, the images {a.shape}; give a mask of the same grid") from None
    if not m.any():
        raise ReconError("the mask selects no pixel; there is nothing to compare")
    return a, r, m


def _range(data_range: float) -> float:
    if not np.isfinite(data_range) or data_range <= 0:
        raise ReconError(
            f"the data range is {data_range}, it must be positive and in the units of the images, for example the "
            "maximum of the reference volume"
        )
    return float(data_range)
