"""fastmri: centred, orthonormal FFT, real pairs in the last axis. It has no operator, but the VarNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmri
import torch

Task = Callable[[], Any]
Data = dict[str, Any]


def sense_normal(data: Data, settings: Data) -> Task:
    if data["maps"].shape[2] > 1:
        raise NotImplementedError("fastmri transforms two axes alone")
    maps = torch.view_as_real(torch.from_numpy(data["maps"][:, :, 0]))
    x = torch.view_as_real(torch.from_numpy(data["image"]))
    mask = torch.from_numpy(data["mask"])[0][:, None, None]

    def run() -> Any:
        k = fastmri.fft2c(fastmri.complex_mul(x, maps)) * mask
        return torch.view_as_complex(fastmri.complex_mul(fastmri.ifft2c(k), fastmri.complex_conj(maps)).sum(1))[:, None]

    return run


def e2e_varnet(data: Data, settings: Data) -> Task:
    from fastmri.models import VarNet

    network = VarNet(settings["cascades"], chans=settings["channels"], sens_chans=settings["sens_channels"]).eval()
    network.load_state_dict(torch.load(Path(settings["folder"]) / "weights.pt", weights_only=True))
    y = torch.view_as_real(torch.from_numpy(data["kspace"]))
    mask = torch.from_numpy(data["mask"])[None, None, None, :, None]

    def run() -> Any:
        with torch.no_grad():
            return network(y, mask)

    return run
