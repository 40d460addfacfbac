"""fastMRI's HDF5 files: k-space of 2D slices with an ISMRMRD header and, in the test sets, a mask of columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data import LINE, DataError, Encoding, Header, Limit, RawScan
from recon.io import hdf5, mrd_header
from recon.io.arrays import array_encoding

#: Readout rows that are examined to see whether a column was measured; a measured readout has noise in every row.
_PROBE = 4

#: Attributes of the file that are kept in Header.user; patient_id goes into Header.patient.
_KEPT = ("acquisition", "max", "norm", "acceleration", "num_low_frequency")


@dataclass(frozen=True)
class Slices:
    """Samples behind the lines of a fastMRI file: row i is kspace[slice[i], :, :, column[i]].

    The file is opened for each read, and only the requested slices are read, one at a time.
    """

    path: Path
    slice: NDArray[np.intp]
    column: NDArray[np.intp]
    channels: int
    samples: int

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        rows = np.asarray(rows, dtype=np.intp)
        out = np.empty((len(rows), self.channels, self.samples), np.complex64)
        with hdf5.opened(self.path) as file:
            data = hdf5.array(file, "kspace")
            for s in np.unique(self.slice[rows]):
                here = np.nonzero(self.slice[rows] == s)[0]
                part = _slice(data, int(s))
                out[here] = part[:, :, self.column[rows[here]]].transpose(2, 0, 1)
        if not np.isfinite(out).all():
            raise DataError(f"{self.path.name} holds NaN or infinite samples in its kspace; copy the file again")
        return out

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.zeros((len(rows), self.samples, 0), np.float32)


def read(path: str | Path, *, voxel: tuple[float, float, float] | None = None) -> RawScan:
    """Scan in a fastMRI file: kspace (slice, coil, row, column), or (slice, row, column) of one emulated coil.

    Rows are the oversampled readout and columns the phase encoding, so the image is the transpose of the file's
    reconstruction_*. A column counts as measured if the mask, if there is one, and the data both say so. Field of view
    and image size are those of ismrmrd_header; without it, of `voxel` (mm along readout, phase, slice) and of the
    reconstruction. Only a few rows are read until samples are requested. Raises DataError for files that are not HDF5,
    have no complex kspace of that shape, or whose mask does not fit. Source: Zbontar et al., arXiv:1811.08839.
    """
    path = Path(path)
    with hdf5.opened(path) as file:
        kspace = _kspace(file, path.name)
        rows, columns = kspace.shape[-2:]
        channels = 1 if kspace.ndim == 3 else kspace.shape[1]
        measured = _measured(kspace)
        measured &= _mask(file, columns, path.name)
        header, encoding, first, notes = _header(file, rows, columns, voxel)
    if not measured.any():
        raise DataError(
            f"{path.name} has no measured column: kspace is zero wherever the mask is set, or the mask is "
            "empty; copy it again"
        )
    s, column = np.nonzero(measured)
    ny = encoding.encoded_matrix[1]
    step = column + first
    limits = {
        "kspace_encoding_step_1": Limit(int(step.min()), int(step.max()), ny // 2),
        "kspace_encoding_step_2": Limit(0, 0, 0),
        "slice": Limit(0, int(s.max()), 0),
    }
    encoding = replace(encoding, limits=limits)
    lines = np.zeros(len(s), LINE)
    lines["number_of_samples"], lines["center_sample"], lines["active_channels"] = rows, rows // 2, channels
    lines["slice"], lines["kspace_encode_step_1"] = s, step
    notes += ("the image has the readout along x: it is the transpose of the file's own reconstruction",)
    return RawScan(lines, Slices(path, s, column, channels, rows), (encoding,), header, "fastmri", notes)


def _kspace(file: h5py.File, name: str) -> h5py.Dataset:
    data = file.get("kspace")
    if isinstance(data, h5py.Dataset):
        data = hdf5.array(file, "kspace")
    else:
        found = ", ".join(sorted(file)) or "nothing"
        raise DataError(
            f"{name} has no dataset 'kspace' (it holds {found}), so it is not a fastMRI file; give the one with k-space"
        )
    if data.dtype.kind != "c" or data.ndim not in (3, 4) or 0 in data.shape:
        raise DataError(
            f"kspace in {name} is {data.dtype} of shape {data.shape}; expected complex numbers (slice, coil, row, "
            "column) or (slice, row, column)"
        )
    if max(data.shape) > 65535:
        raise DataError(f"kspace in {name} has shape {data.shape}; no axis may be longer than 65535")
    return data


def _slice(data: h5py.Dataset, s: int, rows: slice = slice(None)) -> NDArray[np.complex64]:
    """Rows of one slice as (coil, row, column)."""
    part = np.asarray(data[s, ..., rows, :], dtype=np.complex64)
    return part if part.ndim == 3 else part[None]


def _measured(kspace: h5py.Dataset) -> NDArray[np.bool_]:
    """(slice, column): whether any coil has a signal in the readout's middle rows."""
    middle = kspace.shape[-2] // 2
    rows = slice(max(0, middle - _PROBE // 2), middle + _PROBE // 2)
    return np.array([(_slice(kspace, s, rows) != 0).any(axis=(0, 1)) for s in range(kspace.shape[0])])


def _mask(file: h5py.File, columns: int, name: str) -> NDArray[np.bool_]:
    if "mask" not in file:
        return np.ones(columns, bool)
    mask = np.squeeze(np.asarray(hdf5.array(file, "mask")[()]))
    if mask.shape != (columns,) or mask.dtype.kind not in "biuf":
        raise DataError(
            f"the mask in {name} is {mask.dtype} of shape {mask.shape}; expected one number for each of the {columns} "
            "columns of kspace"
        )
    return np.asarray(mask != 0)


def _header(
    file: h5py.File, rows: int, columns: int, voxel: tuple[float, float, float] | None
) -> tuple[Header, Encoding, int, tuple[str, ...]]:
    """Header, encoding, the row of the encoded grid of column 0, and notes."""
    header, stated = Header(), None
    notes: tuple[str, ...] = ()
    if "ismrmrd_header" in file:
        header, encodings, notes = mrd_header.parse(hdf5.text(file, "ismrmrd_header"))
        stated = encodings[0]
    user = {k: _plain(hdf5.attribute(file, k)) for k in _KEPT if k in file.attrs}
    patient = header.patient
    if "patient_id" in file.attrs:
        patient = replace(patient, id=str(_plain(hdf5.attribute(file, "patient_id"))))
    header = replace(header, patient=patient, user={**header.user, **user})
    if stated is None or voxel is not None:
        if voxel is None:
            notes += ("there is no ismrmrd_header; a voxel of 1 mm is assumed, use --voxel x,y,z to set it",)
        encoding = array_encoding((rows, columns, 1), voxel or (1.0, 1.0, 1.0))
        if shape := _target(file):
            x, y, z = encoding.encoded_fov
            fov = (x * shape[0] / rows, y * shape[1] / columns, z)
            encoding = replace(encoding, recon_matrix=(*shape, 1), recon_fov=fov)
        return header, encoding, 0, notes
    x, y, z = stated.encoded_fov
    nx, ny, _ = stated.encoded_matrix
    limit = stated.limits.get("kspace_encoding_step_1")
    first = 0
    if limit is not None and columns == limit.maximum + 1 < ny and ny // 2 - limit.center + columns <= ny:
        # Only the acquired columns are stored: the header says where in the encoded grid they lie.
        first, columns = max(0, ny // 2 - limit.center), ny
    elif columns != ny:
        notes += ((f"the header states {ny} columns, kspace has {columns}; kspace is used, with the same voxel size"),)
    if rows != nx:
        notes += (f"the header states {nx} rows, kspace has {rows}; kspace is used, with the same voxel size",)
    encoding = replace(
        stated,
        encoded_matrix=(rows, columns, 1),
        encoded_fov=(x * rows / nx, y * columns / ny, z),
        recon_matrix=(*stated.recon_matrix[:2], 1),
    )
    return header, encoding, first, notes


def _target(file: h5py.File) -> tuple[int, int] | None:
    """Size (row, column) of the reconstruction stored in the file."""
    for key in ("reconstruction_rss", "reconstruction_esc"):
        if isinstance(file.get(key), h5py.Dataset) and file[key].ndim == 3:
            return int(file[key].shape[-2]), int(file[key].shape[-1])
    return None


def _plain(value: Any) -> Any:
    """An attribute as a plain Python type."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value
