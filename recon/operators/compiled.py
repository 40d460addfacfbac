"""Which Cartesian encodings the compiled kernels accept, and batch axes arranged as the kernels need them.

Every function returns None if the kernels do not apply; the operator then uses its implementation in torch.
"""

from __future__ import annotations

import math

from torch import Tensor

from recon.kernels import sense as kernel
from recon.operators.coils import COIL


def weights(w: Tensor, maps: Tensor, axes: tuple[int, ...]) -> Tensor | None:
    """Weights (..., coil, z, y, x) as (item, z, ky): real, even over coils and columns, y or (z, y) transformed.

    Columns in x are neighbours in memory and are processed together, so x must stay in image space.
    """
    if sorted(axes) not in ([-2], [-3, -2]) or w.shape[-4] > 1 or w.shape[-1] > 1 or w.is_complex():
        return None
    if w.numel() == 0:  # an empty batch, which torch cannot transform
        return None
    if not kernel.serves(maps, volume=-3 in axes):
        return None
    z = maps.shape[-3] if -3 in axes else w.shape[-3]
    w = w[..., 0, :, :, 0].expand(*w.shape[:-4], z, maps.shape[-2])
    return w.reshape(-1, z, maps.shape[-2])


def normal(x: Tensor, maps: Tensor, given: kernel.Filter | None, sets: bool) -> Tensor | None:
    """Σ_c conj(S_c) F⁻¹ w F S_c x."""
    if given is None or not _fits(x, maps, given.weights, sets, 3 + sets, given.length[0] > 1):
        return None
    out: Tensor = kernel.normal(_items(x, 3 + sets, sets), _maps(maps, sets), given)
    return out.reshape(x.shape)


def encode(x: Tensor, maps: Tensor, given: Tensor | None, volume: bool, sets: bool) -> Tensor | None:
    """w F(S_c x)."""
    if given is None or (volume and x.is_cuda) or not _fits(x, maps, given, sets, 3 + sets):
        return None
    y: Tensor = kernel.encode(_items(x, 3 + sets, sets), _maps(maps, sets), given, volume)
    return y.reshape(*x.shape[: x.ndim - 3 - sets], *y.shape[1:])


def decode(y: Tensor, maps: Tensor, given: Tensor | None, volume: bool, sets: bool) -> Tensor | None:
    """Σ_c conj(S_c) F⁻¹ (w y_c)."""
    if given is None or (volume and y.is_cuda) or not _fits(y, maps, given, sets, 4):
        return None
    x: Tensor = kernel.decode(_items(y, 4, True), _maps(maps, sets), given, volume)
    return x.reshape(*y.shape[:-4], *x.shape[1 if sets else 2 :])


def _fits(t: Tensor, maps: Tensor, w: Tensor, sets: bool, keep: int, volume: bool = False) -> bool:
    """Whether maps and weights have no batch axes or all those of `t`, and the kernels accept `t`."""
    lead = tuple(t.shape[: t.ndim - keep])
    own = tuple(maps.shape[: maps.ndim - (5 if sets else 4)])
    return (
        kernel.serves(t, maps, w, volume=volume, length=w.shape[-1])
        and t.numel() > 0
        and maps.numel() > 0
        and t.shape[-3:] == maps.shape[-3:]
        and ((math.prod(own) == 1 and len(own) <= len(lead)) or own == lead)
        and w.shape[0] in (1, math.prod(lead))
    )


def _items(t: Tensor, keep: int, whole: bool) -> Tensor:
    t = t.reshape(-1, *t.shape[t.ndim - keep :])
    return t if whole else t.unsqueeze(1)


def _maps(maps: Tensor, sets: bool) -> Tensor:
    maps = maps if sets else maps.unsqueeze(COIL - 1)
    return maps.reshape(-1, *maps.shape[-5:])
