"""ISMRMRD (MRD version 1) raw data files: HDF5 with one record per line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.data import LINE, DataError, RawScan
from recon.io import hdf5, mrd_header
from recon.io.mrd_lines import HEAD, IDX, assemble, heads, line_table

#: Bytes of records or samples that are processed at once.
_BLOCK = 64 * 2**20


@dataclass(frozen=True, eq=False)
class FileSamples:
    """Samples of an ISMRMRD file; opened read-only for each request and closed afterwards.

    `records[i]` is the position in the file of row i, `shapes` are its (channels, samples, trajectory dimensions).
    Raises DataError if the file has changed since it was read, or if a record does not have its header's size.
    """

    path: Path
    dataset: str
    records: NDArray[np.intp]
    shapes: NDArray[np.int64]
    stamp: tuple[int, int]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        channels, samples, _ = self._shape(rows)
        flat = self._fetch("data", rows, 2 * channels * samples)
        return flat.view(np.complex64).reshape(len(rows), channels, samples)

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        _, samples, dimensions = self._shape(rows)
        return self._fetch("traj", rows, samples * dimensions).reshape(len(rows), samples, dimensions)

    def _shape(self, rows: NDArray[np.intp]) -> tuple[int, int, int]:
        if not len(rows):
            return 0, 0, 0
        shapes = self.shapes[rows]
        if (shapes != shapes[0]).any():
            raise DataError(
                "lines of different numbers of channels or samples cannot be read together; read each kind by itself"
            )
        channels, samples, dimensions = (int(n) for n in shapes[0])
        return channels, samples, dimensions

    def _fetch(self, field: str, rows: NDArray[np.intp], length: int) -> NDArray[np.float32]:
        """The named field of the rows, (row, length) float32, in the requested order."""
        if not len(rows) or not length:
            return np.zeros((len(rows), length), np.float32)
        places, back = np.unique(self.records[rows], return_inverse=True)
        with hdf5.opened(self.path, again=True) as file:
            if _stamp(self.path) != self.stamp:
                raise DataError(f"{self.path.name} has changed since it was opened; read it again")
            data = _group(file, self.dataset, self.path)["data"]
            _records(data, field, places[:1], length)  # the header alone never decides how much is allocated
            out = np.empty((len(places), length), np.float32)
            step = max(1, _BLOCK // (4 * length))
            for i in range(0, len(places), step):
                parts = _records(data, field, places[i : i + step], length)
                np.concatenate(parts, out=out[i : i + step].reshape(-1), casting="same_kind")
        ordered = len(back) == len(places) and bool((back == np.arange(len(back))).all())
        return out if ordered else out[back]


def read(path: str | Path, dataset: str | None = None) -> RawScan:
    """The scan in an ISMRMRD file: its headers at once, its samples on request.

    `dataset` names the group, by default "dataset" or the only one; a note names others with scans. The file is opened
    read-only and closed again at once. Lines that break a rule of `line_rules.check` are left out and counted. Raises
    DataError for files that are cut short, hold no header or no lines, or whose records do not have the size stated in
    their headers.
    """
    path = Path(path)
    with hdf5.opened(path) as file:
        group = _group(file, dataset, path)
        xml, data = _xml(group, path), _data(group, path)
        lines = _lines(data, path)
        waveforms = group.get("waveforms")
        waveforms = len(waveforms) if getattr(waveforms, "shape", ()) else 0
        name = str(group.name)
        beside = [other for other in _scans(file) if f"/{other}" != name and dataset is None]
    stamp = _stamp(path)

    def samples(keep: NDArray[np.bool_]) -> FileSamples:
        kept = lines[keep]
        shapes = [kept[n].astype(np.int64) for n in ("active_channels", "number_of_samples", "trajectory_dimensions")]
        return FileSamples(path.absolute(), name, np.nonzero(keep)[0], np.stack(shapes, axis=1), stamp)

    scan = assemble(lines, mrd_header.parse(xml), waveforms, samples)
    if beside:
        told = f"the file also holds {', '.join(beside[:8])}; this scan is {name.strip('/')}, choose another with --key"
        scan = replace(scan, notes=(*scan.notes, told))
    return scan


def write(path: str | Path, scan: RawScan, dataset: str = "dataset") -> None:
    """Write a scan as an ISMRMRD file for any reader of the format; it appears completely or not at all.

    Samples are processed in blocks. Raises ReconError if the file cannot be written.
    """
    record = np.dtype([("head", HEAD), ("traj", h5py.vlen_dtype("<f4")), ("data", h5py.vlen_dtype("<f4"))])
    n = len(scan.lines)
    size = 8 * scan.lines["active_channels"].astype(np.int64) * scan.lines["number_of_samples"]
    with hdf5.created(Path(path), int(size.sum())) as file:
        group = file.create_group(dataset)
        # The C++ library opens only headers with HDF5's ASCII type; their bytes are UTF-8 all the same.
        xml = group.create_dataset("xml", (1,), h5py.string_dtype("ascii"), maxshape=(1,))
        xml[0] = mrd_header.build(scan.header, scan.encodings)
        data = group.create_dataset("data", (n,), record, maxshape=(None,), chunks=(max(1, min(n, 64)),))
        largest = max(1, int(size.max(initial=1)))
        step = max(64, _BLOCK // largest // 64 * 64)
        for start in range(0, n, step):
            rows = np.arange(start, min(start + step, n))
            data[rows[0] : rows[-1] + 1] = _pack(scan, rows, record)


def _pack(scan: RawScan, rows: NDArray[np.intp], record: np.dtype[Any]) -> NDArray[np.void]:
    lines = scan.lines[rows]
    out = np.zeros(len(rows), record)
    out["head"] = heads(lines, rows)
    shapes = np.stack([lines[n] for n in ("active_channels", "number_of_samples", "trajectory_dimensions")], axis=1)
    for shape in np.unique(shapes, axis=0):
        here = np.nonzero((shapes == shape).all(axis=1))[0]
        samples = np.ascontiguousarray(scan.samples.read(rows[here]), np.complex64)
        flat = samples.reshape(len(here), -1).view(np.float32)
        trajectory = scan.samples.trajectory(rows[here]) if shape[2] else np.zeros((len(here), 0), np.float32)
        for i, values, k in zip(here, flat, np.asarray(trajectory, np.float32).reshape(len(here), -1), strict=True):
            out["data"][i], out["traj"][i] = values, k
    return out


def _stamp(path: Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns


def _scans(file: Any) -> list[str]:
    """Names of the groups that hold a raw scan."""
    return [n for n, item in file.items() if isinstance(item, h5py.Group) and "data" in item and "xml" in item]


def _group(file: Any, dataset: str | None, path: Path) -> Any:
    groups = [name for name, item in file.items() if isinstance(item, h5py.Group)]
    if dataset is not None:
        item = file.get(dataset)
        if not isinstance(item, h5py.Group):
            raise DataError(f"{path.name} has no group {dataset}; it has {', '.join(groups) or 'none'}")
        return item
    candidates = _scans(file) or [name for name in groups if "data" in file[name] or "xml" in file[name]]
    if "dataset" in candidates or len(candidates) == 1:
        return file["dataset" if "dataset" in candidates else candidates[0]]
    if candidates:
        raise DataError(f"{path.name} holds several scans ({', '.join(candidates)}); choose one with --key")
    raise DataError(
        f"{path.name} is an HDF5 file, but none of its groups ({', '.join(groups) or 'it has none'}) holds "
        "ISMRMRD's xml and data; convert the scan with siemens_to_ismrmrd or a similar converter"
    )


def _xml(group: Any, path: Path) -> bytes:
    item = hdf5.array(group, "xml") if isinstance(group.get("xml"), h5py.Dataset) else None
    if item is None or not item.size or item.dtype.itemsize > mrd_header.MAX_BYTES:
        raise DataError(f"{path.name} has no XML header ({group.name}/xml); write it into the file")
    return hdf5.text(group, "xml")


def _data(group: Any, path: Path) -> Any:
    if not isinstance(group.get("data"), h5py.Dataset):
        raise DataError(f"{path.name} has no raw data ({group.name}/data); it may hold only images")
    item = hdf5.array(group, "data")
    names = item.dtype.names or ()
    if item.ndim != 1 or "head" not in names or "data" not in names:
        raise DataError(f"{group.name}/data of {path.name} is not a list of acquisitions; write it in ISMRMRD's layout")
    head = item.dtype["head"].names or ()
    missing = [n for n in LINE.names or () if n not in (*head, *IDX)] + [
        n for n in IDX if "idx" not in head or n not in (item.dtype["head"]["idx"].names or ())
    ]
    if missing:
        raise DataError(f"the acquisition headers of {path.name} lack {', '.join(missing[:4])}; write the file again")
    if odd := _no_numbers(item.dtype):
        raise DataError(
            f"{', '.join(odd[:4])} in {group.name}/data of {path.name} are not numbers; write the file again"
        )
    if item.shape[0] == 0:
        raise DataError(f"{path.name} holds no lines: the scan was not recorded, or was cut off before the first one")
    if item.id.get_storage_size() == 0:
        raise DataError(f"{path.name} states {item.shape[0]} lines but stores none; copy it again")
    return item


def _no_numbers(record: np.dtype[Any]) -> list[str]:
    """Members of a record that are not numeric although the format says so."""
    head = record["head"]
    odd = [n for n in LINE.names or () if (head["idx"][n] if n in IDX else head[n]).base.kind not in "biuf"]
    for name in {"data", "traj"} & set(record.names or ()):
        # Variable-length lists; lists of one length for all lines are read as well.
        of = h5py.check_vlen_dtype(record[name]) or (record[name].base if record[name].shape else None)
        if getattr(of, "kind", "") not in ("i", "u", "f"):
            odd.append(name)
    return odd


def _lines(data: Any, path: Path) -> NDArray[np.void]:
    """Headers of all lines, read block by block; the sizes of the records are checked against them at the same time."""
    n = data.shape[0]
    plain = data.id.get_create_plist().get_nfilters() == 0
    # A sample takes 8 bytes, and variable-length data are never compressed.
    if n > path.stat().st_size // 8 or (plain and data.id.get_storage_size() < n * data.dtype.itemsize):
        raise DataError(f"{path.name} states {n} lines but stores fewer; copy it again")
    out = np.zeros(n, LINE)
    for start, head, lengths in _heads(data):
        block = out[start : start + len(head)]
        block[:] = line_table(head)
        samples = block["number_of_samples"].astype(np.int64)
        expected = {
            "data": 2 * samples * block["active_channels"].astype(np.int64),
            "traj": samples * block["trajectory_dimensions"],
        }
        for what, stored in lengths.items():
            wrong = np.nonzero(stored != expected[what])[0]
            if wrong.size:
                i = int(wrong[0])
                raise DataError(
                    f"{wrong.size} lines of {path.name} hold a different number of samples than their header "
                    f"says: line {start + i} has {int(stored[i])} numbers in {what}, where "
                    f"{int(expected[what][i])} are expected; write the file again"
                )
    return out


def _heads(data: Any) -> Iterator[tuple[int, NDArray[np.void], dict[str, NDArray[np.uint32]]]]:
    """Blocks of headers: first line, headers, and, if the file shows them, the lengths of the line's data.

    Files written line by line have one chunk per line. Reading their chunks as stored is ten times faster than reading
    through a selection, and shows the lengths without reading samples.
    """
    n, size = data.shape[0], data.dtype.itemsize
    layout = _with_lengths(data) if _plain_chunks(data) else None
    if layout is None:
        step = max(1, _BLOCK // size)
        for start in range(0, n, step):
            yield start, data.fields("head")[start : start + step], {}
        return
    per, step = data.chunks[0], max(1, _BLOCK // (data.chunks[0] * size))
    for first in range(0, -(-n // per), step):
        starts = range(first * per, min((first + step) * per, n), per)
        raw = b"".join(data.id.read_direct_chunk((start,))[1] for start in starts)
        block = np.frombuffer(raw, layout)[: n - starts[0]]
        yield (
            starts[0],
            block["head"],
            {what: block[what + "_length"] for what in ("traj", "data") if what in data.dtype.names},
        )


def _plain_chunks(data: Any) -> bool:
    """Whether all chunks are stored uncompressed and with the size that they must have.

    The sizes come from the file, and HDF5 crashes on a chunk that is larger than it should be.
    """
    if data.chunks is None or data.id.get_create_plist().get_nfilters() or not hasattr(data.id, "chunk_iter"):
        return False
    sizes: list[int] = []
    data.id.chunk_iter(lambda chunk: sizes.append(chunk.size))
    per = data.chunks[0]
    if set(sizes) != {per * data.dtype.itemsize}:
        raise OSError("chunks of a wrong size")
    return bool(len(sizes) == -(-data.shape[0] // per))


def _with_lengths(data: Any) -> np.dtype[Any] | None:
    """Layout of a stored record, with the length in front of each variable-length member; None if it differs."""
    kind, dtype = data.id.get_type(), data.dtype
    if kind.get_size() != dtype.itemsize:
        return None
    names, formats, offsets = ["head"], [dtype["head"]], [dtype.fields["head"][1]]
    for i in range(kind.get_nmembers()):
        name = kind.get_member_name(i).decode()
        if name in ("traj", "data"):
            if kind.get_member_type(i).get_size() != 16:  # 4 bytes of length, 8 of address, 4 of index
                return None
            names.append(name + "_length")
            formats.append(np.dtype("<u4"))
            offsets.append(kind.get_member_offset(i))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": dtype.itemsize})


def _records(data: Any, field: str, places: NDArray[np.intp], length: int) -> list[NDArray[np.float32]]:
    """The named field of some records (ascending), each checked to have `length` numbers."""
    if field not in data.dtype.names:
        raise DataError(f"the records have no member {field}; write the file again")
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    if (np.diff(places) == step).all():
        parts = data.fields(field)[int(places[0]) : int(places[-1]) + 1 : step]
    else:
        # Points, because HDF5 joins a list of rows into one selection in quadratic time.
        memory = np.dtype([(field, data.dtype[field])])
        space = data.id.get_space()
        space.select_elements(places[:, None].astype(np.uint64))
        out = np.empty(len(places), memory)
        data.id.read(h5py.h5s.create_simple((len(places),)), space, out, h5py.h5t.py_create(memory))
        parts = out[field]
    for place, part in zip(places, parts):
        if len(part) != length:
            raise DataError(
                f"line {int(place)} holds {len(part)} numbers in {field}, where its header states {length}; "
                "write the file again"
            )
    return list(parts)
