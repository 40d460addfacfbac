"""FBP images of simulated low-dose scans with their targets: a bank from which batches are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.hounsfield import attenuation
from recon.learn import ct_images
from recon.learn.ct_images import AIR, Library
from recon.learn.draw import Draw
from recon.learn.pool import Batch
from recon.nets.unrolled import Problem
from recon.operators import Identity
from recon.operators.xray import Fan, Parallel, Xray
from recon.prepare import image_noise
from recon.simulation import ct as physics
from recon.solve.fbp import fbp

#: Counts below this are set to it before the logarithm here, as in the scans that networks were trained on.
FLOOR = 0.7

#: Border pixels of a piece that do not count: the network does not see what is beyond.
BORDER = 8


@dataclass(frozen=True)
class Settings:
    """Ranges of the simulated scans; pairs are ranges."""

    #: Pixels along either side of a simulated image, and slices that share a geometry.
    size: int = 384
    group: int = 16
    views: tuple[int, int] = (400, 640)
    voxel: tuple[float, float] = (0.5, 1.0)
    #: Photons of a ray in air, and electronic noise in photons: both decide which rays are starved.
    photons: tuple[float, float] = (2e4, 2e6)
    electronic: tuple[float, float] = (0.0, 12.0)
    #: Standard deviation in HU of the noise in the body, to which the image is scaled, log-uniform.
    noise: tuple[float, float] = (3.0, 160.0)
    #: Share of slices of real scans.
    real: float = 0.6
    #: Share of heads among the simulated slices; share of the pieces of a batch that are placed on the most edges of
    #: four random places.
    heads: float = 0.0
    edges: float = 0.0
    #: Images in the bank.
    bank: int = 3000
    #: Images of the first groups, whose noise is correlated Gaussian noise without projections: quick to make.
    gaussian: int = 0


@dataclass(frozen=True, eq=False)
class Made:
    """Images (item, y, x) in HU: as scanned, and the target; level (item,) and texture of their noise as estimated."""

    noisy: Tensor
    clean: Tensor
    level: Tensor
    texture: Tensor


def make(draw: Draw, library: Library, settings: Settings, *, known: bool = False, gaussian: bool = False) -> Made:
    """A group of images with one geometry, each with its own dose and kernel.

    Noise is linear in the projections: the FBP of the noise alone is added to the slice. A real slice has its own noise
    σ₀, which the target must not contain. With n the added noise of σ, the target t = slice − (σ₀²/σ²)·n has an error
    that is uncorrelated with that of the input, slice + n, if both noises have the same spectrum. The best estimate of
    t is then that of the slice without noise. (Pang et al., Recorrupted-to-Recorrupted, CVPR 2021.) With `known` the
    target is the slice itself; with `gaussian` the noise is stationary and no projection is made.
    """
    n = settings.size
    slices = [ct_images.slice_of(draw, library, n, settings.real, settings.heads) for _ in range(settings.group)]
    clean = torch.stack([x for x, _ in slices])
    scanned = torch.tensor([s for _, s in slices], device=clean.device)
    noise = _gaussian(draw, clean) if gaussian else _noise(draw, clean, _geometry(draw, settings), settings)
    strength = torch.tensor([draw.log_uniform(*settings.noise) for _ in clean], device=clean.device)
    own = torch.where(scanned, image_noise.estimate(clean).level, 0.0)
    # The slice's own noise must be the smaller part.
    strength = strength if known else torch.maximum(strength, 1.2 * own)
    noise = noise * strength[:, None, None]
    noisy = clean + noise
    if draw.chance(0.5):
        # Scanners' files clip at this value.
        noisy = noisy.clamp_min(-1024)
    found = image_noise.estimate(noisy)
    share = (own / strength).square().clamp_max(0.7)[:, None, None]
    return Made(noisy, clean if known else clean - share * noise, found.level, found.texture)


def _geometry(draw: Draw, settings: Settings) -> Xray:
    """A parallel beam, or the fan beam of a clinical scanner, that covers the image."""
    n, voxel = settings.size, draw.uniform(*settings.voxel)
    views = draw.integer(*settings.views)
    spacing = voxel * draw.uniform(0.7, 1.2)
    width = math.sqrt(2) * n * voxel
    if draw.chance(0.4):
        angles = torch.arange(views, dtype=torch.float64) * (math.pi / views)
        return Xray(Parallel(angles, math.ceil(width / spacing), spacing, offset=spacing / 4), (n, n), voxel)
    source, behind = 595.0, 490.0
    angles = torch.arange(2 * (views // 2), dtype=torch.float64) * (2 * math.pi / (2 * (views // 2)))
    reach = math.asin(min(0.95, width / 2 / source))
    spacing = spacing * (source + behind) / source
    detectors = math.ceil(2 * reach * (source + behind) / spacing)
    return Xray(Fan(angles, detectors, spacing, source, behind, curved=True, offset=spacing / 4), (n, n), voxel)


def _noise(draw: Draw, clean: Tensor, A: Xray, settings: Settings) -> Tensor:
    """FBP of the noise of projections of slices (item, y, x), each with unit strength in its body."""
    line = A(attenuation(clean.clamp_min(AIR)))
    items, device = len(clean), clean.device
    photons = torch.tensor([draw.log_uniform(*settings.photons) for _ in range(items)], device=device)[:, None, None]
    electronic = torch.tensor([draw.uniform(*settings.electronic) for _ in range(items)], device=device)[:, None, None]
    radius = A.shape[0] * A.voxel * draw.uniform(0.3, 0.5)
    filtered = physics.Beam(1.0, bow_tie=draw.uniform(0, 0.8), radius=radius)
    air = photons * physics.air(filtered, A.geometry.distances).to(device, torch.float32)
    counts = physics.measured(line, air, electronic, draw.generator)
    noise = physics.line_integrals(counts, air, FLOOR) - line
    f = torch.fft.rfftfreq(line.shape[-1], device=device)
    kernel = torch.stack([_kernel(draw, f) for _ in range(items)])[:, None]
    noise = torch.fft.irfft(torch.fft.rfft(noise) * kernel, n=line.shape[-1])
    out = fbp(noise, A)
    inside = clean > -300
    size = [v[i].abs().median() if bool(i.any()) else v.abs().median() for v, i in zip(out, inside)]
    return out / (1.4826 * torch.stack(size)).clamp_min(1e-9)[:, None, None]


def _gaussian(draw: Draw, clean: Tensor) -> Tensor:
    """Stationary noise of unit strength for slices (item, y, x), with the spectrum of FBP by some kernel: |f|·k(f)²."""
    n = clean.shape[-1]
    f = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)[None]).to(clean.device)
    kernel = torch.stack([f.sqrt() * _kernel(draw, f) if draw.chance(0.8) else torch.ones_like(f) for _ in clean])
    out: Tensor = torch.fft.irfft2(torch.fft.rfft2(draw.normal(*clean.shape)) * kernel, s=(n, n))
    return out / out.flatten(1).std(1)[:, None, None]


def _kernel(draw: Draw, f: Tensor) -> Tensor:
    """Frequency response of a reconstruction kernel over f in cycles per element: smooth, standard or sharp."""
    cut = draw.log_uniform(0.1, 0.6)
    out = (-((f / cut) ** draw.uniform(1.5, 4))).exp()
    if draw.chance(0.35):
        peak = draw.uniform(0.15, 0.4)
        out = out * (1 + draw.uniform(0, 2) * (-(((f - peak) / 0.12) ** 2)).exp())
    return out


class Bank:
    """Images on a device, filled group by group, the oldest replaced first; batches are pieces of them."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        groups = max(1, settings.bank // settings.group)
        self.capacity, self.filled, self.next = groups * settings.group, 0, 0
        #: Images added so far.
        self.total = 0
        n = settings.size
        self.noisy, self.clean = (torch.zeros(self.capacity, n, n, device=device) for _ in range(2))
        self.level = torch.zeros(self.capacity, device=device)
        self.texture = torch.zeros(self.capacity, image_noise.BANDS, device=device)

    def add(self, made: Made) -> None:
        """Add a group; images whose noise could not be estimated are left out."""
        good = (made.level > 0.5) & torch.isfinite(made.noisy).flatten(1).all(1)
        count = int(good.sum())
        at = (self.next + torch.arange(count, device=self.device)) % self.capacity
        self.noisy[at], self.clean[at] = made.noisy[good], made.clean[good]
        self.level[at], self.texture[at] = made.level[good], made.texture[good]
        self.next = (self.next + count) % self.capacity
        self.filled, self.total = min(self.capacity, self.filled + count), self.total + count

    def batch(self, count: int, width: int, draw: Draw) -> Batch:
        """`count` pieces of `width` pixels, mirrored and transposed, sometimes with a slightly wrong noise level."""
        d = self.device
        item = (draw.uniforms(count) * self.filled).long()
        first = self._places(item, width, draw)
        at = torch.arange(width, device=d)
        rows, columns = first[:, :1] + at, first[:, 1:] + at
        index = item[:, None, None], rows[:, :, None], columns[:, None, :]
        noisy, clean = self.noisy[index], self.clean[index]
        jitter = (0.1 * draw.normal(count)).exp()
        made = Made(noisy, clean, self.level[item] * jitter, self.texture[item])
        turn = int(draw.integer(0, 7))
        axes = tuple(a for a, bit in ((-2, 1), (-1, 2)) if turn & bit)
        noisy, clean = (v.flip(axes) if axes else v for v in (noisy, clean))
        if turn & 4:
            noisy, clean = noisy.mT, clean.mT
        return batch(Made(noisy.contiguous(), clean.contiguous(), made.level, made.texture))

    def _places(self, item: Tensor, width: int, draw: Draw) -> Tensor:
        """First row and column (item, 2) of a piece of each image.

        Bodies are in the middle, so places are drawn more often there. For a share `edges` of the pieces four places
        are drawn, and the one whose target varies most is used.
        """
        count, room = len(item), self.settings.size - width
        tries = 4 if self.settings.edges else 1
        place = (draw.uniforms(tries, count, 2) + draw.uniforms(tries, count, 2)) / 2
        first = (place * room).long()
        if tries == 1:
            return first[0]
        clean = self.clean[item]
        slope = (clean[:, 1:, :-1] - clean[:, :-1, :-1]).abs() + (clean[:, :-1, 1:] - clean[:, :-1, :-1]).abs()
        # Noise of the target, and the border of the body to air, do not count as edges.
        steep = ((slope > 100) & (clean[:, 1:, 1:] > -900)).float()
        total = F.pad(steep, (1, 0, 1, 0)).cumsum(-1).cumsum(-2)
        at, (top, left) = torch.arange(count, device=self.device), (first.clamp_max(room - 1)).unbind(-1)
        inside = [total[at, top + dy, left + dx] for dy in (0, width) for dx in (0, width)]
        best = (inside[3] - inside[1] - inside[2] + inside[0]).argmax(0)
        chosen = torch.where(draw.uniforms(count) < self.settings.edges, best, 0)
        return first[chosen, at]


def batch(made: Made) -> Batch:
    """Images as a denoising problem with targets, in units of water; air has a small weight, borders none."""
    noisy, clean = ((v - AIR)[:, None] / 1000 for v in (made.noisy, made.clean))
    p = Problem(Identity(), noisy, noisy, made.level / 1000, torch.ones_like(made.level), texture=made.texture)
    near = F.max_pool2d(F.avg_pool2d(clean, 5, 1, 2), 9, 1, 4)
    weight = 0.05 + 0.95 * (near > 0.15)
    weight[..., :BORDER, :] = weight[..., -BORDER:, :] = weight[..., :BORDER] = weight[..., -BORDER:] = 0
    return Batch(p, clean, clean, weight, torch.ones(len(clean), dtype=torch.bool, device=clean.device))
