"""Tables of lines and samples of small Cartesian scans, as tests of recon.prepare make them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recon.data import Encoding, Flag, Limit, RawScan, Samples, flag_bits

NOISE, CALIBRATION, BOTH, REVERSE = (
    flag_bits(f) for f in (Flag.NOISE, Flag.CALIBRATION, Flag.CALIBRATION_AND_IMAGING, Flag.REVERSE)
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def encoding(nx: int, ny: int, nz: int = 1, **more: object) -> Encoding:
    limits = {
        "kspace_encoding_step_1": Limit(0, ny - 1, ny // 2),
        "kspace_encoding_step_2": Limit(0, nz - 1, nz // 2),
    }
    fov = (float(nx), float(ny), float(nz))
    return replace(Encoding((nx, ny, nz), fov, (nx, ny, nz), fov, limits=limits), **more)


def scan_of(lines: np.ndarray, samples: Samples, *encodings: Encoding) -> RawScan:
    return RawScan(lines, samples, encodings or (encoding(16, 12),))
