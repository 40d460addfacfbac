"""torchkbnufft with its Toeplitz embedding in a plain conjugate gradient loop; scaled to be unitary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchkbnufft as tkbn

Task = Callable[[], Any]
Data = dict[str, Any]


def radial(data: Data, settings: Data) -> Task:
    maps = torch.from_numpy(data["maps"][:, 0])[None]
    y = torch.from_numpy(data["kspace"]).reshape(1, maps.shape[1], -1)
    n = maps.shape[-1]

    def run() -> Any:
        omega = torch.from_numpy(data["points"]).reshape(-1, 2).T.contiguous() * (2 * torch.pi / n)
        adjoint, toeplitz = tkbn.KbNufftAdjoint(im_size=(n, n)), tkbn.ToepNufft()
        kernel = tkbn.calc_toeplitz_kernel(omega, (n, n))
        r = adjoint(y, omega, smaps=maps) / n
        x, p = torch.zeros_like(r), r.clone()
        rr = torch.vdot(r.flatten(), r.flatten()).real
        for _ in range(settings["iterations"]):
            q = toeplitz(p, kernel, smaps=maps) / n**2 + settings["lam"] * p
            step = rr / torch.vdot(p.flatten(), q.flatten()).real
            x, r = x + step * p, r - step * q
            old, rr = rr, torch.vdot(r.flatten(), r.flatten()).real
            p = r + (rr / old) * p
        return x

    return run
