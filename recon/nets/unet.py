"""A residual U-Net without normalisation, conditioned on a vector, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conditioned(nn.Module):
    """Two 3×3 convolutions, each with h·(1 + γ) + β of its condition and a leaky rectifier (Perez, AAAI 2018)."""

    def __init__(self, inputs: int, outputs: int, condition: int, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(condition, 4 * outputs)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Features (n, inputs, y, x) and condition (n, condition) → (n, outputs, y, x)."""
        if len(x) == 1 and not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type):
            return self._single(x, condition)
        g1, b1, g2, b2 = self.modulation(condition)[..., None, None].chunk(4, 1)
        if x.dtype == torch.float32 and self.exact:
            # Half precision would lose fine detail next to large values, so the input of this layer must not be
            # rounded.
            with torch.autocast(x.device.type, enabled=False):
                h = self.first(x)
        else:
            h = self.first(x)
        x = F.leaky_relu(torch.addcmul(b1, h, 1 + g1), 0.1, inplace=True)
        return F.leaky_relu(torch.addcmul(b2, self.second(x), 1 + g2), 0.1, inplace=True)

    def _single(self, x: Tensor, condition: Tensor) -> Tensor:
        """The same for one item without gradients; its modulation is folded into the weights and needs no pass."""
        for conv, (g, b) in zip((self.first, self.second), self.modulation(condition)[0].view(2, 2, -1)):
            bias = torch.addcmul(b, cast(Tensor, conv.bias), 1 + g)
            weight = (conv.weight * (1 + g)[:, None, None, None]).contiguous(memory_format=torch.channels_last)
            x = F.leaky_relu_(F.conv2d(x, weight, bias, padding=1), 0.1)
        return x


class UNet(nn.Module):
    """Real images (n, inputs, y, x) → (n, outputs, y, x), exactly zero before any training.

    The image is folded two by two into four times as many channels, which keeps every detail at a quarter of the cost.
    `channels` are the widths of the levels below, each at half the resolution of the one before. Sizes are zero-padded
    to what the levels need, and the result is cropped. The last convolution starts at zero and its output is scaled by
    the condition. (Ronneberger et al., MICCAI 2015; Zhang et al., IEEE Trans Image Process 27:4608, 2018.)
    """

    def __init__(self, inputs: int, outputs: int, channels: Sequence[int], condition: int) -> None:
        super().__init__()
        self.multiple = 2 ** len(channels)
        self.encoders = nn.ModuleList()
        self.downs, self.ups, self.decoders = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = 4 * inputs
        for i, c in enumerate(channels):
            self.encoders.append(Conditioned(width, c, condition, exact=i == 0))
            if i + 1 < len(channels):
                self.downs.append(nn.Conv2d(c, channels[i + 1], 2, 2))
                self.ups.append(nn.ConvTranspose2d(channels[i + 1], c, 2, 2))
                self.decoders.append(Conditioned(2 * c, c, condition))
                width = channels[i + 1]
        self.last = nn.Conv2d(channels[0], 4 * outputs, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))
        self.gain = nn.Linear(condition, 1)
        nn.init.zeros_(self.gain.weight)
        nn.init.zeros_(self.gain.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """The correction proposed by the network."""
        ny, nx = x.shape[-2:]
        x = F.pad(x, (0, -nx % self.multiple, 0, -ny % self.multiple))
        x = F.pixel_unshuffle(x, 2)
        x = x.contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for i, encoder in enumerate(self.encoders):
            x = encoder(x, condition)
            if i < len(self.downs):
                skips.append(x)
                x = self.downs[i](x)
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders)):
            x = decoder(torch.cat([up(x), skips.pop()], 1), condition)
        x = self.last(x) * self.gain(condition).exp()[..., None, None]
        return F.pixel_shuffle(x.float() if x.dtype.itemsize < 4 else x, 2)[..., :ny, :nx]
