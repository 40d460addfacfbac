"""Features of a network on the CPU: instance normalisation and a leaky rectifier in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.kernels.build import native

#: Added to a variance before its root, as in torch.
FLOOR = 1e-5


def serves(x: Tensor) -> bool:
    """Whether `rectify` accepts these features: float32 (1, channel, h, w) with adjacent channels, on the CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and len(x) == 1
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and hasattr(native(), "rectify")
    )


def rectify(x: Tensor, slope: float, joined: Tensor | None = None, first: int = 0) -> Tensor:
    """x ← leaky rectifier of (x − mean) / (variance + FLOOR)^½ over each image and channel, in place.

    `joined` (1, channels, h, w), also with adjacent channels, receives a copy from its channel `first` on.
    """
    module = native()
    assert module is not None
    flat, out = (None if t is None else t[0].permute(1, 2, 0).flatten(0, 1).numpy() for t in (x, joined))
    module.rectify(flat, FLOOR, slope, out, first, torch.get_num_threads())
    return x
