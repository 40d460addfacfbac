"""Fourier transforms: plans of those that CUDA kernels hold in shared memory, cuFFT, and SciPy's where it is faster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels import bridge

#: Number of values above which SciPy transforms one axis that is not the last faster than torch. Measured on one core,
#: SciPy's time over torch's: 0.2 to 0.8 for most such transforms (1.2 at worst), 1.2 to 1.6 along the last axis, along
#: several axes and for smaller arrays. The rule is fixed rather than measured at run time, so that every run gives the
#: same bits.
LARGE = 1 << 17


def scipy_serves(x: Tensor, axes: tuple[int, ...]) -> bool:
    """Whether SciPy transforms x along `axes` (negative): a single one, not the last, of a large CPU tensor."""
    return (
        x.device.type == "cpu"
        and x.numel() >= LARGE
        and x.dtype in (torch.complex64, torch.complex128)
        and sum(x.shape[a] > 1 for a in axes) == 1
        and all(a != -1 or x.shape[a] == 1 for a in axes)
        and not bridge.watched(x)
    )


def scipy_transform(x: Tensor, axes: tuple[int, ...], inverse: bool) -> Tensor:
    """The unitary transform of x along `axes`, zero frequency first, with as many threads as torch has."""
    import scipy.fft

    transform = scipy.fft.ifftn if inverse else scipy.fft.fftn
    a = transform(bridge.settled(x).numpy(), axes=axes, norm="ortho", workers=torch.get_num_threads())
    return torch.from_numpy(a)


@dataclass(frozen=True)
class Plan:
    """A mixed-radix transform of length n, as shared/fft.h takes it.

    `passes` (pass, 4) holds radix, span, first twiddle and first root; `table` the twiddles exp(−2πi j q / span) as
    [j][q − 1] and roots exp(−2πi k / radix), interleaved; after the forward transform position p holds frequency[p].
    """

    n: int
    passes: NDArray[np.int32]
    table: NDArray[np.float32]
    frequency: NDArray[np.int32]


def radices(n: int) -> list[int]:
    """Factors of n in the order of the forward passes: 5, 3, 7, 11, 13, then 4s and 8s, and a 2 if necessary.

    Raises ValueError if n has a prime factor above 13.
    """
    found, rest = [], n
    for r in (5, 3, 7, 11, 13):
        while rest % r == 0:
            found.append(r)
            rest //= r
    twos = (rest & -rest).bit_length() - 1
    if rest != 1 << twos:
        raise ValueError(f"a transform of length {n} has a prime factor above 13")
    while twos > 0:
        take = 2 if twos in (2, 4) else min(twos, 3)
        found.append(1 << take)
        twos -= take
    return found


@lru_cache(maxsize=256)
def plan(n: int, factors: tuple[int, ...] | None = None) -> Plan:
    """The plan for a length without prime factors above 13, with the given radices or those of `radices`."""
    passes: list[tuple[int, int, int, int]] = []
    parts: list[NDArray[np.complex128]] = []
    at, span = 0, n
    for r in radices(n) if factors is None else factors:
        j, q = np.arange(span // r)[:, None], np.arange(1, r)
        twiddles = np.exp(-2j * np.pi * (j * q / span)).ravel()
        roots = np.exp(-2j * np.pi * (np.arange(r) / r))
        passes.append((r, span, 2 * at, 2 * (at + twiddles.size)))
        parts += [twiddles, roots]
        at += twiddles.size + r
        span //= r
    frequency, position, step, part = np.zeros(n, np.int64), np.arange(n), 1, n
    for r, *_ in passes:
        part //= r
        frequency += position // part * step
        position, step = position % part, step * r
    table = np.concatenate([*parts, np.ones(1)]).astype(np.complex64).view(np.float32)
    four = np.array(passes, np.int32).reshape(-1, 4)
    return Plan(n, four if len(four) else np.zeros((1, 4), np.int32), table, frequency.astype(np.int32))


@dataclass(frozen=True)
class Compiled:
    """Compile-time settings of cuda/planned.h: a length, its radices, 2^shift columns per strip, threads per block."""

    n: int
    radices: tuple[int, ...]
    shift: int
    threads: int

    @property
    def width(self) -> int:
        """Columns of a strip."""
        return 1 << self.shift

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block: see `pitch` in cuda/planned.h."""
        start = (16 >> self.shift) % 16
        return 8 * self.width * (self.n + (start - self.n) % 16)

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor should hold, by which the compiler limits the registers of a thread.

        A thread holds the sum of the first pass, one butterfly, and some fifty other numbers. Each of the four parts of
        a multiprocessor has 16384 registers, allocated to warps of 32 threads in units of eight.
        """
        registers = -(-(2 * self.radices[0] + 2 * max(self.radices) + 48) // 8) * 8
        warps = min(32, 4 * (16384 // (32 * registers)))  # the oldest GPUs hold no more, and no more than 16 blocks
        return min(16, max(1, warps // (self.threads // 32)))

    def options(self, rows: int, stride: int, wide: int = 0) -> tuple[str, ...]:
        """Compiler options: columns of `rows` values, `stride` apart, and for volumes how many are adjacent in k."""
        values = {"N": self.n, "RADICES": ",".join(map(str, self.radices)), "SHIFT": self.shift}
        values |= {"THREADS": self.threads, "RESIDENT": self.resident, "ROWS": rows, "STRIDE": stride}
        return tuple(f"-DRECON_{k}={v}" for k, v in (values | ({"WIDE": wide} if wide else {})).items())

    @property
    def twiddles(self) -> NDArray[np.complex64]:
        """exp(−2πi j q / span) of each pass as [q − 1][j], so that neighbouring butterflies read neighbours."""
        parts, span = [], self.n
        for r in self.radices:
            q, j = np.arange(1, r)[:, None], np.arange(span // r)
            parts.append(np.exp(-2j * np.pi * (j * q / span)).ravel())
            span //= r
        return np.concatenate(parts).astype(np.complex64)


#: Radices of cuda/radix.h, and the most threads of a block.
HELD_RADICES, MOST_THREADS = (20, 16, 15, 12, 10, 9, 8, 6, 5, 4, 3, 2), 512


@lru_cache(maxsize=256)
def compiled(n: int) -> Compiled | None:
    """Settings of the compiled transform of length n, None if it has a prime factor above 5 or does not fit.

    As few passes as possible, because each goes through shared memory; then those that keep most threads busy. A thread
    holds a butterfly of the first pass and its sum over coils, which has at most 16 values.
    """
    best: tuple[float, Compiled] | None = None
    for factors in _factorings(n):
        for shift in (3, 2):
            threads = -(-(n // factors[0] << shift) // 32) * 32
            made = Compiled(n, factors, shift, threads)
            if factors[0] > 16 or threads > MOST_THREADS or made.shared > bridge.SHARED:
                continue
            rounds = sum(-(-(n // r << shift) // threads) * (r + 6) for r in factors)
            cost = rounds * threads / (n << shift) * (1 if shift == 3 else 1.3) + 100 * len(factors)
            if best is None or cost < best[0]:
                best = cost, made
    return None if best is None else best[1]


def _factorings(n: int) -> list[tuple[int, ...]]:
    """All ordered products of at most four of HELD_RADICES that equal n."""
    found: list[tuple[int, ...]] = []

    def extend(rest: int, taken: tuple[int, ...]) -> None:
        if rest == 1 and taken:
            found.append(taken)
        elif len(taken) < 4:
            for r in HELD_RADICES:
                if rest % r == 0:
                    extend(rest // r, (*taken, r))

    extend(n, ())
    return found


def table_on(c: Compiled, device: torch.device) -> tuple[Tensor, Tensor]:
    """Twiddles of a compiled transform on a device, and the frequency at each position after it."""
    return _table_on(c, device, bridge.stream(device))


@lru_cache(maxsize=64)
def _table_on(c: Compiled, device: torch.device, stream: int) -> tuple[Tensor, Tensor]:
    frequency = plan(c.n, c.radices).frequency.astype(np.int64)
    return torch.from_numpy(c.twiddles).to(device), torch.from_numpy(frequency).to(device)


def plan_on(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """Passes, table and frequencies of a plan on a device, and the number of passes."""
    return _plan_on(n, device, bridge.stream(device))


@lru_cache(maxsize=64)
def _plan_on(n: int, device: torch.device, stream: int) -> tuple[Tensor, Tensor, Tensor, int]:
    # Torch returns memory to the stream that allocated it, without synchronising others: each has separate tables.
    p = plan(n)
    passes, table, frequency = (torch.from_numpy(a.copy()).to(device) for a in (p.passes, p.table, p.frequency))
    return passes, table, frequency, len(radices(n))


def planes_(k: Tensor, inverse: bool) -> Tensor:
    """The transform of k (z, y, x), contiguous complex64, along z and y in place, not scaled either way."""
    if k.device.type != "cuda":
        transform = torch.fft.ifftn if inverse else torch.fft.fftn
        return k.copy_(transform(k, dim=(0, 1), norm="forward" if inverse else "backward"))
    with bridge.on(k.device) as cupy:
        a, cufft = bridge.array(k), cupy.cuda.cufft
        plan = _cufft(*k.shape, torch.cuda.current_device(), bridge.stream(k.device))
        plan.fft(a, a, cufft.CUFFT_INVERSE if inverse else cufft.CUFFT_FORWARD)
    return k


@lru_cache(maxsize=16)
def _cufft(nz: int, ny: int, nx: int, index: int, stream: int) -> Any:
    """A batch of `nx` neighbouring transforms; a plan owns its work area, so each stream has separate plans."""
    cufft, size = bridge.cupy().cuda.cufft, (nz, ny)
    return cufft.PlanNd(size, size, nx, 1, size, nx, 1, cufft.CUFFT_C2C, nx, "C", 1, None)
