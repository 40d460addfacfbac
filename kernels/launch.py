"""Launches of the CUDA kernels: how a problem is divided into blocks, threads and shared memory.

Everything here also runs on CPU tensors if `bridge.run` is replaced by an emulation of blocks and threads.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels import bridge, fourier

#: Threads of a block, and values of the sum that each holds in registers (HELD in cuda/sense.cu).
THREADS, HELD = 256, 16

#: Blocks that keep a large GPU busy; with fewer, the coils are divided into groups.
BLOCKS = 512

#: The same for the kernels that are compiled for one length: fewer, because a second group of coils is one more pass
#: over the image.
PLANNED_BLOCKS = 700

#: Bytes of k-space and maps of a volume that are processed at a time: about the second-level cache of a large GPU, and
#: enough blocks per launch for all of it.
VOLUME_BYTES = 56 << 20

#: Rows that a thread processes from vector to vector in `eigenmaps`; largest number of power iterations, also on a CPU:
#: in tissue, where the first eigenvalue is well separated, four or five suffice.
ROWS, ITERATIONS = 8, 40

_int, _long, _float = np.int32, np.int64, np.float32


def columns(n: int, image: int) -> int:
    """Columns of a strip for transforms of length n, of which `image` values per column are summed; 0 if none fits.

    16, as many as fill a line of memory, if shared memory holds them and registers the sum; at least 4 if only shared
    memory is the limit.
    """
    fits = [w for w in (16, 8, 4, 2, 1) if 8 * w * (n | 1) <= bridge.SHARED]
    held = [w for w in fits if w <= 4 or image * w <= HELD * THREADS]
    return held[0] if held else 0


def normal(x: Tensor, maps: Tensor, weights: Tensor, blocks: int = BLOCKS) -> Tensor:
    """Σ_c conj(S_c) F⁻¹ w F S_c x along y, x (item, set, z, y, x); w (item or 1, z or 1, n ≥ y) in the FFT's order."""
    return _grouped("sense_normal", x, maps, weights, tuple(x.shape), blocks)


def decode(y: Tensor, maps: Tensor, weights: Tensor, blocks: int = BLOCKS) -> Tensor:
    """Σ_c conj(S_c) F⁻¹ (w y_c) along y for y (item, coil, z, y, x); w centred and scaled."""
    shape = (y.shape[0], maps.shape[1], *y.shape[-3:])
    return _grouped("sense_decode", y, maps, weights, shape, blocks)


def encode(x: Tensor, maps: Tensor, weights: Tensor) -> Tensor:
    """w F(S_c x) along y for x (item, set, z, y, x), as (item, coil, z, y, x); w centred and scaled."""
    y = x.new_empty(x.shape[0], maps.shape[2], *x.shape[-3:])
    _strips("sense_encode", x, maps, weights, y, 1)
    return y


def _grouped(kernel: str, given: Tensor, maps: Tensor, weights: Tensor, shape: tuple[int, ...], wanted: int) -> Tensor:
    """One launch with enough groups of coils to make the wanted number of blocks, and the sum over groups."""
    _, sets, coils, nz, ny, nx = maps.shape
    # The groups depend only on a single image, so that it has the same bits in a batch.
    blocks = nz * -(-nx // columns(weights.shape[-1], sets * ny))
    per_group = -(-coils // min(coils, -(-wanted // blocks)))
    groups = -(-coils // per_group)
    parts = given.new_empty(groups, *shape)
    _strips(kernel, given, maps, weights, parts, per_group)
    return parts[0] if groups == 1 else _summed(parts)


def _strips(kernel: str, given: Tensor, maps: Tensor, weights: Tensor, out: Tensor, per_group: int) -> None:
    given, maps, weights = (bridge.settled(t) for t in (given, maps, weights))
    map_items, sets, coils, nz, ny, nx = maps.shape
    items, n = given.shape[0], weights.shape[-1]
    width = columns(n, sets * ny)
    passes, table, frequency, count = fourier.plan_on(n, given.device)
    numbers = (
        n,
        count,
        items,
        map_items,
        *weights.shape[:2],
        sets,
        coils,
        nz,
        ny,
        nx,
        width.bit_length() - 1,
        per_group,
    )
    grid = -(-nx // width) * nz * -(-coils // per_group) * items
    args = (given, maps, weights, out, passes, table, frequency, *(_int(i) for i in numbers))
    bridge.run("sense", kernel, grid, THREADS, args, 8 * width * (n | 1))


def planned(x: Tensor, maps: Tensor, ordered: Tensor, c: fourier.Compiled, blocks: int | None = None) -> Tensor:
    """`normal` for one set of maps by kernels compiled for this length; `ordered` is in the order of their passes."""
    x, maps, ordered = (bridge.settled(t) for t in (x, maps, ordered))
    (items, _, nz, ny, nx), coils = x.shape, maps.shape[2]
    strips = nz * -(-nx // c.width)
    # The groups depend only on a single image, so that it has the same bits in a batch.
    per_group = -(-coils // min(coils, -(-(blocks or PLANNED_BLOCKS) // strips)))
    groups = -(-coils // per_group)
    parts = x.new_empty(groups, *x.shape)
    numbers = (items, maps.shape[0], *ordered.shape[:2], coils, nz, per_group)
    args = (x, maps, ordered, parts, fourier.table_on(c, x.device)[0], *(_int(i) for i in numbers))
    bridge.run("planned", "planned_normal", strips * groups * items, c.threads, args, c.shared, c.options(ny, nx))
    return parts[0] if groups == 1 else _summed(parts)


def planned_volume(
    x: Tensor, maps: Tensor, ordered: Tensor, cz: fourier.Compiled, cy: fourier.Compiled, wide: int | None = None
) -> Tensor:
    """`normal_volume` for one set of maps; `ordered` (item or 1, ky, kz) is in the order of the passes along y and z.

    A few columns of all coils at a time, so that data between the launches stay in the second-level cache.
    """
    x, maps, ordered = (bridge.settled(t) for t in (x, maps, ordered))
    (_, _, nz, ny, nx), coils = x.shape, maps.shape[2]
    wide = wide or together(coils, nz, ny, nx, cy)
    strips, strips_z = -(-wide // cy.width), -(-wide // cz.width)
    k, out = x.new_empty(coils, nz, cy.n, wide), torch.empty_like(x)
    (table_y, _), (table_z, _) = fourier.table_on(cy, x.device), fourier.table_on(cz, x.device)
    along_y = cy.shared, cy.options(ny, nx, wide)
    along_z = cz.shared, cz.options(nz, cy.n * wide, wide)
    for item, (one, sum_) in enumerate(zip(x, out)):
        s, w = (t[0 if len(t) == 1 else item] for t in (maps, ordered))
        for x0 in range(0, nx, wide):
            args: tuple[Tensor | np.generic, ...] = (one, s, k, table_y, _int(nz), _int(x0))
            bridge.run("planned_volume", "planned_spread", strips * nz * coils, cy.threads, args, *along_y)
            bridge.run(
                "planned_volume", "planned_filter", strips_z * cy.n * coils, cz.threads, (k, w, table_z), *along_z
            )
            args = (k, s, sum_, table_y, _int(coils), _int(nz), _int(x0))
            bridge.run("planned_volume", "planned_gather", strips * nz, cy.threads, args, *along_y)
    return out


def together(coils: int, nz: int, ny: int, nx: int, cy: fourier.Compiled) -> int:
    """Columns of a volume that are processed at a time, in whole strips."""
    fits = VOLUME_BYTES // (8 * coils * nz * (cy.n + ny)) // cy.width * cy.width
    wide: int = min(max(fits, cy.width), -(-nx // cy.width) * cy.width)
    return wide


def _summed(parts: Tensor) -> Tensor:
    out = torch.empty_like(parts[0])
    args = (parts, out, _int(len(parts)), _long(out.numel()))
    bridge.run("sense", "sum_groups", _grid(out.numel()), THREADS, args)
    return out


def normal_volume(x: Tensor, maps: Tensor, weights: Tensor) -> Tensor:
    """Σ_c conj(S_c) F⁻¹ w F S_c x along z and y; w (item or 1, kz, ky) in the FFT's order, kz ≥ z, ky ≥ y.

    Coil by coil and image by image: one coil image stays in the second-level cache through its five steps.
    """
    x, maps, weights = (bridge.settled(t) for t in (x, maps, weights))
    _, sets, coils, nz, ny, nx = maps.shape
    kz, ky = weights.shape[1:]
    out, k = torch.empty_like(x), x.new_empty(kz, ky, nx)
    image = tuple(_int(i) for i in (sets, nz, ny, nx))
    stride = _long(coils * nz * ny * nx)
    for item, (one, sum_) in enumerate(zip(x, out)):
        s, w = (t[0 if len(t) == 1 else item] for t in (maps, weights))
        for coil in range(coils):
            # The map of one coil is contiguous; its sets lie `stride` apart.
            given = (s[0, coil], _long(0) if sets == 1 else stride)
            bridge.run(
                "coils", "coil_expand", _grid(k.numel()), THREADS,
                (one, given[0], k, given[1], *image, _int(kz), _int(ky)),
            )  # fmt: skip
            fourier.planes_(k, inverse=False)
            bridge.run("coils", "coil_weigh", _grid(k.numel()), THREADS, (k, w, _int(nx), _long(k.numel())))
            fourier.planes_(k, inverse=True)
            bridge.run(
                "coils", "coil_combine", _grid(sum_.numel()), THREADS,
                (k, given[0], sum_, given[1], *image, _int(ky), _int(coil == 0)),
            )  # fmt: skip
    return out


def eigenmaps(
    kernels: Tensor,
    waves: Tensor,
    reference: Tensor,
    maps: Tensor,
    values: Tensor,
    first: int,
    *,
    least: float,
    tolerance: float,
) -> None:
    """Eigenvectors and eigenvalues as `eigen.eigenmaps` writes them, in place in `maps` and `values`."""
    nz, lags = kernels.shape[0], kernels.shape[2]
    coils, _, ny, nx = maps.shape
    threads = eigen_threads(coils, lags, kernels.device)
    one = 8 * ((lags + coils * (coils + 1) // 2 + 2 * coils) | 1)
    grid = -(-nx // threads) * -(-ny // ROWS) * nz
    numbers = (*(_int(i) for i in (coils, lags, nz, ny, nx)), _long(maps.stride(0)), _float(least), _float(tolerance))
    given = (
        bridge.settled(t)
        for t in (kernels, waves, reference, _start(coils, kernels.device, bridge.stream(kernels.device)))
    )
    # The kernel strides over coils itself: it receives the planes from `first` on as flat memory.
    plane = first * ny * nx
    flat = (maps.view(-1)[plane:], values.view(-1)[plane : plane + nz * ny * nx])
    args = (*given, *flat, *numbers, _int(ITERATIONS), _int(ROWS))
    bridge.run("eigen", "eigenmaps", grid, threads, args, one * threads)


def eigen_threads(coils: int, lags: int, device: torch.device) -> int:
    """Threads of a block of `eigenmaps`: as many of 64 … 8 as shared memory holds; 0 if not even 8 fit."""
    one = 8 * ((lags + coils * (coils + 1) // 2 + 2 * coils) | 1)
    return next((t for t in (64, 32, 16, 8) if t * one <= bridge.shared_limit(device)), 0)


@lru_cache(maxsize=64)
def _start(coils: int, device: torch.device, stream: int) -> Tensor:
    """A start that is almost certainly not orthogonal to any eigenvector: golden-angle phases."""
    angle = 2.39996 * np.arange(coils)
    return torch.from_numpy((np.exp(1j * angle) / np.sqrt(coils)).astype(np.complex64)).to(device)


def shrink(x: Tensor, threshold: float | Tensor, exponent: float) -> None:
    """x ← x · max(0, 1 − (threshold / |x|)^exponent) for contiguous complex64 x, in place.

    The threshold lies on the device, so that a graph can be replayed with another one.
    """
    if not isinstance(threshold, Tensor):
        threshold = torch.full((), threshold, dtype=torch.float32, device=x.device)
    args = (x, threshold, _float(exponent), _long(x.numel()))
    bridge.run("shrink", "shrink", _grid(x.numel()), THREADS, args)


def wavelet_level(x: Tensor, corner: tuple[int, int, int], axis: int, taps: NDArray[np.float64], inverse: bool) -> None:
    """One level as in `wavelet.level`, in place on x (item, z, y, x)."""
    n, items = corner[axis], x.shape[0]
    lines = items * corner[0] * corner[1] * corner[2] // n
    # Lines of a block: as many as shared memory holds, and few enough to keep a large GPU busy.
    shift = next(s for s in (4, 3, 2, 1, 0) if 8 * (n << s) <= bridge.SHARED and (lines >> s >= BLOCKS or s <= 2))
    low = _taps(taps.astype(np.float32).tobytes(), x.device, bridge.stream(x.device))
    sizes = (*(_int(i) for i in (taps.size // 2, inverse, axis + 3, *x.shape[1:], *corner)), _long(lines), _int(shift))
    bridge.run("wavelet", "wavelet_level", -(-lines // (1 << shift)), THREADS, (x, low, *sizes), 8 * (n << shift))


@lru_cache(maxsize=64)
def _taps(taps: bytes, device: torch.device, stream: int) -> Tensor:
    return torch.from_numpy(np.frombuffer(taps, np.float32).copy()).to(device)


def _grid(count: int) -> int:
    return max(1, min(-(-count // THREADS), 1 << 16))
