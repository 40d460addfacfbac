"""Import before mrpro, deepinv and mrinufft: declares operators that torchvision lacks with a CPU-only torch."""

from __future__ import annotations

import torch

#: torchvision gives these operators shapes at import, and raises if its compiled library could not be loaded.
MISSING = ("nms", "qnms")

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # If the first import failed, what it left is not a module.
    import sys

    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for operator in MISSING:
        LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
