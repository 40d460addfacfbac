"""CT images as NIfTI, in HU."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import CTImages, CTSeries, DataError, counted
from recon.geometry import Geometry, GeometryError, vector

#: Somewhere a CT in HU is below this: air is −1000, fat −100.
_DARK = -50


@dataclass(frozen=True)
class _Array:
    values: NDArray[np.float32]

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """HU of the slices first … last − 1."""
        return self.values[first:last]


def is_nifti(path: Path) -> bool:
    """Whether a file begins like NIfTI, compressed with gzip or not."""
    try:
        with _unpacked(path) as file:
            return bool(_version(file.read(352)))
    except (OSError, EOFError, zlib.error):
        return False


def _unpacked(path: Path) -> Any:
    """The file, open for reading, decompressed if it is gzipped."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _version(start: bytes) -> int:
    """NIfTI version of a file that begins like this, 1 or 2; 0 if it does not hold header and voxels together."""
    return 1 if start[344:347] == b"n+1" else 2 if start[4:7] == b"n+2" else 0


def read(path: Path) -> CTImages:
    """The CT volume of a .nii or .nii.gz file.

    Raises DataError for colour, several volumes, NaN, values that cannot be HU, and a file that is cut short.
    """
    import nibabel
    from nibabel.fileholders import FileHolder

    try:
        # Not nibabel.load, which depends on the file name.
        with _unpacked(path) as file:
            reader: Any = nibabel.Nifti2Image if _version(file.read(352)) == 2 else nibabel.Nifti1Image
            image = reader.from_file_map({"image": FileHolder(fileobj=file)})
            kind = image.get_data_dtype()
            if kind.fields is not None or kind.kind == "c":
                raise DataError(f"{path.name} holds colour or complex voxels; give CT images in HU")
            values = np.asarray(image.dataobj, dtype=np.float32)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # nibabel, gzip and zlib raise many kinds of errors
        raise DataError(
            f"{path.name} is truncated or not a NIfTI file ({type(error).__name__}); copy it again"
        ) from None
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size:
        raise DataError(f"{path.name} holds an array of {values.shape} voxels; give one volume (x, y, z)")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        told = counted(bad, "voxel that is", "voxels that are")
        raise DataError(f"{path.name} holds {told} NaN or infinite; replace them, by -1000 HU for air")
    low, high = float(values.min()), float(values.max())
    if low > _DARK:
        raise DataError(
            f"{path.name} holds values from {low:g} to {high:g}, but CT in HU has air near -1000: if the "
            "values of a CT were shifted, subtract the shift (often 1024); MR images are not accepted"
        )
    volume = np.ascontiguousarray(values.T)
    notes = () if low < -500 else ("no voxel is below −500 HU: there is no air around the body",)
    return CTImages((CTSeries(_Array(volume), _geometry(image, volume.shape, path), notes=notes),), "CT NIfTI")


def _geometry(image: Any, shape: tuple[int, ...], path: Path) -> Geometry:
    """The grid in LPS; only its axes if the file claims no scanner space."""
    known = bool(image.header["qform_code"] or image.header["sform_code"])
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, float)
    if not np.isfinite(lps).all():
        raise DataError(f"{path.name} has an affine that is not finite; correct its sform")
    x, y, z, corner = lps[:3].T
    dx, dy = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if not min(dx, dy) > 0:
        raise DataError(f"{path.name} has a singular affine; correct its sform")
    r, c = x / dx, y / dy
    normal = np.cross(r, c)
    along = float(z @ normal)
    a, b = float(z @ r), float(z @ c)
    if math.hypot(a, b) < 1e-4 * abs(along):
        a = b = 0.0
    try:
        return Geometry(
            vector(corner), vector(r), vector(c), vector(normal * (1 if along > 0 else -1)), (dx, dy, abs(along)),
            (shape[0], shape[1], shape[2]), abs(along), known, (a, b),
        )  # fmt: skip
    except GeometryError as error:
        raise DataError(f"{path.name}: {error}; resample the volume to a regular grid") from None
