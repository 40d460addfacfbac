"""Effects of receivers and patients on the lines of a scan, in addition to white noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError

Samples = NDArray[np.complex64]

#: Roll-off of the noise of Siemens scanners over the readout's band, from two phantom scans.
FALL = 2.5


@dataclass(frozen=True)
class Receiver:
    """Faults of a simulated scan; by default there are none.

    The noise power of the imaging lines follows exp(−`fall` u⁴) over the readout's band, u from 0 in its middle to 1 at
    its ends: 2.5 on Siemens scanners (two phantoms). The signal is unchanged, so that the truth stays exact: at the
    edge of a field of view of half the band it would lose 7 %. `offset` is a constant on all samples, in units of
    sigma, with a different phase in each channel. `jitter_deg` is the standard deviation of a random phase of each
    line, `drift_deg` that of the steps of a phase that drifts from line to line, `gain_drift` the relative change of
    gain over the whole scan. `spikes` samples are replaced, in all channels, by a spark as large as the largest sample.
    """

    fall: float = 0.0
    offset: float = 0.0
    jitter_deg: float = 0.0
    drift_deg: float = 0.0
    gain_drift: float = 0.0
    spikes: int = 0

    def __post_init__(self) -> None:
        sizes = (self.fall, self.offset, self.jitter_deg, self.drift_deg, self.spikes)
        if not all(0 <= v < math.inf for v in sizes) or not -1 < self.gain_drift < math.inf:
            raise DataError(f"receiver faults must be finite and 0 or more, and the gain change above −1; got {self}")


def filtered(white: Samples, fall: float) -> Samples:
    """Noise (…, sample) after a filter with power exp(−fall u⁴) over the band that the samples span; a new array."""
    if not fall:
        return white
    n = white.shape[-1]
    u = np.fft.fftfreq(n) * 2
    behind: Samples = np.fft.ifft(np.fft.fft(white) * np.exp(-fall / 2 * u**4)).astype(np.complex64)
    return behind


def disturb(data: Samples, r: Receiver, seed: int) -> None:
    """Apply phase, gain and spark faults to lines (line, coil, sample) without noise, in order of time, in place."""
    if not (r.jitter_deg or r.drift_deg or r.gain_drift or r.spikes):
        return
    rng, n = np.random.Generator(np.random.PCG64([seed, 2])), len(data)
    spark = float(np.abs(data).max())
    degrees = r.jitter_deg * rng.standard_normal(n) + np.cumsum(r.drift_deg * rng.standard_normal(n))
    gain = 1 + r.gain_drift * np.arange(n) / max(1, n - 1)
    data *= (gain * np.exp(1j * np.radians(degrees))).astype(np.complex64)[:, None, None]
    hit = rng.choice(n * data.shape[2], size=min(r.spikes, n * data.shape[2]), replace=False)
    lines, samples = np.divmod(hit, data.shape[2])
    turns = np.exp(2j * np.pi * rng.random((len(hit), data.shape[1])))
    data[lines, :, samples] += (spark * turns).astype(np.complex64)


def offsets(coils: int, r: Receiver, sigma: float) -> Samples:
    """The constant of each channel (coil, 1): |c| = √2 · offset · sigma, which is `offset` in units of either part."""
    turns = np.exp(2j * np.pi * 0.381966 * np.arange(coils) + 0.7j)
    constant: Samples = (math.sqrt(2) * r.offset * sigma * turns[:, None]).astype(np.complex64)
    return constant
