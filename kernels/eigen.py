"""Sensitivity maps as dominant eigenvectors of one small Hermitian matrix a pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.kernels import bridge, launch, proofs
from recon.kernels.build import native


def serves(t: Tensor, coils: int = 1, lags: int = 1) -> bool:
    """Whether the kernel takes this tensor: complex64, on the CPU or a GPU where it is proven and has the memory."""
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

    `kernels` (z, y, lag, entry) holds the upper triangle of G, row by row; they are partitions `first` and on of `maps`
    (coil, Z, y, x) and `values` (Z, y, x), both contiguous. The part of a vector along `reference` (coil) is real and
    positive. Eigenvalues below `least` need not be exact; others are when ‖Gv − λv‖ ≤ `tolerance` · λ. Where that was
    not reached, at the rim of an object, where two eigenvalues are nearly equal, the value is negative.
    """
    if kernels.is_cuda:
        launch.eigenmaps(kernels, waves, reference, maps, values, first, least=least, tolerance=tolerance)
        return
    module = native()
    assert module is not None
    given = (bridge.settled(t).numpy() for t in (kernels, waves, reference))
    written = (maps.numpy(), values.numpy())
    module.eigenmaps(*given, *written, first, least, tolerance, launch.ITERATIONS, torch.get_num_threads())
