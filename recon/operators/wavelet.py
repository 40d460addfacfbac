"""Orthonormal discrete wavelet transforms for any size."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError
from recon.kernels import wavelet as kernel
from recon.operators.base import Identity, Linear, real_numbers
from recon.operators.fourier import check_axes, check_has


@lru_cache(maxsize=32)
def daubechies(order: int) -> NDArray[np.float64]:
    """Scaling filter of Daubechies' extremal-phase wavelet with `order` vanishing moments: 2·order taps, Σ h = √2.

    |H(ω)|² = 2 cos²ᵖ(ω/2) P(sin²(ω/2)) with P(y) = Σ_{k<p} C(p−1+k, k) yᵏ; the spectral factor takes the roots inside
    the unit circle (Daubechies, Comm Pure Appl Math 41:909, 1988). Raises DataError for orders outside 1 to 10.
    """
    if not 1 <= order <= 10:
        raise DataError(f"a Daubechies wavelet of order {order} was asked for; orders 1 to 10 (db1 … db10) are known")
    roots = np.roots([math.comb(order - 1 + k, k) for k in range(order)][::-1])
    # y = (2 − z − 1/z) / 4 turns each root into a pair z, 1/z.
    half = 1 - 2 * roots.astype(complex)
    z = half + np.sqrt(half - 1) * np.sqrt(half + 1)
    z = np.where(abs(z) < 1, z, 1 / z)
    taps = np.real(np.poly(np.concatenate([-np.ones(order), z])))
    return np.asarray(taps * (math.sqrt(2) / taps.sum()))


@lru_cache(maxsize=256)
def analysis(n: int, order: int) -> NDArray[np.float64]:
    """The orthonormal n × n matrix of one level: ⌈n/2⌉ rows of scaling functions, then ⌊n/2⌋ of wavelets.

    Row k holds the filter at shift 2k, periodic. For odd n the last scaling function overlaps its periodic
    neighbour; the rows are then made orthonormal with the least change (polar factor), scaling functions first, then
    the wavelets within the complement.
    """
    rows = _filters(n, order)
    if n % 2:
        at, columns, values = seam(n, order)
        rows[np.ix_(at, columns)] += values
    return rows


def _filters(n: int, order: int) -> NDArray[np.float64]:
    low = daubechies(order)
    high = low[::-1] * (-1.0) ** np.arange(low.size)
    rows = np.zeros((n, n))
    for first, filter_, count in ((0, low, (n + 1) // 2), ((n + 1) // 2, high, n // 2)):
        for k in range(count):
            np.add.at(rows[first + k], (2 * k + 1 - order + np.arange(low.size)) % n, filter_)
    return rows


@lru_cache(maxsize=256)
def seam(n: int, order: int) -> tuple[list[int], list[int], NDArray[np.float64]]:
    """What makes the filters at an odd length n orthonormal: rows, columns, and values to add (row, column).

    It lies where the last scaling function meets the first, and is the same at any greater length.
    """
    least = min(n, 12 * order + 1)
    rows, m = _filters(least, order), (least + 1) // 2
    made = rows.copy()
    made[:m] = _polar(rows[:m])
    made[m:] = _polar(rows[m:] - rows[m:] @ made[:m].T @ made[:m])
    values = made - rows
    changed = abs(values) > 1e-13
    at, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    found = values[np.ix_(at, columns)]

    def placed(i: int, own: int, whole: int) -> int:
        return i if i < own // 2 else i + whole - own

    low = [placed(int(i), m, (n + 1) // 2) for i in at if i < m]
    high = [placed(int(i) - m, least // 2, n // 2) + (n + 1) // 2 for i in at if i >= m]
    return low + high, [placed(int(i), least, n) for i in columns], found


def _polar(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    u, _, v = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(u @ v)


@dataclass(frozen=True, eq=False)
class Wavelet(Linear):
    """Separable, periodic, orthonormal wavelet transform along `axes`: WᴴW = WWᴴ = I for every size.

    Image (..., z, y, x), real or complex → coefficients of the same shape: the approximation in the corner of lowest
    indices (`coarse`), details around it, level by level. Daubechies wavelets "db1" (Haar) to "db10". Each level halves
    (rounding up) every axis that is still at least `smallest` long and at least as long as the filter; `levels` limits
    their number. Levels are matrix products along one axis. Raises DataError for another name, and for axes counted
    from the front.
    """

    axes: tuple[int, ...] = (-2, -1)
    name: str = "db4"
    levels: int | None = None
    smallest: int = 16

    def __post_init__(self) -> None:
        check_axes(self.axes)
        _ = self.order

    @property
    def order(self) -> int:
        """Number of vanishing moments."""
        number = self.name[2:]
        if not (self.name.startswith("db") and number.isdigit() and 1 <= int(number) <= 10):
            raise DataError(f'the wavelet "{self.name}" is not known; choose "db1" (Haar) to "db10"')
        return int(number)

    def shapes(self, shape: torch.Size | tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sizes along `axes` before each level and, last, of the approximation, for an image of this shape."""
        least = max(self.smallest, 2 * self.order)
        check_has(shape, self.axes)
        sizes = [tuple(shape[a] for a in self.axes)]
        while (self.levels is None or len(sizes) <= self.levels) and max(sizes[-1], default=0) >= least:
            sizes.append(tuple((n + 1) // 2 if n >= least else n for n in sizes[-1]))
        return sizes

    def coarse(self, coefficients: Tensor) -> Tensor:
        """The approximation within coefficients, a view."""
        return self._corner(coefficients, self.shapes(coefficients.shape)[-1])

    def forward(self, x: Tensor) -> Tensor:
        """W x."""
        x = real_numbers(x)
        if kernel.serves(x):
            return self._compiled(x, False)
        planes = _planar(x)
        sizes = self.shapes(x.shape)
        for before, after in itertools.pairwise(sizes):
            planes = self._level(planes, before, after, False)
        return _unplanar(planes, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Wᴴ y = W⁻¹ y."""
        y = real_numbers(y)
        if kernel.serves(y):
            return self._compiled(y, True)
        planes = _planar(y)
        sizes = self.shapes(y.shape)[::-1]
        for after, before in itertools.pairwise(sizes):
            planes = self._level(planes, before, after, True)
        return _unplanar(planes, y)

    def rolled(self, x: Tensor, shift: tuple[int, ...] | Tensor) -> Tensor:
        """W of the image after rolling it by `shift` along `axes`, 0 ≤ shift < side; an empty shift means none.

        A shift given as a tensor lies on the device of x and is not read back.
        """
        if not isinstance(shift, Tensor) and (levels := self._planes(x)):
            return self._haar(x, levels, shift, False)
        return self.forward(_roll(x, shift, self.axes, 1))

    def rolled_adjoint(self, c: Tensor, shift: tuple[int, ...] | Tensor) -> Tensor:
        """Wᴴ of coefficients, rolled back by `shift`: the inverse of `rolled`."""
        if not isinstance(shift, Tensor) and (levels := self._planes(c)):
            return self._haar(c, levels, shift, True)
        return _roll(self.adjoint(c), shift, self.axes, -1)

    def _haar(self, x: Tensor, levels: int, shift: tuple[int, ...], inverse: bool) -> Tensor:
        y, across = shift or (0, 0)
        made: Tensor = kernel.haar(x.resolve_conj().contiguous(), levels, (y, across), inverse)
        return made

    def _planes(self, x: Tensor) -> int:
        """The number of levels if one kernel computes all of them: Haar, on planes whose sides halve evenly."""
        if self.order > 1 or self.axes != (-2, -1) or not kernel.turns(x):
            return 0
        sizes = self.shapes(x.shape)
        even = all(n == 2 * m for before, after in itertools.pairwise(sizes) for n, m in zip(before, after))
        return len(sizes) - 1 if even else 0

    def normal(self, inner: Linear | None = None) -> Linear:
        """The identity; around an inner operator Wᴴ · inner · W."""
        return Identity() if inner is None else super().normal(inner)

    def _compiled(self, x: Tensor, inverse: bool) -> Tensor:
        """The transform by the compiled kernels, in place on a copy; on a GPU odd lengths use their matrix."""
        out = x.clone(memory_format=torch.contiguous_format).resolve_conj()
        items = out.view(-1, *(1,) * (3 - out.ndim), *out.shape[-3:])
        sizes = self.shapes(x.shape)
        taps = daubechies(self.order)
        for before, after in itertools.pairwise(sizes[::-1] if inverse else sizes):
            before, after = (after, before) if inverse else (before, after)
            corner = list(items.shape[-3:])
            for a, n in zip(self.axes, before):
                corner[a] = n
            for a, n, m in zip(self.axes, before, after):
                if m < n and n % 2 == 0:
                    kernel.level(items, (corner[0], corner[1], corner[2]), a, taps, inverse)
                elif m < n and kernel.seams(items):
                    kernel.seamed_level(items, (corner[0], corner[1], corner[2]), a, taps, seam(n, self.order), inverse)
                elif m < n:
                    part = self._corner(items, before)
                    matrix = _matrix(n, self.order, torch.float32, x.device)
                    part.copy_(_unplanar(_along(matrix.mT if inverse else matrix, _planar(part), a), part))
        return out

    def _level(self, x: Tensor, before: tuple[int, ...], after: tuple[int, ...], inverse: bool) -> Tensor:
        """One level on the corner of the planar image that it applies to."""
        part = corner = self._corner(x, before)
        for a, n, m in zip(self.axes, before, after):
            if m < n and self.order == 1 and n % 2 == 0:
                part = _unpaired(part, a) if inverse else _paired(part, a)
            elif m < n:
                matrix = _matrix(n, self.order, x.dtype, x.device)
                part = _along(matrix.mT if inverse else matrix, part, a)
        if corner.shape == x.shape:
            return part
        x = x.clone()
        self._corner(x, before).copy_(part)
        return x

    def _corner(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        for a, n in zip(self.axes, sizes):
            x = x.narrow(a, 0, n)
        return x


def _roll(x: Tensor, shift: tuple[int, ...] | Tensor, axes: tuple[int, ...], sign: int) -> Tensor:
    if not isinstance(shift, Tensor):
        return torch.roll(x, tuple(sign * s for s in shift), axes) if shift else x
    for s, a in zip(shift, axes):
        n = x.shape[a]
        x = x.index_select(a, (torch.arange(n, device=x.device) - sign * s) % n)
    return x


@lru_cache(maxsize=64)
def _matrix(n: int, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(analysis(n, order)).to(device, dtype)


def _paired(x: Tensor, axis: int) -> Tensor:
    """Haar's level along one even axis: sums of neighbours, then their differences, over √2."""
    n = x.shape[axis] // 2
    pairs = x.reshape(*x.shape[:axis], n, 2, *x.shape[x.ndim + axis + 1 :])
    even, odd = pairs.unbind(axis)
    return torch.cat([even + odd, even - odd], axis) * math.sqrt(0.5)


def _unpaired(x: Tensor, axis: int) -> Tensor:
    """The transpose of `_paired`."""
    total, difference = x.chunk(2, axis)
    even, odd = total + difference, total - difference
    return (torch.stack([even, odd], axis) * math.sqrt(0.5)).reshape(x.shape)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Matrix product along one axis."""
    if axis == -1:
        return x @ matrix.mT
    return (matrix @ x.flatten(axis + 1)).reshape(x.shape)


def _planar(x: Tensor) -> Tensor:
    """Real and imaginary part as two real images, (part, ..., z, y, x)."""
    return torch.view_as_real(x.resolve_conj()).movedim(-1, 0).contiguous() if x.is_complex() else x.unsqueeze(0)


def _unplanar(planes: Tensor, like: Tensor) -> Tensor:
    return torch.complex(planes[0], planes[1]) if like.is_complex() else planes[0]
