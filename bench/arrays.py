"""Arrays of a case as torch sees them, wherever they are."""

from __future__ import annotations

from typing import Any


def tensor(a: Any) -> Any:
    """A tensor on the memory of a NumPy array; a tensor, on whatever device, as it is."""
    import torch

    return a if isinstance(a, torch.Tensor) else torch.from_numpy(a)
