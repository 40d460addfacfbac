"""A small grey picture of an outgoing image for the status page; it contains only pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Longest side in pixels.
SIDE = 128


def thumbnail(pixels: NDArray[Any]) -> bytes:
    """PNG of the middle slice of (channel, z, y, x), means of blocks of pixels, from the 0.5 to the 99.5 percentile."""
    from PIL import Image as pil

    plane = np.abs(pixels[0, pixels.shape[1] // 2]) if np.iscomplexobj(pixels) else pixels[0, pixels.shape[1] // 2]
    step = -(-max(plane.shape) // SIDE)
    y, x = (n - n % step for n in plane.shape)
    if not (y and x):  # one pixel high, or wide: nothing to see
        return thumbnail(np.zeros((1, 1, step, step)))
    small = plane[:y, :x].reshape(y // step, step, x // step, step).mean((1, 3), dtype=np.float64)
    low, high = (float(q) for q in np.percentile(small, (0.5, 99.5)))
    low = min(low, 0.0)
    grey = np.clip((small - low) / ((high - low) or 1.0) * 255, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    pil.fromarray(grey).save(out, "PNG")
    return out.getvalue()
