"""Where imaging lines hold noise without signal: the samples from which noise is estimated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon.data import DataError
from recon.operators import ifft

#: Columns of a readout above which noise is read after a window; choosing columns then needs every fourth.
FEW = 32
#: Largest ratio of the mean power of lines beside the object to their median (few lines with signal do not change the
#: median); and the stricter limit for columns next to the field of view, where other columns are available.
EVEN, CLEAN = 1.35, 1.1
#: Part of the readout's band beyond which a receiver's filter has removed half of the noise power or more; and the
#: largest roll-off between the field of view and the ends of the band (9 dB): anything above it is signal.
PASSED, FALL = 0.8, 8.0
#: Part of the readout's band where its ends begin, and the smallest share of the noise power that the ends have if no
#: filter removes it.
ENDS, WHOLE = 0.85, 0.85
#: The smallest b in exp(b u⁴), the noise power over the readout's band, that a filter has: a faster roll-off is signal.
STEEPEST = -5.0
NONE = 'no noise was found where the signal is weakest: set noise to "auto" or "none" in the recipe'


class NoNoise(DataError):
    """The samples do not show how strong the noise is."""


def hann(n: int) -> Tensor:
    """The window w_k = sqrt(8/3) sin²(π (k + ½)/n) (n,), with mean square 1: it preserves the power of white noise.

    After it, noise of adjacent columns of the image is correlated (by 2/3), that of columns three apart is not.
    """
    return math.sqrt(8 / 3) * torch.sin(math.pi * (torch.arange(n) + 0.5) / n).square()


def quietest(data: Tensor, mask: Tensor, allowed: Tensor, apart: int = 1) -> Tensor:
    """Samples (coil, N) of the quietest lines and columns of (n, coil, nx), chosen on samples that are not returned.

    Lines are chosen by columns that are `apart` from those measured, so that their noise is not correlated.
    """
    energy = _energy(data) * mask
    columns = allowed.nonzero()[:, 0]
    parts = []
    for first in range(2 * apart):
        chooser, measured = columns[first :: 2 * apart], columns[(first + apart) % (2 * apart) :: 2 * apart]
        line_energy = energy[:, chooser].sum(1) / mask[:, chooser].sum(1).clamp_min(1)
        line_energy = torch.where(mask[:, chooser].any(1), line_energy, torch.inf)
        lines = line_energy.argsort()[: max(8, len(line_energy) // 4)].sort().values
        for half in (0, 1):
            choosing, giving = lines[half::2], lines[1 - half :: 2]
            count = mask[choosing][:, measured].sum(0)
            column_energy = energy[choosing][:, measured].sum(0) / count.clamp_min(1)
            quiet = measured[_floor(column_energy, count * data.shape[1], rough=apart > 1)]
            block, known = data[giving][:, :, quiet], mask[giving][:, quiet]
            parts.append(block.movedim(1, 0)[:, known])
    return torch.cat(parts, 1)


def every_line(lines: Tensor, allowed: Tensor, choose: bool = True) -> Tensor | None:
    """Samples (1, N) of all lines (n, 1, nx) in the quietest columns of their image; None if signal reaches these.

    The mean of all lines includes whatever filters and gates do to the noise over k-space, as it appears in a voxel.
    Columns are chosen by the other half of the lines. The image is computed with and without a window (`hann`) along
    the readout, and the lower result is used: the window suppresses ringing but weights the middle of the readout. A
    signal that reaches these columns is in few of the lines and makes their mean larger than their median. Without
    `choose` all columns are used, for columns behind a filter whose noise is not equal.
    """
    columns = allowed.nonzero()[:, 0]
    found: list[tuple[float, float, Tensor]] = []
    for window in (torch.ones(lines.shape[-1]), hann(lines.shape[-1])):
        image = ifft(lines[:, 0] * window.to(lines.device), (-1,))
        power, parts, each = image.abs().square(), [], []
        for half in (0, 1):
            profile = power[half::2][:, columns].mean(0)
            count = torch.full_like(profile, len(power[half::2]))
            chosen = columns[_floor(profile, count)] if choose else columns
            parts.append(image[1 - half :: 2][:, chosen].flatten())
            each.append(power[1 - half :: 2][:, chosen].mean(1))
        of_lines = torch.cat(each)
        found.append((float(of_lines.mean()), float(of_lines.median()), torch.cat(parts)))
    mean, middle, samples = min(found, key=lambda f: f[0])
    return samples[None] if mean < EVEN * middle else None


def outside_columns(image: Tensor, inside: Tensor, least: float) -> tuple[Tensor, float, float] | None:
    """Columns next to the field of view that no signal reaches, and ratios of noise power to theirs.

    The ratios are those of the noise power in the field of view and in the whole band. `image` (n, coil, nx) holds
    lines after an inverse FFT along the readout, `inside` (nx,) marks the columns of the field of view.

    A receiver's filter rolls off towards both ends of the readout's band. On Siemens scanners the noise power follows
    exp(b u⁴), with b about −2.5 and u from 0 in the middle to 1 at the ends (from two phantom scans). The outermost
    columns then show a third of the noise that voxels have.

    The columns are the innermost in which lines with signal do not stand out, which are within FALL of the outermost,
    and whose roll-off is no steeper than STEEPEST. b is fitted to their inner and outer half. It is 0 if these differ
    by no more than twice their standard error. It is never below `least`, which `steepest` gives, because a body that
    ends there also makes the power fall. If noise is flat to the ends of the band, all columns further out belong to
    them, too. If a body ends near the ends of the band they are fewer than FEW, down to half of it. None if signal
    reaches all columns.
    """
    nx, u = image.shape[-1], _outward(inside)
    energy = _energy(image).double()
    outwards = (~inside).nonzero()[:, 0]
    outwards = outwards[u[outwards].argsort(stable=True)]
    size = max(FEW, nx // 10)
    most = FALL * float(energy[:, outwards[-size:]].mean())
    for first in range(0, len(outwards) - FEW // 2 + 1, 4):
        columns = outwards[first : first + size]
        each = energy[:, columns].mean(1)
        if float(each.mean()) >= min(most, CLEAN * float(each.median())):
            continue
        near, far = columns[: size // 2], columns[size // 2 :]
        apart = float((u[far] ** 4).mean() - (u[near] ** 4).mean())
        fall = (energy[:, far].mean(1) - energy[:, near].mean(1)) / each.mean() / apart
        b = float(fall.mean())
        if b < STEEPEST:
            continue
        b = max(b, least) if b < -2 * float(fall.std()) / math.sqrt(len(fall)) else 0.0
        if b == 0 and float(energy[:, u > ENDS].mean()) > WHOLE * float(each.mean()):
            columns = outwards[first:]  # without a filter all of them show the noise, with a smaller error
        band = torch.zeros_like(inside)
        band[columns] = True
        voxels, here, whole = ((b * u[part] ** 4).exp().mean() for part in (inside, band, torch.ones_like(band)))
        return band, float(voxels / here), float(voxels / whole)
    return None


def steepest(image: Tensor, inside: Tensor, outer: Tensor) -> float:
    """The b of exp(b u⁴) by which noise at the ends of the readout's band is lower than in all of it; 0 if it is not.

    `image` is (n, coil, nx) as in `outside_columns`; its outermost lines show the ends, samples `outer` (coil, N) of
    k-space the whole band.
    """
    u, b = _outward(inside), torch.linspace(STEEPEST, 0, 101, dtype=torch.float64)
    ends = u > ENDS
    power = image[outermost(image, inside)][:, :, ends].abs().square().mean((0, 2)).double()
    tiny = torch.finfo(torch.float32).tiny
    share = (power / outer.abs().square().mean(1).clamp_min(tiny)).clamp_min(tiny).log().mean().exp()
    form = (b[:, None] * u.cpu() ** 4).exp()
    return float(b[min(int((form[:, ends.cpu()].mean(1) / form.mean(1) < float(share)).sum()), len(b) - 1)])


def outermost(image: Tensor, inside: Tensor, share: int = 4) -> Tensor:
    """One in `share` of the lines (n, coil, nx), at least 8: those with the least signal in the field of view."""
    power = image[..., inside].abs().square().mean(-1)
    weights = 1 / power.median(0).values.clamp_min(torch.finfo(power.dtype).tiny)
    return (power * weights).sum(1).argsort()[: max(8, len(power) // share)].sort().values


def passed(image: Tensor, mask: Tensor, inside: Tensor, apart: int, ends: Tensor) -> Tensor:
    """Noise beside the field of view within the passband of the receiver's filter, if signal reaches all columns.

    Then the quietest columns are the outermost, measured by the samples `ends`. The columns within PASSED count if they
    show no more than FALL times as much.
    """
    columns = ~inside & (_outward(inside) < PASSED)
    if int(columns.sum()) < FEW:
        return ends
    found = quietest(image, mask, columns, apart)
    return found if float(found.abs().square().mean()) < FALL * float(ends.abs().square().mean()) else ends


def filtered(places: dict[str, Tensor], margin: str, whole: float) -> dict[str, Tensor]:
    """Samples by place, without those of the `margin` if only a filter may make them quieter.

    Those of the whole band are corrected for its roll-off: `whole` is the noise power in the field of view over theirs.
    If the margin is quieter by more than FALL, the others hold signal.
    """
    power = {name: float(samples.abs().square().mean(1).log().mean()) for name, samples in places.items()}
    rest = {name: samples * whole**0.5 for name, samples in places.items() if name != margin}
    return rest if all(power[name] < power[margin] + math.log(FALL) for name in rest) else places


def _energy(data: Tensor) -> Tensor:
    """Power (n, nx) of lines (n, coil, nx): the mean of the coils, each relative to its median."""
    power = data.abs().square()
    weights = 1 / power.flatten(2).movedim(1, 0).flatten(1).median(1).values.clamp_min(torch.finfo(power.dtype).tiny)
    return (power * weights[:, None]).mean(1)


def _outward(inside: Tensor) -> Tensor:
    """Position of the readout's columns in the receiver's band (nx,): 0 in the middle, 1 at the ends."""
    nx = len(inside)
    return ((torch.arange(nx, device=inside.device) - nx // 2).abs() / (nx / 2)).double()


def _floor(energy: Tensor, count: Tensor, rough: bool = False) -> Tensor:
    """Indices of the entries on the lowest plateau of an energy profile; each entry is a mean of `count` samples.

    The plateau is the lowest tenth of the entries whose spread is that of `count` samples of noise; a slope below it,
    where the receiver's filter rolls off, is skipped. Noise of correlated channels scatters more than `count` suggests:
    with `rough`, a plateau with twice the spread is accepted if it is 9 dB below the other, which is then signal.
    """
    valid = ((count > 0) & (energy > 0) & torch.isfinite(energy)).nonzero()[:, 0]
    if len(valid) < 8:
        raise NoNoise(NONE)
    logs = energy[valid].log()
    ordered = logs.sort().values
    size = min(max(4, len(ordered) // 10), len(ordered) - 1)
    sigma = float(count[valid].double().mean()) ** -0.5
    spans = ordered[size:] - ordered[:-size]
    plateau, wider = ((spans <= n * sigma).nonzero()[:, 0].tolist() for n in (3, 6))
    start = plateau[0] if plateau else int(spans.argmin())
    if rough and wider and ordered[wider[0]] < ordered[start] - math.log(8):
        start = wider[0]
    centre = ordered[start : start + size + 1].mean()
    return valid[(logs - centre).abs() <= spans[start] / 2 + sigma]
