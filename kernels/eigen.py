"""Sensitivity maps as dominant eigenvectors of one small Hermitian matrix per pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.kernels import bridge, launch, proofs
from recon.kernels.build import native


def serves(t: Tensor, coils: int = 1, lags: int = 1) -> bool:
    """Whether the kernel accepts this tensor: complex64, on the CPU, or on a GPU with a proven kernel and memory."""
    if t.dtype != torch.complex64:
        return False
    if t.device.type == "cpu":
        return native() is not None
    return bool(proofs.stands("eigen", t.device) and launch.eigen_threads(coils, lags, t.device) > 0)


def eigenmaps(
    kernels: Tensor,
    waves: Tensor,
    reference: Tensor,
    maps: Tensor,
    values: Tensor,
    first: int,
    *,
    least: float,
    tolerance: float,
) -> None:
    """Write eigenvectors and eigenvalues of G(r) = Σ_lag waves[x, lag] · kernels[z, y, lag] for some partitions.

    `kernels` (z, y, lag, entry) holds the upper triangle of G, row by row, for the partitions from `first` on of `maps`
    (coil, Z, y, x) and `values` (Z, y, x), both contiguous. The component of a vector along `reference` (coil) is real
    and positive. Eigenvalues below `least` need not be exact; others satisfy ‖Gv − λv‖ ≤ `tolerance` · λ. If that was
    not reached, at the edge of an object, where two eigenvalues are nearly equal, the value is negative.
    """
    if kernels.is_cuda:
        launch.eigenmaps(kernels, waves, reference, maps, values, first, least=least, tolerance=tolerance)
        return
    module = native()
    assert module is not None
    given = (bridge.settled(t).numpy() for t in (kernels, waves, reference))
    written = (maps.numpy(), values.numpy())
    module.eigenmaps(*given, *written, first, least, tolerance, launch.ITERATIONS, torch.get_num_threads())


def serves_windows(t: Tensor) -> bool:
    """Whether `local_maps` accepts this tensor: complex64 on the CPU, with an extension that contains it."""
    return t.device.type == "cpu" and t.dtype == torch.complex64 and hasattr(native(), "local_maps")


def local_maps(
    images: Tensor, reference: Tensor, windows: list[int], maps: Tensor, values: Tensor, *, tolerance: float
) -> None:
    """Write the dominant eigenvectors of R_cd(r) = Σ x_c x_d* over a window around r, and λ / tr R.

    `images` and `maps` are (coil, z, y, x), `values` (z, y, x), the last two contiguous on the CPU. `windows` (z, y, x)
    are odd numbers of pixels; only those inside the image count. ‖Rv − λv‖ ≤ `tolerance` · λ if thirteen squarings of R
    suffice; the component of a vector along `reference` (coil) is real and positive. Without signal all are zero.
    """
    module = native()
    assert module is not None
    given = (bridge.settled(t).numpy() for t in (images, reference))
    module.local_maps(*given, windows, tolerance, maps.numpy(), values.numpy(), torch.get_num_threads())
