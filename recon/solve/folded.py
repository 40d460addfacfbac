"""The exact SENSE image for periodic sampling: small systems of the voxels that alias onto each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import EllipsisType

import torch
from torch import Tensor

from recon.operators import Linear
from recon.operators.sense import Sense, SenseNormal

#: Largest number of unknowns of a system. R = 4 with two sets of maps has 8, every second line of both encodes 4.
MOST = 16

#: Bytes of maps and systems processed at once; other devices get 64 times as much.
CACHE = 4 << 20


def exact(A: Linear, b: Tensor, lam: float | Tensor, ndim: int = 3) -> Tensor | None:
    """(AᴴA + λI)⁻¹ b of a Cartesian A with periodic weights along the encodes, None for any other.

    Weights of period P along an axis of N = P·L lines alias voxels onto each other that are L apart, and no others:

        (F⁻¹ w F x)(y) = Σ_j s_j x(y − jL),
        s_j = P⁻¹ Σ_{k<P} w_k exp(2πi (k − N//2) j / P)

    so each of the L groups of P voxels is a separate problem with the matrix M_ij = s_{i−j} Σ_c conj(S_c(y_i)) S_c(y_j)
    + λ δ_ij, solved by a Cholesky decomposition LDLᴴ. In volumes a group extends along y and z, and it includes all
    sets of maps. `b` is (..., z, y, x), or with `ndim` 4 (..., set, z, y, x); λ > 0 is one number or one for each item,
    as in `cg`. Sampling that is not periodic needs `cg`: ACS lines among those of the image, partial Fourier, and
    numbers of lines that R does not divide. (Pruessmann et al.: SENSE, Magn Reson Med 42:952, 1999.)
    """
    if not isinstance(A, Sense) or ndim != 3 + A.sets or A.maps.requires_grad or b.requires_grad:
        return None
    normal, shift = A.normal(), torch.as_tensor(lam, dtype=b.real.dtype, device=b.device)
    w = _encodes(normal)
    periods = None if w is None else _periods(w)
    sets = b.shape[-4] if A.sets else 1
    if w is None or periods is None or math.prod(periods) * sets > MOST or not bool((shift > 0).all()):
        return None
    lead = b.shape[: b.ndim - ndim]
    maps, right = (A.maps, b) if A.sets else (A.maps.unsqueeze(-5), b.unsqueeze(-4))
    maps, shift = maps.expand(*lead, *maps.shape[-5:]), shift.expand(lead)
    spread = _aliasing(w, periods).expand(*lead, *periods)
    x = torch.empty_like(right, memory_format=torch.contiguous_format)
    for item in itertools.product(*map(range, lead)):
        s, r, out = (_groups(t, periods) for t in (maps[item].movedim(1, 0), right[item], x[item]))
        for part in _parts(s):
            factors = _factors(_system(_flat(s[part]), spread[item], shift[item]))
            solved = _solved(factors, _flat(r[part]))
            out[part].copy_(solved.reshape(out[part].shape))
    return x if A.sets else x.squeeze(-4)


def _encodes(normal: Linear) -> Tensor | None:
    """Weights (..., kz, ky) on the CPU, 1 along axes that are not encoded; None if they vary over coils or columns."""
    if not isinstance(normal, SenseNormal) or not set(normal.sense.axes) <= {-3, -2}:
        return None
    w = normal.w
    if w.is_complex() or w.requires_grad or w.shape[-4] > 1 or w.shape[-1] > 1:
        return None
    w = w[..., 0, :, :, 0].cpu()
    for axis in (-2, -1):
        n = normal.sense.maps.shape[axis - 1]
        if axis - 1 in normal.sense.axes:
            w = w.expand(*w.shape[: w.ndim + axis], n, *w.shape[w.ndim + axis + 1 :])
        elif w.shape[axis] > 1:
            return None
    return w


def _periods(w: Tensor) -> tuple[int, int] | None:
    """The smallest periods of weights along z and y that divide their lengths; None if one is above `MOST`."""
    found = []
    for axis in (-2, -1):
        n = w.shape[axis]
        divisors = (p for p in range(1, min(n, MOST) + 1) if n % p == 0)
        found.append(next((p for p in divisors if torch.equal(w, w.roll(p, axis))), 0))
    return (found[0], found[1]) if all(found) else None


def _aliasing(w: Tensor, periods: tuple[int, int]) -> Tensor:
    """s (..., Pz, Py), complex128: how much of a voxel aliases to which voxel of its group."""
    s: Tensor = torch.fft.ifft2(w[..., : periods[0], : periods[1]].to(torch.complex128))
    for axis, p in zip((-2, -1), periods):
        angle = -2 * math.pi / p * (w.shape[axis] // 2 * torch.arange(p, dtype=torch.float64) % p)
        s = s * torch.polar(torch.ones_like(angle), angle).reshape(-1, *(1,) * (-axis - 1))
    return s


def _groups(t: Tensor, periods: tuple[int, int]) -> Tensor:
    """(..., z, y, x) as (..., Pz, Py, Lz, Ly, x), groups of voxels along P; a view."""
    (nz, ny, nx), (pz, py) = t.shape[-3:], periods
    return t.view(*t.shape[:-3], pz, nz // pz, py, ny // py, nx).transpose(-4, -3)


def _parts(s: Tensor) -> Iterator[tuple[EllipsisType, slice, slice, slice]]:
    """A few groups of voxels at a time, of maps (coil, set, Pz, Py, Lz, Ly, x)."""
    nz, ny, nx = s.shape[-3:]
    unknowns = s.shape[1:-3].numel()
    one = nx * unknowns * (2 * s.shape[0] + unknowns) * s.element_size()
    lines = max(1, (CACHE if s.device.type == "cpu" else 64 * CACHE) // one)
    planes = max(1, lines // ny)
    for z in range(0, nz, planes):
        for y in range(0, ny, lines):
            yield ..., slice(z, z + planes), slice(y, y + lines), slice(None)


def _flat(t: Tensor) -> Tensor:
    """([coil,] set, Pz, Py, Lz, Ly, x) as ([coil,] unknown, group)."""
    return t.flatten(-3).flatten(-4, -2)


def _system(s: Tensor, spread: Tensor, lam: Tensor) -> list[Tensor]:
    """Rows of the lower triangle of M: row i is (i + 1, group); s (coil, unknown, group)."""
    # Coil by coil, so that a sum has the same order for any size of part.
    conj, n = s.conj().resolve_conj(), s.shape[1]
    rows = [s.new_zeros(i + 1, s.shape[-1]) for i in range(n)]
    for own, other in zip(conj, s):
        for i, row in enumerate(rows):
            row.addcmul_(own[i], other[: i + 1])
    pz, py = spread.shape
    at = list(itertools.product(range(n // (pz * py)), range(pz), range(py)))
    for i, row in enumerate(rows):
        folds = [spread[(at[i][1] - a) % pz, (at[i][2] - b) % py] for _, a, b in at[: i + 1]]
        row.mul_(torch.stack(folds).to(row.device, row.dtype)[:, None])
        row[i] += lam
    return rows


def _factors(rows: list[Tensor]) -> list[Tensor]:
    """M = LDLᴴ in place: row i is L_i0 … L_i,i−1 and D_i."""
    for k, pivot in enumerate(rows):
        inverse = pivot[k].real.reciprocal()
        columns = [row[k] for row in rows[k + 1 :]]
        conj = torch.stack([c.conj() for c in columns]) if columns else pivot[:0]
        for row in rows[k + 1 :]:
            row[k] *= inverse
            row[k + 1 :].addcmul_(row[k], conj[: len(row) - k - 1], value=-1)
    return rows


def _solved(rows: list[Tensor], right: Tensor) -> Tensor:
    """M⁻¹ v for v (unknown, group)."""
    v = right.clone(memory_format=torch.contiguous_format)
    for i, row in enumerate(rows):
        for k in range(i):
            v[i].addcmul_(row[k], v[k], value=-1)
    for i, row in enumerate(rows):
        v[i] /= row[i].real
    for i in range(len(rows) - 1, -1, -1):
        for k in range(i):
            v[k].addcmul_(rows[i][k].conj(), v[i], value=-1)
    return v
