"""Levels of an orthonormal wavelet transform, and shrinkage, in place on complex images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels import bridge, launch, proofs
from recon.kernels.build import native


def serves(x: Tensor) -> bool:
    """Whether the compiled kernels accept it: complex64, no derivative to record; on a GPU lines that fit a block."""
    if x.dtype != torch.complex64 or bridge.watched(x) or not x.numel():
        return False
    if x.is_cuda:
        fits = max(x.shape[-3:]) <= bridge.SHARED // 8
        return fits and bool(proofs.stands("wavelet", x.device))
    return native() is not None and x.device.type == "cpu"


def shrinks(x: Tensor) -> bool:
    """Whether `shrink` accepts this tensor: complex64, no derivative to record; on a GPU with a proven kernel."""
    if x.is_cuda:
        plain = x.dtype == torch.complex64 and not (bridge.watched(x) or x.is_conj())
        return plain and bool(proofs.stands("shrink", x.device))
    return serves(x)


def level(x: Tensor, corner: tuple[int, int, int], axis: int, taps: NDArray[np.float64], inverse: bool) -> None:
    """One level along `axis` (−3, −2 or −1) of the corner (z, y, x) of each item of x (item, z, y, x), in place.

    Row k of the analysis holds the scaling filter `taps` at 2k + 1 − p + t, periodic, t < 2p; the corner's length along
    the axis is even and at least 2p.
    """
    if x.is_cuda:
        launch.wavelet_level(x, corner, axis, taps, inverse)
        return
    module = native()
    assert module is not None
    module.wavelet_level(x.numpy(), corner, axis + 3, taps.astype(np.float32), inverse, torch.get_num_threads())


def seams(x: Tensor) -> bool:
    """Whether `seamed_level` accepts it: as `serves`, on a CPU whose module contains it."""
    return not x.is_cuda and serves(x) and hasattr(native(), "wavelet_seamed")


def seamed_level(
    x: Tensor,
    corner: tuple[int, int, int],
    axis: int,
    taps: NDArray[np.float64],
    seam: tuple[list[int], list[int], NDArray[np.float64]],
    inverse: bool,
) -> None:
    """A `level` along an axis of odd length n, with ⌈n/2⌉ scaling functions; `seam` is what is added to its matrix.

    It consists of rows, columns and the values (row, column) that make the rows orthonormal where the last meets the
    first.
    """
    rows, columns, values = seam
    module = native()
    assert module is not None
    module.wavelet_seamed(
        x.numpy(), corner, axis + 3, taps.astype(np.float32), rows, columns, values.astype(np.float32), inverse,
        torch.get_num_threads(),
    )  # fmt: skip


def turns(x: Tensor) -> bool:
    """Whether `haar` accepts it: as `serves`, on a CPU whose module contains it."""
    return not x.is_cuda and serves(x) and hasattr(native(), "haar")


def haar(x: Tensor, levels: int, shift: tuple[int, int], inverse: bool) -> Tensor:
    """All levels of Haar's transform of planes (..., y, x), whose sides halve evenly that often.

    The planes are first rolled by `shift` (0 ≤ shift < side), or the result of the inverse back by it.
    """
    module = native()
    assert module is not None
    x = bridge.settled(x)
    out = torch.empty_like(x)
    planes, made = (t.view(-1, *t.shape[-2:]).numpy() for t in (x, out))
    module.haar(planes, made, levels, shift, inverse, torch.get_num_threads())
    return out


def shrink(x: Tensor, threshold: float | Tensor, exponent: float) -> None:
    """x ← x · max(0, 1 − (threshold / |x|)^exponent) for contiguous x, in place; a tensor must be on x's device."""
    if x.is_cuda:
        launch.shrink(x, threshold, exponent)
        return
    module = native()
    assert module is not None
    module.shrink(x.view(-1).numpy(), float(threshold), exponent, torch.get_num_threads())
