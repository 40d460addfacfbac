"""Whether a network's image of a slice depends on the object's phase, which says nothing of what is there."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recon.data import Measurement
from recon.nets import unrolled
from recon.nets.unrolled import Unrolled
from recon.operators.sense import Sense
from recon.operators.windows import box

#: Phase encodes from which on slices are looked at: with fewer, no image was seen to be wrong (bench/large.py).
LARGE = 288
#: Width of the windows in pixels, what two images must differ by in one to count, and the least that they are compared
#: with, as shares of the peak; how bright the classical image must be there.
WINDOW, SEEN, LEAST, BODY = 13, 0.02, 0.003, 0.1


def compared(
    network: Unrolled, m: Measurement, x: Tensor, start: Tensor, *, denoise: float = 0.0
) -> list[float | None]:
    """How far each image x (..., 1, y, x) of a network is from the one that it makes of the same data without a phase.

        x' = p · f(A p, y, x₀ p̄),   p = x₀ / |x₀|,   max ‖|x| − |x'|‖ / ‖|x'| − |x₀|‖ over windows of 13 × 13 pixels

    The phase p of the classical image x₀ is a part of the coils' sensitivities to whoever is told so: A p explains y by
    x p̄ as well as A does by x. Where coils tell aliases apart badly a network relies on a phase that is smooth, as in
    its training; where it is not, the network draws what is not there, and without p it does not. Windows count whose
    images differ by 2 % of the peak or more; 0 where none does. None for volumes, several sets of maps, and fewer rows
    than LARGE.
    """
    A, items = m.A, m.y.shape[:-4].numel()
    if not isinstance(A, Sense) or A.sets or m.y.shape[-3] > 1 or m.y.shape[-2] < LARGE:
        return [None] * items
    size = start.abs()
    p = torch.where(size > 0, start / size.clamp_min(torch.finfo(size.dtype).tiny), 1)
    plain = replace(m, A=replace(A, maps=A.maps * p.unsqueeze(-4)))
    other = unrolled.reconstruct(network, plain, denoise=denoise, start=start * p.conj())
    pictures = (t.abs().reshape(items, *t.shape[-2:]) for t in (x, other, start))
    return [_farthest(*three) for three in zip(*pictures)]


def _farthest(x: Tensor, other: Tensor, start: Tensor) -> float:
    """The largest ratio over windows of three magnitudes (y, x)."""
    peak = start.flatten().kthvalue(max(1, int(0.995 * start.numel()))).values
    apart, changed = (box((a - b).square(), WINDOW).clamp_min(0).sqrt() for a, b in ((x, other), (other, start)))
    counts = (apart > SEEN * peak) & (box(start, WINDOW) > BODY * peak)
    return float((apart / torch.maximum(changed, LEAST * peak))[counts].max()) if bool(counts.any()) else 0.0
