"""Settings of a simulated scan, and the encoding and header that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recon import masks
from recon.data import DataError, Encoding, Header, Limit, Patient, Sequence, Study, System
from recon.geometry import GeometryError, Vector, check_directions
from recon.simulation.receiver import Receiver

Side = Literal["start", "end"]


@dataclass(frozen=True)
class Epi:
    """Echo-planar readout: trapezoid with ramps of `ramp_us` and a flat top, times in µs.

    `samples` (0: twice the encoded columns) are taken over 85 % of the trapezoid, or, without `ramp_sampling`, one per
    encoded column. `delay` shifts the samples of forward lines by +delay and of reversed ones by −delay columns, and
    `phase_rad` changes their phase by ±phase/2: together they cause the N/2 ghost that the `navigators` measure.
    """

    ramp_us: int = 150
    flat_us: int = 300
    samples: int = 0
    ramp_sampling: bool = True
    delay: float = 0.3
    phase_rad: float = 0.4
    navigators: int = 3


@dataclass(frozen=True)
class Settings:
    """A scan to simulate. Sizes are in the order x, y, z; lengths in mm, times in the unit of their name.

    Grid. `matrix` and `fov` are those of the image; matrix[2] > 1 makes a 3D scan, otherwise `slices` 2D slices of
    thickness fov[2] are `gap` apart, counted along slice_dir and acquired odd ones first if `interleaved`. `position`
    is the centre of the volume or stack. `oversampling` enlarges the encoded matrix and field of view; `recon_matrix`
    larger than `matrix` asks for zero-fill interpolation.

    Lines. `mask` with `acceleration` (along ky, kz) and `acs` lines; for the masks that have one factor it is the
    product. `calibration` says how the ACS lines are stored: "embedded" (flag 21), "reference" (flag 20 where they are
    off the regular pattern, 21 on it), "separate" (flag 20, measured before the image) or "none". `partial_fourier` is
    the acquired fraction along ky and kz, `echo_fraction` along the readout, each `missing` at the start or the end.
    `discard` samples around each readout hold meaningless values. `reversed_lines` reverses every second line.

    Counters. One image for each of `te_ms`, `phases` (of a heartbeat: vessels pulsate), `sets` (velocity encoding) and
    `repetitions`; `averages` differ only in noise; `segments` interleave the lines.

    Trajectories other than "cartesian" and "epi" take `readouts` spokes or arms (0: full sampling over the
    acceleration) of `readout_samples` samples (0: enough), stored in the file in `trajectory_unit`: "grid" is −0.5 …
    0.5 cycles per voxel of `matrix`, "fov" −N/2 … N/2 cycles per field of view, "1/m" cycles per metre.

    Receiver. `sigma` is the standard deviation of the noise per real and imaginary part, relative to signal and coil
    maps of size 1 under a unitary FFT: an ideal combination of a full scan has the signal-to-noise ratio
    signal/(sigma/√averages). `correlation` is that of the noise of neighbouring coils. `noise_lines` are measured
    first, with the dwell time `noise_dwell_us` and with `noise_coils` channels (0: as many). `receiver` holds faults.

    Object. `phase_rad` is the size of a smooth object phase, `head_scale` that of the head. `coil_order` is the number
    of Fourier orders in the sensitivity maps; a single coil is a volume coil of sensitivity 1.
    """

    matrix: tuple[int, int, int] = (128, 128, 1)
    fov: tuple[float, float, float] = (240.0, 240.0, 5.0)
    slices: int = 1
    gap: float = 0.0
    interleaved: bool = True
    position: Vector = (0.0, 0.0, 0.0)
    read_dir: Vector = (1.0, 0.0, 0.0)
    phase_dir: Vector = (0.0, 1.0, 0.0)
    slice_dir: Vector = (0.0, 0.0, 1.0)
    oversampling: tuple[float, float, float] = (2.0, 1.0, 1.0)
    recon_matrix: tuple[int, int, int] | None = None
    mask: Literal["equispaced", "equispaced_fraction", "random", "variable_density", "poisson_disc", "caipi"] = (
        "equispaced"
    )
    acceleration: tuple[int, int] = (1, 1)
    acs: int = 24
    calibration: Literal["embedded", "reference", "separate", "none"] = "embedded"
    partial_fourier: tuple[float, float] = (1.0, 1.0)
    missing: tuple[Side, Side] = ("start", "start")
    echo_fraction: float = 1.0
    echo_missing: Side = "start"
    discard: tuple[int, int] = (0, 0)
    reversed_lines: bool = False
    te_ms: tuple[float, ...] = (4.0,)
    phases: int = 1
    sets: int = 1
    repetitions: int = 1
    averages: int = 1
    segments: int = 1
    trajectory: Literal["cartesian", "epi", "radial", "goldenangle", "spiral", "kooshball"] = "cartesian"
    epi: Epi = Epi()
    readouts: int = 0
    readout_samples: int = 0
    trajectory_unit: Literal["grid", "fov", "1/m"] = "grid"
    coils: int = 8
    coil_order: int = 3
    sigma: float = 0.0
    correlation: float = 0.3
    dwell_us: float = 5.0
    noise_lines: int = 16
    noise_samples: int = 512
    noise_dwell_us: float = 12.0
    noise_coils: int = 0
    noise_bandwidth: float = 0.793
    receiver: Receiver = Receiver()
    phase_rad: float = 0.6
    head_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            check_directions(self.read_dir, self.phase_dir, self.slice_dir)
        except GeometryError as error:
            raise DataError(f"{error}; give orthogonal unit vectors") from None
        counts = (
            *self.matrix,
            self.slices,
            self.coils,
            self.averages,
            self.segments,
            self.repetitions,
            self.phases,
            self.sets,
        )
        if min(counts) < 1 or not self.te_ms:
            raise DataError(
                "a simulated scan needs at least one of everything: voxels, slices, coils, echoes, averages"
            )
        if not 0 <= self.sigma < math.inf or self.seed < 0:
            raise DataError(
                f"a simulated scan has noise of {self.sigma} and seed {self.seed}; give a finite noise and a "
                "seed, both from 0 on"
            )
        if self.volumetric and self.slices > 1:
            raise DataError(
                f"matrix[2] = {self.matrix[2]} asks for a 3D scan and slices = {self.slices} for 2D; set one to 1"
            )
        if self.trajectory == "kooshball" and not self.volumetric:
            raise DataError("a kooshball trajectory is three-dimensional; give matrix[2] > 1")
        if self.volumetric and self.trajectory in ("epi", "radial", "goldenangle", "spiral"):
            raise DataError(f"a {self.trajectory} scan is simulated slice by slice; give slices and matrix[2] = 1")
        if not self.gridded and (
            self.discard != (0, 0) or self.echo_fraction < 1 or self.partial_fourier != (1.0, 1.0)
        ):
            raise DataError(
                "partial Fourier, asymmetric echo and discarded samples work with Cartesian scans only; leave them out"
            )

    @property
    def volumetric(self) -> bool:
        """Whether this is a 3D scan."""
        return self.matrix[2] > 1

    @property
    def gridded(self) -> bool:
        """Whether the lines lie on rows of a grid: Cartesian and EPI."""
        return self.trajectory in ("cartesian", "epi")

    @property
    def encoded_matrix(self) -> tuple[int, int, int]:
        """Matrix times oversampling, rounded; a 2D scan has one partition."""
        x, y, z = (round(n * o) for n, o in zip(self.matrix, self.oversampling))
        return (x, y, z if self.volumetric else 1)

    @property
    def encoded_fov(self) -> tuple[float, float, float]:
        """Field of view of the encoded matrix: the voxel is that of the image."""
        x, y, z = (f * e / n for f, e, n in zip(self.fov, self.encoded_matrix, self.matrix))
        return (x, y, z)

    @property
    def ramp_sampled(self) -> bool:
        """Whether this is an EPI scan with samples on its ramps."""
        return self.trajectory == "epi" and self.epi.ramp_sampling

    def slice_position(self, index: int) -> Vector:
        """Centre of slice `index`, or of the volume, LPS mm."""
        along = (index - (self.slices - 1) / 2) * (self.fov[2] + self.gap)
        x, y, z = (p + along * d for p, d in zip(self.position, self.slice_dir))
        return (x, y, z)


def acquired_rows(s: Settings) -> tuple[masks.Mask, masks.Mask]:
    """Rows of the encoded grid that partial Fourier keeps, along ky and along kz."""
    _, ny, nz = s.encoded_matrix
    y = masks.partial_fourier(ny, s.partial_fourier[0], s.missing[0])
    return y, masks.partial_fourier(nz, s.partial_fourier[1], s.missing[1]) if s.volumetric else np.ones(1, bool)


def readout_count(s: Settings) -> int:
    """Number of spokes or arms: as set, or full sampling (π/2·N spokes, N/16 arms) divided by the acceleration."""
    n = max(s.matrix[:2])
    full = {"spiral": n / 16, "kooshball": n * n / 2}.get(s.trajectory, math.pi / 2 * n)
    return s.readouts or max(1, math.ceil(full / math.prod(s.acceleration)))


def epi_parameters(s: Settings) -> dict[str, float]:
    """The parameters of trajectoryDescription "ConventionalEPI": whole numbers of µs, dwellTime with a tenth."""
    total = 2 * s.epi.ramp_us + s.epi.flat_us
    samples = s.epi.samples or 2 * s.encoded_matrix[0]
    dwell = math.floor(0.85 * total / samples * 10) / 10 or 0.1
    return {
        "etl": int(np.count_nonzero(acquired_rows(s)[0])) // (s.acceleration[0] * s.segments),
        "numberOfNavigators": s.epi.navigators,
        "rampUpTime": s.epi.ramp_us,
        "rampDownTime": s.epi.ramp_us,
        "flatTopTime": s.epi.flat_us,
        "acqDelayTime": max(0, round(total / 2 - (samples + 1) / 2 * dwell)),
        "numSamples": samples,
        "dwellTime": dwell,
    }


def encoding_of(s: Settings) -> Encoding:
    """Encoded and reconstructed space, limits and trajectory of the scan."""
    _, ny, nz = s.encoded_matrix
    recon = s.recon_matrix or s.matrix
    limits = {}
    if s.gridded:
        for step, n, rows in zip((1, 2), (ny, nz), acquired_rows(s)):
            first, count = int(np.argmax(rows)), int(np.count_nonzero(rows))
            limits[f"kspace_encoding_step_{step}"] = Limit(0, count - 1, n // 2 - first)
    else:
        spokes = readout_count(s)
        limits["kspace_encoding_step_1"] = Limit(0, spokes - 1, spokes // 2)
        limits["kspace_encoding_step_2"] = Limit(0, 0, 0)
    for name, size in (
        ("average", s.averages), ("slice", s.slices), ("contrast", len(s.te_ms)), ("phase", s.phases),
        ("repetition", s.repetitions), ("set", s.sets), ("segment", s.segments),
    ):  # fmt: skip
        limits[name] = Limit(0, size - 1, 0)
    undersampled = s.gridded and s.acceleration != (1, 1)
    mode = {"embedded": "embedded", "reference": "embedded", "separate": "separate", "none": ""}[s.calibration]
    return Encoding(
        s.encoded_matrix,
        s.encoded_fov,
        (recon[0], recon[1], recon[2] if s.volumetric else 1),
        s.fov,
        "radial" if s.trajectory == "kooshball" else s.trajectory,
        limits,
        s.acceleration,
        mode if undersampled and s.acs else "",
        int(epi_parameters(s)["etl"]) if s.trajectory == "epi" else len(s.te_ms),
        "ConventionalEPI" if s.ramp_sampled else "",
        epi_parameters(s) if s.ramp_sampled else {},
    )


def header_of(s: Settings) -> Header:
    """A header whose patient cannot be mistaken for a real one."""
    root = f"2.25.{31415926535897932384626433 + s.seed}"
    return Header(
        Patient("Phantom^Simulated", "SIMULATED-0001", "19000101", "O", 75.0),
        Study(
            uid=f"{root}1",
            id="1",
            date="20000101",
            time="120000",
            description="Simulated head",
            series_description=f"simulated {s.trajectory}",
            series_date="20000101",
            series_time="120000",
            protocol=f"simulated {s.trajectory}",
            measurement_id=f"simulated_{s.seed}",
            patient_position="HFS",
            frame_of_reference_uid=f"{root}2",
            body_part="HEAD",
        ),
        System(
            vendor="Simulated",
            model="Analytic head",
            field_T=3.0,
            frequency_Hz=127_732_436.0,
            institution="Nowhere",
            station="SIM",
            device_id="0",
            noise_bandwidth=s.noise_bandwidth,
            coil_labels=tuple(f"Head:1:C{c + 1}" for c in range(s.coils)),
        ),
        Sequence("simulated", s.trajectory.capitalize(), (500.0,), s.te_ms, (), (30.0,), ()),
    )
