"""Settings of small scans, and how the tests look into a simulated one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recon.data import Flag, RawScan
from recon.simulation import Settings, simulate

SMALL = Settings(matrix=(48, 40, 1), fov=(240, 250, 5), coils=4)
TURNED = np.linalg.qr(np.array([[1.0, 0.25, -0.15], [-0.1, 1.0, 0.3], [0.2, -0.2, 1.0]]))[0].T * [[-1], [-1], [1]]


def is_set(lines, flag) -> np.ndarray:
    return (lines["flags"] & np.uint64(1 << (int(flag) - 1))) != 0


def imaging(scan: RawScan) -> np.ndarray:
    none = (Flag.NOISE, Flag.CALIBRATION, Flag.PHASECORR)
    return ~np.any([is_set(scan.lines, f) for f in none], axis=0)


def k_space(scan: RawScan, rows: np.ndarray) -> np.ndarray:
    """The given lines on the encoded grid, (coil, kz, ky, kx); equal lines are averaged, empty ones are zero."""
    e = scan.encodings[0]
    nx, ny, nz = e.encoded_matrix
    grid = np.zeros((int(scan.lines["active_channels"][rows[0]]), nz, ny, nx), np.complex128)
    count = np.zeros((nz, ny, 1))
    for row in rows:
        line, data = scan.lines[row], scan.samples.read(np.array([row]))[0]
        centre = int(line["center_sample"])
        data = data[:, line["discard_pre"] : data.shape[1] - int(line["discard_post"])]
        columns = np.arange(data.shape[1]) + int(line["discard_pre"]) - centre
        columns = (-columns if line["flags"] & np.uint64(1 << 21) else columns) + nx // 2
        y = int(line["kspace_encode_step_1"]) + ny // 2 - e.limits["kspace_encoding_step_1"].center
        z = int(line["kspace_encode_step_2"]) + nz // 2 - e.limits["kspace_encoding_step_2"].center
        grid[:, z, y, columns] += data
        count[z, y] += 1
    return grid / np.maximum(count, 1)


def picture(scan: RawScan, **counters: int) -> np.ndarray:
    """Coil images (coil, z, y, x) of the lines with the given counters by a plain FFT, oversampling cut off."""
    chosen = imaging(scan)
    for name, value in counters.items():
        chosen &= scan.lines[name] == value
    k, axes, e = k_space(scan, np.nonzero(chosen)[0]), (1, 2, 3), scan.encodings[0]
    x = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k, axes), axes=axes, norm="ortho"), axes)
    for axis, (n, inner, outer) in enumerate(zip(e.encoded_matrix, e.recon_fov, e.encoded_fov)):
        m = round(n * inner / outer)
        x = np.take(x, np.arange(n // 2 - m // 2, n // 2 - m // 2 + m), 3 - axis)
    return x


def combined(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    return (maps.conj() * images).sum(0) / (np.abs(maps) ** 2).sum(0)


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def full_k_space(s: Settings, **counters: int) -> np.ndarray:
    plain = replace(
        s, acceleration=(1, 1), partial_fourier=(1, 1), echo_fraction=1, discard=(0, 0), reversed_lines=False
    )
    scan = simulate(replace(plain, segments=1, averages=1, trajectory="cartesian", sigma=0))
    chosen = imaging(scan)
    for name, value in counters.items():
        chosen &= scan.lines[name] == value
    return k_space(scan, np.nonzero(chosen)[0])


GRIDS = {
    "2d": SMALL,
    "odd": Settings(matrix=(45, 41, 1), fov=(240, 250, 5), coils=4),
    "no readout oversampling": replace(SMALL, oversampling=(1, 1, 1)),
    "phase oversampling": replace(SMALL, oversampling=(2, 1.4, 1)),
    "oblique": replace(
        SMALL, read_dir=tuple(TURNED[0]), phase_dir=tuple(TURNED[1]), slice_dir=tuple(TURNED[2]), position=(9, -6, 8)
    ),
    "3d": Settings(matrix=(32, 28, 24), fov=(240, 250, 260), coils=4, coil_order=2),
    "3d slice oversampling": Settings(
        matrix=(24, 22, 18), fov=(240, 250, 230), coils=2, coil_order=2, oversampling=(2, 1, 4 / 3)
    ),
    "one coil": replace(SMALL, coils=1),
    "32 coils": replace(SMALL, coils=32, matrix=(24, 20, 1)),
}
