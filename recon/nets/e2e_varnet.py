"""The End-to-End Variational Network, with fastMRI's tensor names, so that its published weights can be loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from recon.data import DataError
from recon.nets import precision
from recon.nets.norm_unet import NormUNet
from recon.operators import fft, ifft
from recon.operators.coils import COIL
from recon.operators.sense import Sense

#: Fewest ACS lines that show the coils.
LEAST_ACS = 4


@dataclass(frozen=True)
class Shape:
    """The size of a network: cascades, and width and depth of their U-Nets and of the one for the maps."""

    cascades: int = 12
    channels: int = 18
    pools: int = 4
    sens_channels: int = 8
    sens_pools: int = 4


class Sensitivities(nn.Module):
    """Coil sensitivity maps of unit root-sum-of-squares, from the ACS lines alone, coil by coil through one U-Net."""

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        self.norm_unet = NormUNet(channels, pools)

    def forward(self, images: Tensor) -> Tensor:
        """Coil images of the ACS lines, complex (n, coil, z, y, x) → maps of that shape."""
        maps = _planes(self.norm_unet, images)
        power = maps.real.square().sum(COIL, keepdim=True) + maps.imag.square().sum(COIL, keepdim=True)
        scale = power.clamp_min(torch.finfo(power.dtype).tiny).rsqrt()
        return maps * scale if torch.is_grad_enabled() else maps.mul_(scale)


class Cascade(nn.Module):
    """The learned parts of one step: the U-Net R, and the weight η of data consistency."""

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        self.model = NormUNet(channels, pools)
        self.dc_weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """R x, (n, z, y, x)."""
        return _planes(self.model, x)


class VarNet(nn.Module):
    """kₜ₊₁ = kₜ − ηₜ M(kₜ − y) − F S Rₜ(Sᴴ F⁻¹ kₜ) from k₀ = y; the image is the root-sum-of-squares of F⁻¹ k_T.

    A step adds only F S of one image u to k-space, and SᴴS = 1. So k-space of all coils is never updated:

        kₜ = y − F S vₜ + M F S (vₜ − wₜ),   vₜ₊₁ = vₜ + uₜ,
        wₜ₊₁ = (1 − ηₜ) wₜ + uₜ,
        uₜ = Rₜ(rₜ),    rₜ = Sᴴ F⁻¹ kₜ = r₀ − vₜ + Sᴴ F⁻¹ M F S (vₜ − wₜ)

    which leaves one SENSE normal operator per cascade, along the undersampled axis only. f(a·y) = a·f(y). (Sriram et
    al., End-to-End Variational Networks, MICCAI 2020, arXiv:2004.06688.)
    """

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.shape = shape
        self.sens_net = Sensitivities(shape.sens_channels, shape.sens_pools)
        self.cascades = nn.ModuleList(Cascade(shape.channels, shape.pools) for _ in range(shape.cascades))

    def forward(self, y: Tensor, mask: Tensor, acs: int | None = None) -> Tensor:
        """Image (n, row, column), real, of k-space `y`, complex (n, coil, row, column), zero where not measured.

        Rows are the readout, as in fastMRI's files. `mask` (1 or n, 1, 1 or row, column) says what was measured. The
        maps come from the `acs` columns in the middle, by default as many as `acs_columns` finds.
        """
        columns = mask[:, 0, 0] != 0
        found = acs_columns(columns) if acs is None else torch.full((len(columns),), acs, device=columns.device)
        centre = _middle(found, columns.shape[-1])[:, None, None, :, None]
        # recon's axes: phase encoding along y, readout along x. If only y is undersampled, x is left in image space.
        m = mask.to(y.real.dtype).mT[:, :, None]
        axes = (-2,) if m.shape[-1] == 1 else (-2, -1)
        y = _stacked((c if -1 in axes else ifft(c, (-2,))).mT[:, None] for c in y.unbind(1))
        maps = self.sens_net(_stacked(ifft(c * centre[:, 0], axes) for c in y.unbind(COIL)))
        a = Sense(maps, m, axes)
        normal = a.normal()
        r = first = _combined(maps, y, axes)
        v = w = torch.zeros_like(r)
        for cascade in self.cascades:
            u = cascade(r)
            v, w = v + u, (1 - cast(Cascade, cascade).dc_weight) * w + u
            r = first - v + normal(v - w)
        return _root_sum_of_squares(maps, m, y, v, v - w, axes)[:, 0].mT


def acs_columns(columns: Tensor) -> Tensor:
    """Width (n,) of the block of measured columns around the middle, from bool (n, column), as fastMRI counts it.

    It is even, twice the shorter of the runs on either side of the middle, and at least one. A side that is measured
    to its end counts as empty.
    """
    middle = columns.shape[-1] // 2
    sides = columns[:, :middle].flip(-1), columns[:, middle:]
    left, right = ((~side).to(torch.uint8).argmax(-1) for side in sides)
    return (2 * torch.minimum(left, right)).clamp_min(1)


def _middle(count: Tensor, n: int) -> Tensor:
    """Bool (item, n): `count` (item,) samples in the middle of n."""
    start = (n - count + 1)[:, None] // 2
    place = torch.arange(n, device=count.device)
    return (place >= start) & (place < start + count[:, None])


def _planes(network: NormUNet, x: Tensor) -> Tensor:
    """The network on every plane (y, x) of complex (..., y, x), which it sees with the readout x along its rows."""
    out: Tensor = network(x.flatten(0, -3).mT)
    return out.mT.reshape(x.shape)


def _stacked(coils: Iterable[Tensor]) -> Tensor:
    """Coils (n, z, y, x), computed one after the other, as (n, coil, z, y, x)."""
    return torch.stack([c for c in coils], COIL)


def _combined(maps: Tensor, y: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Sᴴ F⁻¹ y, coil by coil."""
    x = torch.zeros_like(y.select(COIL, 0))
    for s, k in zip(maps.unbind(COIL), y.unbind(COIL)):
        x = x + s.conj() * ifft(k, axes)
    return x


def _root_sum_of_squares(maps: Tensor, mask: Tensor, y: Tensor, v: Tensor, d: Tensor, axes: tuple[int, ...]) -> Tensor:
    """(Σ_c |F⁻¹(y_c + M F S_c d) − S_c v|²)^½, coil by coil."""
    power = torch.zeros_like(v.real)
    for s, k in zip(maps.unbind(COIL), y.unbind(COIL)):
        x = ifft(k + mask[:, 0] * fft(s * d, axes), axes) - s * v
        power = power + x.real.square() + x.imag.square()
    return power.sqrt()


def reconstruct(network: VarNet, y: Tensor, measured: Tensor) -> Tensor:
    """Image (item, z, y, x), real, of slices in hybrid space (item, coil, 1, ky, x) with `measured` (item, ky), bool.

    The network needs coils as the scanner stored them: not whitened, not compressed, with readout oversampling. Its
    maps come from the whole block of measured lines around the middle, at least LEAST_ACS of them; raises DataError if
    there are fewer. The unit of y does not matter.
    """
    rows = y[:, :, 0].mT
    scale = rows.abs().amax((1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
    images = []
    with torch.no_grad(), precision.full():
        for item, lines, one in zip(rows, measured, scale):
            images.append(network(fft(item[None] / one, (-2,)), lines[None, None, None], acs_lines(lines)) * one)
    return torch.cat(images).mT[:, None]


def acs_lines(measured: Tensor) -> int:
    """Number of contiguous measured lines (ky,), equally many on either side of the middle.

    Raises DataError below LEAST_ACS.
    """
    n = len(measured)
    runs = [int(side.to(torch.uint8).cumprod(0).sum()) for side in (measured[: n // 2].flip(0), measured[n // 2 :])]
    found = min(2 * min(runs), n)
    if found < LEAST_ACS:
        raise DataError(
            f"only {found} contiguous lines at the centre of k-space were measured, and varnet needs at least "
            f"{LEAST_ACS} to estimate its coil maps; use --method sense or cs for this scan"
        )
    return found
