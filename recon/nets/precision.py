"""The precision in which networks make pictures on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full() -> Iterator[None]:
    """Convolutions in true single precision within.

    Torch lets a GPU's tensor cores round their factors to 10 bits (TF32). Through the twelve cascades of a VarNet that
    grew to 4e-3 of the image (random weights, 640×368, on an H200); training may do with it.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before
