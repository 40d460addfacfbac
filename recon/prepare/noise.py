"""Noise of the receiver coils: its covariance, measured or estimated, and the whitening matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.data import DataError, counted
from recon.kernels.steady import alone
from recon.operators import ifft
from recon.prepare import quiet
from recon.prepare.filled import measured
from recon.prepare.quiet import FEW, NONE, NoNoise, hann, quietest

#: Samples treated in double precision, or whitened, at a time.
_CHUNK = 1 << 20
#: Relative noise bandwidth of the receiver if the file does not state it.
BANDWIDTH = 0.793
#: Where noise is read. Signal reaches all columns of the last.
OUTER, BESIDE, MARGIN = "outer k-space", "the columns beside the object", "the oversampled margin of the readout"
FULL = "the oversampled margin of the readout, all of which signal reaches"
#: Values below this share of the root mean square of all samples are rounding errors of float32 transforms.
_ROUNDING = 3e-6


#: Noise samples per channel from which on five standard errors of the mean are at most a tenth of the noise.
ENOUGH = 2500

#: Sources of a whitening that was not measured: not requested, or not found in the samples.
UNKNOWN = ("none", "assumed")


@dataclass(frozen=True)
class Whitening:
    """The whitening matrix and its source.

    `matrix` is complex64 (coil_out, coil); it has fewer rows than columns when dead coils were left out, and their
    columns are zero. `source` is "noise scan", "estimate", or one of UNKNOWN; `notes` are sentences on irregularities
    and on what was done. `offset` says whether noise lines contain a constant that the receiver adds, None if that
    cannot be determined.
    """

    matrix: Tensor
    source: str
    notes: tuple[str, ...] = ()
    offset: bool | None = None

    @property
    def known(self) -> bool:
        """Whether the noise was measured, so that whitened samples have σ = 1 per real and imaginary part."""
        return self.source not in UNKNOWN


def covariance(samples: Tensor) -> Tensor:
    """Covariance Ψ = X Xᴴ / (N − 1) of noise samples (coil, N), without subtracting a mean: complex128 (coil, coil)."""
    coils, count = samples.shape
    total = torch.zeros(coils, coils, dtype=torch.complex128, device=samples.device)
    for part in torch.split(samples, max(1, _CHUNK // coils), dim=1):
        wide = part.to(torch.complex128)
        total += alone(torch.matmul, wide, wide.mH)
    return total / max(1, count - 1)


def whitener(
    noise: Tensor | None,
    *,
    lines: Tensor | None = None,
    dwell_data_us: float = 0.0,
    dwell_noise_us: float = 0.0,
    bandwidth: float = BANDWIDTH,
    oversampling: float = 1.0,
    why: str = "there is no noise scan",
) -> Whitening:
    """Matrix W that whitens imaging data to σ = 1 per real and imaginary part.

        W = sqrt(2 ρ t_data / t_noise) L⁻¹,
        Ψ = L Lᴴ the covariance of the noise scan

    `noise` holds the samples of the noise scan (coil, N), taken with a dwell time of `dwell_noise_us` by a receiver
    whose noise bandwidth is `bandwidth` (ρ) times the sampling bandwidth. `dwell_data_us` is the dwell time of the
    imaging data. If a dwell time is 0 (unknown), the factor is sqrt(2). Without a noise scan (None) the covariance is
    estimated from the imaging `lines` (`estimate`); `why` gives the reason for the note. Dead coils are left out. With
    too few samples or a singular covariance the coils are scaled one by one and stay correlated. The notes state both.

    Raises DataError if every coil is dead, or if neither noise nor lines are given. Source: Kellman and McVeigh, Magn
    Reson Med 54:1439, 2005; the bandwidth factor as in the ISMRMRD community's tools.
    """
    if noise is None:
        if lines is None:
            raise DataError("there is no noise scan and no imaging line to estimate noise from: give one of the two")
        return estimate(lines, oversampling=oversampling, why=why)
    factor = 2.0
    notes: tuple[str, ...] = ()
    if dwell_data_us > 0 and dwell_noise_us > 0:
        factor *= bandwidth * dwell_data_us / dwell_noise_us
    else:
        notes = ("a dwell time is unknown: the noise scan is assumed to have the bandwidth of the imaging data",)
    noise, constant = _without_constant(noise)
    if constant:
        notes += (f"the noise lines hold a constant in coils {_numbers(constant)}, not noise: left out",)
    clipped = _clipped(noise)
    if clipped:
        notes += (f"the noise scan is clipped in coils {_numbers(clipped)}: their noise is underestimated",)
    offset = True if constant else False if noise.shape[1] >= ENOUGH else None
    return replace(_whiten(noise, factor, "noise scan", notes), offset=offset)


def apply(matrix: Tensor, lines: Tensor) -> Tensor:
    """Mix the coils of readouts, (..., coil, nx) → (..., coil_out, nx), a bounded number of lines at a time.

    Coils whose column of the matrix is zero are not read, so that NaN of a dead coil cannot spread.
    """
    live = matrix.abs().sum(0) > 0
    every = bool(live.all())
    return mix((matrix if every else matrix[:, live]).to(lines.device), lines if every else lines[..., live, :])


def mix(matrix: Tensor, lines: Tensor) -> Tensor:
    """The product of `apply`, reading every coil."""
    batch, (coils, nx) = lines.shape[:-2], lines.shape[-2:]
    flat = lines.reshape(-1, coils, nx)
    out = lines.new_empty(flat.shape[0], matrix.shape[0], nx)
    count = max(1, _CHUNK // (coils * nx))
    matrix = matrix.to(lines.dtype)
    for part, result in zip(torch.split(flat, count), torch.split(out, count)):
        torch.matmul(matrix, part, out=result)
    return out.reshape(*batch, matrix.shape[0], nx)


def _whiten(samples: Tensor, factor: float, source: str, notes: tuple[str, ...]) -> Whitening:
    coils = samples.shape[0]
    finite = torch.isfinite(torch.view_as_real(samples)).flatten(1).all(1)
    live = finite & (samples.abs().amax(1) > 0)
    if not bool(live.any()):
        raise NoNoise(
            f"all {coils} coils of the noise samples are zero or not finite: reconstruct without prewhitening "
            '(noise = "none" in the recipe)'
        )
    if not bool(live.all()):
        notes += (dead((~live).nonzero()[:, 0].tolist(), coils),)
    kept = samples[live]
    psi = covariance(kept)
    level = psi.diagonal().real.sqrt()
    n = len(level)
    correlation = psi / (level[:, None] * level[None])
    full = kept.shape[1] >= 2 * n and bool(alone(torch.linalg.eigvalsh, correlation)[0] > 1e-6)
    if full:
        factorised = alone(torch.linalg.cholesky, correlation)
        unit = torch.eye(n, dtype=psi.dtype, device=psi.device)
        inverse = alone(torch.linalg.solve_triangular, factorised, unit, upper=False) / level
    else:
        inverse = torch.diag((1 / level).to(psi.dtype))
        why = (
            f"only {kept.shape[1]} noise samples for {n} coils"
            if kept.shape[1] < 2 * n
            else "singular noise covariance"
        )
        notes += (f"{why}: each coil was scaled to unit noise, and correlations between coils were not removed",)
    matrix = torch.zeros(n, coils, dtype=torch.complex64, device=samples.device)
    matrix[:, live] = (math.sqrt(factor) * inverse).to(torch.complex64)
    return Whitening(matrix, source, notes)


def _without_constant(samples: Tensor) -> tuple[Tensor, list[int]]:
    """Noise samples (coil, N) with the mean removed where it exceeds five standard errors, and these coils.

    If the receiver's offset were taken for noise, the whitening would suppress signal with the same weights in the
    coils.
    """
    mean = samples.to(torch.complex128).mean(1, keepdim=True)
    spread = (samples - mean).abs().square().mean(1) / samples.shape[1]
    found = (mean[:, 0].abs().square() > 25 * spread) & (spread > 0)
    if not bool(found.any()):
        return samples, []
    return (samples - mean * found[:, None]).to(samples.dtype), found.nonzero()[:, 0].tolist()


def _clipped(samples: Tensor) -> list[int]:
    """Coils in which more samples lie exactly at the largest value than noise would explain."""
    parts = torch.view_as_real(samples).flatten(1).abs()
    peak = parts.amax(1, keepdim=True)
    share = (parts == peak).double().mean(1)
    return ((share > 0.005) & (share * parts.shape[1] > 8) & (peak[:, 0] > 0)).nonzero()[:, 0].tolist()


def _numbers(coils: list[int]) -> str:
    return ", ".join(map(str, coils))


def estimate(lines: Tensor, *, oversampling: float = 1.0, why: str = "there is no noise scan") -> Whitening:
    """Whitening matrix estimated from the imaging readouts, for scans without a noise scan.

    `lines` is k-space (n, coil, nx), centred along the readout, in any order, without uneven averaging. `oversampling`
    is the encoded over the reconstructed field of view along the readout.

    Noise is read where signal is weakest: in the quarter of lines with the lowest energy, and of their columns those on
    the lowest plateau of energy. Columns are taken in k-space or, after a window (`hann`) and an inverse FFT along the
    readout, beside the object; with oversampling, outside the field of view. The window suppresses the ringing of a
    truncated readout, which at high signal-to-noise ratios reaches every column. The roll-off of the receiver's filter
    beside the field of view is compensated (`beside`, `filtered`). Lines and columns are chosen on other samples than
    those measured, so that the choice does not bias the result. Remaining signal makes the estimate too high; if noise
    is not white, the estimate is that of the quietest part.

    With one channel all lines are used (`recon.prepare.quiet.every_line`) if no signal reaches the columns beside the
    object; noise that is not white is then measured as it appears in a voxel. With several channels this would add the
    ringing of the strongest lines to the noise correlation, and a full scan would weight its channels differently from
    one with fewer lines.

    Samples that are exactly zero, outer k-space far below the rest (zero-filled by the scanner), and coils whose
    samples are mostly zero are left out and reported.

    Raises NoNoise if fewer than 8 lines or 16 columns were measured or they hold no noise, DataError if all samples are
    zero.
    """
    picked = _subset(lines)
    live = torch.isfinite(torch.view_as_real(picked)).flatten(2).all(2).all(0) & (picked.abs().amax((0, 2)) > 0)
    if not bool(live.any()):
        raise DataError(
            "all imaging lines are zero or not finite: there is nothing to reconstruct; export the scan again"
        )
    silent = _silent(picked, live)
    live = live & ~silent
    used, mask, notes = measured(picked[:, live])
    n, _, nx = used.shape
    if n < 8 or nx < 16:
        raise NoNoise(
            f"{n} lines of {nx} samples are too few to estimate noise from: give a noise scan, or set noise to "
            '"auto" or "none" in the recipe'
        )
    places = _places(used, mask, oversampling)
    levels = {name: float(samples.abs().square().mean(1).log().mean()) for name, samples in places.items()}
    place = min(levels, key=lambda name: levels[name])
    if levels[place] < math.log(_ROUNDING**2 * float(used.abs().square().mean())):
        raise NoNoise(NONE)
    high = "the estimate is too high where signal reaches there"
    doubt = "the estimate may be as low as a third of the true noise, or above it" if place == FULL else high
    notes = (f"noise was estimated from {place}: {why}; {doubt}", *notes)
    if max(levels.values()) - min(levels.values()) > 2 * math.log(1.5):
        ratio = math.exp((max(levels.values()) - min(levels.values())) / 2)
        notes += (
            f"the estimates from k-space and from the image differ by a factor of {ratio:.1f}: one contains "
            "signal, or the data were filtered",
        )
    whitening = _whiten(places[place], 2.0, "estimate", notes)
    if bool(live.all()):
        return whitening
    matrix = whitening.matrix.new_zeros(whitening.matrix.shape[0], len(live))
    matrix[:, live] = whitening.matrix
    gone = (~live & ~silent).nonzero()[:, 0].tolist()
    said: tuple[str, ...] = (dead(gone, len(live)),) if gone else ()
    if bool(silent.any()):
        said += (
            f"{int(silent.sum())} of {counted(len(live), 'coil')} left out, since most of the samples are "
            f"exactly zero and show no noise ({_numbers(silent.nonzero()[:, 0].tolist())})",
        )
    return replace(whitening, matrix=matrix, notes=(*whitening.notes, *said))


def _places(used: Tensor, mask: Tensor, oversampling: float) -> dict[str, Tensor]:
    """The samples (coil, N) of lines (n, coil, nx) with the least signal, by their place.

    If samples are missing, these are the outermost samples of k-space. Otherwise, in this order: with one channel, all
    lines in the columns beside the object if no signal reaches them; with readout oversampling, the columns next to the
    field of view; in other scans, either place. The roll-off of the receiver's filter is compensated everywhere.
    """
    nx = used.shape[-1]
    columns = torch.ones(nx, dtype=torch.bool, device=used.device)
    outer = quietest(used, mask, columns)
    if not bool(mask.all()):
        return {OUTER: outer}
    apart = 2 if nx >= FEW else 1
    hybrid = ifft(used * hann(nx).to(used.device) if apart > 1 else used, (-1,))
    inside = (torch.arange(nx, device=used.device) - nx // 2).abs() <= nx / (2 * oversampling) * 1.05
    margin = oversampling >= 1.25 and int((~inside).sum()) >= FEW
    fall = quiet.steepest(hybrid, inside, outer) if margin else 0.0
    found = quiet.outside_columns(hybrid, inside, fall) if margin else None
    allowed, gain, _ = found or (~inside if margin else columns, 1.0, 1.0)
    where = MARGIN if margin else BESIDE
    single = used.shape[1] == 1 and apart > 1 and (found is not None or not margin)
    even = quiet.every_line(used, allowed, choose=found is None) if single else None
    if even is not None:
        return {where: even * gain**0.5}
    if found and int(allowed.sum()) < FEW:
        # Too few columns to choose among: all of those without signal, of the half of the lines with the least.
        return {MARGIN: hybrid[quiet.outermost(hybrid, inside, 2)][..., allowed].movedim(1, 0).flatten(1) * gain**0.5}
    quiet_ones = quietest(hybrid, mask, allowed, apart) * gain**0.5
    if found:
        return {MARGIN: quiet_ones}
    if not margin:
        return {OUTER: outer, BESIDE: quiet_ones}
    # Signal reaches all columns beside the field of view, for instance of a leg, so that noise is left only in outer
    # lines.
    places = {OUTER: outer, FULL: quiet.passed(hybrid, mask, inside, apart, quiet_ones)}
    least = quiet.outside_columns(hybrid[quiet.outermost(hybrid, inside)], inside, fall)
    return quiet.filtered(places, FULL, least[2]) if least else places


def dead(gone: list[int], coils: int) -> str:
    """The note on coils (by number) that recorded nothing."""
    named = _numbers(gone)
    return f"{len(gone)} of {counted(coils, 'coil')} left out as dead: zero, NaN or infinite ({named})"


def _silent(lines: Tensor, live: Tensor) -> Tensor:
    """Live coils (coil,) most of whose samples are zero where other coils' are not; none if this holds for all coils.

    Their noise is below one quantisation step of the receiver.
    """
    held = lines != 0
    silent = live & (held.sum((0, 2)) < 0.5 * held.any(1).sum())
    return silent & (live & ~silent).any()


def _subset(lines: Tensor) -> Tensor:
    """At most as many lines as noise statistics need, drawn with a fixed seed."""
    count = max(256, (8 * _CHUNK) // (lines.shape[1] * lines.shape[2]))
    if lines.shape[0] <= count:
        return lines
    order = torch.randperm(lines.shape[0], generator=torch.Generator().manual_seed(0))[:count]
    return lines[order.to(lines.device)]
