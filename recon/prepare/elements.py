"""Detector elements that count nothing, or always the same: found, and their rays filled in from their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Share of a row's elements that may be faulty and are filled in, and how many may be at least.
FEW, SOME = 0.02, 2
#: Share of the views that an element must lose to be dead, and that those beside it must not.
DEAD, ALIVE = 0.9, 0.1
#: Over the views a stuck element varies by less than this share of what its neighbours do, and they by more than so
#: much, in line integrals: in a round body all elements see the same from all sides, and nothing tells.
STILL, VARIES = 0.3, 0.3
#: Fewest views that tell what varies beneath noise, and as many as are looked at.
VIEWS, LOOKED = 32, 128


def faulty(p: Tensor, lost: Tensor) -> Tensor:
    """Elements (slice, detector) that are dead or stuck, of line integrals (slice, view, detector) and rays `lost`.

    Dead are those that lose DEAD of their rays where one beside them, to either side, loses few. Stuck are those whose
    line integrals do not vary from view to view, of which nine in ten lie within v, where those of one of the two that
    are two and three elements away vary, to either side:

        v(c) < STILL · min(max(v(c − 2), v(c − 3)), max(v(c + 2), v(c + 3)))

    A body cannot do that: whatever an element sees, those nearer to the axis see at other angles.
    """
    if p.shape[-1] < 7 or p.shape[-2] < VIEWS:
        return torch.zeros((p.shape[0], p.shape[-1]), dtype=torch.bool, device=p.device)
    some = p[:, :: max(1, p.shape[-2] // LOOKED)]
    ends = p.new_tensor([0.05, 0.95])
    varies = torch.stack([torch.diff(one.quantile(ends, dim=0), dim=0)[0] for one in some])
    gone = lost.float().mean(-2)
    alive = _either(gone, torch.minimum, (1, 2, 3)) < ALIVE
    near = _either(varies, torch.maximum, (2, 3))
    inner = torch.zeros_like(alive)
    inner[..., 3:-3] = True
    return inner & (((gone > DEAD) & alive) | ((varies < STILL * near) & (near > VARIES)))


def _either(values: Tensor, best: Callable[[Tensor, Tensor], Tensor], steps: tuple[int, ...]) -> Tensor:
    """Of elements (..., detector) the worse of both sides, each the best of those so many steps away."""
    sides = []
    for sign in (1, -1):
        side = values.roll(sign * steps[0], -1)
        for step in steps[1:]:
            side = best(side, values.roll(sign * step, -1))
        sides.append(side)
    return torch.maximum(*sides) if best is torch.minimum else torch.minimum(*sides)


def too_many(bad: Tensor) -> bool:
    """Whether more of a row's elements (..., detector) are faulty than may be filled in."""
    return int(bad.sum(-1).max()) > max(SOME, FEW * bad.shape[-1])


def filled(p: Tensor, bad: Tensor) -> Tensor:
    """Line integrals (slice, view, detector) with those of faulty elements (slice, detector) interpolated linearly
    between the nearest good ones; at the ends of the detector that of the last good one."""
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
