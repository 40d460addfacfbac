"""HDF5 files that reach for other files, or state what they cannot hold, are refused whatever their format is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest

from recon.data import DataError, ReconError
from recon.io import hdf5
from recon.io.provenance import read_back
from recon.io.read import read
from tests.io import mrd_files as files


def _outer_group(path: Path, other: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset"] = h5py.ExternalLink(other.name, "/dataset")


def _outer_data(path: Path, other: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["dataset/data"]
        file["dataset/data"] = h5py.ExternalLink(other.name, "/dataset/data")


def _by_soft_link(path: Path, other: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["dataset/data"]
        file["away"] = h5py.ExternalLink(other.name, "/dataset")
        file["dataset/data"] = h5py.SoftLink("/away/data")


def _external_storage(path: Path, other: Path) -> None:
    size = other.stat().st_size // 8
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (1, 1, 1, size), "c8", external=[(str(other), 0, 8 * size)])


def _virtual(path: Path, other: Path) -> None:
    with h5py.File(other, "r+") as file:
        file["kspace"] = np.ones((3, 2, 8, 8), np.complex64)
    layout = h5py.VirtualLayout((3, 2, 8, 8), "c8")
    layout[:] = h5py.VirtualSource(other, "kspace", (3, 2, 8, 8))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("kspace", layout)


AWAY = {
    "the group": (_outer_group, "dataset"),
    "the lines": (_outer_data, "dataset/data"),
    "the lines, through a link of its own": (_by_soft_link, "away"),
    "the samples, as bytes": (_external_storage, "kspace"),
    "the samples, as a virtual data set": (_virtual, "kspace"),
}


@pytest.mark.parametrize("what", AWAY)
def test_nothing_is_read_from_another_file_than_the_one_that_was_named(what: str, tmp_path: Path) -> None:
    secret = files.scan_file(tmp_path / "somebody-else.h5")
    path = files.scan_file(tmp_path / "scan.h5")
    change, name = AWAY[what]
    change(path, secret)
    with pytest.raises(DataError, match=rf"takes {name} from another file, which is not followed"):
        read(path)


def test_links_within_a_file_are_followed(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        file["kept"] = file["dataset/data"]
        del file["dataset/data"]
        file["dataset/data"] = h5py.SoftLink("/kept")
    assert len(read(path).lines) == 24


def _enormous(file: h5py.File) -> None:
    file.create_dataset("kspace", (600, 600, 6000, 6000), "c8", chunks=(1, 1, 1, 100), compression="gzip")
    file["kspace"][0, 0, 0, :100] = 1


def _long_mask(file: h5py.File) -> None:
    file["kspace"] = np.ones((3, 2, 8, 8), np.complex64)
    file.create_dataset("mask", (4 * 10**6,), "f4", chunks=(100,))  # 16 MB in a file of some 7 kB


def _projections(file: h5py.File) -> None:
    file.create_dataset("projections", (10**4, 10**4, 10**4), "f4", chunks=(1, 1, 100))


@pytest.mark.parametrize("make", [_enormous, _long_mask, _projections])
def test_a_size_that_the_file_cannot_hold_is_refused_before_it_is_allocated(
    make: Callable[[h5py.File], None], tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        make(file)
    with pytest.raises(DataError, match=r"entries in (kspace|mask|projections), more than its \d+ bytes can hold"):
        read(tmp_path / "scan.h5")


def test_what_deflate_packs_best_is_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "zeros.h5", "w") as file:
        file.create_dataset("kspace", data=np.zeros((2, 16, 512, 512), "f4"), chunks=(2, 16, 512, 512), compression=9)
    assert (tmp_path / "zeros.h5").stat().st_size < 2 * 16 * 512 * 512 * 4 / 800
    with hdf5.opened(tmp_path / "zeros.h5") as file:
        assert file["kspace"].shape == (2, 16, 512, 512)


def test_packed_lines_are_no_more_than_their_samples_have_room_for(tmp_path: Path) -> None:
    """Zeros in place of headers pack a thousand times: a small file would be read as gigabytes of lines."""
    path = files.scan_file(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        record, line = file["dataset/data"].dtype, file["dataset/data"][0]
        del file["dataset/data"]
        data = file.create_dataset("dataset/data", (10**5,), record, chunks=(10**4,), compression=9)
        data[0] = line
    assert 10**5 * ismrmrd.hdf5.acquisition_dtype.itemsize < hdf5.PACKED * path.stat().st_size
    with pytest.raises(DataError, match="states 100000 lines but stores fewer"):
        read(path)


@pytest.mark.parametrize("name", ["projections", "mask", "ismrmrd_header"])
def test_a_group_where_an_array_belongs_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ones((3, 2, 8, 8), np.complex64)
        file.create_group(name)
    with pytest.raises(DataError, match=r"scan\.h5 is damaged, or holds another kind of thing"):
        read(tmp_path / "scan.h5")


def test_waveforms_of_an_unknown_kind_keep_no_scan_from_being_read(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    with h5py.File(path, "r+") as file:
        file.create_group("dataset/waveforms/ecg")
    assert len(read(path).lines) == 24


@pytest.mark.parametrize("attributes", ["<ismrmrdMeta><meta>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "", "{}"])
def test_an_image_file_whose_attributes_are_no_xml_is_refused_in_a_sentence(attributes: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "i.h5", "w") as file:
        file["dataset/image_0/attributes"] = np.array([attributes.encode()], dtype=h5py.string_dtype())
    with pytest.raises(ReconError, match=r"i\.h5 cannot be read as"):
        read_back(tmp_path / "i.h5")
