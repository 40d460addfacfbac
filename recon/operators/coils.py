"""Coil sensitivities: from one image to the images that each coil sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recon.data import DataError
from recon.operators.base import Linear

#: Coil axis of k-space and coil images, directly before z.
COIL = -4


@dataclass(frozen=True, eq=False)
class Coils(Linear):
    """Image (..., z, y, x) → coil images (..., coil, z, y, x): y_c = S_c x.

    With `maps` of shape (..., coil, z, y, x). With several sets of maps (soft SENSE), `sets` is True, maps are
    (..., set, coil, z, y, x), the image is (..., set, z, y, x) and y_c = Σ_m S_mc x_m
    (Uecker et al., Magn Reson Med 71:990, 2014). Raises DataError for an image or coil images of another size.
    """

    maps: Tensor
    sets: bool = False

    def __post_init__(self) -> None:
        check_maps(self.maps, self.sets)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the maps and, for several sets, sum over them."""
        check_image(x, self.maps, self.sets, exact=False)
        y = self.maps * x.unsqueeze(COIL)
        return y.sum(COIL - 1) if self.sets else y

    def adjoint(self, y: Tensor) -> Tensor:
        """Sum over coils of conj(S_c) y_c."""
        check_coils(y, self.maps, exact=False)
        return (self.maps.conj() * (y.unsqueeze(COIL - 1) if self.sets else y)).sum(COIL)


def check_maps(maps: Tensor, sets: bool) -> None:
    """Raises DataError for maps that are no tensor (..., coil, z, y, x), or (..., set, coil, z, y, x) with `sets`."""
    if not isinstance(maps, Tensor):
        raise DataError(f"maps are a {type(maps).__name__}; torch.as_tensor(maps) makes a tensor of them")
    if maps.ndim < 4 + sets:
        axes = "(..., set, coil, z, y, x)" if sets else "(..., coil, z, y, x); maps[:, None] adds z to maps of a slice"
        raise DataError(f"maps of shape {tuple(maps.shape)} lack axes; give {axes}")


def check_image(x: Tensor, maps: Tensor, sets: bool, *, exact: bool = True) -> None:
    """Raises DataError for an image (..., z, y, x) of another size than the maps; unless `exact`, 1 is allowed."""
    own = maps.shape[-3:]
    if x.ndim < 3 + sets or any(n != m and (exact or m != 1) for n, m in zip(x.shape[-3:], own)):
        hint = "x[None] adds the axis z" if x.ndim < 3 else "crop one"
        raise DataError(f"an image of shape {tuple(x.shape)} does not fit maps of {tuple(own)} (z, y, x); {hint}")
    if sets and x.shape[-4] != maps.shape[-5]:
        raise DataError(
            f"an image of shape {tuple(x.shape)} does not fit {maps.shape[-5]} sets of maps; give (..., set, z, y, x)"
        )


def check_coils(y: Tensor, maps: Tensor, *, exact: bool = True) -> None:
    """Raises DataError for coil images or k-space (..., coil, z, y, x) of another size than the maps."""
    own = maps.shape[-4:]
    wrong = y.ndim < 4 or any(n != m and (exact or m != 1) for n, m in zip(y.shape[-3:], own[1:]))
    if wrong or y.shape[-4] != own[0]:
        raise DataError(
            f"k-space or coil images of shape {tuple(y.shape)} do not fit maps of {tuple(own)} (coil, z, y, x); "
            "compress both to the same coils, and crop one"
        )
