"""Random numbers and random fields on a device, all from one seeded generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """Draws from a `torch.Generator` on its device: equal seeds give equal draws on devices of the same kind."""

    generator: torch.Generator

    @classmethod
    def seeded(cls, seed: int, device: torch.device | str = "cpu") -> Draw:
        """Draws from a seed."""
        return cls(torch.Generator(device).manual_seed(seed))

    @property
    def device(self) -> torch.device:
        """Where the drawn tensors live."""
        return self.generator.device

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number, uniform in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator, device=self.device))

    def log_uniform(self, low: float, high: float) -> float:
        """One number whose logarithm is uniform."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def integer(self, low: int, high: int) -> int:
        """One whole number in [low, high]."""
        return int(torch.randint(low, high + 1, (), generator=self.generator, device=self.device))

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.uniform() < p

    def one_of(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options, with probability proportional to its weight."""
        w = torch.ones(len(options)) if weights is None else torch.tensor(list(weights))
        at = int(torch.searchsorted(w.cumsum(0), self.uniform(0, float(w.sum())), right=True))
        return options[min(at, len(options) - 1)]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def uniforms(self, *shape: int) -> Tensor:
        """Numbers uniform in [0, 1)."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def complex_normal(self, *shape: int) -> Tensor:
        """Complex numbers with unit variance per real and imaginary part."""
        return torch.complex(self.normal(*shape), self.normal(*shape))

    def field(self, shape: tuple[int, int], power: float) -> Tensor:
        """A random field of mean 0 and variance 1 whose amplitude spectrum falls as (1 + |k|)^−power, k in cycles/FOV.

        Real, float32, (y, x), periodic.
        """
        ny, nx = shape
        ky = torch.fft.fftfreq(ny, 1 / ny, device=self.device)[:, None]
        kx = torch.fft.rfftfreq(nx, 1 / nx, device=self.device)
        amplitude = (1 + ky.square() + kx.square()) ** (-power / 2)
        amplitude[0, 0] = 0
        out: Tensor = torch.fft.irfft2(torch.fft.rfft2(self.normal(ny, nx)) * amplitude, s=(ny, nx))
        return (out - out.mean()) / out.std().clamp_min(1e-12)


def grid(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates (y, x) of pixel centres, each (y, x), in [−1, 1)."""
    y, x = (torch.arange(n, device=device) * (2 / n) - 1 + 1 / n for n in shape)
    return y[:, None].expand(shape), x[None, :].expand(shape)
