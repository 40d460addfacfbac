"""The phase in which an image is interpolated: the usual one is singular where the reference coil sees nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recon.kernels.steady import alone

#: In order: pixels that are examined; pixels whose own coil is a start; steps from each start; share of the darkest
#: pixels.
PIXELS, STARTS, STEPS, DARKEST = 2000, 16, 6, 0.002


def steady(maps: Tensor) -> Tensor:
    """A combination a (coil) of unit norm of maps (coil, ...) that is dark nowhere, as far as one was found.

        a ← normalised Σ m (mᴴ a) / |mᴴ a|²,
        the steps towards the most Σ log |aᴴ m|²

    over the pixels that have maps, starting from the coils of some of them. Of all combinations on the way, the one
    whose dark pixels are brightest is returned.
    """
    flat = maps.flatten(1)
    flat = flat[:, flat.abs().amax(0) > 0]
    if not flat.shape[1]:
        return torch.eye(len(maps), dtype=maps.dtype, device=maps.device)[0]
    flat = flat[:, :: -(-flat.shape[1] // PIXELS)]
    at = torch.linspace(0, flat.shape[1] - 1, STARTS, device=maps.device).long()
    a = torch.cat([flat[:, at], alone(torch.linalg.eigh, flat @ flat.mH)[1][:, -1:]], 1)
    passed, dark = [], []
    for _ in range(STEPS + 1):
        a = a / torch.linalg.vector_norm(a, dim=0).clamp_min(torch.finfo(flat.real.dtype).tiny)
        s = flat.mH @ a
        power = s.real.square() + s.imag.square()
        passed.append(a)
        dark.append(power.quantile(DARKEST, dim=0))
        a = flat @ (s / (power + 1e-3))
    best: Tensor = torch.cat(passed, 1)[:, int(torch.cat(dark).argmax())]
    return best


def interpolated(x: Tensor, maps: Tensor, reference: Tensor, to: Callable[[Tensor], Tensor]) -> Tensor:
    """An image (z, y, x) on a finer grid, interpolated by `to` where its phase is smooth.

    The phase of maps m (coil, z, y, x) makes their component along `reference` b (coil) real and positive. Around a
    point where b sees nothing, this phase makes a full turn, and so does that of the image. Such an image is not
    band-limited: after interpolation it is dark at this point, with ripples all around. With w the phase of another
    combination, a, that is dark nowhere,

        x̂ = I(x w) · exp(i arg I(bᴴm w*)),   w = exp(i arg aᴴm)

    is still the image in the phase of b, but made of two smooth images: bᴴm w* is b as a sees it.
    """
    own, other = (torch.einsum("c,czyx->zyx", v.conj().to(maps), maps) for v in (reference, steady(maps)))
    w = torch.where(other.abs() > 0, torch.polar(torch.ones_like(other.real), other.angle()), 1.0)
    turned = to(own.real * w.conj())
    return to(x * w) * torch.polar(torch.ones_like(turned.real), turned.angle())
