"""A point source with hand-written k-space is reconstructed at its position, by every method and on many grids.

Methods with maps of ESPIRiT see it in a body, which gives the maps their support: of a lone point they cover a few
voxels alone, whose edge moves its peak by up to 0.22 voxels. What they make of the body alone is taken away before the
point is looked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import j1

from recon import pipeline, recipe
from recon.data import LINE, Encoding, Limit, RawScan, ReconError
from recon.geometry import affine_lps
from recon.io.samples import in_memory

VOXEL = np.array((3.0, 3.2, 5.0))
CENTRE = np.array((5.0, -7.0, 11.0))
TURNED = Rotation.from_euler("xyz", (0.3, -0.2, 0.5)).as_matrix()  # rows: directions of readout, phase and slice

Rows = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Grid:
    matrix: tuple[int, int, int]
    oversampling: tuple[float, float, float] = (1.0, 1.0, 1.0)
    recon: tuple[int, int, int] | None = None
    rows: Rows = lambda y, z: y == y  # offsets from the centre of k-space


def half(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (y % 2 == 0) | (abs(y) < 12)


def caipi(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return ((y % 2 == 0) & ((z + y // 2) % 2 == 0)) | ((abs(y) < 8) & (abs(z) < 6))


def late(y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return y >= -8


def spectrum(k: np.ndarray, mm: np.ndarray | None, wide: np.ndarray, flat: bool) -> np.ndarray:
    """∫ f exp(−2πi k·r) dr of a point at `mm`, or of an ellipsoid (`flat`: ellipse), at k (..., 3) in cycles/mm."""
    if mm is not None:
        return np.exp(-2j * np.pi * (k @ mm))
    half = 0.43 * wide[:2] if flat else 0.43 * wide
    q = 2 * np.pi * np.linalg.norm(k[..., : len(half)] * half, axis=-1).clip(1e-6)
    # As much as the point in each voxel.
    size = np.prod(half) / np.prod(VOXEL[: len(half)])
    if flat:
        return size * 2 * np.pi * j1(q) / q
    return size * 4 * np.pi * (np.sin(q) - q * np.cos(q)) / q**3


def scan(grid: Grid, mm: np.ndarray, *, body: bool = False, point: bool = True) -> RawScan:
    """A point at `mm` along readout, phase and slice from the centre, on an ellipsoid where `body`, in four coils.

    Their sensitivities are cos and sin of half a turn over the field of view along two axes, whose squares add up to 1:
    each is a sum of two waves, so that k-space is that of the object at two places.
    """
    n = np.array(grid.matrix)
    size = np.round(n * grid.oversampling).astype(int)
    flat = bool(n[2] == 1)
    size[2] = 1 if flat else size[2]
    wide, fov = VOXEL * size, VOXEL * n
    index = np.stack(np.meshgrid(*(np.arange(s) - s // 2 for s in size[::-1]), indexing="ij")[::-1], axis=-1)
    across = np.eye(3)[[1, 0 if flat else 2]] / (2 * fov)
    parts = [*([None] if body else []), *([mm] if point else [])]
    coils = []
    for a, b in np.ndindex(2, 2):  # cosine or sine along either axis
        sum_ = np.zeros(index.shape[:3], complex)
        for i, j in itertools.product((1, -1), repeat=2):
            weight = (-1j * i) ** a * (-1j * j) ** b / 4
            sum_ += weight * sum(
                spectrum(index / wide - i * across[0] - j * across[1], part, fov, flat) for part in parts
            )
        coils.append(sum_)
    k = 1000 * np.stack(coils, axis=2)
    lines = np.zeros(size[2] * size[1], LINE)
    kz, ky = (v.ravel() for v in np.meshgrid(np.arange(size[2]), np.arange(size[1]), indexing="ij"))
    lines["kspace_encode_step_1"], lines["kspace_encode_step_2"] = ky, kz
    lines["number_of_samples"], lines["center_sample"], lines["active_channels"] = size[0], size[0] // 2, 4
    lines["position"] = CENTRE
    lines["read_dir"], lines["phase_dir"], lines["slice_dir"] = TURNED
    encoding = Encoding(
        tuple(int(s) for s in size),
        tuple(float(w) for w in wide),
        grid.recon or grid.matrix,
        tuple(float(f) for f in fov),
        limits={f"kspace_encoding_step_{i}": Limit(0, int(size[i]) - 1, int(size[i] // 2)) for i in (1, 2)},
    )
    keep = grid.rows(ky - size[1] // 2, kz - size[2] // 2)
    samples = k.reshape(len(lines), 4, size[0])[keep].astype(np.complex64)
    return RawScan(lines[keep].copy(), in_memory(samples), (encoding,), source="test")


def peak(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Where the band-limited image (z, y, x) is brightest, in voxels from N // 2, by ever finer steps from `near`."""
    spectrum = np.fft.fftn(np.fft.ifftshift(image))
    k = [np.fft.fftfreq(n) for n in image.shape]

    def bright(at: np.ndarray) -> float:
        y = spectrum
        for axis in (2, 1, 0):
            y = y @ np.exp(2j * np.pi * k[axis] * at[axis])
        return float(abs(y))

    found = near.copy()
    for step in (0.5, 0.1, 0.02, 0.004):
        for axis in [a for a in (0, 1, 2) * 2 if image.shape[a] > 1]:
            moves = found + np.arange(-6, 7)[:, None] * step * np.eye(3)[axis]
            found = max(moves, key=bright)
    return found


CASES = {
    "even": (Grid((64, 64, 1)), "sense"),
    "odd": (Grid((63, 65, 1)), "sense"),
    "oversampled": (Grid((64, 60, 1), (2.0, 1.5, 1.0)), "combine"),
    "odd and oversampled": (Grid((63, 61, 1), (2.0, 1.3, 1.0)), "sense"),
    "finer": (Grid((64, 64, 1), (2.0, 1.0, 1.0), (128, 96, 1)), "sense"),
    "finer and odd": (Grid((64, 64, 1), (2.0, 1.0, 1.0), (127, 95, 1)), "combine"),
    "coarser": (Grid((64, 64, 1), (2.0, 1.0, 1.0), (48, 51, 1)), "combine"),
    "a slab": (Grid((32, 32, 16), (2.0, 1.0, 1.5)), "sense"),
    "an odd slab": (Grid((31, 33, 15), (1.0, 1.0, 1.2)), "sense"),
    "a finer slab": (Grid((32, 32, 16), recon=(32, 48, 24)), "combine"),
    "grappa": (Grid((64, 64, 1), rows=half), "grappa"),
    "sense": (Grid((64, 64, 1), rows=half), "sense"),
    "cs": (Grid((64, 64, 1), rows=half), "cs"),
    "tv": (Grid((64, 64, 1), rows=half), "tv"),
    "caipirinha": (Grid((32, 32, 24), rows=caipi), "sense"),
    "homodyne": (Grid((64, 64, 1), rows=late), "homodyne"),
    "pocs": (Grid((64, 64, 1), rows=late), "pocs"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_point_is_reconstructed_at_its_position(name: str) -> None:
    """Within 0.01 voxel; in a body, whose maps the point changes, 0.02, and 0.04 in slabs that are cropped along z."""
    grid, method = CASES[name]
    edges = method in ("homodyne", "pocs")
    plan = recipe.parse(
        {
            "solve": {"method": "combine" if edges else method},
            "prepare": {"noise": "none", "partial_fourier": method if edges else "zero-fill"},
        }
    )
    for mm in ((17.3, -22.9, 11.1), (-30.7, 8.45, -13.3)):
        place = np.array(mm) * (1, 1, grid.matrix[2] > 1)
        body = method in ("sense", "cs", "tv")
        image = pipeline.reconstruct(scan(grid, place, body=body), plan, device="cpu")
        data = image.data
        if body:
            data = data - pipeline.reconstruct(scan(grid, place, body=True, point=False), plan, device="cpu").data
        affine, centre = affine_lps(image.geometry), np.array(data.shape) // 2
        lies = np.linalg.solve(affine[:3, :3], CENTRE + TURNED.T @ place - affine[:3, 3])[::-1] - centre
        found = peak(data, np.round(lies))
        apart = np.abs(found - lies)[np.array(data.shape) > 1]
        cropped = grid.matrix[2] > 1 and grid.oversampling[2] > 1
        assert apart.max() < (0.04 if cropped else 0.02 if body else 0.01)


def test_an_image_that_holds_no_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.mri.encoded.combine", lambda images, maps: images[:, 0] * float("nan"))
    plan = recipe.parse({"solve": {"method": "combine"}, "prepare": {"noise": "none"}})
    with pytest.raises(ReconError, match="1024 of 1024 voxels came out as NaN or infinite"):
        pipeline.reconstruct(scan(Grid((32, 32, 1)), np.array((6.0, 6.4, 0.0))), plan, device="cpu")
