"""Convolution of planes with kernels as long as the image: the normal operator of a non-uniform Fourier transform."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels import bridge
from recon.kernels.build import native
from recon.kernels.sense import smooth


def serves(x: Tensor, kernels: Tensor, ndim: int) -> bool:
    """Whether the compiled kernel accepts this: complex64 planes on the CPU with smooth sizes, and real spectra."""
    return (
        native() is not None
        and ndim == 2
        and x.device.type == "cpu"
        and x.dtype == torch.complex64
        and kernels.dtype == torch.float32
        and all(smooth(n) for n in kernels.shape[-2:])
    )


def convolve(items: Tensor, kernels: Tensor, which: NDArray[np.int32]) -> Tensor:
    """T x of planes (item, y, x) for spectra (4, kernel, y, x) of the four phases; `which` numbers the kernels."""
    module = native()
    assert module is not None
    items = bridge.settled(items)
    out = torch.empty_like(items)
    spectra = (kernels / kernels.shape[-2:].numel()).contiguous()
    module.toeplitz(items.numpy(), spectra.numpy(), which, out.numpy(), torch.get_num_threads())
    return out
