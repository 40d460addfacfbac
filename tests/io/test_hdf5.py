"""HDF5 files that reach for other files, or state what they cannot hold, are refused whatever their format is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest

from recon.data import CTProjections, DataError, RawScan, ReconError
from recon.io import ct_projections, hdf5
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
    with pytest.raises(DataError, match=rf"links {name} to another file, and such links are not followed"):
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


def test_the_best_compression_of_deflate_is_accepted(tmp_path: Path) -> None:
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


#: What may lie where a format has an array, a text or a group, and what may be an attribute in place of a number.
KINDS: dict[str, Callable[[h5py.Group, str], object]] = {
    "a group": lambda inside, name: inside.create_group(name),
    "a number": lambda inside, name: inside.create_dataset(name, data=5),
    "complex numbers": lambda inside, name: inside.create_dataset(name, data=np.ones((2, 3, 4), "c8")),
    "text": lambda inside, name: inside.create_dataset(name, data="text"),
    "texts": lambda inside, name: inside.create_dataset(name, data=["a", "b"]),
    "a reference": lambda inside, name: inside.create_dataset(name, data=inside.ref, dtype=h5py.ref_dtype),
    "records": lambda inside, name: inside.create_dataset(name, data=np.zeros(3, [("a", "f4"), ("b", "i4")])),
    "lists": lambda inside, name: inside.create_dataset(name, (3,), h5py.vlen_dtype("f4")),
    "bytes without meaning": lambda inside, name: inside.create_dataset(name, data=np.zeros(3, "V5")),
    "nothing": lambda inside, name: inside.create_dataset(name, data=h5py.Empty("f4")),
    "a type": lambda inside, name: inside.__setitem__(name, np.dtype("f4")),
    "a time, which NumPy has no type for": lambda inside, name: _of_time(inside, name),
}
ATTRIBUTES: dict[str, Any] = {
    "text": "text", "texts": ["a", "b"], "numbers": np.ones((2, 3)), "complex": 1j, "nothing": h5py.Empty("f4"),
    "none": np.zeros(0), "records": np.zeros(2, [("a", "f4")]),
}  # fmt: skip


def _of_time(inside: h5py.Group, name: str) -> None:
    h5py.h5d.create(inside.id, name.encode(), h5py.h5t.UNIX_D32LE.copy(), h5py.h5s.create_simple((3,)))


def _all(path: Path) -> None:
    """Read a file with its samples."""
    scan = read(path)
    if isinstance(scan, RawScan):
        scan.samples.read(np.arange(2))


def _fastmri(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["kspace"], file["mask"] = np.ones((3, 2, 8, 8), np.complex64), np.ones(8)
        file["ismrmrd_header"], file.attrs["max"], file.attrs["patient_id"] = files.XML, 1.0, "a"


def _ct(path: Path) -> None:
    ct_projections.write(
        CTProjections(np.ones((1, 6, 8), "f4"), "counts", np.arange(6.0), "flat", 1.0, 0.0, 500.0, 400.0,
                      air=np.ones(8, "f4"), dark=np.zeros(8, "f4"), matrix=(8, 8), voxel=1.0, positions=(0.0,)),
        path,
    )  # fmt: skip


def _picture(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset/image_0/attributes"] = np.array([b"<ismrmrdMeta/>"], dtype=h5py.string_dtype())


def _read_or_refused(reader: Callable[[Path], object], path: Path) -> None:
    """Some of what is put there is no fault, such as a number in place of a field; all else is a sentence."""
    try:
        reader(path)
    except ReconError as error:
        said = str(error)
        assert len(said) > 20
        assert "\n" not in said


FORMATS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "a scan": (files.scan_file, _all), "fastMRI": (_fastmri, _all), "projections": (_ct, _all),
    "an image": (_picture, read_back),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMATS)
def test_another_kind_of_thing_than_the_format_has_is_no_error_that_was_not_foreseen(
    form: str, kind: str, tmp_path: Path
) -> None:
    make, reader = FORMATS[form]
    make(tmp_path / "whole.h5")
    names: list[str] = []
    with h5py.File(tmp_path / "whole.h5") as file:
        file.visit(names.append)
    for n, name in enumerate(names):
        path = tmp_path / f"{n}.h5"
        shutil.copy(tmp_path / "whole.h5", path)
        with h5py.File(path, "r+") as file:
            del file[name]
            KINDS[kind](file, name)
        _read_or_refused(reader, path)


@pytest.mark.parametrize("kind", ATTRIBUTES)
@pytest.mark.parametrize("form", ["fastMRI", "projections"])
def test_another_kind_of_attribute_is_no_error_that_was_not_foreseen(form: str, kind: str, tmp_path: Path) -> None:
    make, reader = FORMATS[form]
    make(tmp_path / "whole.h5")
    found: list[tuple[str, str]] = []
    with h5py.File(tmp_path / "whole.h5") as file:
        for name in ("/", *(n for n in ("projections", "angles", "geometry", "image") if n in file)):
            found += [(name, key) for key in file[name].attrs]
    for n, (name, key) in enumerate(found):
        path = tmp_path / f"{n}.h5"
        shutil.copy(tmp_path / "whole.h5", path)
        with h5py.File(path, "r+") as file:
            file[name].attrs[key] = ATTRIBUTES[kind]
        _read_or_refused(reader, path)


@pytest.mark.parametrize("name", ["projections", "mask", "ismrmrd_header"])
def test_a_group_in_place_of_an_array_is_reported(name: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.ones((3, 2, 8, 8), np.complex64)
        file.create_group(name)
    with pytest.raises(DataError, match=rf"scan\.h5 is damaged, or {name} is not of the type"):
        read(tmp_path / "scan.h5")


@pytest.mark.parametrize("error", [TypeError, AttributeError, IndexError])
def test_an_error_of_this_engine_is_not_blamed_on_the_file(error: type[Exception], tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    with pytest.raises(error), hdf5.opened(path):
        raise error("of our own")


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
