"""Detector elements that are dead or stuck: how they are found, and how their rays are interpolated from neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Largest share of a row's elements that are filled in if faulty, and the number that is always allowed.
FEW, SOME = 0.02, 2
#: A dead element loses more than DEAD of its views; its neighbours lose less than ALIVE of theirs.
DEAD, ALIVE = 0.9, 0.1
#: A stuck element varies over the views by less than this share of what its neighbours do. The neighbours must vary by
#: more than VARIES (in line integrals): in a round body every element sees the same in all views, and a stuck one
#: cannot be recognised.
STILL, VARIES = 0.3, 0.3
#: Fewest views with which variation can be distinguished from noise, and how many views are examined.
VIEWS, LOOKED = 32, 128


def faulty(p: Tensor, lost: Tensor) -> Tensor:
    """Dead or stuck detector elements (slice, detector) of line integrals (slice, view, detector) and `lost` rays.

    An element is dead if it loses more than DEAD of its rays while at least one near neighbour on each side loses few.
    An element is stuck if its line integrals hardly vary from view to view, while those of its neighbours two or three
    elements away do, on both sides. With v the range that holds nine in ten of an element's values:

        v(c) < STILL · min(max(v(c − 2), v(c − 3)), max(v(c + 2), v(c + 3)))

    A body cannot cause that: elements nearer to the axis see the same structures at other angles.
    """
    if p.shape[-1] < 7 or p.shape[-2] < VIEWS:
        return torch.zeros((p.shape[0], p.shape[-1]), dtype=torch.bool, device=p.device)
    some = p[:, :: max(1, p.shape[-2] // LOOKED)]
    ends = p.new_tensor([0.05, 0.95])
    varies = torch.stack([torch.diff(one.quantile(ends, dim=0), dim=0)[0] for one in some])
    gone = lost.float().mean(-2)
    alive = _worse_side(gone, torch.minimum, (1, 2, 3)) < ALIVE
    near = _worse_side(varies, torch.maximum, (2, 3))
    inner = torch.zeros_like(alive)
    inner[..., 3:-3] = True
    return inner & (((gone > DEAD) & alive) | ((varies < STILL * near) & (near > VARIES)))


def _worse_side(values: Tensor, best: Callable[[Tensor, Tensor], Tensor], steps: tuple[int, ...]) -> Tensor:
    """For each element (..., detector) the worse of its two sides; a side is the best of the neighbours at `steps`."""
    sides = []
    for sign in (1, -1):
        side = values.roll(sign * steps[0], -1)
        for step in steps[1:]:
            side = best(side, values.roll(sign * step, -1))
        sides.append(side)
    return torch.maximum(*sides) if best is torch.minimum else torch.minimum(*sides)


def too_many(bad: Tensor) -> bool:
    """Whether a row (..., detector) has more faulty elements than may be filled in."""
    return int(bad.sum(-1).max()) > max(SOME, FEW * bad.shape[-1])


def filled(p: Tensor, bad: Tensor) -> Tensor:
    """Line integrals (slice, view, detector) with faulty elements (slice, detector) interpolated.

    Interpolation is linear between the nearest good elements; at the ends of the detector the last good one is
    repeated.
    """
    out = p.clone()
    for k in torch.nonzero(bad.any(-1)).flatten().tolist():
        good = torch.nonzero(~bad[k]).flatten()
        at = torch.nonzero(bad[k]).flatten()
        after = torch.searchsorted(good, at).clamp(0, len(good) - 1)
        low, high = good[(after - 1).clamp_min(0)], good[after]
        low = torch.where(high < at, high, low)
        share = ((at - low) / (high - low).clamp_min(1)).clamp(0, 1).to(p.dtype)
        out[k][:, at] = (1 - share) * p[k][:, low] + share * p[k][:, high]
    return out
