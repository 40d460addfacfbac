"""ESPIRiT: coil sensitivity maps as eigenvectors of the calibration's signal subspace."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import eigen
from recon.kernels.steady import alone
from recon.operators.base import check_tensor
from recon.prepare.place import together
from recon.prepare.sensitivities import SensitivityMaps, dominant, first_coil

#: Pixels whose eigenvectors are computed together: enough for a processor's cache, and enough to fill a GPU.
_CHUNK_CPU, _CHUNK_GPU = 4096, 1 << 18

#: Coefficients along x, of all rows, that the compiled kernel receives at a time.
_PLANES_BYTES = 64 * 2**20


def espirit(
    calibration: Tensor,
    shape: tuple[int, int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
    soft: bool = False,
    sets: int = 1,
    width: int | None = 24,
    chunk: int | None = None,
    columns: tuple[int, int] | None = None,
) -> SensitivityMaps:
    """Coil sensitivity maps from the fully sampled centre of k-space.

        A[s, (c, p)] = d_c(s + p) = U Σ Vᴴ at kernel positions s, offsets p;   V∥ = columns with σ > threshold · σ_max
        G_cc'(r) = (1/|kernel|) Σ_pq (V∥ V∥ᴴ)*[(c, p), (c', q)] exp(2πi r·(p − q)/N),
        G(r) S(r) = λ(r) S(r),   λ ≈ 1

    `calibration` is centred k-space (..., coil, cz, cy, cx) with the sample spacing of the grid `shape` = (z, y, x). An
    axis of length 1 (2D) is ignored; along a short axis the kernel is at most half as long. At most the central `width`
    samples per axis are used (None: all). Maps (..., coil, z, y, x), or (..., set, coil, z, y, x) when `sets` > 1, have
    unit root-sum-of-squares and a phase that makes the first principal coil of the calibration real and positive.
    Pixels with λ < `crop` are zero; with `soft` the maps are multiplied instead by a weight that rises smoothly from 0
    at λ = crop to 1 at λ = 1. `threshold` is a singular value relative to the largest: BART's `ecalib -t` is its
    square. `chunk` pixels are treated at a time, which bounds the memory needed besides the result. `columns` = (first,
    end) computes only these columns along x. The grid is periodic, so first may be negative.

    Raises DataError if the calibration lacks axes, is smaller than the kernel, is empty, or is not finite. Source:
    Uecker et al., Magn Reson Med 71:990, 2014.
    """
    check_tensor(calibration, "espirit takes")
    if calibration.ndim < 4 or len(shape) != 3:
        raise DataError(
            f"calibration of shape {tuple(calibration.shape)} or a grid of {tuple(shape)} lacks axes; give "
            "(..., coil, cz, cy, cx) and (z, y, x): kspace[:, None] adds z to k-space of a slice"
        )
    if not 1 <= sets <= calibration.shape[-4]:
        raise DataError(f"{sets} sets of maps requested from {calibration.shape[-4]} coils: choose 1 or 2 sets")
    batch = calibration.shape[:-4]
    blocks = calibration.reshape(-1, *calibration.shape[-4:])
    signals = (signal_space(one, shape, kernel=kernel, threshold=threshold, width=width) for one in blocks)
    made = [eigenmaps(s, shape, crop=crop, soft=soft, sets=sets, chunk=chunk, columns=columns) for s in signals]
    maps, values = together([m.maps for m in made]), together([m.eigenvalues for m in made])
    return SensitivityMaps(maps.reshape(*batch, *maps.shape[1:]), values.reshape(*batch, *values.shape[1:]), sets > 1)


@dataclass(frozen=True)
class SignalSpace:
    """What the calibration contains: Fourier coefficients of G (dz, dy, dx, c·c') and the first principal coil."""

    kernels: Tensor
    reference: Tensor


def signal_space(
    calibration: Tensor,
    shape: tuple[int, int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    width: int | None = 24,
) -> SignalSpace:
    """The first half of `espirit`: the projector V∥ V∥ᴴ of one calibration block (coil, cz, cy, cx)."""
    _check(calibration, shape, kernel)
    data = _centre(calibration, width)
    return SignalSpace(_projector(data, _kernel(data, kernel), threshold), first_coil(data))


def eigenmaps(
    signal: SignalSpace,
    shape: tuple[int, int, int],
    *,
    crop: float = 0.8,
    soft: bool = False,
    sets: int = 1,
    chunk: int | None = None,
    columns: tuple[int, int] | None = None,
) -> SensitivityMaps:
    """The second half of `espirit`: the eigenvectors of G(r) on the grid, or on some columns of it."""
    kernels, coils = signal.kernels, len(signal.reference)
    chunk = chunk or (_CHUNK_GPU if kernels.is_cuda else _CHUNK_CPU)
    columns = columns or (0, shape[2])
    part = (*shape[:2], columns[1] - columns[0])
    m = kernels.new_zeros(sets, coils, *part)
    v = torch.zeros(sets, *part, dtype=torch.float32, device=kernels.device)
    if sets == 1 and eigen.serves(kernels, coils, kernels.shape[2]):
        _compiled(kernels, signal.reference, m[0], v[0], shape[2], columns[0], crop)
    else:
        _eigenmaps(kernels, signal.reference, m, v, crop, chunk, shape[2], columns[0])
    m *= (_soft(v, crop) if soft else (v >= crop).to(v.dtype))[:, None]
    return SensitivityMaps(m if sets > 1 else m[0], v if sets > 1 else v[0], sets > 1)


def _check(calibration: Tensor, shape: tuple[int, int, int], kernel: int) -> None:
    size = tuple(calibration.shape[-3:])
    if any(1 < n < kernel for n in size):
        raise DataError(
            f"the calibration region is {size} samples (z, y, x), smaller than the kernel of {kernel}: acquire "
            "more calibration lines or choose a smaller kernel"
        )
    if any(c > n for c, n in zip(size, shape)):
        raise DataError(
            f"the calibration region {size} is larger than the matrix {shape} it belongs to: swap or crop it"
        )


def _kernel(data: Tensor, kernel: int) -> tuple[int, ...]:
    # A kernel of more than half the calibration leaves too few positions to separate signal from noise: a slab of 8
    # partitions would lose nearly all of its voxels.
    return tuple(1 if n == 1 else min(kernel, max(2, n // 2)) for n in data.shape[1:])


def _centre(calibration: Tensor, width: int | None) -> Tensor:
    data = calibration
    for axis in (1, 2, 3):
        n = data.shape[axis]
        if width is not None and n > width:
            data = data.narrow(axis, n // 2 - width // 2, width)
    # Both are read from the GPU at once; the largest value is NaN if any value is.
    largest, peak = torch.stack([torch.view_as_real(calibration).abs().max(), data.abs().max()]).cpu().tolist()
    if not math.isfinite(largest):
        raise DataError("the calibration region holds values that are not finite: leave out the damaged coil or lines")
    if peak == 0:
        raise DataError("the calibration region is all zero: choose lines that were acquired")
    scaled: Tensor = data / peak
    return scaled


def _projector(data: Tensor, kernel: tuple[int, ...], threshold: float) -> Tensor:
    """Fourier coefficients (dz, dy, dx, c·c') of G: the diagonals of V∥ V∥ᴴ summed over kernel positions."""
    positions = math.prod(n - k + 1 for n, k in zip(data.shape[1:], kernel))
    if positions < data.shape[0] * math.prod(kernel):
        # With few rows, A Aᴴ = U Σ² Uᴴ is the smaller matrix, and the rows of Σ⁻¹ Uᴴ A are the same vectors.
        rows = torch.cat(list(_rows(data, kernel)))
        values, vectors = alone(torch.linalg.eigh, rows @ rows.mH)
        kept = values > threshold**2 * values[-1]
        signal = ((vectors[:, kept] / values[kept].sqrt()).mH @ rows).mH
    else:
        values, vectors = alone(torch.linalg.eigh, _gram(data, kernel))
        signal = vectors[:, values > threshold**2 * values[-1]]
    del vectors  # in a volume of many coils each matrix here takes a large part of the memory
    return _diagonals((signal @ signal.mH).conj(), data.shape[0], kernel)


def _rows(data: Tensor, kernel: tuple[int, ...]) -> Iterator[Tensor]:
    """The calibration matrix A (position, coil and kernel), in slabs along z."""
    size = data.shape[0] * math.prod(kernel)
    for z in range(data.shape[1] - kernel[0] + 1):
        slab = data[:, z : z + kernel[0]].unfold(2, kernel[1], 1).unfold(3, kernel[2], 1)
        yield slab.permute(2, 3, 0, 1, 4, 5).reshape(-1, size)


def _gram(data: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Aᴴ A, computed without storing the whole calibration matrix A."""
    size = data.shape[0] * math.prod(kernel)
    gram = data.new_zeros(size, size)
    for rows in _rows(data, kernel):
        gram += rows.mH @ rows
    return gram


def _diagonals(projector: Tensor, coils: int, kernel: tuple[int, ...]) -> Tensor:
    lags = [2 * k - 1 for k in kernel]
    blocks = projector.reshape(coils, *kernel, coils, *kernel)
    # Lag p − q along each axis: for a fixed p, flipping q turns the sum into a shifted addition.
    blocks = blocks.flip(5, 6, 7).permute(1, 2, 3, 5, 6, 7, 0, 4).reshape(*kernel, *kernel, coils * coils)
    out = projector.new_zeros(*lags, coils * coils)
    for p in product(*(range(k) for k in kernel)):
        z, y, x = (slice(i, i + k) for i, k in zip(p, kernel))
        out[z, y, x] += blocks[p]
    return out.div_(math.prod(kernel))


def _waves(n: int, lags: int, like: Tensor, step: int = 1, part: tuple[int, int] | None = None) -> Tensor:
    """exp(2πi r d / n) for every `step`-th of the n centred positions r, or of a part of them, and the lags d."""
    r = torch.arange(*(part or (0, n)), step, device=like.device, dtype=torch.float64) - n // 2
    d = torch.arange(lags, device=like.device, dtype=torch.float64) - lags // 2
    # The product of the two integers is reduced modulo n first, so no precision is lost at large angles.
    angle = 2 * math.pi / n * (r[:, None] * d).remainder(n)
    return torch.polar(torch.ones_like(angle), angle).to(like.dtype)


def _compiled(kernels: Tensor, reference: Tensor, maps: Tensor, values: Tensor, nx: int, x0: int, crop: float) -> None:
    """Write the eigenvectors (coil, z, y, x) and eigenvalues (z, y, x) of nx columns from x0 on."""
    lz, ly, lx, _ = kernels.shape
    coils, nz, ny, part = maps.shape
    upper = torch.triu_indices(coils, coils)
    half = kernels.reshape(lz, ly, lx, coils, coils)[..., upper[0], upper[1]]
    wave_z, wave_y = _waves(nz, lz, kernels), _waves(ny, ly, kernels)
    wave_x = _waves(nx, lx, kernels, part=(x0, x0 + part))
    step = max(1, _PLANES_BYTES // (8 * ny * lx * half.shape[-1]))
    for z in range(0, nz, step):
        in_z = (wave_z[z : z + step] @ half.reshape(lz, -1)).reshape(-1, ly, lx * half.shape[-1])
        in_zy = (wave_y @ in_z).reshape(-1, ny, lx, half.shape[-1])
        eigen.eigenmaps(in_zy, wave_x, reference, maps, values, z, least=0.85 * crop, tolerance=1e-4)
        done = values[z : z + step]
        at = (done < 0).nonzero(as_tuple=True)
        if len(at[0]):
            g = in_zy.new_zeros(len(at[0]), coils, coils)
            g[:, upper[0], upper[1]] = torch.einsum("nl,nle->ne", wave_x[at[2]], in_zy[at[:2]])
            g[:, upper[1], upper[0]] = g[:, upper[0], upper[1]].conj()
            done[at], vector = dominant(g)
            maps[:, at[0] + z, at[1], at[2]] = _turned(vector, reference).T


def _matrices(
    kernels: Tensor, shape: tuple[int, int, int], steps: tuple[int, int, int], chunk: int, x0: int, part: int
) -> Iterator[tuple[int, slice, Tensor]]:
    """G(r) of every `steps`-th pixel, (pixel, coil, coil), for one partition and a few rows of the grid at a time.

    `shape` is the whole grid, of which `part` columns from x0 on are computed.
    """
    lz, ly, lx, pairs = kernels.shape
    parts = (None, None, (x0, x0 + part))
    sizes = zip(shape, (lz, ly, lx), steps, parts)
    wave_z, wave_y, wave_x = (_waves(n, lags, kernels, s, p) for n, lags, s, p in sizes)
    coils = math.isqrt(pairs)
    in_z = (wave_z @ kernels.reshape(lz, -1)).reshape(len(wave_z), ly, lx * pairs)
    rows = max(1, chunk // len(wave_x))
    for z, y in product(range(len(wave_z)), range(0, len(wave_y), rows)):
        in_zy = (wave_y[y : y + rows] @ in_z[z]).reshape(-1, lx, pairs)
        yield z, slice(y, min(y + rows, len(wave_y))), (wave_x @ in_zy).reshape(-1, coils, coils)


def _eigenmaps(
    kernels: Tensor, reference: Tensor, maps: Tensor, values: Tensor, crop: float, chunk: int, width: int, x0: int
) -> None:
    """Write eigenvectors and eigenvalues of G(r) into (set, coil, z, y, x) and (set, z, y, x), a few rows at a time.

    The grid has `width` columns; the maps are those from x0 on. On a large grid one set is solved on every second pixel
    and interpolated. This is within a few power iterations of the eigenvectors everywhere except at the edge of the
    object; pixels that have not converged by then are solved separately. Where λ stays well below `crop` the pixel will
    be zero, and the interpolated values are kept.
    """
    sets, coils, nz, ny, nx = maps.shape
    shape = (nz, ny, width)
    whole = sets == 1 and nx == width
    z2, y2, x2 = (2 if whole and n >= 4 * lags else 1 for n, lags in zip(shape, kernels.shape[:3]))
    guess = None
    if (z2, y2, x2) != (1, 1, 1):
        guess = maps.new_zeros(coils, -(-nz // z2), -(-ny // y2), -(-nx // x2))
        for z, y, g in _matrices(kernels, shape, (z2, y2, x2), chunk, x0, nx):
            vector = _turned(dominant(g, 1e-2)[1], reference)
            guess[:, z, y] = vector.T.reshape(coils, -1, guess.shape[-1])
        for axis, (n, step) in enumerate(zip(shape, (z2, y2, x2)), start=1):
            guess = _between(guess, axis, n) if step == 2 else guess
    for z, y, g in _matrices(kernels, shape, (1, 1, 1), chunk, x0, nx):
        for s in range(sets):
            near = None if guess is None else guess[:, z, y].reshape(coils, -1).T
            value, vector = dominant(g) if near is None else _refined(g, near, 0.85 * crop)
            if s + 1 < sets:
                g = g - value[:, None, None] * vector[:, :, None] * vector[:, None].conj()
            values[s, z, y] = value.reshape(-1, nx)
            maps[s, :, z, y] = _turned(vector, reference).T.reshape(coils, -1, nx)


def _turned(vector: Tensor, reference: Tensor) -> Tensor:
    """Eigenvectors (pixel, coil) with the phase that makes their component along the reference real and positive."""
    along = vector @ reference.conj()
    return vector * torch.polar(torch.ones_like(along.real), -along.angle())[:, None]


def _refined(
    g: Tensor, guess: Tensor, least: float, iterations: int = 3, tolerance: float = 3e-4
) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue, if above `least`, and its eigenvector, by power iterations from a close start or anew."""
    v = guess[:, :, None]
    tiny = torch.finfo(g.real.dtype).tiny
    for _ in range(iterations):
        v = g @ v
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(tiny)
    moved = g @ v
    value = (v.mH @ moved).real[:, 0, 0]
    wrong = torch.linalg.vector_norm(moved - value[:, None, None] * v, dim=(1, 2)) > tolerance * value
    wrong &= value > least
    v = v[..., 0]
    if bool(wrong.any()):
        value[wrong], v[wrong] = dominant(g[wrong])
    return value, v


def _between(coarse: Tensor, axis: int, n: int) -> Tensor:
    """Interpolation from every second of n samples to all: cubic between four neighbours, periodic if n is even."""
    m = coarse.shape[axis]
    at = torch.arange(n // 2, device=coarse.device)
    near = [(at + d) % m if n % 2 == 0 else (at + d).clamp(0, m - 1) for d in (-1, 0, 1, 2)]
    taps = [coarse.index_select(axis, i) for i in near]
    middle = (9 * (taps[1] + taps[2]) - taps[0] - taps[3]) / 16
    shape = list(coarse.shape)
    shape[axis] = n
    out = coarse.new_empty(shape)
    every = [slice(None)] * coarse.ndim
    for start, part in ((0, coarse), (1, middle)):
        every[axis] = slice(start, None, 2)
        out[tuple(every)] = part
    return out


def _soft(values: Tensor, crop: float) -> Tensor:
    t = ((values - crop) / (1 - crop)).clamp(0, 1)
    return t * t * (3 - 2 * t)
