"""Coil compression: fewer virtual coils that keep almost all of the signal; white noise stays white."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels.steady import alone
from recon.operators import COIL


@dataclass(frozen=True)
class Compression:
    """A matrix with orthonormal rows, complex64 (virtual, coil), or (x, virtual, coil) with one matrix per position.

    `share` is the share of the calibration's energy that the virtual coils keep, 0 to 1, as a tensor on the matrix's
    device.
    """

    matrix: Tensor
    share: Tensor

    @property
    def energy(self) -> float:
        """The share as a number; this waits for the GPU."""
        return float(self.share)


def choose(calibration: Tensor, energy: float = 0.99) -> int:
    """Smallest number of virtual coils that keeps the share `energy` of a calibration (..., coil, z, y, x)."""
    return _count(alone(torch.linalg.eigvalsh, _correlation(_coils_first(calibration))).flip(-1), None, energy)


def svd(calibration: Tensor, *, virtual: int | None = None, energy: float = 0.99) -> Compression:
    """Compression onto the first left singular vectors of the calibration data.

        X = U Σ Vᴴ with X (coil, samples),   A = U[:, :v]ᴴ

    `calibration` is (..., coil, z, y, x) of any size, in k-space or image space, with white noise. `virtual` is the
    number of virtual coils v; None means the smallest number that keeps the share `energy`. In each row the largest
    weight is real and positive. Raises DataError for an impossible number of coils. Source: Huang et al., Magn Reson
    Imaging 26:133, 2008; Buehrer et al., Magn Reson Med 57:1131, 2007.
    """
    values, vectors = alone(torch.linalg.eigh, _correlation(_coils_first(calibration)))
    values, vectors = values.flip(-1), vectors.flip(-1)
    kept = _count(values, virtual, energy)
    rows = _signed(vectors[:, :kept].mH)
    return Compression(rows.to(torch.complex64), _share(values, kept))


def geometric(calibration: Tensor, *, virtual: int | None = None, energy: float = 0.99, window: int = 5) -> Compression:
    """A separate compression at each readout position, aligned so that virtual coils vary smoothly along the readout.

        A_x = U_x[:, :v]ᴴ from the data at x,
        A_x ← P_x A_x with P_x unitary of least ‖P_x A_x − A_x−1‖

    `calibration` is hybrid data (..., coil, kz, ky, x) with white noise: image space along the readout, k-space along
    the phase encodes. Data within `window` positions are used together. Alignment starts at the position with the most
    energy and proceeds outwards. It needs fewer virtual coils than `svd` for the same energy, because each position
    sees few coils. `virtual`, `energy` and errors are as in `svd`. Source: Zhang et al., Magn Reson Med 69:571, 2013.
    """
    data = calibration.movedim((-1, COIL), (0, 1)).flatten(2)
    data = data / data.abs().max().clamp_min(torch.finfo(data.real.dtype).tiny)
    gram = (data @ data.mH).to(torch.complex128)
    near = torch.arange(len(gram), device=gram.device)
    band = ((near[:, None] - near[None]).abs() <= window // 2).to(gram.dtype)
    values, vectors = alone(torch.linalg.eigh, torch.einsum("xy,ycd->xcd", band, gram))
    values, vectors = values.flip(-1), vectors.flip(-1)
    kept = _count(values.sum(0), virtual, energy)
    rows = vectors[..., :kept].mH.contiguous()
    start = int(values.sum(1).argmax())
    rows[start] = _signed(rows[start])
    for x in (*range(start + 1, len(rows)), *range(start - 1, -1, -1)):
        u, _, vh = alone(torch.linalg.svd, rows[x - 1 if x > start else x + 1] @ rows[x].mH)
        rows[x] = u @ vh @ rows[x]
    total = gram.diagonal(dim1=1, dim2=2).real.sum()
    inside = torch.einsum("xvc,xcd,xvd->", rows, gram, rows.conj()).real
    return Compression(rows.to(torch.complex64), (inside / total.clamp_min(1e-300)).clamp(0, 1))


def compress(matrix: Tensor, data: Tensor) -> Tensor:
    """Virtual coils of (..., coil, z, y, x) → (..., virtual, z, y, x).

    `matrix` is (virtual, coil), or (x, virtual, coil) for data in image space along the readout.
    """
    if matrix.ndim == 3:
        return torch.einsum("xvc,...czyx->...vzyx", matrix.to(data.dtype), data)
    mixed = matrix.to(data.dtype) @ data.flatten(COIL + 1)
    return mixed.reshape(*mixed.shape[:-1], *data.shape[COIL + 1 :])


def _coils_first(calibration: Tensor) -> Tensor:
    return calibration.movedim(COIL, 0).flatten(1)


def _correlation(samples: Tensor) -> Tensor:
    scaled = samples / samples.abs().max().clamp_min(torch.finfo(samples.real.dtype).tiny)
    return (scaled @ scaled.mH).to(torch.complex128)


def _count(values: Tensor, virtual: int | None, energy: float) -> int:
    coils = len(values)
    if virtual is not None:
        if not 1 <= virtual <= coils:
            raise DataError(f"{virtual} virtual coils requested from {coils} coils: choose between 1 and {coils}")
        return virtual
    if not 0 < energy <= 1:
        raise DataError(f"the energy that coil compression keeps is {energy}: choose a share above 0 and up to 1")
    shares = values.clamp_min(0).cumsum(0) / values.clamp_min(0).sum().clamp_min(1e-300)
    return min(coils, int((shares < energy - 1e-12).sum()) + 1)


def _share(values: Tensor, kept: int) -> Tensor:
    positive = values.clamp_min(0)
    return positive[:kept].sum() / positive.sum().clamp_min(1e-300)


def _signed(rows: Tensor) -> Tensor:
    """Rows, multiplied by a phase that makes the largest entry real and positive."""
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * torch.polar(torch.ones_like(largest.real), -largest.angle())
