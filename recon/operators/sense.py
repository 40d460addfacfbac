"""The Cartesian multi-coil encoding as one operator: mask · Fourier · coils, arranged for the cache."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recon.data import DataError
from recon.kernels import bridge
from recon.kernels import sense as kernel
from recon.operators import compiled
from recon.operators.base import Linear, chain
from recon.operators.coils import COIL, Coils, check_coils, check_image, check_maps
from recon.operators.derivatives import Map, learned, linear_map
from recon.operators.fourier import Fourier, check_axes
from recon.operators.sampling import Sample, Weight

#: Working set of one step on the CPU in bytes: coil images that stay in the second-level cache from the multiplication
#: by the maps to the sum over coils. Other devices get 64 times as much.
CACHE = 1 << 20

#: Bytes of coil images up to which a GPU processes a whole batch at once, with one launch per step.
TOGETHER = 2 << 30


@dataclass(frozen=True, eq=False)
class Sense(Linear):
    """y_c = m · F(S_c x): the same map as `Sample(mask) @ Fourier(axes) @ Coils(maps, sets)`.

    Image (..., z, y, x), or (..., set, z, y, x) when `sets`; k-space (..., coil, kz, ky, kx); `maps` as in `Coils`;
    `mask` real and broadcast against k-space. Axes outside `axes` stay in image space. Results have the dtype of
    the maps. Raises DataError for maps, a mask, an image or k-space that do not fit each other.

    The centred transform is F = D_k · FFT · D_n with the phase ramps D_n = exp(2πi c n / N) and D_k = exp(2πi c (k − c)
    / N), c = N // 2, for odd and even N alike. D_n is folded into the maps and D_k into the mask, so nothing is
    shifted, and in AᴴA the ramps D_k cancel. Transformed axes are stored last, and groups of planes and coils are
    processed while they are in the cache. Conjugation is applied outside the sum, Σ conj(S) FFT⁻¹(v) = conj(Σ S
    FFT(conj v)), so no second copy of the maps is held.
    """

    maps: Tensor
    mask: Tensor
    axes: tuple[int, ...] = (-2, -1)
    sets: bool = False

    def __post_init__(self) -> None:
        check_maps(self.maps, self.sets)
        check_axes(self.axes)
        own = self.maps.shape[-4:]
        if not isinstance(self.mask, Tensor) or any(n not in (1, m) for n, m in zip(self.mask.shape[::-1], own[::-1])):
            what = tuple(self.mask.shape) if isinstance(self.mask, Tensor) else type(self.mask).__name__
            raise DataError(
                f"a mask of {what} does not fit k-space of {tuple(own)} (coil, kz, ky, kx); for the lines of a "
                "slice give mask[:, None], (ky, 1)"
            )
        if self.mask.is_complex():
            raise DataError("a mask is real; give Weight(w) @ Sense(maps, mask) for complex weights w of samples")

    def plain(self) -> Linear:
        """The equivalent chain of operators, differentiable in the maps and the mask, too."""
        # As weights, whose normal operator is also right for masks with values other than 0 and 1.
        mask = self.mask.to(self.maps.real.dtype)
        return chain(Weight(mask), Fourier(self.axes), Coils(self.maps, self.sets))

    def forward(self, x: Tensor) -> Tensor:
        """The product m · F(S x)."""
        check_image(x, self.maps, self.sets)
        return self.plain().forward(x) if self._learned else _linear(self._forward, self._adjoint, x, self.maps)

    def adjoint(self, y: Tensor) -> Tensor:
        """Σ_c conj(S_c) F⁻¹ m y_c; samples where m = 0 count as 0 whatever they are, unless maps or m are learned."""
        check_coils(y, self.maps)
        return self.plain().adjoint(y) if self._learned else _linear(self._adjoint, self._forward, y, self.maps)

    def normal(self, inner: Linear | None = None) -> Linear:
        """Σ_c conj(S_c) F⁻¹ m² F S_c in one pass; a diagonal inner operator is merged with the mask."""
        diagonal = inner.mask if isinstance(inner, Sample) else inner.w if isinstance(inner, Weight) else None
        if self._learned or learned(diagonal) or (inner is not None and diagonal is None):
            return self.plain().normal(inner)
        square = self.mask * self.mask
        w = _narrow(square if diagonal is None else square * diagonal)
        # Along an axis with constant weights the transform and its inverse cancel.
        axes = tuple(a for a in self.axes if w.shape[a] > 1) or self.axes[-1:]
        return SenseNormal(self if axes == self.axes else replace(self, axes=axes), w)

    @property
    def _learned(self) -> bool:
        return learned(self.maps, self.mask)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The last three axes with the transformed ones at the end."""
        return tuple(sorted((-3, -2, -1), key=lambda a: a in self.axes))

    @cached_property
    def folded(self) -> Tensor:
        """Maps times D_n as (..., set, coil, plane, *transformed); `plane` covers all axes left in image space."""
        s = self.maps if self.sets else self.maps.unsqueeze(COIL - 1)
        for a in self.axes:
            s = s * _ramp(s.shape[a], 0, a, s)
        return self.rows(s).contiguous()

    @cached_property
    def settled(self) -> Tensor:
        """The maps as the compiled kernels read them, contiguous: copied once, not at every call."""
        maps: Tensor = bridge.settled(self.maps)
        return maps

    def rows(self, t: Tensor) -> Tensor:
        """(..., z, y, x) as (..., plane, *transformed), a view where strides allow."""
        lead, d = t.shape[:-3], len(self.axes)
        t = t.permute(*range(len(lead)), *(t.ndim + a for a in self.order))
        return t.reshape(*lead, t.shape[len(lead) : -d].numel(), *t.shape[-d:])

    def unrows(self, t: Tensor) -> Tensor:
        """The inverse of `rows`."""
        lead, shape = t.shape[: t.ndim - 1 - len(self.axes)], [self.maps.shape[a] for a in self.order]
        back = (len(lead) + self.order.index(a) for a in (-3, -2, -1))
        return t.reshape(*lead, *shape).permute(*range(len(lead)), *back).contiguous()

    def weights(self, w: Tensor) -> Tensor:
        """Weights of k-space as (..., coil, plane, *transformed), of size one where they broadcast."""
        w = w.reshape((1,) * (4 - w.ndim) + w.shape)
        shape = list(w.shape[-3:])
        if any(w.shape[a] > 1 for a in self.order[: -len(self.axes)]):
            for a in self.order[: -len(self.axes)]:
                shape[a] = self.maps.shape[a]
        return self.rows(w.expand(*w.shape[:-3], *shape))

    def steps(self) -> Iterator[tuple[slice, slice]]:
        """Groups of coils and planes that are processed together."""
        coils, planes, *rest = self.folded.shape[-2 - len(self.axes) :]
        one = math.prod(rest) * self.folded.element_size()
        budget = CACHE if self.maps.device.type == "cpu" else 64 * CACHE
        some = max(1, min(planes, budget // one))
        group = max(1, budget // (one * some))
        for p in range(0, planes, some):
            for c in range(0, coils, group):
                yield slice(c, c + group), slice(p, p + some)

    @cached_property
    def _compiled(self) -> Tensor | None:
        """The mask as the compiled kernels take it, centred and scaled, or None if they do not apply."""
        w = compiled.weights(_narrow(self.mask), self.maps, self.axes)
        if w is None or not all(kernel.transforms(self.maps.shape[a], self.maps.device) for a in self.axes):
            return None
        n = math.prod(self.maps.shape[a] for a in self.axes)
        return (w / math.sqrt(n)).to(torch.float32).contiguous()

    @cached_property
    def _ramped(self) -> Tensor:
        m = self.mask.reshape((1,) * (4 - self.mask.ndim) + self.mask.shape)
        for a in self.axes:
            n = self.maps.shape[a]
            m = m * _ramp(n, n // 2, a, self.maps)
        return self.weights(m * math.prod(self.maps.shape[a] for a in self.axes) ** -0.5)

    def _forward(self, x: Tensor) -> Tensor:
        quick = compiled.encode(x, self.settled, self._compiled, -3 in self.axes, self.sets)
        if quick is not None:
            return quick
        d, s, m = len(self.axes), self.folded, self._ramped
        image = self.rows(x.to(s.dtype) if self.sets else x.to(s.dtype).unsqueeze(COIL))
        lead = _broadcast(image.shape[: -2 - d], s.shape[: -3 - d], m.shape[: -2 - d])
        y = s.new_empty(*lead, *s.shape[-2 - d :])
        for item in itertools.product(*map(range, lead)):
            si, mi, xi = _item(s, item, 3 + d), _item(m, item, 2 + d), _item(image, item, 2 + d)
            for c, p in self.steps():
                torch.mul(_transform(_spread(si[:, c, p], xi[:, p]), d), _part(mi, c, p), out=y[item][c, p])
        return self.unrows(y)

    def _adjoint(self, y: Tensor) -> Tensor:
        quick = compiled.decode(y, self.settled, self._compiled, -3 in self.axes, self.sets)
        if quick is not None:
            return quick
        d, s, m = len(self.axes), self.folded, self._ramped
        k = self.rows(y.to(s.dtype))
        lead = _broadcast(k.shape[: -2 - d], s.shape[: -3 - d], m.shape[: -2 - d])
        x = s.new_zeros(*lead, s.shape[-3 - d], *s.shape[-1 - d :])
        for item in itertools.product(*map(range, lead)):
            si, mi, ki = _item(s, item, 3 + d), _item(m, item, 2 + d), _item(k, item, 2 + d)
            for c, p in self.steps():
                w = _part(mi, c, p)
                v = (ki[c, p].conj() * w).resolve_conj().masked_fill_(w == 0, 0)  # unmeasured samples are not read
                _gather(si[:, c, p], _transform(v, d), x[item][:, p])
        x = self.unrows(x.conj_physical_())
        return x if self.sets else x.squeeze(COIL)


@dataclass(frozen=True, eq=False)
class SenseNormal(Linear):
    """x ↦ Σ_c conj(S_c) F⁻¹ w F S_c x with weights `w` broadcast against k-space; self-adjoint where w is real."""

    sense: Sense
    w: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """AᴴWA x."""
        check_image(x, self.sense.maps, self.sense.sets)
        if self._learned:
            return self._plain().forward(x)
        return _linear(self._apply, self._applied_conj, x, self.sense.maps)

    def adjoint(self, y: Tensor) -> Tensor:
        """AᴴWᴴA y."""
        check_image(y, self.sense.maps, self.sense.sets)
        if self._learned:
            return self._plain().adjoint(y)
        return _linear(self._applied_conj, self._apply, y, self.sense.maps)

    @property
    def _learned(self) -> bool:
        return learned(self.sense.maps, self.w)

    def _plain(self) -> Linear:
        chained = Fourier(self.sense.axes) @ Coils(self.sense.maps, self.sense.sets)
        return chained.H @ Weight(self.w) @ chained

    @cached_property
    def _compiled(self) -> kernel.Filter | None:
        w = compiled.weights(self.w, self.sense.maps, self.sense.axes)
        return None if w is None else kernel.prepare(w, -3 in self.sense.axes)

    @cached_property
    def _weights(self) -> Tensor:
        return self.sense.weights(self.w / math.prod(self.sense.maps.shape[a] for a in self.sense.axes))

    def _apply(self, x: Tensor) -> Tensor:
        return self._through(x, self._weights)

    def _applied_conj(self, x: Tensor) -> Tensor:
        return self._through(x, self._weights.conj().resolve_conj())

    def _through(self, x: Tensor, w: Tensor) -> Tensor:
        op = self.sense
        quick = compiled.normal(x, op.settled, self._compiled, op.sets)
        if quick is not None:
            return quick
        d, s = len(op.axes), op.folded
        image = op.rows(x.to(s.dtype) if op.sets else x.to(s.dtype).unsqueeze(COIL))
        lead = _broadcast(image.shape[: -2 - d], s.shape[: -3 - d], w.shape[: -2 - d])
        if _together(s, lead, d):
            spread = s * image.unsqueeze(-2 - d)
            k = _transform(spread.sum(-3 - d) if s.shape[-3 - d] > 1 else spread.squeeze(-3 - d), d) * w
            k = _transform(k.conj_physical_(), d).unsqueeze(-3 - d)
            out = (s * k).sum(-2 - d)
            out = op.unrows(out.conj_physical_())
            return out if op.sets else out.squeeze(COIL)
        out = s.new_zeros(*lead, *image.shape[-2 - d :])
        for item in itertools.product(*map(range, lead)):
            si, wi, xi = _item(s, item, 3 + d), _item(w, item, 2 + d), _item(image, item, 2 + d)
            for c, p in op.steps():
                k = _transform(_spread(si[:, c, p], xi[:, p]), d)
                k *= _part(wi, c, p)
                _gather(si[:, c, p], _transform(k.conj_physical_(), d), out[item][:, p])
        out = op.unrows(out.conj_physical_())
        return out if op.sets else out.squeeze(COIL)


def _narrow(w: Tensor) -> Tensor:
    """Weights with at least four axes (..., coil, z, y, x), of size one along coil, z, y or x if constant there."""
    w = w.reshape((1,) * (4 - w.ndim) + w.shape)
    for a in (-4, -3, -2, -1):
        first = w.narrow(a, 0, 1)
        if w.shape[a] > 1 and (w.stride(a) == 0 or bool((w == first).all())):
            w = first
    return w


def _broadcast(*shapes: torch.Size) -> tuple[int, ...]:
    # torch.broadcast_shapes imports sympy, which takes a second.
    return np.broadcast_shapes(*map(tuple, shapes))


def _linear(forward: Map, adjoint: Map, x: Tensor, maps: Tensor) -> Tensor:
    # Converted here, where autograd can trace it: the gradient of a real image is real.
    return linear_map(forward, adjoint, x.to(maps.dtype))


def _ramp(n: int, origin: int, axis: int, like: Tensor) -> Tensor:
    """exp(2πi c (m − origin) / n) for m = 0 … n − 1 and c = n // 2, along `axis`; exactly ±1 if n is even."""
    turns = (n // 2) * (torch.arange(n, device=like.device) - origin) % n
    angle = turns.to(torch.float64) * (2 * math.pi / n)
    ramp = angle.cos().round() if n % 2 == 0 else torch.polar(torch.ones_like(angle), angle)
    return ramp.to(like.real.dtype if n % 2 == 0 else like.dtype).reshape(-1, *(1,) * (-axis - 1))


def _together(s: Tensor, lead: tuple[int, ...], d: int) -> bool:
    """Whether a whole batch is processed at once: a GPU is limited by launches rather than by memory."""
    return s.device.type != "cpu" and math.prod((*lead, *s.shape[-3 - d :])) * s.element_size() <= TOGETHER


def _item(t: Tensor, item: tuple[int, ...], keep: int) -> Tensor:
    """Batch item of a tensor whose axes before the last `keep` broadcast against the batch."""
    lead = t.shape[: t.ndim - keep]
    return t[tuple(0 if n == 1 else i for n, i in zip(lead, item[len(item) - len(lead) :]))]


def _part(w: Tensor, c: slice, p: slice) -> Tensor:
    return w[c if w.shape[0] > 1 else slice(None), p if w.shape[1] > 1 else slice(None)]


def _transform(k: Tensor, d: int) -> Tensor:
    out: Tensor = torch.fft.fftn(k, dim=tuple(range(-d, 0)))
    return out


def _spread(s: Tensor, x: Tensor) -> Tensor:
    """Σ_set S x, (coil, plane, *transformed)."""
    k = s[0] * x[0]
    for one, image in zip(s[1:], x[1:]):
        k.addcmul_(one, image)
    return k


def _gather(s: Tensor, k: Tensor, x: Tensor) -> None:
    """Add Σ_coil S k to every set of x, (set, plane, *transformed)."""
    for one, image in zip(s, x):
        for a, b in zip(one, k):
            image.addcmul_(a, b)
