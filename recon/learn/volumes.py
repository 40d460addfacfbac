"""Real volumes of a folder as sources of training images: magnitudes of MR and CT, and raw single-channel k-space."""

from __future__ import annotations

from collections.abc import Iterator
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

    Volumes with values below −500 are treated as CT in HU and windowed to −200 … 300, with air as zero. Raises
    DataError for a folder without volumes, and as `each` does.
    """
    magnitudes: list[NDArray[np.float32]] = []
    raw: list[NDArray[np.complex64]] = []
    names: list[str] = []
    for name, found in each(folder):
        names.append(name)
        for array in found:
            if np.iscomplexobj(array):
                raw.append(_centred(array.astype(np.complex64)))
            else:
                magnitudes.append(_scaled(array))
    if not names:
        raise DataError(f"{folder} holds no NIfTI volume and no .npz of images or k-space; give --data another folder")
    return Sources(tuple(magnitudes), tuple(raw), tuple(names))


def each(folder: Path) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """The files of a folder that hold volumes: name, and volumes (slice, y, x) as `arrays` returns them.

    NaN and infinite voxels, which many tools leave around a brain, get the lowest value of their volume. Raises
    DataError for a file that is damaged, that holds no volume with three axes, or k-space that is not finite.
    """
    for path in (p for p in sorted(Path(folder).glob("*")) if not is_litter(p)):
        try:
            found = [_finite(array, path.name) for array in arrays(path)]
        except (DataError, MemoryError):
            raise
        except Exception as error:  # nibabel, gzip, zipfile and numpy raise many kinds of errors
            raise DataError(
                f"{path.name} is truncated or not a volume ({type(error).__name__}); copy it again, or leave it out"
            ) from None
        if found:
            yield path.name, found


def arrays(path: Path) -> list[NDArray[Any]]:
    """Volumes (slice, y, x) of a file, or raw k-space; nearly isotropic volumes give slices in every direction.

    Raises DataError for NIfTI that does not hold numbers along three axes, and the errors of its libraries for a
    damaged file.
    """
    if path.name.endswith((".nii", ".nii.gz")):
        import nibabel

        image: Any = nibabel.load(path)
        shape = tuple(n for i, n in enumerate(image.shape) if i < 3 or n > 1)
        if len(shape) not in (2, 3) or image.get_data_dtype().kind not in "iuf":
            what = f"{'×'.join(map(str, image.shape))} voxels of {image.get_data_dtype()}"
            raise DataError(f"{path.name} has {what} where one real-valued volume is needed; split it, or leave it out")
        volume = np.asarray(image.dataobj).reshape((*shape, 1)[:3])
        planes = np.moveaxis(volume, int(np.argmin(volume.shape)), 0)
        # Nearly isotropic volumes give slices in every direction.
        isotropic = max(volume.shape) < 1.5 * min(volume.shape)
        return [np.moveaxis(volume, a, 0) for a in range(3)] if isotropic else [planes]
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return [a for key in stored.files if (a := stored[key]).ndim == 3]
    return []


def _finite(array: NDArray[Any], name: str) -> NDArray[Any]:
    """A volume with NaN and infinity replaced by its lowest value."""
    good = np.isfinite(array)
    if good.all():
        return array
    if np.iscomplexobj(array) or not good.any():
        raise DataError(f"{name} holds NaN or infinite values; convert it again, or leave it out")
    return np.where(good, array, array[good].min())


def _scaled(volume: NDArray[Any]) -> NDArray[np.float32]:
    v = volume.astype(np.float32)
    v = (np.clip(v, -200, 300) + 200) if v.min() < -500 else np.maximum(v, 0)
    top = float(np.percentile(v[v > 0], 99.5)) if (v > 0).any() else 1.0
    v = np.clip(v / top, 0, 1.5)
    level = v.reshape(len(v), -1).mean(1)
    return np.ascontiguousarray(v[level > 0.25 * np.median(level)], np.float32)


def _centred(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """k-space with its peak moved to index N // 2, so that masks around the centre fit it."""
    power = np.sqrt((np.abs(kspace) ** 2).mean(0))
    at = np.unravel_index(int(power.argmax()), power.shape)
    moved = np.roll(kspace, [n // 2 - int(i) for n, i in zip(power.shape, at)], (1, 2))
    return np.asarray(moved, np.complex64)
