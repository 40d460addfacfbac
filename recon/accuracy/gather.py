"""The scans of a benchmark: what in files and folders can be compared, and a reason for everything else."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from recon.data import DataError, RawScan
from recon.io.atomic import entries
from recon.io.read import read_raw, recognise

#: Formats that are bare arrays, and those of which a file may hold several scans by name.
_BARE, _NAMED = ("numpy", "cfl"), ("numpy", "ismrmrd")


@dataclass(frozen=True)
class Gathered:
    """Raw scans with the name of their file, and name and reason for each file that was left out."""

    files: tuple[Path, ...]
    scans: tuple[RawScan, ...]
    left: tuple[tuple[str, DataError], ...]


def gather(paths: Sequence[Path], axes: Sequence[str] = (), key: str | None = None) -> Gathered:
    """The raw scans in files, and in the files of folders that are not a DICOM series.

    `axes` name the axes of bare arrays, each "coil,y,x" or "PATTERN=coil,y,x" for the files whose name matches. The
    first that fits the array's shape is used, those with a pattern first. Without a `key` every complex array of an
    .npz is a scan, named after the file and, if there are several, the array.
    """
    files: list[Path] = []
    scans: list[RawScan] = []
    left: list[tuple[str, DataError]] = []
    for path in (p for given in paths for p in _within(given)):
        try:
            kind = recognise(path)
            several = _arrays(path) if kind == "numpy" and key is None else []
            for name in several if len(several) > 1 else [key]:
                scan = _read(path, kind, _fitting(path.name, axes), name)
                files.append(path.with_name(f"{path.stem}_{name}{path.suffix}") if len(several) > 1 else path)
                scans.append(scan)
        except DataError as e:
            left.append((path.name, e))
    return Gathered(tuple(files), tuple(scans), tuple(left))


def _within(path: Path) -> Iterator[Path]:
    """The path, or the visible files of a folder without a series, by name; of a .cfl with .hdr the first."""
    if not path.is_dir():
        yield path
        return
    try:
        recognise(path)
    except DataError:
        inside = [p for p in entries(path) if p.is_file() and not p.name.startswith(".")]
        yield from (p for p in inside if not (p.suffix == ".hdr" and p.with_suffix(".cfl") in inside))
        return
    yield path


def _arrays(path: Path) -> list[str]:
    """Names of the complex arrays of an .npz; none of a .npy."""
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            entries = sorted(n for n in archive.namelist() if n.endswith(".npy"))
            return [n.removesuffix(".npy") for n in entries if _complex(archive, n)]
    except (ValueError, OSError, zipfile.BadZipFile):
        return []  # the reader reports what is wrong


def _complex(archive: zipfile.ZipFile, entry: str) -> bool:
    with archive.open(entry) as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        return bool(header(file)[2].kind == "c")


def _fitting(name: str, axes: Sequence[str]) -> list[list[str]]:
    pairs = [a.rpartition("=")[::2] for a in axes]
    pairs.sort(key=lambda pair: not pair[0])
    return [[a.strip() for a in wanted.split(",")] for pattern, wanted in pairs if fnmatchcase(name, pattern or "*")]


def _read(path: Path, kind: str, axes: list[list[str]], key: str | None) -> RawScan:
    key = key if kind in _NAMED else None
    choices = axes if kind in _BARE else []
    for wanted in choices[:-1]:
        try:
            return read_raw(path, axes=wanted, key=key)
        except DataError:
            continue
    return read_raw(path, axes=choices[-1] if choices else None, key=key)
