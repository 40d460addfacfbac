"""A network as a denoiser of CT images: HU in, HU out, any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.nets.unrolled import Problem, Unrolled
from recon.operators import Identity

#: Pixels that an image is mirrored beyond its borders, for the network to see what it saw in training.
BORDER = 16


def denoised(network: Unrolled, image: Tensor, level: Tensor, texture: Tensor) -> Tensor:
    """Images (item, y, x) in HU without the noise of `level` (item,) HU and of correlation `texture` (item, values).

    The network works on attenuation relative to water, 1 + HU/1000, with A = I. An image whose level is 0 is returned.
    """
    pad = [min(BORDER, n - 1) for n in image.shape[-2:]]
    x = F.pad(1 + image[:, None] / 1000, (pad[1], pad[1], pad[0], pad[0]), mode="reflect")
    noise = (level / 1000).to(x)
    p = Problem(Identity(), x, x, noise, torch.ones_like(noise), texture=texture.to(x))
    with torch.no_grad():
        out: Tensor = network(p, 1.0)
    ny, nx = image.shape[-2:]
    out = 1000 * (out[:, 0, pad[0] : pad[0] + ny, pad[1] : pad[1] + nx] - 1)
    return torch.where((level > 0)[:, None, None].to(out.device), out, image)
