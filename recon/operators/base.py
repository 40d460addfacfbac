"""Linear operators as values: `A(x)`, `A.H`, `A @ B`, `A + B`, `2j * A`, and `A.normal(inner)` with its
simplifications.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast, overload

import torch
from torch import Tensor

from recon.data import DataError

Self = TypeVar("Self", bound="Linear")
Number = int | float | complex


class Linear:
    """y = A x. Subclasses are frozen dataclasses that define `forward` and `adjoint` and hold no mutable state.

    `A(x)` and `A @ x` apply the operator, `A.H` is the adjoint, `A @ B` the product, `A.normal()` is AᴴA; `A + B`, `A -
    B`, `2j * A` and `A / 2` are sums and multiples. A factor is a number, or a tensor without axes, which may be
    learned. Raises DataError for anything that is not a tensor.
    """

    #: Makes NumPy's numbers leave `a * A` to the operator.
    __array_ufunc__ = None

    def __init_subclass__(cls) -> None:
        # The dataclass default would print whole tensors.
        if "__repr__" not in vars(cls):
            cls.__repr__ = Linear.__repr__  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᴴ y."""
        raise NotImplementedError(f"{type(self).__name__} must define adjoint")

    def __call__(self, x: Tensor) -> Tensor:
        check_tensor(x, "an operator takes")
        return self.forward(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={_short(getattr(self, f.name))}' for f in _fields(self))})"

    @property
    def H(self) -> Linear:
        """The adjoint Aᴴ as an operator."""
        return Adjoint(self)

    def normal(self, inner: Linear | None = None) -> Linear:
        """Aᴴ · inner · A (inner = identity when None); subclasses simplify where they can."""
        return self.H @ self if inner is None else self.H @ inner @ self

    @overload
    def __matmul__(self, other: Linear) -> Linear: ...
    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    def __matmul__(self, other: Linear | Tensor) -> Linear | Tensor:
        return chain(self, other) if isinstance(other, Linear) else self(other)

    def __add__(self, other: Linear) -> Linear:
        return Sum((self, _operator(other)))

    def __radd__(self, other: int) -> Linear:
        """0 + A is A, so that `sum` accepts operators."""
        return self if isinstance(other, int) and other == 0 else Sum((_operator(other), self))

    def __sub__(self, other: Linear) -> Linear:
        return self + -1.0 * _operator(other)

    def __neg__(self) -> Linear:
        return -1.0 * self

    def __rmul__(self, a: Number | Tensor) -> Linear:
        return chain(Scale(_factor(a)), self)

    def __mul__(self, a: Number | Tensor) -> Linear:
        return a * self

    def __truediv__(self, a: Number | Tensor) -> Linear:
        return chain(Scale(1 / _factor(a)), self)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """The same operator with every tensor in it moved as by `Tensor.to(*args, **kwargs)`.

        A dtype sets only the precision: `.to(torch.complex64)` and `.to(torch.float32)` both leave complex maps
        complex, real masks real, and integers and booleans as they are.
        """
        parts = {f.name: getattr(self, f.name) for f in _fields(self)}
        return cast(Self, replace(cast(Any, self), **{n: _to(v, args, kwargs) for n, v in parts.items()}))


def check_tensor(x: Any, who: str) -> None:
    """Raise DataError for anything that is not a tensor; `who` names the caller in the message."""
    if not isinstance(x, Tensor):
        raise DataError(
            f"{who} torch tensors and was given {_kind(x)}; torch.as_tensor(x) makes one of a NumPy or CuPy array "
            "without a copy"
        )


def real_numbers(x: Tensor) -> Tensor:
    """Integers and booleans as real numbers, for multiplication and subtraction; all else unchanged."""
    return x if x.is_floating_point() or x.is_complex() else x.to(torch.get_default_dtype())


def complex_numbers(x: Tensor) -> Tensor:
    """All numbers as complex ones; double precision stays double."""
    return x.to(torch.complex128 if x.dtype in (torch.float64, torch.complex128) else torch.complex64)


def _fields(op: Linear) -> tuple[Field[Any], ...]:
    return fields(cast(Any, op)) if is_dataclass(op) else ()


def _short(value: Any) -> str:
    """A short description of a value: for a tensor its kind, shape and device."""
    if isinstance(value, Tensor) and value.ndim:
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{str(value.dtype).removeprefix('torch.')} {'×'.join(map(str, value.shape))}{where}"
    return f"{value.item():g}" if isinstance(value, Tensor) else repr(value)


def _kind(x: Any) -> str:
    return f"{type(x).__module__.partition('.')[0]}.{type(x).__name__}".removeprefix("builtins.")


def _operator(other: Any) -> Linear:
    if isinstance(other, Linear):
        return other
    raise DataError(
        f"{_kind(other)} is not an operator and cannot be added; for a number or a diagonal, add a * "
        "Identity() or Weight(w)"
    )


def _factor(a: Any) -> Number | Tensor:
    """A number, or a tensor without axes; NumPy's numbers as Python's."""
    if isinstance(a, Tensor) and a.ndim == 0:
        return a
    if not isinstance(a, Tensor) and hasattr(a, "item") and getattr(a, "ndim", 1) == 0:
        a = a.item()
    if isinstance(a, Number):
        return a
    raise DataError(
        f"{_kind(a)} cannot be multiplied with an operator; apply it with A(x), or multiply by a diagonal, "
        "Weight(w) @ A"
    )


def _to(value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if isinstance(value, Linear):
        return value.to(*args, **kwargs)
    if isinstance(value, Tensor):
        return _tensor_to(value, args, kwargs)
    return tuple(_to(v, args, kwargs) for v in value) if isinstance(value, tuple) else value


def _tensor_to(value: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    asked = torch.empty(0, dtype=torch.int8, device=value.device).to(*args, **kwargs)
    dtype = value.dtype
    if asked.dtype.is_floating_point or asked.dtype.is_complex:
        if dtype.is_complex:
            dtype = asked.dtype.to_complex()
        elif dtype.is_floating_point:
            dtype = asked.dtype.to_real()
    return value.to(asked.device, dtype)


@dataclass(frozen=True, eq=False)
class Identity(Linear):
    """x ↦ x."""

    def forward(self, x: Tensor) -> Tensor:
        """The image itself."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """The samples themselves."""
        return y

    @property
    def H(self) -> Linear:
        """Itself."""
        return self

    def normal(self, inner: Linear | None = None) -> Linear:
        """The inner operator."""
        return self if inner is None else inner


@dataclass(frozen=True, eq=False)
class Scale(Linear):
    """x ↦ a x with one number, or with a tensor without axes."""

    a: Number | Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The product a · x."""
        return self.a * x

    def adjoint(self, y: Tensor) -> Tensor:
        """The product a* · y."""
        return (self.a.conj() if isinstance(self.a, Tensor) else self.a.conjugate()) * y

    def normal(self, inner: Linear | None = None) -> Linear:
        """|a|² · inner."""
        square = Scale(abs(cast(complex, self.a)) ** 2)
        return square if inner is None else chain(square, inner)


@dataclass(frozen=True, eq=False)
class Adjoint(Linear):
    """Aᴴ."""

    of: Linear

    def __repr__(self) -> str:
        return f"({self.of}).H"

    def forward(self, x: Tensor) -> Tensor:
        """Aᴴ x."""
        return self.of.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """A y."""
        return self.of.forward(y)

    @property
    def H(self) -> Linear:
        """A."""
        return self.of


@dataclass(frozen=True, eq=False)
class Chain(Linear):
    """A₁ A₂ … Aₙ, outermost first."""

    ops: tuple[Linear, ...]

    def __repr__(self) -> str:
        return " @ ".join(f"({op})" if isinstance(op, Sum) else repr(op) for op in self.ops)

    def forward(self, x: Tensor) -> Tensor:
        """A₁(A₂(…x))."""
        for op in reversed(self.ops):
            x = op.forward(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """…A₂ᴴ(A₁ᴴ y)."""
        for op in self.ops:
            y = op.adjoint(y)
        return y

    @property
    def H(self) -> Linear:
        """The adjoints in reverse order."""
        return Chain(tuple(op.H for op in reversed(self.ops)))

    def normal(self, inner: Linear | None = None) -> Linear:
        """Built from the outside in, so that each operator can simplify what it encloses."""
        for op in self.ops:
            inner = op.normal(inner)
        return Identity() if inner is None else inner


@dataclass(frozen=True, eq=False)
class Sum(Linear):
    """A₁ + A₂ + …"""

    terms: tuple[Linear, ...]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def forward(self, x: Tensor) -> Tensor:
        """Σ Aᵢ x."""
        out = self.terms[0].forward(x)
        for term in self.terms[1:]:
            out = out + term.forward(x)
        return out

    def adjoint(self, y: Tensor) -> Tensor:
        """Σ Aᵢᴴ y."""
        out = self.terms[0].adjoint(y)
        for term in self.terms[1:]:
            out = out + term.adjoint(y)
        return out


@dataclass(frozen=True, eq=False)
class Stack(Linear):
    """Batch item b of the leading axis through operator b: for volumes whose sampling differs from item to item."""

    items: tuple[Linear, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Apply operator b to x[b]."""
        return torch.stack([op.forward(v) for op, v in zip(self.items, x, strict=True)])

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the adjoint of operator b to y[b]."""
        return torch.stack([op.adjoint(v) for op, v in zip(self.items, y, strict=True)])

    def normal(self, inner: Linear | None = None) -> Linear:
        """The stack of the normal operators."""
        return Stack(tuple(op.normal() for op in self.items)) if inner is None else super().normal(inner)


def chain(*ops: Linear) -> Linear:
    """The product of operators with nested chains flattened and identities dropped."""
    flat = [o for op in ops for o in (op.ops if isinstance(op, Chain) else (op,)) if not isinstance(o, Identity)]
    if not flat:
        return Identity()
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))
