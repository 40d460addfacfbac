"""The noise of a scan: which lines tell it, and what was done when none do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import Encoding, RawScan, counted
from recon.prepare.epi import as_received
from recon.prepare.noise import BANDWIDTH, NoNoise, Whitening, whitener
from recon.prepare.sort import Kinds, row_index

#: Lines and noise samples that are looked at; more change nothing.
_LINES, _SAMPLES = 512, 1 << 18
#: Noise, as a share of the root mean square of all samples, of data that show none.
ASSUMED = 1e-3
#: Readouts shorter than this tell nothing of noise by themselves.
_SHORT = 16


def whitening(scan: RawScan, kinds: Kinds, encoding: Encoding, choice: str) -> Whitening:
    """The matrix that whitens the imaging lines of a scan, by its noise lines or, without them, from the data.

    `choice` is the recipe's: "auto" takes the noise scan where it fits, "estimate" the imaging lines always, "none"
    leaves the channels alone. Every step aside from the noise scan is said in the notes. Where the data show no noise
    either, as simulated ones may, "auto" assumes a little.
    """
    lines = scan.lines
    imaging = kinds.imaging
    channels = int(lines["active_channels"][imaging[0]])
    if choice == "none":
        return Whitening(torch.eye(channels, dtype=torch.complex64), "none", ("noise was not whitened, as asked for",))
    rows = kinds.noise[lines["active_channels"][kinds.noise] == channels]
    if choice == "auto" and len(rows):
        rows = rows[lines["number_of_samples"][rows] == lines["number_of_samples"][rows[0]]]
        per_line = int(lines["number_of_samples"][rows[0]])
        samples = scan.samples.read(rows[: max(1, _SAMPLES // per_line)])
        with suppress(NoNoise):
            found = whitener(
                torch.from_numpy(np.ascontiguousarray(samples.transpose(1, 0, 2).reshape(channels, -1))),
                dwell_data_us=float(lines["sample_time_us"][imaging[0]]),
                dwell_noise_us=float(lines["sample_time_us"][rows[0]]),
                bandwidth=scan.header.system.noise_bandwidth or BANDWIDTH,
            )
            return replace(found, notes=(f"noise from the noise scan ({counted(len(rows), 'line')})", *found.notes))
    why = "the scan has no noise lines"
    if len(kinds.noise):
        why = f"the noise lines have other channels than the {channels} of the image"
    if len(rows):
        why = "the noise lines are zero or not finite"
    if choice == "estimate":
        why = "the recipe asks for it"
    if int(lines["number_of_samples"][imaging].max()) < _SHORT:
        found = _outermost(scan, imaging, encoding, channels)
        return replace(found, notes=(f"noise was estimated from the data: {why}", *found.notes))
    same = imaging[lines["number_of_samples"][imaging] == lines["number_of_samples"][imaging[0]]]
    some = same[np.unique(np.linspace(0, len(same) - 1, min(_LINES, len(same))).astype(np.intp))]
    oversampling = encoding.encoded_fov[0] / encoding.recon_fov[0]
    # The margin of the field of view, which ramp samples leave undetermined, is darker than noise.
    samples, gain = as_received(scan.samples, some) or (scan.samples.read(some), 0.0)
    measured = torch.from_numpy(samples)
    try:
        found = whitener(None, lines=measured, oversampling=1.0 if gain else max(1.0, oversampling))
    except NoNoise:
        if choice == "estimate":
            raise
        return _assumed(measured, why)
    found = replace(found, matrix=found.matrix / gain) if gain else found
    return replace(found, notes=(f"noise was estimated from the data: {why}", *found.notes))


def _assumed(lines: Tensor, why: str) -> Whitening:
    """Whitening of (line, coil, sample) by a noise of ASSUMED times the root mean square of the samples."""
    coils = lines.shape[1]
    live = torch.isfinite(torch.view_as_real(lines)).flatten(2).all(2).all(0) & (lines.abs().amax((0, 2)) > 0)
    level = ASSUMED * float(lines[:, live].to(torch.complex128).abs().square().mean().sqrt())
    matrix = torch.eye(coils, dtype=torch.complex64)[live] * (2**0.5 / level)
    dead = ", ".join(str(i) for i in (~live).nonzero()[:, 0].tolist())
    notes = [f"noise of {ASSUMED:g} of the mean signal was assumed: {why} and the data show none"]
    notes += [f"coils {dead} of {coils} are dead (zero or not finite) and were left out"] if dead else []
    return Whitening(matrix, "assumed", tuple(notes))


def _outermost(scan: RawScan, imaging: NDArray[np.intp], encoding: Encoding, channels: int) -> Whitening:
    """Whitening by the quarter of the samples that lie farthest from the centre of k-space."""
    ky, kz, valid = row_index(scan.lines[imaging], encoding)
    _, ny, nz = encoding.encoded_matrix
    distance = np.hypot((ky - ny // 2) / ny, (kz - nz // 2) / nz)[valid]
    far = imaging[valid][distance >= np.quantile(distance, 0.75)]
    far = far[scan.lines["number_of_samples"][far] == scan.lines["number_of_samples"][far[0]]]
    samples = scan.samples.read(far)
    found = whitener(torch.from_numpy(np.ascontiguousarray(samples.transpose(1, 0, 2).reshape(channels, -1))))
    note = "no noise scan: the edge of k-space was taken for noise, which may be too high where signal reaches it"
    return replace(found, source="estimate", notes=(note,))
