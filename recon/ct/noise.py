"""How noisy a CT image is, read off the image itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Soft tissue in HU: what the noise is measured in. Lung and bone have structure of their own at every scale.
TISSUE = (-250.0, 250.0)
#: Median of |x| of a Gaussian of unit standard deviation.
_MEDIAN = 0.6745


def noise_level(volume: Tensor, lag: int = 3) -> Tensor:
    """Standard deviation σ of the noise of each slice (z,) in HU, for slices (z, y, x).

        σ = median |d| / (0.6745 · √1.25),   d(r) = x(r) − ¼ Σ x(r ± lag · e)

    over pixels of soft tissue whose four neighbours are soft tissue too. Noise of filtered backprojection is
    correlated: at a lag of one pixel a difference would miss most of it, at three the correlation has decayed. Slices
    with less than 500 such pixels, which show next to no body, are given the median of the others, 0 where there is
    none.
    """
    x = volume.float()
    low, high = TISSUE
    inside = (x > low) & (x < high)
    middle = (..., slice(lag, -lag), slice(lag, -lag))
    if min(x.shape[-2:]) <= 2 * lag:
        return torch.zeros(x.shape[0])
    moved = [(0, lag), (0, -lag), (lag, 0), (-lag, 0)]
    around = sum(torch.roll(x, m, (-2, -1))[middle] for m in moved) / 4
    kept = inside[middle].clone()
    for m in moved:
        kept &= torch.roll(inside, m, (-2, -1))[middle]
    d = (x[middle] - around).abs()
    found = [float(one[keep].median()) if int(keep.sum()) >= 500 else math.nan for one, keep in zip(d, kept)]
    sigma = torch.tensor(found) / (_MEDIAN * math.sqrt(1.25))
    known = sigma[sigma.isfinite()]
    return torch.where(sigma.isfinite(), sigma, known.median() if len(known) else torch.zeros(()))
