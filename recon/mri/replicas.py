"""The uncertainty of an image: how much it changes when fresh noise is added to its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recon.data import Measurement


def replicas(
    m: Measurement,
    run: Callable[[Measurement], Tensor],
    *,
    count: int,
    seeds: Sequence[int],
    columns: Sequence[int] = (),
) -> Tensor:
    """Standard deviation of the magnitude over images of the data with fresh noise added, (..., z, y, x).

    Noise of the measured strength is added to the measured samples, `count` times. For a linear method the result is
    its noise map, √R · g over the noise of a full scan (Robson et al., Magn Reson Med 60:895, 2008). For others it
    shows how much the image changes with the noise, but not the errors that a method makes every time.

    `seeds` holds one for each item along the first axis of y, or one for all of y: the noise of an item does not depend
    on its batch. Nor does that of a column depend on where y is divided along its last axis: `columns` are the column
    numbers, by default 0, 1, 2, ….
    """
    fresh = _Fresh(m.y.shape, seeds, columns or range(m.y.shape[-1]))
    mean = apart = torch.zeros(())
    for n in range(1, count + 1):
        x = run(replace(m, y=m.y + fresh.drawn().to(m.y.device) * m.sigma * (m.y != 0))).abs()
        # Welford's method: in single precision the square of a bright voxel has no digits left for the noise.
        step = x - mean
        mean = mean + step / n
        apart = apart + step * (x - mean)
    return (apart / max(1, count - 1)).clamp_min(0).sqrt()


class _Fresh:
    """Complex white noise with the shape of a measurement; each seed and column has its own random stream."""

    def __init__(self, shape: Sequence[int], seeds: Sequence[int], columns: Sequence[int]) -> None:
        self._shape, self._each = tuple(shape), math.prod(shape) // (len(seeds) * len(columns))
        self._streams = [[np.random.Generator(np.random.Philox(key=[s, c])) for c in columns] for s in seeds]

    def drawn(self) -> Tensor:
        """The next noise, with standard deviation 1 in its real and in its imaginary part."""
        out = torch.empty((len(self._streams), self._each, len(self._streams[0])), dtype=torch.complex64)
        for item, streams in zip(out, self._streams):
            for column, stream in enumerate(streams):
                numbers = torch.from_numpy(stream.standard_normal((self._each, 2), np.float32))
                item[:, column] = torch.view_as_complex(numbers)
        return out.reshape(self._shape)
