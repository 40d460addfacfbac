"""fastmri: centred, orthonormal FFT, real pairs in the last axis. It has no operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastmri
import torch

Task = Callable[[], Any]
Data = dict[str, Any]


def sense_normal(data: Data, settings: Data) -> Task:
    if data["maps"].shape[2] > 1:
        raise NotImplementedError("fastmri transforms two axes alone")
    maps = torch.view_as_real(torch.from_numpy(data["maps"][:, :, 0]))
    x = torch.view_as_real(torch.from_numpy(data["image"]))
    mask = torch.from_numpy(data["mask"])[0][:, None, None]

    def run() -> Any:
        k = fastmri.fft2c(fastmri.complex_mul(x, maps)) * mask
        return torch.view_as_complex(fastmri.complex_mul(fastmri.ifft2c(k), fastmri.complex_conj(maps)).sum(1))[:, None]

    return run
