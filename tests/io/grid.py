"""Lines on the encoded grid, placed one after the other as the conventions say; slow and plain, for tests."""

from __future__ import annotations

import numpy as np

from recon.data import Flag, RawScan, flag_bits

NOT_IMAGING = flag_bits(Flag.NOISE, Flag.CALIBRATION, Flag.PHASECORR, Flag.NAVIGATION)


def grid(scan: RawScan) -> tuple[np.ndarray, np.ndarray]:
    """k-space (slice, coil, kz, ky, kx) and its mask (slice, kz, ky, kx) of the imaging lines."""
    nx, ny, nz = scan.encodings[0].encoded_matrix
    rows = np.nonzero((scan.lines["flags"] & np.uint64(NOT_IMAGING)) == 0)[0]
    lines = scan.lines[rows]
    out = np.zeros((int(lines["slice"].max()) + 1, int(lines["active_channels"][0]), nz, ny, nx), np.complex64)
    mask = np.zeros((out.shape[0], nz, ny, nx), bool)
    limits = scan.encodings[0].limits
    for row, line in zip(rows, lines):
        data = scan.samples.read(np.array([row]))[0]
        ns, centre = data.shape[1], int(line["center_sample"])
        first, stop = int(line["discard_pre"]), ns - int(line["discard_post"])
        if int(line["flags"]) & flag_bits(Flag.REVERSE):
            data, centre, first, stop = data[:, ::-1], ns - 1 - centre, ns - stop, ns - first
        y = int(line["kspace_encode_step_1"]) + ny // 2 - limits["kspace_encoding_step_1"].center
        z = int(line["kspace_encode_step_2"]) + nz // 2 - limits["kspace_encoding_step_2"].center
        x = np.arange(first, stop) - centre + nx // 2
        inside = (x >= 0) & (x < nx)
        out[line["slice"], :, z, y, x[inside]] = data[:, first:stop][:, inside].T
        mask[line["slice"], z, y, x[inside]] = True
    return out, mask


def picture(kspace: np.ndarray, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Root sum of squares over coils (slice, z, y, x) of the centred inverse FFT along `axes`."""
    x = np.fft.ifftshift(kspace, axes=axes)
    x = np.fft.fftshift(np.fft.ifftn(x, axes=axes, norm="ortho"), axes=axes)
    return np.sqrt((np.abs(x) ** 2).sum(axis=1))
