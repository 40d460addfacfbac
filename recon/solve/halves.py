"""Tests with the fine detail of an image whether both halves of k-space show the object at the same position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.data import Measurement
from recon.operators.fourier import fft, ifft
from recon.solve.detail import BODY, LEAST_ACS
from recon.solve.rows import block, encoded

#: Where a band begins beyond the ACS block, as a share of the way to the edge of k-space: after motion late in the
#: scan, most lines of that half are still in place.
BANDS = (0.0, 0.3, 0.5)
#: Fewest measured lines of a band on either side.
LEAST = 4
#: Search range of the shift, in voxels.
FARTHEST = 12
#: In order: a shift counts if its agreement is this many times that without shift, and this many times the median of
#: all others, and at least this share of what identical images would have (bench/motion.py); then the same for a
#: rotation.
GAIN, CLEAR, SHARE = 1.25, 5.0, 0.3
TURNED = 1.25, 6.0, 0.2
#: Rotations tried to either side, in degrees: half a step moves the edge of a head by less than a voxel.
TURNS = (1.5, 3.0, 4.5, 6.0, 7.5)


@dataclass(frozen=True)
class Halves:
    """Shift in voxels between the object in the half of k-space with positive ky and in the other half.

    `rows` and `columns` is the shift with the best agreement, and `gain` that agreement over the one without shift,
    in the band with the largest gain. It counts only if it is `clear` (the agreement over that of all other shifts),
    and if `share`, the agreement relative to that of identical images, is not small. `degrees` is the rotation of one
    half about the middle of the image, which also moves the body, of `radius` voxels (root mean square).
    """

    rows: float
    columns: float
    gain: float
    clear: float
    share: float
    degrees: float = 0.0
    radius: float = 0.0

    @property
    def apart(self) -> float:
        """The distance in voxels, 0 if nothing is clear."""
        gain, clear, share = TURNED if self.degrees else (GAIN, CLEAR, SHARE)
        counts = self.gain > gain and self.clear > clear and self.share > share
        turned = math.radians(self.degrees) * self.radius
        return math.hypot(self.rows, self.columns, turned) if counts else 0.0


def compared(m: Measurement, x: Tensor) -> list[Halves | None]:
    """Compare the two halves of k-space with the fine detail of images x (..., 1, y, x); one result for each slice.

        a₊ = d₊ p̄,   a₋ = conj(d₋ p̄),   p = l / |l|,
        C(s) = |Σ_r a₊(r + s) conj(a₋(r)) / |a₊ a₋|^½|

    with l the rows of the ACS block of x, d₊ and d₋ those beyond it on either side. An object with the phase of its
    tissue is real times p, and the two sides of k-space of a real object are conjugates: so a₊ = a₋, and C is largest
    at s = 0. If the object moved by s while one side was measured, C is largest at s; if it also rotated, with a₋
    rotated back. The residual does not show this if all lines of the ACS block were measured before or after the
    motion. Bands that begin further out detect a later motion.

    None for volumes, for too few lines inside the block or beyond it on either side, and for several sets of maps.
    (The symmetry is that of homodyne detection: Noll et al., IEEE Trans Med Imaging 10:154, 1991.)
    """
    items, lines = m.y.shape[:-4].numel(), encoded(m)
    if lines is None or m.y.shape[-3] > 1:
        return [None] * items
    return [_of(image, measured) for image, measured in zip(x.reshape(items, *x.shape[-2:]), lines[:, 0])]


def _of(x: Tensor, measured: Tensor) -> Halves | None:
    """The result for one image (y, x) with the rows `measured` (ky,)."""
    _, rows = block(measured[None])
    if rows.stop - rows.start < LEAST_ACS:
        return None
    n, k = len(measured), fft(x, (-2,))
    ky = torch.arange(n, device=x.device) - n // 2
    core = (ky >= rows.start - n // 2) & (ky < rows.stop - n // 2)
    low = ifft(k * core[:, None], (-2,))
    size = low.abs()
    bright = size.flatten().kthvalue(max(1, int(0.99 * size.numel()))).values
    body = size > BODY * bright
    back = torch.where(body, low.conj() / size.clamp_min(torch.finfo(size.dtype).tiny), 0)
    edge = max(n // 2 - rows.start, rows.stop - n // 2)
    y, x_ = torch.meshgrid(*(torch.arange(k, device=x.device) - k // 2 for k in x.shape), indexing="ij")
    radius = float((y.square() + x_.square())[body].double().mean().sqrt())
    found = []
    for share in BANDS:
        first = edge + share * (n // 2 - edge)
        sides = (ky >= first), (ky <= -first)
        if min(int((measured & side).sum()) for side in sides) < LEAST:
            continue
        plus, minus = (_weighted(ifft(k * side[:, None], (-2,)) * back) for side in sides)
        found += _places(plus, minus.conj(), math.pi * (first + n // 2) / n, radius)
    return max(found, key=lambda h: (h.apart > 0, h.gain), default=None)


def _weighted(x: Tensor) -> Tensor:
    return x * x.abs().clamp_min(torch.finfo(x.real.dtype).tiny).rsqrt()


def _places(plus: Tensor, minus: Tensor, carrier: float, radius: float) -> list[Halves]:
    """The shift at which two images (y, x) agree best, and the same with the second one rotated."""
    a = fft(plus, (-2, -1))
    here, found = _agreeing(a, minus[None], (0.0,), radius)
    # |C| is at most that of identical images: if it is near that without shift, no rotation can gain enough.
    if not found or TURNED[0] * found[0].share >= found[0].gain:
        return found
    degrees = [sign * turn for turn in TURNS for sign in (1, -1)]
    return found + _agreeing(a, turned(minus, degrees, carrier), degrees, radius, here)[1]


def _agreeing(
    a: Tensor, pictures: Tensor, degrees: Sequence[float], radius: float, here: float | None = None
) -> tuple[float, list[Halves]]:
    """How well a spectrum (y, x) agrees with the first image at no shift, or at `here`, and where it agrees best.

    Nothing if an image is not finite, or empty.
    """
    b = fft(pictures, (-2, -1))
    c = ifft(a * b.conj(), (-2, -1)).abs()
    alike = (a.abs().square().sum() * b.abs().square().sum((-2, -1)) / a.numel()).sqrt().tolist()
    (ny, nx), far = a.shape, [min(FARTHEST, n // 2 - 1) for n in a.shape]
    c = c[:, ny // 2 - far[0] : ny // 2 + far[0] + 1, nx // 2 - far[1] : nx // 2 + far[1] + 1]
    if here is None:
        # Between two voxels both hold a share, so the value at no shift is the best of its neighbourhood.
        here = float(c[0, far[0] - 1 : far[0] + 2, far[1] - 1 : far[1] + 2].max())
    best, usual = c.flatten(1).max(1), c.flatten(1).median(1).values.tolist()
    if not (math.isfinite(float(best.values.sum())) and min(usual) > 0 and here > 0):
        return here, []
    return here, [
        Halves(at // c.shape[2] - far[0], at % c.shape[2] - far[1], value / here, value / u, value / equal, d, radius)
        for at, value, u, equal, d in zip(best.indices.tolist(), best.values.tolist(), usual, alike, degrees)
    ]


def turned(x: Tensor, degrees: Sequence[float], carrier: float) -> Tensor:
    """An image (y, x) rotated about its middle by each of some angles, from +x to +y: (angle, y, x).

    Its frequencies along y are near `carrier` (radians per voxel). They are shifted to zero before the cubic
    interpolation, and back afterwards.
    """
    y, x_ = torch.meshgrid(*(torch.arange(n, device=x.device) - n // 2 for n in x.shape), indexing="ij")
    base = torch.view_as_real(x * torch.polar(torch.ones_like(x.real), -carrier * y)).movedim(-1, 0)
    angle = torch.deg2rad(torch.tensor(degrees, dtype=x.real.dtype, device=x.device))[:, None, None]
    from_y, from_x = angle.cos() * y - angle.sin() * x_, angle.sin() * y + angle.cos() * x_
    at = torch.stack([(2 * (v + n // 2) + 1) / n - 1 for v, n in ((from_x, x.shape[1]), (from_y, x.shape[0]))], dim=-1)
    found = F.grid_sample(base.expand(len(angle), -1, -1, -1), at, mode="bicubic", align_corners=False)
    return torch.view_as_complex(found.movedim(1, -1).contiguous()) * torch.polar(
        torch.ones_like(from_y), carrier * from_y
    )
