"""The noise of a scan: which lines show it, and what is done if none do."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import FRAME_COUNTERS, DataError, Encoding, RawScan, counted
from recon.prepare.announced import lines_each
from recon.prepare.epi import as_received
from recon.prepare.noise import BANDWIDTH, Whitening, dead, whitener
from recon.prepare.quiet import NoNoise
from recon.prepare.sort import Kinds, row_index

#: Lines and noise samples that are examined; more change nothing.
_LINES, _SAMPLES = 512, 1 << 18
#: Samples of each coil in the lines used for an estimate: at least _ENOUGH, and _ENOUGH_A_COIL for every coil. About
#: one in 32 lies where there is no signal: 1024 give the level within 2 %, and with 64 per coil the combination loses
#: 1.5 % of the signal's power (Reed, Mallett and Brennan, IEEE Trans Aerosp Electron Syst 10:853, 1974). If the noise
#: is not white, half as many were seen to pick a place that is quieter than the rest.
_ENOUGH, _ENOUGH_A_COIL = 1 << 15, 1 << 11
#: Assumed noise of data that show none, as a share of the root mean square of all samples.
ASSUMED = 1e-3
#: Readouts shorter than this cannot show their noise.
_SHORT = 16
#: Imaging lines used to check the noise lines, and how many times as much noise the noise lines may show. Estimates
#: from scans whose noise is known were at least 0.25 of it, where filters made the noise uneven (bench/noise.py).
_ASKED, APART = 128, 5.0


@dataclass(frozen=True, eq=False)
class Settled:
    """A whitening that no later line can change; `tried` are its rows, after those that showed nothing."""

    whitening: Whitening
    tried: tuple[NDArray[np.intp], ...]


def whitening(scan: RawScan, kinds: Kinds, encoding: Encoding, choice: str) -> Whitening:
    """The matrix that whitens the imaging lines of a scan, from its noise lines or, without them, from the data.

    `choice` is the recipe's: "auto" uses the noise scan if it fits, "estimate" always the imaging lines, "none" leaves
    the channels as they are. If the noise scan is not used, the notes say why. If the data show no noise either, as
    simulated ones may, "auto" assumes a little. An estimate is made from `first_lines`, or from all lines if there are
    none or they show nothing. This way it is known, and does not change, while a scan is still being acquired.
    """
    found = settled(scan, kinds, encoding, choice)
    if found is not None:
        return found.whitening
    imaging, lines = kinds.imaging, scan.lines
    why = _why(_noise_rows(scan, kinds), choice)
    if int(lines["number_of_samples"][imaging].max()) < _SHORT:
        return _outermost(scan, imaging, encoding, why)
    same = imaging[lines["number_of_samples"][imaging] == lines["number_of_samples"][imaging[0]]]
    try:
        return _estimated(scan, same, encoding, why)
    except NoNoise:
        if choice == "estimate":
            raise
        return _assumed(torch.from_numpy(_read(scan, same)[0]), why)


def settled(scan: RawScan, kinds: Kinds, encoding: Encoding, choice: str) -> Settled | None:
    """What `whitening` returns for every scan that begins like this; None if later lines can change it."""
    lines, rows = scan.lines, _noise_rows(scan, kinds)
    if choice == "none":
        channels = int(lines["active_channels"][kinds.imaging[0]])
        eye = torch.eye(channels, dtype=torch.complex64)
        return Settled(Whitening(eye, "none", ("noise was not whitened, as requested",)), ())
    tried = candidates(scan, kinds, encoding, choice)
    for n, some in enumerate(tried, start=1):
        with suppress(DataError):
            found = (
                _measured(scan, kinds, some)
                if n == 1 and choice == "auto" and len(rows)
                else _estimated(scan, some, encoding, _why(rows, choice))
            )
            return Settled(found, tried[:n])
    return None


def candidates(scan: RawScan, kinds: Kinds, encoding: Encoding, choice: str) -> tuple[NDArray[np.intp], ...]:
    """Rows of the lines that may show the noise, the best first: noise lines and `first_lines`, if they exist."""
    rows, lines = _noise_rows(scan, kinds), scan.lines
    noise = (rows,) if choice == "auto" and len(rows) else ()
    if choice == "none" or int(lines["number_of_samples"][kinds.imaging].max()) < _SHORT:
        return noise
    first = first_lines(scan, kinds.imaging, encoding)
    return noise if first is None else (*noise, first)


def _noise_rows(scan: RawScan, kinds: Kinds) -> NDArray[np.intp]:
    """Noise lines with as many samples as the first of them; all have the channels of the image."""
    rows, samples = kinds.noise, scan.lines["number_of_samples"]
    alike: NDArray[np.intp] = rows[samples[rows] == samples[rows[:1]]]
    return alike


def _why(rows: NDArray[np.intp], choice: str) -> str:
    if choice == "estimate":
        return "requested by the recipe"
    return "the noise lines are zero or not finite" if len(rows) else "the scan has no noise lines"


def _measured(scan: RawScan, kinds: Kinds, rows: NDArray[np.intp]) -> Whitening:
    """Whitening by these noise lines; raises NoNoise if they hold none."""
    lines, image = scan.lines, kinds.imaging[0]
    samples = scan.samples.read(rows[: max(1, _SAMPLES // int(lines["number_of_samples"][rows[0]]))])
    found = whitener(
        torch.from_numpy(np.ascontiguousarray(samples.transpose(1, 0, 2).reshape(samples.shape[1], -1))),
        dwell_data_us=float(lines["sample_time_us"][image]),
        dwell_noise_us=float(lines["sample_time_us"][rows[0]]),
        bandwidth=scan.header.system.noise_bandwidth or BANDWIDTH,
    )
    return replace(found, notes=(f"noise from the noise scan ({counted(len(rows), 'line')})", *found.notes))


def contradicted(scan: RawScan, kinds: Kinds, encoding: Encoding, whitening: Whitening) -> tuple[str, ...]:
    """A warning if noise lines show more than APART times the noise that imaging lines show; otherwise none.

        f = (∏ s)^(1/n),   s the singular values of W E⁺

    with W the whitening by the noise lines and E the one estimated from imaging lines: the geometric mean, which signal
    in one combination of channels changes little. Noise lines that show too little cannot be detected here, because the
    estimate is far too high if an object fills the field of view. They show in the residual. Not checked for
    non-Cartesian scans, nor if imaging lines show no noise.
    """
    rows = kinds.imaging[scan.lines["number_of_samples"][kinds.imaging] >= _SHORT]
    if whitening.source != "noise scan" or not encoding.on_grid or not len(rows):
        return ()
    some = rows[scan.lines["number_of_samples"][rows] == scan.lines["number_of_samples"][rows[0]]]
    some = some[np.unique(np.linspace(0, len(some) - 1, min(_ASKED, len(some))).astype(np.intp))]
    try:
        shown = _estimated(scan, some, encoding, "").matrix.to(torch.complex128)
    except DataError:
        return ()
    share = torch.linalg.svdvals(whitening.matrix.to(torch.complex128) @ torch.linalg.pinv(shown))
    share = share[share > share.max() * 1e-6]
    f = float(share.log().mean().exp())
    if f * APART >= 1:
        return ()
    return (
        f"warning: the noise scan gives {1 / f:.1f} times the noise seen in the imaging lines, and "
        "regularisation, trust and uncertainty depend on it; check the dwell times of both, or set "
        'prepare.noise = "estimate"',
    )


def first_lines(scan: RawScan, imaging: NDArray[np.intp], encoding: Encoding) -> NDArray[np.intp] | None:
    """Rows of the lines from which noise is estimated without a noise scan; lines acquired later do not change them.

    They are the first N/R lines, the number that the header announces, of the frames that are first to have these. As
    many frames are used as give enough samples. None if there are not enough.
    """
    lines = scan.lines
    kind = ("encoding_space_ref", "number_of_samples")
    same = imaging[np.all([lines[name][imaging] == lines[name][imaging[0]] for name in kind], axis=0)]
    keys = np.stack([lines[name][same] for name in (*FRAME_COUNTERS, "slice")], axis=1)
    _, of, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(of.reshape(-1), kind="stable")
    place = np.empty(len(same), np.intp)  # of each line within its frame
    place[order] = np.arange(len(same)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    each = lines_each(encoding)
    frames = of.reshape(-1)[place == each - 1]
    channels, samples = (int(lines[name][same[0]]) for name in ("active_channels", "number_of_samples"))
    wanted = math.ceil(max(_ENOUGH, _ENOUGH_A_COIL * channels) / (each * samples))
    if len(frames) < wanted:
        return None
    return same[np.isin(of.reshape(-1), frames[:wanted]) & (place < each)]


def _read(scan: RawScan, rows: NDArray[np.intp]) -> tuple[NDArray[np.complex64], float]:
    """Samples of at most _LINES of these lines, as received, and the noise gain of their regridding or 0."""
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(_LINES, len(rows))).astype(np.intp))]
    return as_received(scan.samples, some) or (scan.samples.read(some), 0.0)


def _estimated(scan: RawScan, rows: NDArray[np.intp], encoding: Encoding, why: str) -> Whitening:
    """Whitening estimated from these lines; raises as `recon.prepare.noise.estimate`."""
    oversampling = encoding.encoded_fov[0] / encoding.recon_fov[0]
    samples, gain = _read(scan, rows)
    found = whitener(None, lines=torch.from_numpy(samples), oversampling=max(1.0, oversampling), why=why)
    return replace(found, matrix=found.matrix / gain) if gain else found


def _assumed(lines: Tensor, why: str) -> Whitening:
    """Whitening of (line, coil, sample) with an assumed noise of ASSUMED times the root mean square of the samples."""
    coils = lines.shape[1]
    live = torch.isfinite(torch.view_as_real(lines)).flatten(2).all(2).all(0) & (lines.abs().amax((0, 2)) > 0)
    level = ASSUMED * float(lines[:, live].to(torch.complex128).abs().square().mean().sqrt())
    matrix = torch.eye(coils, dtype=torch.complex64)[live] * (2**0.5 / level)
    gone = (~live).nonzero()[:, 0].tolist()
    notes = [f"no noise was found: {why}, and none is visible in the data; {ASSUMED:g} of the mean signal was assumed"]
    notes += [dead(gone, coils)] if gone else []
    return Whitening(matrix, "assumed", tuple(notes))


def _outermost(scan: RawScan, imaging: NDArray[np.intp], encoding: Encoding, why: str) -> Whitening:
    """Whitening by the quarter of the samples that lie farthest from the centre of k-space."""
    ky, kz, valid = row_index(scan.lines[imaging], encoding)
    _, ny, nz = encoding.encoded_matrix
    distance = np.hypot((ky - ny // 2) / ny, (kz - nz // 2) / nz)[valid]
    far = imaging[valid][distance >= np.quantile(distance, 0.75)]
    far = far[scan.lines["number_of_samples"][far] == scan.lines["number_of_samples"][far[0]]]
    samples = scan.samples.read(far)
    outer = torch.from_numpy(np.ascontiguousarray(samples.transpose(1, 0, 2).reshape(samples.shape[1], -1)))
    found = whitener(outer, dwell_data_us=1.0, dwell_noise_us=1.0, bandwidth=1.0)  # noise of the sampling bandwidth
    note = f"noise was estimated from the edge of k-space: {why}; the estimate is too high where signal reaches there"
    return replace(found, source="estimate", notes=(note, *found.notes))
