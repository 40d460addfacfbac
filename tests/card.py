"""A simulated GPU: tensors that claim to be on a card, and raise like torch if CPU tensors are mixed with them.

Under `Card()` everything that is created on or moved to `CARD` is on it. `uploads` and `downloads` count the values
that crossed (a scalar read by Python is a download of one); the arithmetic is done on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("meta")
_aten = torch.ops.aten


class OnCard(Tensor):
    """A tensor on the card; `held` is its content."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=CARD
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCard({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} reached a tensor of the card outside of Card()")


class Card(TorchDispatchMode):
    """Inside this context CARD exists."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[int] = []
        self.downloads: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        tensors = [t for t in flat if isinstance(t, Tensor)]
        here = [t for t in tensors if isinstance(t, OnCard)]
        if func in (_aten._pin_memory.default, _aten.is_pinned.default):
            return args[0].clone() if func is _aten._pin_memory.default else False
        # A pending conjugate would be lost below, so it is resolved at once.
        func = {_aten._conj.default: _aten.conj_physical.default, _aten._neg_view.default: _aten.neg.default}.get(
            func, func
        )
        wanted = kwargs.get("device")
        to_card = (torch.device(wanted) == CARD) if wanted is not None else bool(here)
        moves = func in (_aten._to_copy.default, _aten.copy_.default)
        mixed = here and not moves and any(t.ndim and not isinstance(t, OnCard) for t in tensors)
        if mixed and not _indexed_by_cpu(func, args):
            raise RuntimeError(f"Expected all tensors to be on the same device, in {func}")
        if func is _aten._to_copy.default and bool(here) != to_card:
            (self.uploads if to_card else self.downloads).append(args[0].numel())
        if func is _aten.copy_.default and isinstance(args[0], OnCard) != isinstance(args[1], OnCard) and args[1].ndim:
            (self.uploads if isinstance(args[0], OnCard) else self.downloads).append(args[1].numel())
        if func is _aten._local_scalar_dense.default and here:
            self.downloads.append(1)
        if wanted is not None and to_card:
            kwargs["device"] = torch.device("cpu")
        known = {id(t.held): t for t in here}
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func is _aten.copy_.default:
            return args[0]
        if not to_card:
            return out
        return tree_map(lambda t: (known[id(t)] if id(t) in known else OnCard(t)) if isinstance(t, Tensor) else t, out)


def _held(t: Any) -> Any:
    return t.held if isinstance(t, OnCard) else t


def _indexed_by_cpu(func: Any, args: Any) -> bool:
    """Torch accepts CPU indices for a tensor on a card, and moves them."""
    return func.overloadpacket in (_aten.index, _aten.index_put, _aten.index_put_) and isinstance(args[0], OnCard)
