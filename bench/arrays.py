"""Arrays of a case as torch tensors, on any device."""

from __future__ import annotations

from typing import Any


def tensor(a: Any) -> Any:
    """A tensor on the memory of a NumPy array; an existing tensor, on any device, is returned."""
    import torch

    return a if isinstance(a, torch.Tensor) else torch.from_numpy(a)
