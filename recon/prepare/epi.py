"""Echo-planar readouts made Cartesian: ramp samples regridded, reversed lines flipped, the Nyquist ghost corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Encoding, Flag, RawScan, Samples, flag_bits, flagged

#: Time of sample n after the receiver starts, in dwell times: the middle of its interval. Forward and reversed readouts
#: then mirror each other. Gadgetron uses 1.0, which shifts them by two half samples; the navigators then correct this.
SAMPLE_INSTANT = 0.5

#: Singular values below this share of the flat top's, 1/√Δk, are left out of the pseudo-inverse. Samples on the flat
#: top are wider apart than the grid, so the edge of the oversampled field of view is not determined and stays dark.
_CUT = 0.5

_TIMES = ("rampUpTime", "flatTopTime", "rampDownTime", "acqDelayTime", "dwellTime")
_GROUP = ("encoding_space_ref", "slice", "contrast", "phase", "set", "repetition")


def ramp_sampled(encoding: Encoding) -> bool:
    """Whether the readout is sampled on gradient ramps: an EPI with the timing of "ConventionalEPI" and a flat top."""
    return encoding.trajectory == "epi" and encoding.trajectory_parameters.get("flatTopTime", 0) > 0


def trajectory(encoding: Encoding, samples: int, *, reverse: bool = False) -> NDArray[np.float64]:
    """Position of each sample on the encoded grid, in order of time: k = 0 at the centre, in steps of 1/FOV.

        t = (n + ½)·dwell + delay
        k(t) = t²/(2·up)  |  up/2 + (t − up)  |  up/2 + flat + down/2 − (up + flat + down − t)²/(2·down)
        k₊ = s·(k − A/2),  k₋ = −k₊,  A = up/2 + flat + down/2

    on the ramp up, the flat top and the ramp down; s = Nx / (area under the gradient during sampling). Raises DataError
    if times are missing or not positive, or if samples lie outside the gradient.
    """
    p = encoding.trajectory_parameters
    if missing := [n for n in _TIMES if n not in p]:
        raise DataError(
            f"the echo-planar readout is sampled on ramps but the header lacks {', '.join(missing)}; add them to "
            "trajectoryDescription"
        )
    up, flat, down, delay, dwell = (float(p[n]) for n in _TIMES)
    end = up + flat + down
    if min(up, flat, down, dwell) <= 0 or delay < 0 or delay + samples * dwell > end * (1 + 1e-6):
        raise DataError(
            f"{samples} samples of {dwell} µs starting at {delay} µs do not fit a gradient of {up} + {flat} + "
            f"{down} µs; correct rampUpTime, flatTopTime, rampDownTime, acqDelayTime and dwellTime in "
            "trajectoryDescription"
        )

    n = np.concatenate([[0.0, float(samples)], np.arange(samples) + SAMPLE_INSTANT])
    t = n * dwell + delay
    rising, falling = t**2 / (2 * up), up / 2 + flat + down / 2 - (end - t) ** 2 / (2 * down)
    area = np.where(t < up, rising, np.where(t <= up + flat, t - up / 2, falling))
    scale = encoding.encoded_matrix[0] / (area[1] - area[0])
    k = scale * (area[2:] - (up / 2 + flat + down / 2) / 2)
    return np.asarray(-k if reverse else k)


def ramp_matrix(encoding: Encoding, samples: int, *, reverse: bool = False) -> NDArray[np.complex64]:
    """Matrix (nx, samples) that maps ramp samples, in order of time, to the even grid of a forward readout.

        M = pinv(S) · diag(exp(2πi·x₀·(k − k_flat))),
        S[n, m] = sinc(k_n − (m − Nx//2))

    S interpolates from the even grid to the samples. The phase belongs to an image centre x₀ fields of view off the
    isocentre (readoutOffcentre): on the ramps, too, the receiver's frequency is that of the flat top, k_flat. If
    readoutOffcentre is absent, x₀ = 0. Raises DataError as `trajectory`.
    """
    nx = encoding.encoded_matrix[0]
    k = trajectory(encoding, samples, reverse=reverse)
    u, s, vh = np.linalg.svd(np.sinc(k[:, None] - (np.arange(nx) - nx // 2)), full_matrices=False)
    determined = s > _CUT / np.sqrt(np.abs(np.diff(k)).max())
    inverse = (vh[determined].T / s[determined]) @ u[:, determined].T
    offcentre = encoding.trajectory_parameters.get("readoutOffcentre", 0.0) / encoding.encoded_fov[0]
    return np.asarray(inverse * np.exp(2j * np.pi * offcentre * (k - _flat(encoding, samples, k))), np.complex64)


def noise_gain(encoding: Encoding, samples: int) -> float:
    """Standard deviation, within the image's field of view, that white noise of 1 has after regridding.

        g² = mean over x of Σ_n |(F⁻¹M)[x, n]|²

    F⁻¹ is unitary, M is that of `ramp_matrix`. Raises DataError as `trajectory`.
    """
    nx = encoding.encoded_matrix[0]
    inner = max(1, round(nx * min(1.0, encoding.recon_fov[0] / encoding.encoded_fov[0])))
    image = _ifft(ramp_matrix(encoding, samples).T).T[nx // 2 - inner // 2 :][:inner]
    return float(np.sqrt((np.abs(image) ** 2).sum(axis=1).mean()))


def ghost_phase(
    forward: NDArray[np.complexfloating[Any, Any]], backward: NDArray[np.complexfloating[Any, Any]]
) -> tuple[float, float]:
    """Constant (rad) and slope (rad per pixel from pixel N // 2) of the phase of forward relative to reversed readouts.

        forward(x) ≈ backward(x) · exp(i(φ₀ + φ₁·x))

    Both are (..., x) in image space. With c = f·b*, φ₁ is the angle of Σ c(x+1)·c*(x) and φ₀ that of Σ c·exp(−iφ₁·x):
    both weight each pixel by its signal, and neither needs phase unwrapping.
    """
    c = np.asarray(forward, complex) * np.conj(backward)
    slope = float(np.angle(np.sum(c[..., 1:] * np.conj(c[..., :-1]))))
    x = np.arange(c.shape[-1]) - c.shape[-1] // 2
    return float(np.angle(np.sum(c * np.exp(-1j * slope * x)))), slope


@dataclass(frozen=True, eq=False)
class StraightSamples:
    """Samples of echo-planar lines on the even grid, computed on request from those of another scan.

    Line i is line `origin[i]` of `inner`, multiplied by `matrices[matrix[i]]` (−1: none) and, in image space, by
    exp(i(φ₀ + φ₁·x)) of `phases[phase[i]]`, (coil, 2) (−1: none). `backward` marks the lines that were read out
    backwards; `gains` holds the noise gain of the regridding matrices.
    """

    inner: Samples
    origin: NDArray[np.intp]
    matrix: NDArray[np.intp]
    matrices: tuple[NDArray[np.complex64], ...]
    phase: NDArray[np.intp]
    phases: tuple[NDArray[np.float64], ...]
    gains: Mapping[int, float]
    backward: NDArray[np.bool_]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        rows = np.asarray(rows, dtype=np.intp)
        data = self.inner.read(self.origin[rows])
        kinds = set(self.matrix[rows].tolist())
        if kinds <= {-1}:
            return data
        sizes = {data.shape[2] if k < 0 else self.matrices[k].shape[0] for k in kinds}
        if len(sizes) > 1:
            raise DataError(f"lines of {sorted(sizes)} samples cannot be read together; read each kind by itself")
        out = np.empty((*data.shape[:2], sizes.pop()), np.complex64)
        for k in kinds:
            here = self.matrix[rows] == k
            out[here] = data[here] if k < 0 else data[here] @ self.matrices[k].T
        for p in set(self.phase[rows].tolist()) - {-1}:
            here = self.phase[rows] == p
            turn = self.phases[p][:, :1] + self.phases[p][:, 1:] * (np.arange(out.shape[2]) - out.shape[2] // 2)
            out[here] = _fft(_ifft(out[here]) * np.exp(1j * turn).astype(np.complex64))
        return out

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return self.inner.trajectory(self.origin[rows])

    def some(self, rows: NDArray[np.intp]) -> StraightSamples:
        """The samples of some lines, still linked to what was received."""
        kept = {name: getattr(self, name)[rows] for name in ("origin", "matrix", "phase", "backward")}
        return replace(self, **kept)

    def turned(self, rows: NDArray[np.intp], constant: float, slope: float) -> StraightSamples:
        """The samples with half of a phase (rad; rad per pixel) taken from forward `rows`, added to reversed ones."""
        phase, phases = self.phase.copy(), list(self.phases)
        for back, half in ((False, -0.5), (True, 0.5)):
            for p in set(self.phase[(some := rows[self.backward[rows] == back])].tolist()):
                phase[some[self.phase[some] == p]] = len(phases)
                phases.append((self.phases[p] if p >= 0 else 0) + half * np.array([[constant, slope]]))
        return replace(self, phase=phase, phases=tuple(phases))


def as_received(samples: Samples, rows: NDArray[np.intp]) -> tuple[NDArray[np.complex64], float] | None:
    """Regridded lines as they were before regridding: there their noise is white, on the even grid it is not.

    Returned with the `noise_gain` of the regridding. None for lines that were sampled evenly.
    """
    if not isinstance(samples, StraightSamples) or not samples.gains.get(kind := int(samples.matrix[rows[0]])):
        return None
    return samples.inner.read(samples.origin[rows[samples.matrix[rows] == kind]]), samples.gains[kind]


def straighten(scan: RawScan) -> RawScan:
    """The scan with its echo-planar lines as ordinary forward readouts on the even grid, without navigators.

    Lines of encodings with trajectory "epi" are regridded if they were sampled on ramps (`ramp_matrix`), flipped if
    they were reversed, and corrected for the Nyquist ghost. For this, the phase between forward and reversed readouts
    is taken from the navigators (PHASECORR) of the same slice and frame. Half of it is subtracted from the forward
    lines and half added to the reversed ones, for each coil. Frames without navigators use those of the nearest
    repetition of their slice; without any navigators the ghost remains and a note says so. A regridded line states the
    dwell time dwell/g², with g its `noise_gain`, at which evenly spaced samples would have its noise. The encoding
    becomes cartesian; other lines are unchanged. A scan without EPI is returned as it is. Raises DataError as
    `trajectory`.
    """
    epi = [e.trajectory == "epi" for e in scan.encodings]
    if not any(epi):
        return scan
    lines = scan.lines.copy()
    # Lines that make no image may name an encoding that the header lacks; all others are checked by `line_rules.check`.
    known = lines["encoding_space_ref"] < len(epi)
    treated = known & np.asarray(epi)[lines["encoding_space_ref"] * known] & ~flagged(lines, Flag.NOISE)
    reverse = flagged(lines, Flag.REVERSE)
    matrix = np.full(len(lines), -1, np.intp)
    matrices: list[NDArray[np.complex64]] = []
    gains: dict[int, float] = {}
    kinds = np.stack([lines["encoding_space_ref"], lines["number_of_samples"], reverse], axis=1).astype(int)
    for ref, ns, turned in np.unique(kinds[treated], axis=0).tolist():
        encoding = scan.encodings[ref]
        here = treated & (kinds == (ref, ns, turned)).all(axis=1)
        matrix[here] = len(matrices)
        if ramp_sampled(encoding):
            gain = gains[len(matrices)] = noise_gain(encoding, ns)
            matrices.append(ramp_matrix(encoding, ns, reverse=bool(turned)))
            nx = encoding.encoded_matrix[0]
            lines["sample_time_us"][here] /= gain**2
            lines["number_of_samples"][here], lines["center_sample"][here] = nx, nx // 2
            lines["discard_pre"][here] = lines["discard_post"][here] = 0
        else:
            order = np.arange(ns)[::-1] if turned else np.arange(ns)
            matrices.append(np.eye(ns, dtype=np.complex64)[order])
            if turned:
                pre, post = lines["discard_post"][here], lines["discard_pre"][here]
                lines["discard_pre"][here], lines["discard_post"][here] = pre, post
                # A difference of half a sample from the forward lines is left to the navigators.
                forward = treated & ~reverse & (kinds[:, 0] == ref)
                centre = lines["center_sample"][forward]
                lines["center_sample"][here] = centre[0] if len(centre) else ns - 1 - lines["center_sample"][here]
    lines["flags"][treated] &= ~np.uint64(flag_bits(Flag.REVERSE))
    everything = np.arange(len(lines))
    none = np.full(len(lines), -1, np.intp)
    straight = StraightSamples(scan.samples, everything, matrix, tuple(matrices), none, (), gains, reverse)
    phase, phases, notes = _phases(scan.lines, straight, treated, reverse)
    kept = np.nonzero(~(treated & flagged(lines, Flag.PHASECORR)))[0]
    samples = replace(straight, phase=phase, phases=phases).some(kept)
    encodings = tuple(replace(e, trajectory="cartesian") if is_epi else e for e, is_epi in zip(scan.encodings, epi))
    return replace(scan, lines=lines[kept], samples=samples, encodings=encodings, notes=(*scan.notes, *notes))


def _phases(
    lines: NDArray[np.void], straight: StraightSamples, treated: NDArray[np.bool_], reverse: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], tuple[NDArray[np.float64], ...], tuple[str, ...]]:
    """Index of each line's phase, the phases (coil, 2) as constant and slope, and notes."""
    navigator = treated & flagged(lines, Flag.PHASECORR)
    key = np.stack([lines[n] for n in _GROUP], axis=1).astype(int)
    fits: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for group, rows in _groups(key, navigator):
        if (fit := _fit(straight, rows, reverse[rows])) is not None:
            fits[group] = fit
    index = np.full(len(lines), -1, np.intp)
    phases: list[NDArray[np.float64]] = []
    lost = 0
    for group, rows in _groups(key, treated & ~navigator):
        fit = _nearest(fits, group)
        if fit is None:
            lost += len(rows)
            continue
        index[rows] = len(phases) + reverse[rows]
        phases += [-0.5 * fit, 0.5 * fit]
    note = f"{lost} echo-planar lines lack navigators in both readout directions to correct their Nyquist ghost"
    return index, tuple(phases), (note,) if lost else ()


def _groups(key: NDArray[np.int_], among: NDArray[np.bool_]) -> Iterator[tuple[tuple[int, ...], NDArray[np.intp]]]:
    """Each key (line, counter) that occurs among some lines, with the rows of these lines in their order."""
    rows = np.nonzero(among)[0]
    found, of = np.unique(key[rows], axis=0, return_inverse=True)
    order = np.argsort(of.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(of.reshape(-1), minlength=len(found)))[:-1]
    for group, own in zip(found.tolist(), np.split(rows[order], ends)):
        yield tuple(group), own


def _fit(straight: StraightSamples, rows: NDArray[np.intp], reverse: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Constant and slope (coil, 2) from navigators in order of time, or None if a direction is missing.

    A line is compared with the mean of its two neighbours, which cancels the phase that a wrong frequency adds between
    one echo and the next; two lines alone are compared with each other.
    """
    if reverse.all() or not reverse.any():
        return None
    x = _ifft(straight.read(rows))
    forward, backward = [], []
    for i in range(1, len(rows) - 1):
        if reverse[i - 1] == reverse[i + 1] != reverse[i]:
            pair = (x[i], (x[i - 1] + x[i + 1]) / 2)
            forward.append(pair[int(reverse[i])])
            backward.append(pair[1 - int(reverse[i])])
    if not forward:
        forward, backward = [x[~reverse].mean(axis=0)], [x[reverse].mean(axis=0)]
    f, b = np.stack(forward, axis=1), np.stack(backward, axis=1)
    return np.array([ghost_phase(f[c], b[c]) for c in range(len(f))])


def _nearest(fits: dict[tuple[int, ...], NDArray[np.float64]], group: tuple[int, ...]) -> NDArray[np.float64] | None:
    """Fit of the group, or of the nearest repetition of the same slice and encoding."""
    if group in fits:
        return fits[group]
    same = [g for g in fits if g[:2] == group[:2]]
    distance = {g: (sum(a != b for a, b in zip(g[2:5], group[2:5])), abs(g[5] - group[5])) for g in same}
    return fits[min(same, key=lambda g: distance[g])] if same else None


def _flat(encoding: Encoding, samples: int, k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the samples would lie if the gradient were that of the flat top from the first sample to the last."""
    p = encoding.trajectory_parameters
    t = (np.arange(samples) + SAMPLE_INSTANT) * p["dwellTime"] + p["acqDelayTime"]
    flat = (t >= p["rampUpTime"]) & (t <= p["rampUpTime"] + p["flatTopTime"])
    if flat.sum() < 2:
        return k
    step, start = np.polyfit(np.arange(samples)[flat], k[flat], 1)
    return np.asarray(start + step * np.arange(samples))


def _ifft(y: NDArray[np.complex64]) -> NDArray[np.complex64]:
    x = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(y, axes=-1), norm="ortho"), axes=-1)
    return np.asarray(x, np.complex64)


def _fft(x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    y = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(x, axes=-1), norm="ortho"), axes=-1)
    return np.asarray(y, np.complex64)
