"""What every projection kernel is held to, whatever its rays: the matrix, its transpose, the same bits each time."""

from __future__ import annotations

import importlib
import math
import os
from types import ModuleType

import pytest
import torch
from torch import Tensor

from recon.kernels import build
from recon.operators import ConeXray, Xray

Beam = Xray | ConeXray


def levels() -> list[str]:
    flags = build._processor_flags()
    return [name for name, needs in build.LEVELS.items() if flags.issuperset(needs)]


def use(name: str, monkeypatch: pytest.MonkeyPatch, *users: ModuleType):
    """One compiled module for those that use it, or none: the twins written with torch."""
    module = None
    if name != "torch":
        try:
            module = importlib.import_module(f"recon.kernels.{name}")
        except ImportError:
            missing = pytest.fail if os.environ.get("CI") else pytest.skip
            missing(f"{name} was not compiled: install g++ and repeat the installation")
    for user in users:
        monkeypatch.setattr(user, "native", lambda: module)
    return module


def turn(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)


def sample(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gap(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


def is_the_matrix(A: Beam, m: Tensor, x: Tensor, y: Tensor, dtype: torch.dtype, limit: float) -> None:
    """Projection and backprojection are the products with a matrix (ray, pixel) and its transpose."""
    assert gap(A(x.to(dtype)).flatten(1), x.flatten(1) @ m.T) < limit
    assert gap(A.adjoint(y.to(dtype)).flatten(1), y.flatten(1) @ m) < limit


def is_transposed(A: Beam, x: Tensor, y: Tensor, limit: float) -> None:
    """The dot test, ⟨Ax, y⟩ = ⟨x, Aᴴy⟩."""
    px, py = A(x).double(), A.adjoint(y).double()
    there, back = (px * y).sum(), (py * x).sum()
    assert abs(float(there - back)) < limit * float(px.norm() * y.double().norm())


def has_the_same_bits(A: Beam, x: Tensor, y: Tensor) -> None:
    """On 1, 2 and 5 threads, and for the second of a batch alone."""
    threads = torch.get_num_threads()
    try:
        answers = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            answers.append([A(x), A.adjoint(y), A.smear(y)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in answers[1:] for a, b in zip(answers[0], other))
    for f, given, all_of in zip((A.forward, A.adjoint, A.smear), (x, y, y), answers[0]):
        assert torch.equal(f(given[1]), all_of[1])
