"""A network's image of a slice without the object's phase, to test whether the usual image depends on that phase."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.data import Measurement
from recon.nets import unrolled
from recon.nets.unrolled import Unrolled
from recon.operators.sense import Sense
from recon.operators.windows import box, highest

#: Phase encodes above which slices are tested: with fewer, no image was seen to be wrong (bench/large.py).
LARGE = 288
#: In order: width of the windows in pixels; smallest difference between two images in a window that counts, and
#: smallest reference for the comparison, as shares of the peak; required brightness of the classical image there.
WINDOW, SEEN, LEAST, BODY = 13, 0.02, 0.003, 0.1


@dataclass(frozen=True)
class Rephased:
    """Difference of a network's images with and without the object's phase; share of pixels from the latter."""

    apart: float
    share: float


def compared(
    network: Unrolled, m: Measurement, x: Tensor, start: Tensor, *, limit: float, denoise: float = 0.0
) -> tuple[Tensor, list[Rephased | None]]:
    """The images x (..., 1, y, x) of a network, made without the object's phase where they depend on it; see `mixed`.

    None for volumes, several sets of maps, and fewer rows than LARGE: these images are not changed.
    """
    A, items = m.A, m.y.shape[:-4].numel()
    if not isinstance(A, Sense) or A.sets or m.y.shape[-3] > 1 or m.y.shape[-2] < LARGE:
        return x, [None] * items
    made, apart, shares = mixed(x, image(network, m, start, denoise=denoise), start, limit)
    return made, [Rephased(*n) for n in zip(apart, shares)]


def image(
    network: Unrolled, m: Measurement, start: Tensor, *, phase: Tensor | None = None, denoise: float = 0.0
) -> Tensor:
    """The image (..., 1, y, x) that a network makes of the same data if the phase is part of the coil maps.

        x' = p · f(A p, y, x₀ p̄),   p = x₀ / |x₀|

    `phase` is an image with the phase p to use instead of x₀. A p with x p̄ explains y as well as A with x. Where
    coils separate aliases badly, a network relies on a smooth phase, as in its training. If the phase is not smooth,
    the network draws structures that do not exist; without p it does not.
    """
    A = m.A
    assert isinstance(A, Sense)
    phase = start if phase is None else phase
    size = phase.abs()
    p = torch.where(size > 0, phase / size.clamp_min(torch.finfo(size.dtype).tiny), 1)
    plain = replace(m, A=replace(A, maps=A.maps * p.unsqueeze(-4)))
    return p * unrolled.reconstruct(network, plain, denoise=denoise, start=start * p.conj())


def mixed(x: Tensor, other: Tensor, start: Tensor, limit: float) -> tuple[Tensor, list[float], list[float]]:
    """Images x (..., 1, y, x), replaced by x' in windows that differ too much; largest ratio and share of pixels.

        w · x' + (1 − w) · x,
        w = 1 in windows of 13 × 13 pixels with ‖|x| − |x'|‖ > limit · ‖|x'| − |x₀|‖

    and falling to 0 around them; x₀ is the classical image. Only windows whose images differ by 2 % of the peak or
    more count: the largest ratio is 0 if there is none. Dark windows follow only if a bright window is beyond the
    limit.
    """
    lead, plane = x.shape[:-3], x.shape[-2:]
    a, b, c = (t.abs().reshape(-1, *plane) for t in (x, other, start))
    peak = torch.stack([t.flatten().kthvalue(max(1, int(0.995 * t.numel()))).values for t in c])[:, None, None]
    apart, changed = (box((p - q).square(), WINDOW).clamp_min(0).sqrt() for p, q in ((a, b), (b, c)))
    ratio = torch.where(apart > SEEN * peak, apart / torch.maximum(changed, LEAST * peak), 0)
    most = torch.where(box(c, WINDOW) > BODY * peak, ratio, 0).flatten(1).amax(1)
    largest = most.tolist()
    if max(largest, default=0) <= limit:
        return x, largest, [0.0] * len(largest)
    # Every pixel of such a window is taken from the other image, with a smooth transition around it.
    near = highest(((ratio > limit) & (most > limit)[:, None, None]).float(), 2 * WINDOW - 1)
    w = box(near, WINDOW, inside=True)
    return x + w.reshape(*lead, 1, *plane) * (other - x), largest, near.flatten(1).mean(1).tolist()
