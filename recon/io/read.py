"""Reading a scan of any known format, recognised by its content: raw MRI data, CT images, CT projections."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

from recon.data import CTImages, CTProjections, CTViews, DataError, RawScan

FORMATS = (
    "ISMRMRD (.h5, .mrd), fastMRI (.h5), BART (.cfl with .hdr), NumPy (.npy, .npz) and Siemens twix (.dat); CT as a "
    "DICOM series, NIfTI or projections (.h5, DICOM-CT-PD)"
)

#: Signatures of files without raw data that recon reads, and what to do about each.
_OTHERS = (
    (0, b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (0, b"yardl", "is an MRD version 2 stream; convert it with mrd_to_ismrmrd"),
    (0, b"\x89PNG", "is a picture, not raw data"),
    (0, b"<?xml", "is an XML file; give the file with the samples instead"),
)


def read(
    path: str | Path,
    *,
    axes: Sequence[str] | None = None,
    voxel: tuple[float, float, float] | None = None,
    key: str | None = None,
) -> RawScan | CTImages | CTProjections | CTViews:
    """The scan in a file, or DICOM folder, of any known format; its content decides, not its name.

    `axes` names the axes of an array (NumPy, BART), `voxel` is its voxel size (x, y, z) in mm for formats that do not
    store it, `key` selects the array of an .npz or the group of an ISMRMRD file that holds several. The file is opened
    read-only and samples are read on request. Raises DataError for other files, and if an option does not fit the
    format.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise DataError(
            f"read takes the name of a file but was given {type(path).__name__}; "
            "recon.io.arrays.scan_from_array makes a scan from an array"
        )
    path = Path(path)
    kind = recognise(path)
    given = {"axes": axes, "voxel": voxel, "key": key}
    fits = {"ismrmrd": {"key"}, "fastmri": {"voxel"}, "cfl": {"axes", "voxel"}, "numpy": {"axes", "voxel", "key"}}
    for option, value in given.items():
        if value is not None and option not in fits.get(kind, set()):
            raise DataError(
                f"--{option} does not apply to {path.name}, which is {kind} and gives this itself; leave it out"
            )
    if kind == "ismrmrd":
        from recon.io import ismrmrd

        return ismrmrd.read(path, key)
    if kind == "fastmri":
        from recon.io import fastmri

        return fastmri.read(path, voxel=voxel)
    if kind == "cfl":
        from recon.io import cfl

        return cfl.read(path, axes=axes, voxel=voxel)
    if kind == "numpy":
        from recon.io import arrays

        return arrays.read(path, axes=axes, voxel=voxel, key=key)
    if kind == "DICOM":
        from recon.io import ct_dicom

        return ct_dicom.read(path)
    if kind == "DICOM-CT-PD":
        from recon.io import ct_pd

        return ct_pd.read(path)
    if kind == "projections":
        from recon.io import ct_projections

        return ct_projections.read(path)
    if kind == "NIfTI":
        from recon.io import ct_nifti

        return ct_nifti.read(path)
    from recon.io import twix

    return twix.read(path)


def read_raw(path: str | Path, *, axes: Sequence[str] | None = None, key: str | None = None) -> RawScan:
    """The raw MRI scan in a file; raises DataError for any other."""
    scan = read(path, axes=axes, key=key)
    if isinstance(scan, RawScan):
        return scan
    raise DataError(f"{Path(path).name} is {scan.source}, which only `recon run` accepts; give a raw MRI scan here")


def recognise(path: str | Path) -> str:
    """Format of a file: ismrmrd, fastmri, cfl, numpy, twix, DICOM, DICOM-CT-PD, NIfTI or (CT) projections.

    Raises DataError for any other, with what it is.
    """
    from recon.io import cfl, ct_dicom, ct_nifti, ct_pd

    path = Path(path)
    if cfl.is_pair(path):
        return "cfl"
    if path.is_dir():
        first = next(ct_dicom.files(path), None)
        if first is not None:
            return "DICOM-CT-PD" if ct_pd.is_projection(first) else "DICOM"
        raise DataError(f"{path} is a folder without a DICOM series; give one scan file of it")
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a pipe or a device; save its data as a file and give that file")
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the name")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path.name} is empty (0 bytes); copy it again from its source")
    try:
        with path.open("rb") as file:
            start = file.read(8192)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}; ask its owner for permission") from None
    if start.startswith(b"\x93NUMPY"):
        return "numpy"
    if start.startswith(b"PK\x03\x04") and _holds_arrays(path):
        return "numpy"
    if any(start[i : i + 8] == b"\x89HDF\r\n\x1a\n" for i in (0, 512, 1024, 2048, 4096)):
        return _hdf5(path)
    if _is_twix(start, size):
        return "twix"
    if start[128:132] == b"DICM":
        return "DICOM-CT-PD" if ct_pd.is_projection(path) else "DICOM"
    if ct_nifti.is_nifti(path):
        return "NIfTI"
    if start.startswith(ct_dicom.BARE):
        raise DataError(f"{path.name} is DICOM without preamble, as of old archives; write it anew by dcmconv")
    for offset, signature, sentence in _OTHERS:
        if start[offset : offset + len(signature)] == signature:
            raise DataError(f"{path.name} {sentence}; formats that are read are {FORMATS}")
    raise DataError(
        f"{path.name} is of an unknown format (it begins with the bytes {start[:4].hex(' ')}); formats that "
        f"are read are {FORMATS}"
    )


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        raise DataError(f"{path.name} is a truncated ZIP or .npz archive; copy it again") from None


def _hdf5(path: Path) -> str:
    """Which HDF5 format the file has, by the names in it."""
    from recon.io import hdf5
    from recon.io.ct_projections import is_projections

    with hdf5.opened(path) as file:
        if is_projections(file):
            return "projections"
        names = {name: set(file[name]) if hasattr(file[name], "keys") else None for name in file}
    if names.get("kspace", set()) is None:
        return "fastmri"
    groups = {name: inside for name, inside in names.items() if inside is not None}
    if any({"data", "xml"} & inside for inside in groups.values()):
        return "ismrmrd"
    found = ", ".join(sorted(names)[:8]) or "nothing"
    if any({"header", "attributes"} <= inside for inside in groups.values()) or "reconstruction_rss" in names:
        raise DataError(f"{path.name} holds images ({found}), not raw data; give the file with the samples")
    raise DataError(
        f"{path.name} is HDF5 and holds {found}, but neither ISMRMRD's group with xml and data nor fastMRI's kspace; "
        f"formats that are read are {FORMATS}"
    )


def _is_twix(start: bytes, size: int) -> bool:
    """Siemens raw data: a table of measurements (VD and later), or the length and the buffers of one header (VB)."""
    if len(start) < 64:
        return False
    first, second = struct.unpack_from("<II", start)
    if first < 10000 and 1 <= second <= 64 and len(start) >= 32:
        offset, length = struct.unpack_from("<QQ", start, 16)
        if 8 + 152 * second <= offset <= size and length > 0:
            return True
    # VB: the number of buffers, then the name of the first one.
    name = start[8:40].partition(b"\0")[0]
    return bool(32 <= first <= size and 1 <= second <= 64 and name.isalnum() and len(name) >= 3)
