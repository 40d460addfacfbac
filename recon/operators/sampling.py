"""Sampling masks and other diagonal operators."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recon.operators.base import Linear
from recon.operators.derivatives import learned


@dataclass(frozen=True, eq=False)
class Sample(Linear):
    """Keeps measured samples: y = m · x, with m of zeros and ones (float, broadcast against x).

    A projection, and therefore its own adjoint and its own normal operator. For a learned mask the normal operator is m
    · m.
    """

    mask: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The product m · x."""
        return self.mask * x

    def adjoint(self, y: Tensor) -> Tensor:
        """The product m · y."""
        return self.mask * y

    def normal(self, inner: Linear | None = None) -> Linear:
        """Itself; around an inner operator m · inner · m."""
        return self if inner is None and not learned(self.mask) else super().normal(inner)


@dataclass(frozen=True, eq=False)
class Weight(Linear):
    """y = w · x with any real or complex weights, broadcast against x."""

    w: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The product w · x."""
        return self.w * x

    def adjoint(self, y: Tensor) -> Tensor:
        """The product w* · y."""
        return self.w.conj() * y

    def normal(self, inner: Linear | None = None) -> Linear:
        """|w|²; around an inner operator w* · inner · w."""
        return Weight((self.w.conj() * self.w).real) if inner is None else super().normal(inner)
