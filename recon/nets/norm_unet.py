"""The U-Net with instance normalisation that fastMRI's networks consist of, with its tensor names."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.kernels import features

#: Slope of the rectifiers below zero.
SLOPE = 0.2

#: Images are zero-padded, half on each side, to a multiple of this many pixels, whatever the number of levels.
MULTIPLE = 16


class ConvBlock(nn.Module):
    """Two 3×3 convolutions, each normalised over its image, (h − mean) / sd, and rectified."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.layers = nn.ModuleDict({"0": first, "4": second})

    def forward(self, x: Tensor, joined: Tensor | None = None) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, h, w); the last channels of `joined` receive a copy."""
        x = _rectified(self.layers["0"](x))
        x = self.layers["4"](x)
        return _rectified(x, joined, x.shape[1])


class UpBlock(nn.Module):
    """Twice the resolution by a 2×2 transposed convolution, normalised and rectified."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"0": nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False)})

    def forward(self, x: Tensor, joined: Tensor | None = None) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, 2h, 2w); the first channels of `joined` receive a copy."""
        return _rectified(self.layers["0"](x), joined, 0)


class UNet(nn.Module):
    """Two channels in and two out; `channels` at full resolution, twice as many at each of `pools` levels below.

    (Ronneberger, Fischer, Brox, MICCAI 2015, as in Zbontar et al., arXiv:1811.08839.)
    """

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        widths = [channels << i for i in range(pools + 1)]
        self.down_sample_layers = nn.ModuleList(ConvBlock(a, b) for a, b in zip([2, *widths], widths[:-1]))
        self.conv = ConvBlock(widths[-2], widths[-1])
        upwards = widths[-2::-1]
        self.up_transpose_conv = nn.ModuleList(UpBlock(2 * c, c) for c in upwards)
        blocks: list[nn.Module] = [ConvBlock(2 * c, c) for c in upwards]
        blocks[-1] = nn.Sequential(blocks[-1], nn.Conv2d(channels, 2, 1))
        self.up_conv = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) → (n, 2, h, w)."""
        if features.serves(x) and _lean(x) and not any(n % (1 << len(self.up_conv)) for n in x.shape[-2:]):
            return self._single(x)
        skips: list[Tensor] = []
        for block in self.down_sample_layers:
            skips.append(block(x))
            x = F.avg_pool2d(skips[-1], 2)
        x = self.conv(x)
        for up, block in zip(self.up_transpose_conv, self.up_conv):
            x, skip = up(x), skips.pop()
            h, w = skip.shape[-2:]
            if x.shape[-2:] != skip.shape[-2:]:  # an odd size lost its last row or column on the way down
                x = F.pad(x, (0, w - x.shape[-1], 0, h - x.shape[-2]), "reflect")
            x = block(torch.cat([x, skip], 1))
        return x

    def _single(self, x: Tensor) -> Tensor:
        """The same for one image without gradients; features of a level are written next to each other."""
        levels: list[Tensor] = []
        for block in self.down_sample_layers:
            width = cast(nn.Conv2d, cast(ConvBlock, block).layers["4"]).out_channels
            size = (1, 2 * width, *x.shape[-2:])
            levels.append(torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last))
            x = F.avg_pool2d(block(x, levels[-1]), 2)
        x = self.conv(x)
        for up, block in zip(self.up_transpose_conv, self.up_conv):
            up(x, levels[-1])
            x = block(levels.pop())
        return x


class NormUNet(nn.Module):
    """Complex images through a U-Net that sees them with mean 0 and deviation 1: f(a·x + b) = a·f(x) + b, a > 0.

    Mean and standard deviation are taken separately for the real and for the imaginary part.
    """

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        self.unet = UNet(channels, pools)

    def forward(self, x: Tensor) -> Tensor:
        """Complex (n, h, w) → complex (n, h, w)."""
        if not _lean(x):
            return self._batch(x)
        # One image at a time keeps features in the cache and needs little memory; with a pixel's channels adjacent,
        # convolutions on a CPU need no copy.
        return torch.cat([self._batch(one) for one in x[:, None]])

    def _batch(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        top, left = (-h % MULTIPLE) // 2, (-w % MULTIPLE) // 2
        border = left, -w % MULTIPLE - left, top, -h % MULTIPLE - top
        parts = torch.view_as_real(x).movedim(-1, 1)
        if _lean(x):
            return self._single(parts, border)
        sd, mean = torch.std_mean(parts, (-2, -1), keepdim=True)
        sd = sd.clamp_min(torch.finfo(sd.dtype).tiny)  # a coil without signal stays zero
        out = self.unet(F.pad((parts - mean) / sd, border))
        out = out[..., top : top + h, left : left + w].to(sd.dtype) * sd + mean
        return torch.complex(out[:, 0], out[:, 1])

    def _single(self, parts: Tensor, border: tuple[int, int, int, int]) -> Tensor:
        """The same for one image without gradients, row by row, real and imaginary parts next to each other."""
        h, w = parts.shape[-2:]
        mean, variance = _moments(parts)
        sd = (variance * (h * w / max(1, h * w - 1))).sqrt().clamp_min(torch.finfo(mean.dtype).tiny)
        middle, width = mean.repeat(w), sd.repeat(w)
        rows = parts[0].permute(1, 2, 0).reshape(h, 2 * w)
        seen = F.pad(((rows - middle) / width).view(1, h, w, 2).movedim(-1, 1), border)
        out = self.unet(seen.contiguous(memory_format=torch.channels_last))
        out = out[0, :, border[2] : border[2] + h, border[0] : border[0] + w].permute(1, 2, 0).reshape(h, 2 * w)
        return torch.view_as_complex(torch.addcmul(middle, out, width).view(1, h, w, 2))


def _rectified(x: Tensor, joined: Tensor | None = None, first: int = 0) -> Tensor:
    """Leaky rectifier of (x − mean) / sd over each image and channel, in place where allowed.

    The channels of `joined` from `first` on receive a copy.
    """
    if not _lean(x):
        return F.leaky_relu_(F.instance_norm(x), SLOPE)
    if features.serves(x):
        made: Tensor = features.rectify(x, SLOPE, joined, first)
        return made
    mean, variance = _moments(x)
    scale = (variance + 1e-5).rsqrt()
    torch.addcmul((-mean * scale)[:, None, None], x, scale[:, None, None], out=x)
    F.leaky_relu_(x, SLOPE)
    if joined is not None:
        joined[:, first : first + x.shape[1]] = x
    return x


def _lean(x: Tensor) -> bool:
    """Whether features may be changed in place: on the CPU, in single precision or better, and without a gradient."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (channel,) of an image (1, channel, h, w) whose channels are adjacent in memory.

    They are computed down each column and then combined over the columns. This reads memory in order and keeps
    single-precision sums short: one sum over a whole image would be wrong by 1e-5.
    """
    _, channels, h, w = x.shape
    columns = x.permute(0, 2, 3, 1).reshape(1, h, 1, w * channels).permute(0, 3, 1, 2)
    means, variances = (m.view(w, channels) for m in torch.ops.aten.batch_norm_update_stats(columns, None, None, 0.0))
    variance, mean = torch.var_mean(means.double(), 0, correction=0)
    return mean.to(x.dtype), (variance + variances.double().mean(0)).to(x.dtype)
