"""No package: a plain torch loop over coils with a checkerboard instead of shifts, which anyone could write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from arrays import tensor

Task = Callable[[], Any]
Data = dict[str, Any]


class _Sense:
    """Maps times the checkerboard, mask, and the axes to transform."""

    def __init__(self, data: Data) -> None:
        maps = tensor(data["maps"])
        self.axes = tuple(a for a in (-3, -2, -1) if maps.shape[a] > 1)
        if any(maps.shape[a] % 2 for a in self.axes):
            raise ValueError("the checkerboard needs even sizes")
        signs = torch.ones(maps.shape[2:], device=maps.device)
        for a in self.axes:
            n = maps.shape[a]
            signs = signs * (1 - 2 * (torch.arange(n, device=maps.device) % 2)).reshape(-1, *(1,) * (-a - 1))
        self.maps, self.signs = maps * signs, signs
        self.mask = tensor(data["mask"])[..., None]

    def normal(self, x: Any) -> Any:
        out = torch.zeros_like(x)
        for i, maps in enumerate(self.maps):
            for s in maps:
                k = torch.fft.fftn(s * x[i], dim=self.axes)
                k *= self.mask
                out[i] += s.conj() * torch.fft.ifftn(k, dim=self.axes)
        return out

    def adjoint(self, y: Any) -> Any:
        out = torch.zeros_like(y[:, 0])
        centre = (-1.0) ** sum(y.shape[a] // 2 for a in self.axes)
        for i, maps in enumerate(self.maps):
            for s, k in zip(maps, y[i]):
                out[i] += s.conj() * torch.fft.ifftn(k * self.signs, dim=self.axes, norm="ortho") * centre
        return out


def sense_normal(data: Data, settings: Data) -> Task:
    sense, x = _Sense(data), tensor(data["image"])
    return lambda: sense.normal(x)


def cg_sense(data: Data, settings: Data) -> Task:
    y, lam = tensor(data["kspace"]), settings["lam"]

    def run() -> Any:
        sense = _Sense(data)
        r = sense.adjoint(y)
        x, p = torch.zeros_like(r), r.clone()
        rr = torch.vdot(r.flatten(), r.flatten()).real
        for _ in range(settings["iterations"]):
            q = sense.normal(p).add_(p, alpha=lam)
            step = rr / torch.vdot(p.flatten(), q.flatten()).real
            x += step * p
            r -= step * q
            old, rr = rr, torch.vdot(r.flatten(), r.flatten()).real
            p = r + (rr / old) * p
        return x

    return run
