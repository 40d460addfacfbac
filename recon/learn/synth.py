"""Undersampled multi-coil scans made on the fly, with the fully sampled target: the training data of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon import masks
from recon.data import DataError, Measurement
from recon.learn.arrays import coil_maps
from recon.learn.draw import Draw
from recon.learn.images import image
from recon.learn.volumes import Sources
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.prepare import compress
from recon.prepare.espirit import espirit
from recon.prepare.sensitivities import combine

#: Range of R with one channel, which cannot separate aliases: only moderate, irregular undersampling makes sense.
SINGLE = (1.5, 4.0)


@dataclass(frozen=True)
class Settings:
    """Ranges of the simulated scans; lists are drawn from, pairs are ranges."""

    #: Sizes of either side of the image, and how much finer the object is drawn than it is sampled.
    sizes: tuple[int, ...] = (160, 176, 192, 217, 224, 256)
    oversampling: float = 1.5
    #: Coils of the array, and to how many virtual ones they are compressed.
    coils: tuple[int, ...] = (1, 2, 3, 4, 4, 6, 8, 8, 12, 16, 24, 32)
    virtual: int = 8
    acceleration: tuple[float, float] = (2.0, 10.0)
    acs: tuple[int, int] = (12, 32)
    #: Weights of equispaced lines, equispaced lines of exact R, variable density, and random lines.
    kinds: tuple[float, float, float, float] = (0.5, 0.1, 0.25, 0.15)
    #: Noise of a fully sampled pixel relative to the brightest pixels, log-uniform.
    noise: tuple[float, float] = (0.001, 0.1)
    #: Share of real magnitudes, of raw scans of one channel, and of maps that ESPIRiT estimates.
    real: float = 0.7
    raw: float = 0.08
    estimated_maps: float = 0.7
    #: Share of phases that contain the field of tissue in air, with jumps at its edges (`recon.learn.images.field`).
    susceptibility: float = 0.0
    #: Share of scans sampled along both axes, and with partial Fourier.
    planar: float = 0.1
    partial: float = 0.12


@dataclass(frozen=True, eq=False)
class Example:
    """One scan: the measurement, and the image of a full scan with the same noise and of one without noise.

    `full` and `clean` are complex64 (z, y, x): the coil images of the full scan combined with the maps of
    `measurement`. If the object is real raw data, there is no noise-free image and `clean` is `full`.
    """

    measurement: Measurement
    full: Tensor
    clean: Tensor
    acceleration: float
    known_clean: bool = True


def example(seed: int, sources: Sources, settings: Settings, device: torch.device | str = "cpu") -> Example:
    """The scan of a seed.

    Coil images c_j x are drawn on a finer grid and cropped in k-space, so that the scan is that of a continuous object.
    Noise σ = 1 per real and imaginary part is added to all of k-space (the coils are mixed, as after whitening), and
    the mask selects samples. A seed whose calibration region is too small for ESPIRiT gets true maps.
    """
    draw = Draw.seeded(seed, device)
    if sources.raw and draw.chance(settings.raw):
        return _raw(draw, sources, settings)
    shape = (draw.one_of(settings.sizes), draw.one_of(settings.sizes))
    coils = draw.one_of(settings.coils)
    noise = draw.log_uniform(*settings.noise)
    clean, truth = _scan(draw, sources, settings, shape, coils)
    scale = math.sqrt(2) / noise
    mixing = torch.eye(coils, dtype=torch.complex64, device=draw.device)
    if coils > 1 and draw.chance(0.5):
        mixing = mixing + draw.uniform(0, 0.3) / math.sqrt(coils) * draw.complex_normal(coils, coils)
    clean = compress.compress(mixing, clean * scale)
    truth = compress.compress(mixing, truth)
    full = clean + draw.complex_normal(*clean.shape)
    planar = draw.chance(settings.planar)
    mask, R, acs = drawn_mask(draw, settings, shape, planar, single=coils == 1)
    if coils > settings.virtual:
        matrix = compress.svd(calibration_block(full, acs, planar), virtual=settings.virtual).matrix
        full, clean, truth = (compress.compress(matrix, v) for v in (full, clean, truth))
    maps = calibrated(draw, settings, full, truth, acs, planar)
    return undersampled(full, clean, maps, mask, R, planar)


def _scan(
    draw: Draw, sources: Sources, settings: Settings, shape: tuple[int, int], coils: int
) -> tuple[Tensor, Tensor]:
    """Noise-free k-space (coil, 1, y, x), and the true maps on the grid."""
    fine = tuple(2 * max(-(-n // 2), round(n * settings.oversampling / 2)) for n in shape)
    x = image(draw, sources, (fine[0], fine[1]), settings.real, settings.susceptibility)
    if coils == 1:
        c = torch.ones(1, *fine, dtype=torch.complex64, device=draw.device)
    else:
        c = coil_maps(draw, coils, (fine[0], fine[1]))
    k = fft((c * x)[:, None], (-2, -1)) * math.sqrt(math.prod(shape) / math.prod(fine))
    for axis, n in ((-2, shape[0]), (-1, shape[1])):
        k = k.narrow(axis, k.shape[axis] // 2 - n // 2, n)
    # Sampled at the pixels of the coarse grid.
    rows, columns = (
        (torch.round((torch.arange(n, device=draw.device) - n // 2) * (m / n)).long() + m // 2).clamp(0, m - 1)
        for n, m in zip(shape, fine)
    )
    truth = c[:, rows][:, :, columns]
    return k.contiguous(), truth[:, None]


def drawn_mask(
    draw: Draw, settings: Settings, shape: tuple[int, int], planar: bool, single: bool
) -> tuple[Tensor, float, int]:
    """Mask broadcast against (coil, 1, y, x), its effective factor and its ACS lines."""
    ny, nx = shape
    low, high = settings.acceleration
    R = draw.uniform(*SINGLE) if single else draw.uniform(low, high)
    R = float(draw.one_of((2, 3, 4, 4, 5, 6, 8, 8, 10))) if not single and draw.chance(0.6) else R
    R = min(max(R, SINGLE[0] if single else low), max(high, SINGLE[0]))
    acs = draw.integer(*settings.acs)
    acs = min(acs, int(0.7 * ny / R))
    seed = draw.integer(0, 2**31 - 2)
    if planar:
        acs = max(8, min(acs, int(0.7 * math.sqrt(ny * nx / R))))
        kind = draw.one_of(("poisson", "caipi", "random"))
        if kind == "caipi" and not single:
            ry = draw.integer(1, max(1, int(R / 2)))
            rz = max(1, round(R / ry))
            m = masks.caipi((ny, nx), (rz, ry), acs, seed, shift=draw.integer(0, max(0, rz - 1)))
        elif kind == "poisson":
            m = masks.poisson_disc((ny, nx), max(R, 2.0), acs, seed, slope=draw.uniform(0, 3))
        else:
            m = masks.variable_density((ny, nx), R, acs, seed, power=draw.uniform(1, 5))
    else:
        weights = (0.0, 0.0, 0.5, 0.5) if single else settings.kinds
        kind = draw.one_of(("equispaced", "fraction", "variable", "random"), weights)
        if kind == "equispaced":
            m = masks.equispaced((ny,), max(2, round(R)), acs, seed)
        elif kind == "fraction":
            m = masks.equispaced_fraction((ny,), R, acs, seed)
        elif kind == "variable":
            m = masks.variable_density((ny,), R, acs, seed, power=draw.uniform(1, 5))
        else:
            m = masks.random((ny,), R, acs, seed)
        if draw.chance(settings.partial):
            # Measured centre lines stay: at least half of the ACS lines lie beyond the middle.
            least = 0.5 + (acs / 2 + 2) / ny
            side = draw.one_of(("start", "end"))
            m = m & masks.partial_fourier(ny, draw.uniform(max(0.6, least), 0.9), "start" if side == "start" else "end")
        m = m[:, None]
    return torch.from_numpy(m).to(draw.device, torch.float32), masks.effective(m), acs


def calibration_block(k: Tensor, acs: int, planar: bool) -> Tensor:
    """The calibration region of k-space (coil, 1, y, x)."""
    ny, nx = k.shape[-2:]
    h, w = min(acs, ny), min(acs if planar else 24, nx)
    return k[..., ny // 2 - h // 2 : ny // 2 - h // 2 + h, nx // 2 - w // 2 : nx // 2 - w // 2 + w]


def calibrated(draw: Draw, settings: Settings, full: Tensor, truth: Tensor, acs: int, planar: bool) -> Tensor:
    """Maps of unit root-sum-of-squares, estimated from the noisy calibration region or true."""
    if full.shape[0] == 1:
        return torch.ones_like(truth)
    estimated = draw.chance(settings.estimated_maps)
    if estimated and acs >= 8:
        shape = (1, int(full.shape[-2]), int(full.shape[-1]))
        try:
            maps = espirit(calibration_block(full, acs, planar), shape).maps
            if float((maps.abs().sum(0) > 0).float().mean()) > 0.05:
                return maps
        except DataError:
            pass
    size = truth.abs().square().sum(0, keepdim=True).sqrt()
    return truth / size.clamp_min(1e-6)


def undersampled(full: Tensor, clean: Tensor, maps: Tensor, mask: Tensor, R: float, planar: bool) -> Example:
    """K-space (coil, 1, y, x) as an example; with only y undersampled, the readout is in image space."""
    axes = (-2, -1) if planar else (-2,)
    full, clean = (v if planar else ifft(v, (-1,)) for v in (full, clean))
    m = Measurement(full * mask, Sense(maps, mask, axes), 1.0)
    full_image, clean_image = (combine(ifft(v, axes), maps) for v in (full, clean))
    return Example(m, full_image, clean_image, R)


def _raw(draw: Draw, sources: Sources, settings: Settings) -> Example:
    """A real slice of one channel, with noise measured in the corners of k-space."""
    volume = draw.one_of(sources.raw)
    k = torch.from_numpy(volume[draw.integer(0, len(volume) - 1)]).to(draw.device)
    k = k.mT if draw.chance(0.5) else k
    ny, nx = k.shape
    y, x = (((torch.arange(n, device=draw.device) - n // 2) / (n / 2)).square() for n in (ny, nx))
    corner = k[(y[:, None] + x) > 1.0]
    # Zeros are not noise: many scanners omit or zero-fill the corners of k-space.
    corner = corner[corner != 0]
    if not len(corner):
        raise DataError(
            "some raw k-space in the data has empty corners, from which no noise can be measured; leave such files out"
        )
    sigma = corner.abs().square().median().div(2 * math.log(2)).sqrt()
    full = (k / sigma)[None, None].contiguous()
    mask, R, _ = drawn_mask(draw, settings, (ny, nx), False, single=True)
    made = undersampled(full, full, torch.ones_like(full), mask, R, False)
    return Example(made.measurement, made.full, made.full, R, known_clean=False)
