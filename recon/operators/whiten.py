"""A matrix along the coil axis: noise whitening, coil compression."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from recon.data import DataError
from recon.operators.base import Linear
from recon.operators.coils import COIL


@dataclass(frozen=True, eq=False)
class Whiten(Linear):
    """y = W x along the coil axis: (..., coil, z, y, x) → (..., coil_out, z, y, x) with `matrix` (coil_out, coil).

    With W = c · L⁻¹ and Ψ = L Lᴴ the covariance of the noise, the noise of y is white. Raises DataError for data with
    another number of coils or of another precision.
    """

    matrix: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """W x."""
        return _mix(self.matrix, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Wᴴ y."""
        return _mix(self.matrix.mH, y)

    def normal(self, inner: Linear | None = None) -> Linear:
        """One Hermitian matrix Wᴴ W; around an inner operator Wᴴ · inner · W."""
        return Whiten(self.matrix.mH @ self.matrix) if inner is None else super().normal(inner)


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    if x.dtype != matrix.dtype or x.ndim < 4 or x.shape[COIL] != matrix.shape[-1]:
        raise DataError(
            f"data of {x.dtype} {tuple(x.shape)} do not fit a matrix of {matrix.dtype} {tuple(matrix.shape)}; give "
            "(..., coil, z, y, x) with as many coils as it has columns, in its precision: data.to(matrix.dtype)"
        )
    # One product per coil stack, with pixels in a row, copies nothing but the result.
    mixed = matrix @ x.flatten(COIL + 1)
    return mixed.reshape(*mixed.shape[:-1], *x.shape[COIL + 1 :])
