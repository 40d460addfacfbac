"""Real volumes of a folder as sources of training images: magnitudes of MR and CT, and raw single-channel k-space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError
from recon.io.atomic import is_litter


@dataclass(frozen=True, eq=False)
class Sources:
    """Magnitude volumes (slice, y, x), float32 in [0, 1], and raw k-space (slice, ky, kx), complex64 and centred."""

    magnitudes: tuple[NDArray[np.float32], ...] = ()
    raw: tuple[NDArray[np.complex64], ...] = ()
    names: tuple[str, ...] = ()


def read(folder: Path) -> Sources:
    """Every volume in a folder: NIfTI, and .npz with `image` (slice, y, x) or single-channel complex k-space.

    Volumes whose values fall below −500 are taken for CT in HU and windowed to −200 … 300, their air as zero. Raises
    DataError for a folder that holds none, and for a volume that is damaged.
    """
    magnitudes: list[NDArray[np.float32]] = []
    raw: list[NDArray[np.complex64]] = []
    names: list[str] = []
    for path in (p for p in sorted(Path(folder).glob("*")) if not is_litter(p)):
        try:
            found = arrays(path)
        except MemoryError:
            raise
        except Exception as error:  # nibabel, gzip, zipfile and numpy raise of all kinds
            raise DataError(
                f"{path.name} is cut short or no volume ({type(error).__name__}); copy it again, or leave it out"
            ) from None
        for array in found:
            if np.iscomplexobj(array):
                raw.append(_centred(array.astype(np.complex64)))
            else:
                magnitudes.append(_scaled(array))
        if found:
            names.append(path.name)
    if not names:
        raise DataError(f"{folder} holds no NIfTI volume and no .npz of images or k-space; give --data another folder")
    return Sources(tuple(magnitudes), tuple(raw), tuple(names))


def arrays(path: Path) -> list[NDArray[Any]]:
    """Volumes (slice, y, x) of a file, or raw k-space; of nearly isotropic volumes the slices in every direction."""
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel

        volume = np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
        planes = np.moveaxis(volume, int(np.argmin(volume.shape)), 0)
        # Nearly isotropic volumes give slices in every direction.
        isotropic = max(volume.shape) < 1.5 * min(volume.shape)
        return [np.moveaxis(volume, a, 0) for a in range(3)] if isotropic else [planes]
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return [a for key in stored.files if (a := stored[key]).ndim == 3]
    return []


def _scaled(volume: NDArray[Any]) -> NDArray[np.float32]:
    v = volume.astype(np.float32)
    v = (np.clip(v, -200, 300) + 200) if v.min() < -500 else np.maximum(v, 0)
    top = float(np.percentile(v[v > 0], 99.5)) if (v > 0).any() else 1.0
    v = np.clip(v / top, 0, 1.5)
    level = v.reshape(len(v), -1).mean(1)
    return np.ascontiguousarray(v[level > 0.25 * np.median(level)], np.float32)


def _centred(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The k-space peak moved to index N // 2, so that masks built around the centre fit it."""
    power = np.sqrt((np.abs(kspace) ** 2).mean(0))
    at = np.unravel_index(int(power.argmax()), power.shape)
    moved = np.roll(kspace, [n // 2 - int(i) for n, i in zip(power.shape, at)], (1, 2))
    return np.asarray(moved, np.complex64)
