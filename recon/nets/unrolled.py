"""The unrolled network: a classical image, then cascades of learned correction and data consistency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from recon.data import Measurement
from recon.kernels.steady import total
from recon.nets import precision
from recon.nets.unet import UNet
from recon.operators import Linear
from recon.operators.windows import box
from recon.solve.fista import l1_wavelet

#: Relative error of sensitivity maps: noise below this share of the signal does not limit the image.
MODEL_ERROR = 1e-3

#: Expected error ε of the classical start relative to its size: log ε = a + b·log ν + c·log R, fitted to simulations.
EXPECTED = (-2.33, 0.365, 0.83)

#: Planes that pass through the network together outside training.
PLANES = 4

#: Differences of neighbourhoods, in units of ε, above which they are compressed: in `details` and in `plain`.
COMPRESSED, PLAIN = 5.0, 100.0

#: Logarithm of λ over the noise level before training: the classical image is trusted more than single samples.
TRUST = 4.0


@dataclass(frozen=True)
class Shape:
    """The size of a network."""

    cascades: int = 2
    channels: tuple[int, ...] = (32, 64, 96)
    condition: int = 32
    #: Conjugate-gradient iterations of each data consistency.
    iterations: int = 6
    #: Iterations of the wavelet reconstruction that the network starts from.
    start: int = 60
    #: Real images with one channel in a fixed unit (CT: attenuation relative to water), never rescaled.
    real: bool = False
    #: Numbers that describe the correlation of an image's noise, as part of the condition.
    texture: int = 0
    #: Widths of the neighbourhoods whose means are compared with a pixel and with each other.
    details: tuple[int, ...] = (5,)
    #: The same, left proportional up to large values: only these show noise next to an edge.
    plain: tuple[int, ...] = ()
    #: Expected error ε of the start as `EXPECTED`.
    expected: tuple[float, float, float] = EXPECTED


@dataclass(frozen=True, eq=False)
class Held:
    """Data with which the image of each cascade is made consistent, in addition to those of the training.

    argmin ‖Ax − y‖² + `weight`·‖x − x_cascade‖² by `iterations` conjugate gradients; `normal` is AᴴA, `b` is Aᴴy.
    """

    normal: Linear
    b: Tensor
    weight: Tensor
    iterations: int


@dataclass(frozen=True, eq=False)
class Problem:
    """All information on a measurement that the network gets, in its own units; items of a batch have their own values.

    `normal` is N = AᴴA, `b` = Aᴴy and `start` the classical image, complex (..., z, y, x). `noise` is the standard
    deviation √2·σ of a complex fully sampled pixel, `sampled` the share of k-space that was measured, 1/R; both have
    the leading axes of `b`. `ndim` axes belong to one item: 3, or 4 with several sets of maps. For networks on real
    images the images are real, and `texture` (..., Shape.texture) describes the correlation of their noise.
    """

    normal: Linear
    b: Tensor
    start: Tensor
    noise: Tensor
    sampled: Tensor
    ndim: int = 3
    texture: Tensor | None = None
    held: Held | None = None


class Unrolled(nn.Module):
    """x₀ = classical,  z = xₖ + ε·Dₖ(xₖ, xₖ − x₀, Nxₖ − b, detail; ν, R, d),  xₖ₊₁ = argmin ‖Ax − y‖² + λₖ‖x − z‖².

    D is a U-Net whose last layer starts at zero: an untrained network is an iterated Tikhonov refinement of its start.
    Its unit is ε, the usual error of a classical image with this noise and acceleration. The quadratic problem is
    solved by conjugate gradients starting from z, with λₖ = ν·exp(hₖ(ν, R, d, …)): a cleaner scan gets more weight.
    Everything is divided by a norm of the start, so f(a·y) = a·f(y) if σ is scaled with y. Real images are not divided,
    because their unit has a meaning. ν is the noise of a fully sampled pixel over that norm. `denoise` d between 0 and
    1 asks for the image of a full scan with all of its noise (0), with none (1), or with the share 1 − d of its
    amplitude. (Aggarwal, Mani, Jacob: MoDL, IEEE Trans Med Imaging 38:394, 2019.)
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        n = shape.condition
        self.embed = nn.Sequential(nn.Linear(4 + shape.texture, n), nn.SiLU(), nn.Linear(n, n), nn.SiLU())
        self.weight = nn.ModuleList(nn.Linear(n, 1) for _ in range(shape.cascades))
        for head in self.weight:
            nn.init.zeros_(cast(nn.Linear, head).weight)
            nn.init.zeros_(cast(nn.Linear, head).bias)
        parts = 1 if shape.real else 2
        inputs = parts * (3 + len(shape.details) + len(shape.plain))
        self.correction = nn.ModuleList(UNet(inputs, parts, shape.channels, n) for _ in range(shape.cascades))

    def forward(self, problem: Problem, denoise: float | Tensor = 0.0) -> Tensor:
        """The image, with the shape of `problem.b`."""
        return self.steps(problem, denoise)[-1]

    def steps(self, problem: Problem, denoise: float | Tensor = 0.0) -> list[Tensor]:
        """The image after every cascade."""
        p, wide = problem, (..., *(None,) * problem.ndim)
        scale = torch.ones_like(p.noise) if self.shape.real else size(p.start, p.ndim)
        b, x0 = p.b / scale[wide], p.start / scale[wide]
        nu = (p.noise / scale).clamp_min(1e-6)
        a, slope, power = self.shape.expected
        error = (a + slope * nu.log() - power * p.sampled.log()).exp()[wide]
        x, found = x0, list[Tensor]()
        residual = p.normal(x) - b
        about = _condition(nu, p.sampled, residual, denoise, p.ndim)
        condition = self.embed(about if p.texture is None else torch.cat([about, p.texture], -1))
        step = (0.3 / (nu + MODEL_ERROR))[wide]
        for weight, correction in zip(self.weight, self.correction):
            lam = nu * (TRUST + 3 * weight(condition)[..., 0]).exp() + 1e-5
            fine = [
                *_details(x, error, self.shape.details, COMPRESSED, whole=not self.shape.real),
                *_details(x, error, self.shape.plain, PLAIN, whole=not self.shape.real),
            ]
            channels = torch.stack([x, (x - x0) / error, residual * step, *fine], -p.ndim - 1)
            z = x + error * _planes(cast(UNet, correction), channels, condition, p.ndim)
            x = refine(p.normal, b, z, lam, self.shape.iterations, p.ndim)
            if p.held:
                h = p.held
                x = refine(h.normal, h.b / scale[wide], x, h.weight, h.iterations, p.ndim)
            residual = p.normal(x) - b
            found.append(x * scale[wide])
        return found


def reconstruct(
    network: Unrolled,
    measurement: Measurement,
    *,
    denoise: float = 0.0,
    ndim: int = 3,
    start: Tensor | None = None,
) -> Tensor:
    """The network's image (..., z, y, x) of a measurement, complex64, in the units of AᴴA x = Aᴴy.

    `ndim` is 3, or 4 for several sets of maps (..., set, z, y, x); `start` replaces the classical image.
    """
    with torch.no_grad(), precision.full():
        picture: Tensor = network(problem(measurement, network.shape.start, ndim=ndim, start=start), denoise)
    return picture


def problem(m: Measurement, iterations: int, *, ndim: int = 3, start: Tensor | None = None) -> Problem:
    """What the network needs of a measurement; the classical image is an L1-wavelet one unless `start` is given."""
    b, normal = m.A.adjoint(m.y), m.A.normal()
    x = classical(m, iterations, ndim) if start is None else start
    noise = torch.full(b.shape[: b.ndim - ndim], math.sqrt(2) * m.sigma, device=b.device)
    return Problem(normal, b, x, noise, sampled(normal, x, ndim), ndim)


def classical(m: Measurement, iterations: int, ndim: int = 3) -> Tensor:
    """The image that the network starts from: L1-wavelet with a decreasing threshold, close to convergence."""
    return l1_wavelet(m, lam=1.0, iterations=iterations, wavelet="db1", continuation=15.0, ndim=ndim).x


def size(x: Tensor, ndim: int) -> Tensor:
    """(Σ|x|⁴ / Σ|x|²)^½ of each item: the root mean square weighted by energy, which empty space does not change."""
    square = (x.real.square() + x.imag.square()).flatten(-ndim)
    tiny = torch.finfo(square.dtype).tiny
    # Divided by the largest value first, so that no fourth power exceeds the range of single precision.
    peak = square.amax(-1, keepdim=True).clamp_min(tiny)
    square = square / peak
    weighted: Tensor = total(square.square(), 1) / total(square, 1).clamp_min(tiny)
    return (weighted * peak[..., 0]).sqrt().clamp_min(tiny**0.5)


def sampled(normal: Linear, x: Tensor, ndim: int) -> Tensor:
    """Mean diagonal of N, weighted by |x|², from one random probe: the share of k-space that was measured.

    E ⟨v, Nv⟩ / ⟨v, v⟩ with v = |x|·exp(iφ), φ uniform (Hutchinson, 1989). The probe is the same every time.
    """
    phases = torch.rand(x.shape[-ndim:], generator=torch.Generator().manual_seed(0)).to(x.device)
    v = torch.polar(x.abs(), (2 * math.pi * phases).expand(x.shape))
    power = _dot(v, v, ndim)
    share = _dot(v, normal(v), ndim) / power.clamp_min(torch.finfo(power.dtype).tiny)
    return share.clamp(1e-3, 1.0)


def refine(normal: Linear, b: Tensor, z: Tensor, lam: Tensor, iterations: int, ndim: int = 3) -> Tensor:
    """(N + λI)⁻¹ (b + λz) by a fixed number of conjugate-gradient iterations from z; differentiable in all of them."""
    wide = (..., *(None,) * (ndim + 1))
    tiny = torch.finfo(z.real.dtype).tiny * 1e6
    # On pairs of real numbers an update is one operation; a real factor times complex numbers takes three.
    real = torch.view_as_real if z.is_complex() else _single
    whole = torch.view_as_complex if z.is_complex() else _squeezed
    x, r = real(z), real(b - normal(z))
    p, rr = r, _pairs(r, r, ndim)
    for k in range(iterations):
        q = torch.addcmul(real(normal(whole(p))), lam[wide], p)
        step = (rr / _pairs(p, q, ndim).clamp_min(tiny))[wide]
        x = torch.addcmul(x, step, p)
        if k + 1 < iterations:
            r = torch.addcmul(r, step, q, value=-1)
            previous, rr = rr, _pairs(r, r, ndim)
            p = torch.addcmul(r, (rr / previous.clamp_min(tiny))[wide], p)
    return whole(x)


def _single(x: Tensor) -> Tensor:
    return x[..., None]


def _squeezed(x: Tensor) -> Tensor:
    return x[..., 0]


def _pairs(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    product: Tensor = total(a * b, ndim + 1)
    return product


def _condition(nu: Tensor, share: Tensor, residual: Tensor, denoise: float | Tensor, ndim: int) -> Tensor:
    """Noise level, acceleration, requested denoising, and misfit of the start, (..., 4), each near 1."""
    square = _dot(residual, residual, ndim) / math.prod(residual.shape[-ndim:])
    misfit = square.sqrt() / (nu * share.sqrt())
    d = torch.as_tensor(denoise, dtype=nu.dtype, device=nu.device).expand(nu.shape)
    return torch.stack(
        [nu.log() / 1.5 + 2.7, -share.log() / 0.5 - 2.5, 2 * d - 1, misfit.clamp(1e-3, 1e3).log() / 1.5], -1
    )


def _details(x: Tensor, error: Tensor, widths: Sequence[int], most: float, *, whole: bool) -> list[Tensor]:
    """Differences between a pixel, the mean of its neighbourhood, and that of the next wider one, in units of ε.

    Values beyond `most` are compressed. Outside the image there are zeros. With `whole` they count: there is no signal
    around an MR image, while a CT image is a part of a body.
    """
    found, finer = list[Tensor](), x
    for width in widths:
        parts = _parts(x)
        mean = box(parts, width, inside=not whole)
        coarser = torch.complex(mean[0], mean[1]) if x.is_complex() else mean[0]
        h = (finer - coarser) / error
        found.append(h * (1 + _square(h) / most**2).rsqrt())
        finer = coarser
    return found


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary part, or a real image alone, along a new first axis."""
    return torch.view_as_real(x).movedim(-1, 0) if x.is_complex() else x[None]


def _square(x: Tensor) -> Tensor:
    """|x|²."""
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def _planes(network: UNet, channels: Tensor, condition: Tensor, ndim: int) -> Tensor:
    """The network on every plane (y, x) of channels (..., channel, [set,] z, y, x) → (..., [set,] z, y, x)."""
    c = channels.movedim(-ndim - 1, -3)
    lead = c.shape[:-3]
    flat = torch.view_as_real(c).movedim(-1, -3).flatten(-4, -3) if c.is_complex() else c
    items = flat.reshape(-1, *flat.shape[-3:])
    index = (..., *(None,) * (ndim - 2), slice(None))
    each = condition[index].expand(*lead, -1).reshape(len(items), -1)
    if torch.is_grad_enabled():
        out = network(items, each)
    else:
        # A few planes at a time limit the memory for features.
        out = torch.cat([network(i, e) for i, e in zip(torch.split(items, PLANES), torch.split(each, PLANES))])
    out = out.reshape(*lead, *out.shape[1:])
    return torch.complex(out[..., 0, :, :], out[..., 1, :, :]) if c.is_complex() else out[..., 0, :, :]


def _dot(a: Tensor, b: Tensor, ndim: int) -> Tensor:
    product = a.real * b.real + a.imag * b.imag if a.is_complex() else a * b
    summed: Tensor = total(product, ndim)
    return summed


def parameters(network: nn.Module | Sequence[Tensor]) -> int:
    """Number of trained numbers."""
    tensors = network.parameters() if isinstance(network, nn.Module) else network
    return sum(t.numel() for t in tensors)
