"""Radial and spiral scans as BART sees them: the same samples on the same trajectory give one picture in one place."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recon import pipeline, recipe
from recon.data import imaging
from recon.simulation import Settings, noise_factor, simulate
from tests.bart import bart


def of_bart(t: NDArray[np.complex64], k: NDArray[np.complex64], ny: int, nx: int) -> NDArray[np.float32]:
    """CG-SENSE of samples k (coil, line, sample) at t (line, sample, 3), with maps by BART of images by BART."""
    low = np.asarray(bart(f"nufft -i -m 15 -d {nx}:{ny}:1", t, k[..., None])).reshape(-1, 1, ny, nx)
    maps = np.asarray(bart("ecalib -m 1 -r 24 -c 0", bart("fft -u 7", low))).reshape(-1, 1, ny, nx)
    return np.abs(bart("pics -S -l2 -r 0.002 -i 40 -t", t, k[..., None], maps)).reshape(ny, nx)


def apart(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """How many voxels (y, x) b lies from a, by the slope of the phase between their low frequencies."""
    cross = np.fft.fft2(a) * np.fft.fft2(b).conj()
    k = np.stack(np.meshgrid(*map(np.fft.fftfreq, a.shape), indexing="ij"), axis=-1)
    low = (np.abs(k) < 0.1).all(-1)
    weight = np.sqrt(np.abs(cross[low]))
    slope = np.linalg.lstsq(2 * np.pi * k[low] * weight[:, None], np.angle(cross[low]) * weight, rcond=None)[0]
    return np.asarray(slope)


@pytest.mark.parametrize("matrix", [(64, 64, 1), (72, 60, 1)])
@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_bart_sees_the_same_picture_in_the_same_place(kind: str, matrix: tuple[int, int, int]) -> None:
    fov = (3.75 * matrix[0], 3.75 * matrix[1], 5.0)
    settings = Settings(matrix=matrix, fov=fov, coils=6, trajectory=kind, trajectory_unit="fov", sigma=0.002)
    scan = simulate(settings)
    ours = np.abs(pipeline.reconstruct(scan, recipe.parse({"solve": {"method": "sense"}}), device="cpu").data[0])
    rows = np.nonzero(imaging(scan.lines))[0]
    stored = scan.samples.trajectory(rows)
    t = np.zeros((*stored.shape[:2], 3), np.complex64)
    t[..., :2] = stored
    white = np.linalg.inv(noise_factor(settings)).astype(np.complex64)
    theirs = of_bart(t, np.einsum("dc,lcs->dls", white, scan.samples.read(rows)), *ours.shape)

    def error(image: NDArray[np.float32]) -> float:
        image = image * (image * ours).sum() / (image**2).sum()
        return float(np.linalg.norm(image - ours) / np.linalg.norm(ours))

    assert error(theirs) < 0.05
    assert min(error(theirs[::-1]), error(theirs[:, ::-1])) > 0.2
    assert np.abs(apart(ours, theirs)).max() < 0.05
