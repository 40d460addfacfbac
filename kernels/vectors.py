"""The vector steps of conjugate gradients, each in one pass over memory; every problem of a batch has its own numbers.

Vectors are (..., *problem) with the last `ndim` axes one problem. Sums are in a fixed order, so that a problem has the
same bits alone and in a batch.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.kernels import bridge
from recon.kernels.build import native
from recon.kernels.steady import total


def dot(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    """Re⟨a, b⟩ of each problem."""
    lead = a.shape[: a.ndim - ndim]
    if _served(a, b):
        return _tensor(native().dot(_flat(a, ndim), _flat(b, ndim), torch.get_num_threads()), lead)
    p, q = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    if a.device.type != "cpu":
        return (p * q).flatten(len(lead)).sum(-1)
    # Problem by problem: the order of a sum over a whole batch would depend on the batch.
    out = p.new_empty(lead)
    for item in itertools.product(*map(range, lead)):
        out[item] = total(p[item] * q[item], p.ndim - len(lead))
    return out


def curvature(p: Tensor, q: Tensor, shift: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """q + shift · p, in place in q if allowed, and Re⟨p, q + shift · p⟩; `shift` has the batch axes."""
    if _served(p, q) and p.data_ptr() != q.data_ptr():  # the identity returns its argument
        n, lead = torch.get_num_threads(), p.shape[: p.ndim - ndim]
        got = native().curvature(_flat(p, ndim), _flat(q, ndim), _numbers(shift, lead), n)
        return q, _tensor(got, lead)
    q = q + _wide(shift, ndim) * p
    return q, dot(p, q, ndim)


def advance(x: Tensor, p: Tensor, r: Tensor, q: Tensor, step: Tensor, ndim: int) -> Tensor:
    """x ← x + step · p and r ← r − step · q in place; returns ⟨r, r⟩."""
    if _served(x, p, r, q):
        lead = p.shape[: p.ndim - ndim]
        vectors = (_flat(t, ndim) for t in (x, p, r, q))
        got = native().advance(*vectors, _numbers(step, lead), torch.get_num_threads())
        return _tensor(got, lead)
    x.addcmul_(p, _wide(step, ndim).to(p.dtype))
    r.addcmul_(q, -_wide(step, ndim).to(p.dtype))
    return dot(r, r, ndim)


def turn(p: Tensor, r: Tensor, beta: Tensor, ndim: int) -> None:
    """p ← r + beta · p in place."""
    if _served(p, r):
        numbers = _numbers(beta, p.shape[: p.ndim - ndim])
        native().turn(_flat(p, ndim), _flat(r, ndim), numbers, torch.get_num_threads())
    else:
        p.mul_(_wide(beta, ndim)).add_(r)


def _served(*tensors: Tensor) -> bool:
    return native() is not None and all(
        t.device.type == "cpu"
        and t.dtype in (torch.complex64, torch.float32)
        and t.is_contiguous()
        and not (t.requires_grad or bridge.watched(t))
        and not (t.is_conj() or t.is_neg())
        and t.shape == tensors[0].shape
        for t in tensors
    )


def _flat(t: Tensor, ndim: int) -> NDArray[np.float32]:
    real = torch.view_as_real(t) if t.is_complex() else t
    lead = t.ndim - ndim
    return real.view(math.prod(t.shape[:lead]), math.prod(real.shape[lead:])).numpy()


def _numbers(t: Tensor, lead: torch.Size) -> NDArray[np.float32]:
    return t.to(torch.float32).expand(lead).reshape(-1).contiguous().numpy()


def _tensor(values: NDArray[np.float64], lead: torch.Size) -> Tensor:
    return torch.from_numpy(values).to(torch.float32).reshape(lead)


def _wide(t: Tensor, ndim: int) -> Tensor:
    return t.reshape(*t.shape, *(1,) * ndim) if t.ndim else t
