"""Raw scans of the analytic head with the features of a real scan, and the images that they should give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon import masks
from recon.data import FRAME_COUNTERS, LINE, DataError, Flag, RawScan, flag_bits, flagged
from recon.io.samples import in_memory
from recon.simulation import trajectories
from recon.simulation.coil_array import Modes, received, received_at
from recon.simulation.order import calibration_readouts, image_readouts
from recon.simulation.receiver import Receiver, disturb, filtered, offsets
from recon.simulation.reference import receive_modes, shapes, slice_modes, unit_scale
from recon.simulation.settings import (
    Settings,
    acquired_rows,
    encoding_of,
    epi_parameters,
    header_of,
    readout_count,
)

Floats = NDArray[np.float64]
Samples = NDArray[np.complex64]

#: Mean over the head of the signal's magnitude at the shortest echo time; noise is best chosen relative to it.
MEAN_SIGNAL = 0.72

_FIRST_IN_SLICE, _LAST_IN_SLICE = (np.uint64(flag_bits(f)) for f in (Flag.FIRST_IN_SLICE, Flag.LAST_IN_SLICE))


def simulate(s: Settings) -> RawScan:
    """The raw scan: noise scan, then separate calibration lines, then the image, as a scanner sends them.

    A centred unitary FFT of fully sampled k-space gives the signal of `phantom.TISSUES` times the coil maps. k-space
    positions are relative to the `position` of the slice or volume. Equal settings give identical bits.
    """
    positions = _Positions.of(s)
    separate, image = calibration_readouts(s), image_readouts(s)
    readouts = np.concatenate([separate, image])
    lines, at = _table(s, len(separate), len(image))
    data = np.zeros((len(lines), s.coils, positions.samples), np.complex64)
    pictures, which = np.unique(_columns(lines, "slice", "contrast", "phase", "set"), axis=0, return_inverse=True)
    coils = receive_modes(s)
    for p, picture in enumerate(pictures):
        rows = np.nonzero(which.ravel() == p)[0]
        used, place = np.unique(at[rows], return_inverse=True)
        data[rows] = _signal(s, coils, positions, readouts[used], *(int(v) for v in picture))[place]
    _fill(s, positions, lines, readouts[at])

    disturb(data, s.receiver, s.seed)
    rng = np.random.Generator(np.random.PCG64([s.seed, 1]))
    factor = noise_factor(s)
    _add_noise(data, s.sigma * factor[: s.coils, : s.coils], rng, s.receiver.fall)
    data += offsets(s.coils, s.receiver, s.sigma)
    for junk in (data[:, :, : s.discard[0]], data[:, :, positions.samples - s.discard[1] :]):
        junk[:] = float(np.abs(data).max()) * (rng.random(junk.shape) - 0.5)
    noise, noise_lines = _noise_scan(s, factor, rng)
    every = np.concatenate([noise_lines, lines])
    every["acquisition_time_stamp"] = 20_000_000 + 4 * np.arange(len(every))
    every["flags"][-1] |= np.uint64(flag_bits(Flag.LAST_IN_MEASUREMENT))
    stored = None if positions.stored is None else positions.stored[readouts["y"][at]].astype(np.float32)
    samples = in_memory(noise, data, trajectories=(None, stored))
    return RawScan(every, samples, (encoding_of(s),), header_of(s), "simulation")


def simulate_to(path: str | Path, s: Settings) -> None:
    """Write the simulated scan as an ISMRMRD file; see `recon.io.ismrmrd.write` for its errors."""
    from recon.io import ismrmrd

    ismrmrd.write(path, simulate(s))


def preset(
    *,
    accel: int = 1,
    coils: int = 8,
    matrix: int = 256,
    slices: int = 1,
    volume: bool = False,
    trajectory: str = "cartesian",
    noise: float = 0.02,
    seed: int = 0,
    receiver: Receiver = Receiver(),
) -> Settings:
    """Settings of a typical head scan: `matrix`², 240 mm, slices of 4 mm with 10 % gap, or a volume of 240 mm.

    `noise` is relative to the mean signal of the head. A volume divides the acceleration over ky and kz; a volume of
    one slice gets 32 partitions. Raises DataError for a trajectory that has no preset.
    """
    if trajectory not in ("cartesian", "epi", "radial", "spiral"):
        raise DataError(f"there is no preset for the trajectory {trajectory}; choose cartesian, epi, radial or spiral")
    partitions = slices if slices > 1 else 32
    kz = max((f for f in range(1, math.isqrt(accel) + 1) if accel % f == 0), default=1) if volume else 1
    return Settings(
        matrix=(matrix, matrix, partitions if volume else 1),
        fov=(240.0, 240.0, 240.0 if volume else 4.0),
        slices=1 if volume else slices,
        gap=0.4,
        oversampling=(1.0 if trajectory == "spiral" else 2.0, 1.0, 1.0),
        mask="caipi" if volume and kz > 1 else "equispaced",
        acceleration=(accel // kz, kz),
        acs=min(24, partitions // 2) if volume else min(24, matrix),
        calibration="separate" if trajectory == "epi" else "embedded",
        trajectory=trajectory,  # type: ignore[arg-type]
        coils=coils,
        sigma=noise * MEAN_SIGNAL,
        receiver=receiver,
        seed=seed,
    )


def noise_factor(s: Settings) -> NDArray[np.complex128]:
    """L of the coils' noise covariance Ψ = L·Lᴴ, whose mean diagonal is 1: noise is sigma·L·(white noise).

    Ψ_ij = g_i g_j · correlation^|i−j| · exp(i(i−j)), gains g spread over ±25 %.
    """
    n = max(s.coils, s.noise_coils)
    i = np.arange(n)
    gain = 1 + 0.25 * np.sin(2.4 * i)
    gain /= np.sqrt(np.mean(gain**2))
    apart = i[:, None] - i[None]
    return np.asarray(np.linalg.cholesky(gain[:, None] * gain * s.correlation ** np.abs(apart) * np.exp(1j * apart)))


@dataclass(frozen=True, eq=False)
class _Positions:
    """Positions of a readout's samples: columns of lines, or points of spokes and arms, in cycles/mm.

    `forward` and `backward` are kx of lines of both directions in order of time. For non-Cartesian scans, `points`
    (readout, sample, dimension) and `stored`, the same in the unit of the file, replace them. `samples` and `centre`
    count the whole readout, including discarded samples.
    """

    samples: int
    centre: tuple[int, int]
    forward: Floats
    backward: Floats
    points: Floats | None = None
    stored: Floats | None = None

    @classmethod
    def of(cls, s: Settings) -> _Positions:
        nx, fov = s.encoded_matrix[0], s.encoded_fov[0]
        if not s.gridded:
            return cls._off_grid(s)
        if s.ramp_sampled:
            forward, backward = trajectories.epi_readout(epi_parameters(s), nx)
            columns, middle = len(forward), (len(forward) // 2, len(forward) - 1 - len(forward) // 2)
        else:
            kept = np.nonzero(masks.partial_fourier(nx, s.echo_fraction, s.echo_missing))[0]
            forward = (kept - nx // 2).astype(np.float64)
            backward, columns = forward[::-1], len(kept)
            middle = (nx // 2 - int(kept[0]), int(kept[-1]) - nx // 2)
        delay = s.epi.delay if s.trajectory == "epi" else 0.0
        pre, post = s.discard
        centre = (middle[0] + pre, middle[1] + pre)
        return cls(columns + pre + post, centre, (forward + delay) / fov, (backward - delay) / fov)

    @classmethod
    def _off_grid(cls, s: Settings) -> _Positions:
        n, spokes = s.matrix[0], readout_count(s)
        samples = s.readout_samples or s.encoded_matrix[0]
        if s.trajectory == "kooshball":
            grid = trajectories.kooshball(spokes, samples)
        elif s.trajectory == "spiral":
            # One sample per step of the grid along the outermost turn, with a margin.
            turns = n / (2 * spokes)
            samples = s.readout_samples or math.ceil(1.3 * math.pi * turns * n / 2) + 64
            grid = trajectories.spiral(spokes, samples, n)
        else:
            grid = trajectories.radial(spokes, samples, golden=s.trajectory == "goldenangle")
        ndim = grid.shape[-1]
        voxel = np.array([f / m for f, m in zip(s.fov, s.matrix)])[:ndim]
        unit = {"grid": np.ones(ndim), "fov": np.array(s.matrix[:ndim], float), "1/m": 1000 / voxel}[s.trajectory_unit]
        centre = 0 if s.trajectory == "spiral" else samples // 2
        empty = np.zeros(0)
        return cls(samples, (centre, centre), empty, empty, grid / voxel, grid * unit)


def _columns(lines: NDArray[np.void], *names: str) -> NDArray[np.int64]:
    return np.stack([lines[n].astype(np.int64) for n in names], axis=1)


def _table(s: Settings, separate: int, image: int) -> tuple[NDArray[np.void], NDArray[np.intp]]:
    """Lines with their counters, and the readout of each; calibration readouts come before those of the image."""
    order = np.r_[0 : s.slices : 2, 1 : s.slices : 2] if s.interleaved else np.arange(s.slices)
    axes = {
        "repetition": np.arange(s.repetitions),
        "set": np.arange(s.sets),
        "phase": np.arange(s.phases),
        "readout": separate + np.arange(image),
        "average": np.arange(s.averages),
        "slice": order,
        "contrast": np.arange(len(s.te_ms)),
    }
    if s.trajectory != "cartesian":
        axes["readout"] = axes.pop("readout")  # a whole slice at a time
    parts = [axes]
    if separate:
        parts.insert(0, {"slice": order, "readout": np.arange(separate)})
    tables = [dict(zip(a, (v.ravel() for v in np.meshgrid(*a.values(), indexing="ij")))) for a in parts]
    at = np.concatenate([t["readout"] for t in tables])
    lines = np.zeros(len(at), LINE)
    for name in axes:
        if name != "readout":
            lines[name] = np.concatenate([t.get(name, np.zeros(len(t["readout"]))) for t in tables])
    return lines, at


def _fill(s: Settings, positions: _Positions, lines: NDArray[np.void], readouts: NDArray[np.void]) -> None:
    """Fill everything in the acquisition headers except counters and time stamps."""
    rows_y, rows_z = acquired_rows(s)
    lines["kspace_encode_step_1"] = readouts["y"] - (int(np.argmax(rows_y)) if s.gridded else 0)
    lines["kspace_encode_step_2"] = readouts["z"] - (int(np.argmax(rows_z)) if s.gridded else 0)
    lines["segment"] = readouts["segment"]
    reverse = np.uint64(flag_bits(Flag.REVERSE))
    lines["flags"] = readouts["flags"] | np.where(readouts["reverse"], reverse, np.uint64(0))
    lines["number_of_samples"], lines["active_channels"] = positions.samples, s.coils
    lines["discard_pre"], lines["discard_post"] = s.discard
    lines["center_sample"] = np.where(readouts["reverse"], positions.centre[1], positions.centre[0])
    lines["trajectory_dimensions"] = 0 if positions.stored is None else positions.stored.shape[-1]
    lines["sample_time_us"] = epi_parameters(s)["dwellTime"] if s.ramp_sampled else s.dwell_us
    lines["position"] = np.array([s.slice_position(i) for i in range(s.slices)])[lines["slice"]]
    for name in ("read_dir", "phase_dir", "slice_dir"):
        lines[name] = getattr(s, name)
    image = np.nonzero(~flagged(lines, Flag.CALIBRATION, Flag.PHASECORR))[0]
    frames = _columns(lines[image], "slice", *FRAME_COUNTERS)
    _, first = np.unique(frames, axis=0, return_index=True)
    _, last = np.unique(frames[::-1], axis=0, return_index=True)
    lines["flags"][image[first]] |= _FIRST_IN_SLICE
    lines["flags"][image[::-1][last]] |= _LAST_IN_SLICE


def _signal(
    s: Settings,
    coils: Modes,
    positions: _Positions,
    readouts: NDArray[np.void],
    slice_: int,
    contrast: int,
    phase: int,
    set_: int,
) -> Samples:
    """Samples without noise of the given readouts, (readout, coil, sample), in order of time."""
    objects, modes = shapes(s, slice_, contrast, phase, set_), slice_modes(s, coils, slice_)
    scale = unit_scale(s)
    if positions.points is not None:
        return received_at(objects, modes, positions.points[readouts["y"]]) * scale
    out = np.zeros((len(readouts), s.coils, positions.samples), np.complex64)
    inside = slice(s.discard[0], positions.samples - s.discard[1])
    for backward, kx in enumerate((positions.forward, positions.backward)):
        rows = np.nonzero(readouts["reverse"] == bool(backward))[0]
        if not len(rows):
            continue
        steps = [(readouts[n][rows] - e // 2) / f for n, e, f in zip("yz", s.encoded_matrix[1:], s.encoded_fov[1:])]
        turn = np.exp((-0.5j if backward else 0.5j) * (s.epi.phase_rad if s.trajectory == "epi" else 0.0))
        block = received(objects, modes, kx, *steps[: 2 if s.volumetric else 1])
        out[rows, :, inside] = block * np.complex64(scale * turn)
    return out


def _add_noise(data: Samples, factor: NDArray[np.complex128], rng: np.random.Generator, fall: float = 0.0) -> None:
    """Add factor·(white noise of variance 1 per part, behind a filter) to samples (line, coil, sample), in blocks."""
    if not factor.any():
        return
    for first in range(0, len(data), 256):
        part = data[first : first + 256]
        white = rng.standard_normal((*part.shape, 2), np.float32).view(np.complex64)[..., 0]
        part += factor.astype(np.complex64) @ filtered(white, fall)


def _noise_scan(
    s: Settings, factor: NDArray[np.complex128], rng: np.random.Generator
) -> tuple[Samples, NDArray[np.void]]:
    """Noise lines: their variance is that of the image's lines times ρ·(dwell of the image)/(dwell of the noise)."""
    coils = s.noise_coils or s.coils
    count = s.noise_lines if s.sigma > 0 else 0
    data = np.zeros((count, coils, s.noise_samples), np.complex64)
    lines = np.zeros(count, LINE)
    dwell = epi_parameters(s)["dwellTime"] if s.ramp_sampled else s.dwell_us
    gain = s.sigma * math.sqrt(dwell / s.noise_dwell_us * s.noise_bandwidth)
    _add_noise(data, gain * factor[:coils, :coils], rng)
    data += offsets(coils, s.receiver, s.sigma)
    lines["flags"] = flag_bits(Flag.NOISE)
    lines["number_of_samples"], lines["active_channels"] = s.noise_samples, coils
    lines["center_sample"] = s.noise_samples // 2
    lines["sample_time_us"] = s.noise_dwell_us
    lines["position"] = s.position
    for name in ("read_dir", "phase_dir", "slice_dir"):
        lines[name] = getattr(s, name)
    return data, lines
