"""Operations that torch and its libraries would round differently with another number of threads, made independent of
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")

#: Values of one partial sum.
BLOCK = 4096


def alone(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of `work` on its arguments, with one CPU thread.

    For eigenvectors, linear systems and the like: a library divides them among its threads in its own way, and the
    parts round differently. At the sizes of a calibration nothing is lost: for a matrix of 288² one thread found the
    eigenvectors in 16 ms of processor time, two in 122 ms on a busy machine.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return work(*args, **kwargs)
    torch.set_num_threads(1)
    try:
        return work(*args, **kwargs)
    finally:
        torch.set_num_threads(threads)


def total(x: Tensor, ndim: int) -> Tensor:
    """The sum over the last `ndim` axes, block by block: torch divides one long sum among its threads."""
    flat = x.flatten(-ndim)
    whole = flat.shape[-1] // BLOCK * BLOCK
    if whole <= BLOCK or x.device.type != "cpu":
        short: Tensor = flat.sum(-1)
        return short
    parts = flat[..., :whole].reshape(*flat.shape[:-1], -1, BLOCK).sum(-1)
    out: Tensor = parts.sum(-1) + flat[..., whole:].sum(-1)
    return out
