from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.data import DataError
from recon.io.read import read, recognise
from tests.io import mrd_files as files


def _fastmri(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones((2, 3, 16, 8), np.complex64)


def _cfl(path: Path) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n8 8 1 2\n")
    path.write_bytes(np.ones(128, np.complex64).tobytes())


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, kspace=np.ones((8, 8), np.complex64))


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones((8, 8), np.complex64))


def _twix_vd(path: Path) -> None:
    path.write_bytes(struct.pack("<IIIIQQ", 0, 1, 17, 4711, 10240, 5000).ljust(20000, b"\0"))


def _twix_vb(path: Path) -> None:
    path.write_bytes((struct.pack("<II", 4096, 4) + b"Config\0" + b"\0" * 60).ljust(8192, b"\0"))


KNOWN = {
    "ismrmrd": lambda p: files.scan_file(p),
    "fastmri": _fastmri,
    "cfl": _cfl,
    "numpy": _npy,
    "numpy (npz)": _npz,
    "twix (VD)": _twix_vd,
    "twix (VB)": _twix_vb,
}


@pytest.mark.parametrize("kind", KNOWN)
def test_a_format_is_recognised_whatever_the_name_of_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("scan.cfl" if kind == "cfl" else "scan.jpeg")
    KNOWN[kind](path)
    assert recognise(path) == kind.split()[0]


@pytest.mark.parametrize(("kind", "lines"), [("ismrmrd", 24), ("fastmri", 16), ("cfl", 8), ("numpy", 8)])
def test_each_format_is_read_by_its_reader(kind: str, lines: int, tmp_path: Path) -> None:
    path = tmp_path / ("scan.cfl" if kind == "cfl" else "scan.jpeg")
    KNOWN[kind](path)
    scan = read(path)
    assert scan.source.startswith(kind)
    assert len(scan.lines) == lines
    assert scan.samples.read(np.arange(2)).shape[0] == 2


def test_real_twix_files_are_read_by_their_reader(data_dir: Path) -> None:
    assert read(data_dir / "formats" / "siemens_twix_gre_phantom.dat").source.startswith("twix")


def test_a_pair_of_bart_is_named_by_either_file_or_none(tmp_path: Path) -> None:
    _cfl(tmp_path / "scan.v2.cfl")
    for name in ("scan.v2", "scan.v2.cfl", "scan.v2.hdr"):
        assert recognise(tmp_path / name) == "cfl"


def test_real_twix_files_are_recognised(data_dir: Path) -> None:
    for path in sorted((data_dir / "formats").glob("*.dat")):
        assert recognise(path) == "twix"


UNKNOWN = {
    "empty": (b"", "is empty"),
    "text": (b"Dear colleague, here is your scan", "of an unknown format"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(100), "unpack it first"),
    "DICOM": (bytes(128) + b"DICM" + bytes(100), "DICOM"),
    "NIfTI": (bytes(344) + b"n+1\0" + bytes(100), "NIfTI"),
    "zip cut short": (b"PK\x03\x04" + bytes(100), "truncated"),
    "HDF5 cut short": (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged|truncated"),
    "MRD 2": (b"yardl" + bytes(100), "mrd_to_ismrmrd"),
    "zeros": (bytes(1000), "of an unknown format"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_other_files_are_refused_with_what_they_are_and_what_works(kind: str, tmp_path: Path) -> None:
    content, sentence = UNKNOWN[kind]
    path = tmp_path / "scan.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert "Dear" not in str(error.value)
    assert path.read_bytes() == content


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "scan.h5")


def test_hdf5_with_only_images_is_refused_as_such(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "i.h5", "w") as file:
        for name in ("header", "attributes", "data"):
            file[f"image_0/{name}"] = np.zeros(3)
        del file["image_0/data"]
    with pytest.raises(DataError, match="holds images"):
        read(tmp_path / "i.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(DataError, match="holds weights, but neither"):
        read(tmp_path / "x.h5")


def test_options_that_do_not_fit_the_format_are_refused(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    with pytest.raises(DataError, match=r"--axes does not apply to scan\.h5, which is ismrmrd"):
        read(path, axes=("coil", "y", "x"))
    with pytest.raises(DataError, match="--voxel does not apply"):
        read(path, voxel=(1, 1, 1))
    assert len(read(path, key="dataset").lines) == 24


def test_arrays_pass_their_axes_on(tmp_path: Path) -> None:
    k = np.ones((3, 8, 6), np.complex64)
    np.save(tmp_path / "k.npy", k)
    scan = read(tmp_path / "k.npy", axes=("coil", "y", "x"), voxel=(2.0, 3.0, 4.0))
    assert scan.lines["active_channels"].tolist() == [3] * 8
    assert scan.encodings[0].encoded_fov[:2] == (12.0, 24.0)
