"""Raw scans of the analytic head, with everything that a real scan has, and the images that they should give."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon import masks, phantom, trajectories
from recon import coil_array as array
from recon.data import FRAME_COUNTERS, LINE, DataError, Flag, Image, RawScan, flag_bits
from recon.geometry import GeometryError, Vector, centre_index, check_directions, from_centre, stack
from recon.io.samples import InMemory
from recon.scan_header import encoding_of, header_of

Complexes = NDArray[np.complex64]

#: Mean over the head of the signal's magnitude at echo time 0; noise levels are best chosen relative to it.
MEAN_SIGNAL = 0.72

_FIRST_IN_SLICE, _LAST_IN_SLICE, _LAST_IN_REPETITION = (np.uint64(1 << n) for n in (6, 7, 13))


def simulate(s: Settings) -> RawScan:
    """The raw scan: noise scan first, then separate calibration lines, then the image, in the order of a scanner.

    Signal scale: a centred unitary FFT of fully sampled k-space gives the signal of `phantom.TISSUES` times the coil map.
    Deterministic: equal settings give equal bits.
    """
    readouts, plans = _readouts(s), [_calibration(s), _plan(s)]
    lines, at = _table(s, plans)
    coils, n = s.coils, readouts.samples
    data = np.empty((len(lines), coils, n), np.complex64)
    both = np.concatenate(plans)
    keys = ("slice", "contrast", "phase", "set")
    pictures, which = np.unique(np.stack([lines[k] for k in keys], 1), axis=0, return_inverse=True)
    for p, picture in enumerate(pictures):
        rows = np.nonzero(which.ravel() == p)[0]
        used, place = np.unique(at[rows], return_inverse=True)
        data[rows] = _signal(s, readouts, both[used], *(int(v) for v in picture))[place]
    _fill_headers(s, readouts, lines, both[at])
    rng = np.random.Generator(np.random.PCG64([s.seed, 1]))
    _add_noise(data, s.sigma, noise_factor(s)[:coils, :coils], rng)
    pre, post = s.discard
    for junk in (data[:, :, :pre], data[:, :, n - post :]):
        junk[:] = np.abs(data).max() * (rng.random(junk.shape) - 0.5)
    positions = None if readouts.stored is None else readouts.stored[both["y"][at]].astype(np.float32)
    noise, noise_lines = _noise_scan(s, rng)
    every = np.concatenate([noise_lines, lines])
    every["acquisition_time_stamp"] = 20_000_000 + np.arange(len(every)) * 4
    every["flags"][-1] |= np.uint64(flag_bits(Flag.LAST_IN_MEASUREMENT))
    samples = InMemory(
        (noise, data),
        np.repeat([0, 1], [len(noise), len(data)]),
        np.concatenate([np.arange(len(noise)), np.arange(len(data))]),
        (None, positions),
    )
    return RawScan(every, samples, (encoding_of(s),), header_of(s), "simulated")


def simulate_to(path: str | Path, s: Settings) -> None:
    """Write the simulated scan as an ISMRMRD file."""
    from recon.io import ismrmrd

    ismrmrd.write(path, simulate(s))
