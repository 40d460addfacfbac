"""Checks of a denoised CT slice, from the slice alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.operators.windows import box, highest
from recon.recipe import Trust

#: In order: largest blur in pixels (for a slice as sharp as its pixels) of an output slice; largest patch in standard
#: deviations that a trusted slice may have lost; the patch's side in pixels. Chosen on output slices of the validation
#: data (bench/ct_trust.py), and so that the faint rods of the observer's phantom, which networks blur by 0.44 to 0.50
#: pixels at a tenth of the dose, are trusted.
BLUR, PATCH, SIDE = 0.53, 7.5, 7

#: HU that a patch must have lost to count. Less hides no lesion, and scanners do not hold the value of water more
#: precisely (within 5 HU; American College of Radiology, CT Quality Control Manual, 2017). With 2 HU a clean scan, from
#: which almost nothing is removed, would be rejected.
SEEN = 4.0

#: Noise in HU up to which BLUR applies. Above it the limit rises with σ: a detail is visible in noise by its contrast
#: times its width over σ, so no image from noisier data can be equally sharp.
LOUD = 100.0

#: In order: value that a slice in HU falls below somewhere (air, lung, fat); smallest share of its pixels that do; HU
#: that only metal reaches; pixels of metal above which streaks may cross the slice.
FAT, SHARE, METAL, PIECE = -50.0, 1e-3, 3000.0, 16

#: In order: pixels that a body needs for edges to be looked for; multiple of the median squared slope that counts as an
#: edge; smallest share of the body's pixels that are edges. The squared slope of noise, a sum of two squares, reaches
#: 20 times its median once in a million pixels, and once in a few hundred if noise varies twofold over the body. In a
#: body of water the steepest pixels are noise, most of which is removed; they would look like blurred edges.
FEW, STANDS_OUT, EDGES = 500, 20.0, 0.005


class Reason(str):
    """A reason against a slice, as a sentence: `words`, with `number` inserted where reasons differ by a number."""

    words: str
    number: str

    def __new__(cls, words: str, number: str = "") -> Reason:
        """The sentence `words.format(number)`."""
        made = super().__new__(cls, words.format(number))
        made.words, made.number = words, number
        return made


def in_short(reasons: Iterable[Reason]) -> list[str]:
    """Reasons that differ only in their number, joined into one with the range of numbers."""
    alike: dict[str, list[str]] = {}
    for reason in reasons:
        alike.setdefault(reason.words, []).append(reason.number)
    ends = {words: sorted({min(n, key=_size), max(n, key=_size)}, key=_size) for words, n in alike.items()}
    return [words.format(" to ".join(numbers)) for words, numbers in ends.items()]


def _size(number: str) -> float:
    return float(number or 0)


def evidence(
    noisy: Tensor,
    x: Tensor,
    level: float,
    limits: Trust,
    trained: tuple[float, float] | None,
    sharpness: float = 1.0,
) -> dict[str, Any]:
    """Numbers on an output slice (y, x) in HU, and `reasons` against it.

    `noise` in HU; `removed`, the root mean square of what was removed in the body, over the noise; `blur` in pixels
    and `patch` in standard deviations (see these functions). `sharpness` is the number of pixels per sample of the
    slice (`image_noise.sharpness`); the limit on blur is multiplied by it. `share` is how much of what was removed
    may stay removed: all, or (limit / b)² if the blur b exceeds its limit, since a share s of it removes
    ½·s·b²·(−∇²x) from edges, which is a blur of b·√s.
    """
    body = noisy > -900
    removed = noisy - x
    size = float(removed[body].square().mean().sqrt()) if bool(body.any()) else 0.0
    taken = size / level if level > 0 else 0.0
    reasons: list[Reason] = []
    if bool(torch.isfinite(x).all()):
        lost, spot = blur(removed, x, body), patch(removed, body)
    else:
        lost = spot = 0.0
        reasons.append(Reason("the network's image holds NaN or infinite values"))
    if taken > limits.residual:
        reasons.append(Reason("{} times the noise was removed", f"{taken:.2f}"))
    if spot > PATCH:
        words = "a patch of {} standard deviations was removed, more than noise explains"
        reasons.append(Reason(words, f"{spot:.0f}"))
    if trained and level > trained[1] * limits.margin:
        words = f"its noise of {{}} HU is above the training range, which ends at {trained[1]:g} HU"
        reasons.append(Reason(words, f"{level:.0f}"))
    if float((noisy < FAT).float().mean()) < SHARE:
        reasons.append(Reason(f"it has no air or fat (nothing below {FAT:g} HU): its values may not be in HU"))
    if int((noisy >= METAL).sum()) >= PIECE:
        reasons.append(
            Reason(f"it contains metal ({METAL:g} HU and more), and the network was not trained on metal streaks")
        )
    may = BLUR * sharpness * max(1.0, level / LOUD)
    kept = (may / lost) ** 2 if lost > may else 1.0
    told = {"noise": level, "removed": taken, "blur": lost, "patch": spot, "share": kept}
    return {**told, "reasons": tuple(reasons)}


def blur(removed: Tensor, x: Tensor, body: Tensor) -> float:
    """Standard deviation b in pixels of the Gaussian blur that has the effect of the removed part on edges; 0 for none.

        b² = (E(d·h at edges) − E(d·h beside)) / (E(h² at edges) − E(h² beside)),
        d = y − x̂,   h = −∇²(x̂ smoothed)

    A blur removes ½b²·(−∇²x). At edges, where x is steep, this has the same sign everywhere, however small it is in
    each pixel, while noise is independent of edges. The contribution of noise to both products, since x̂ still holds
    some, is measured beside the edges and subtracted. Edges are the tenth of the body's pixels with the steepest x̂,
    if they stand out from noise, with all pixels within two pixels of them; *beside* is up to four pixels further. 0
    if there are hardly any. The smoothing (¼, ½, ¼ along both axes) reduces h, so the factor ½ is not in the formula:
    blurs of 0.7 and 1 pixel are found as 0.65 to 0.8 and 0.9 to 1.1 in scans.
    """
    inner, steep = _inner(body), _steepness(x)
    count = int(inner.sum())
    if count < FEW or min(x.shape) < 8:
        return 0.0
    slopes = steep[inner][:: 1 + count // 100_000]
    edge = inner & (steep >= max(slopes.quantile(0.9), STANDS_OUT * slopes.median()))
    if int(edge.sum()) < EDGES * count:
        return 0.0
    at = inner & (_dilated(edge, 2) > 0)
    beside = inner & ~at & (_dilated(at, 4) > 0)
    if not bool(beside.any()):
        return 0.0
    bend = _bend(x)
    product, square = removed * bend, bend.square()
    top, bottom = (float(v[at].mean() - v[beside].mean()) for v in (product, square))
    return max(0.0, top / bottom) ** 0.5 if bottom > 1e-6 else 0.0


def patch(removed: Tensor, body: Tensor) -> float:
    """Largest mean over SIDE × SIDE pixels of what was removed, in robust standard deviations of such means.

    0 if no such mean reaches SEEN HU.

    Noise is normalised first: d over its root mean square within 31 × 31 pixels. Means of noise are nearly Gaussian,
    and the largest of a slice is 3 to 7. A lost lesion, or a piece of an organ, exceeds this if its contrast is large
    enough relative to the noise.
    """
    inner = _inner(body)
    if int(inner.sum()) < FEW:
        return 0.0
    d = removed[None, None]
    even = d * box(d.square(), 31, inside=True).clamp_min(1e-6).rsqrt()
    mean, hounsfield = (box(v, SIDE, inside=True)[0, 0][inner].abs() for v in (even, d))
    usual, seen = 1.4826 * float(mean.median()), hounsfield >= SEEN
    return float(mean[seen].max()) / usual if usual > 1e-6 and bool(seen.any()) else 0.0


def _inner(body: Tensor) -> Tensor:
    """The body without its rim, which is also where files clip: values below −1024 are cut off there."""
    return _dilated(~body, 4) == 0


def _dilated(where: Tensor, far: int) -> Tensor:
    """Positive within `pixels` of where the mask is."""
    return highest(where.float(), 2 * far + 1)


def _steepness(x: Tensor) -> Tensor:
    """|∇x|² of an image after smoothing over 3 × 3 pixels."""
    if min(x.shape) < 2:
        return torch.zeros_like(x)
    dy, dx = torch.gradient(box(x, 3, inside=True))
    return dy.square() + dx.square()


def _bend(x: Tensor) -> Tensor:
    """−∇² of the smoothed image, as one 5 × 5 convolution."""
    wide = x.new_tensor([0.0, 0.25, 0.5, 0.25, 0.0])
    # (¼, ½, ¼) * (−1, 2, −1)
    second = x.new_tensor([-0.25, 0.0, 0.5, 0.0, -0.25])
    kernel = second[:, None] * wide + wide[:, None] * second
    return F.conv2d(F.pad(x[None, None], (2, 2, 2, 2), mode="replicate"), kernel[None, None])[0, 0]
