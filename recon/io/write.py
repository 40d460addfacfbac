"""Writing an image: the format follows from the name of the output and is checked before the work begins."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from recon.data import Image, ReconError, counted
from recon.geometry import Geometry
from recon.io.atomic import check_parent, entries, write_error
from recon.io.parts import Part, check, check_single
from recon.io.provenance import side_car

Kind = Literal["dicom folder", "dicom", "nifti", "png", "mrd"]

SUFFIXES: dict[str, Kind] = {
    ".dcm": "dicom",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".png": "png",
    ".h5": "mrd",
    ".mrd": "mrd",
}


def kind(path: str | os.PathLike[str]) -> Kind:
    """The format of an output by its name: by suffix; a DICOM folder for a folder, a final slash or no suffix.

    Raises ReconError for a suffix without a format, and for an empty name.
    """
    name = os.fspath(path)
    if not name.strip():
        raise ReconError("an output has no name; give one such as brain.nii.gz, or a folder for DICOM (brain/)")
    if name == "-":
        raise ReconError("images go into files, not to standard output; give a name such as brain.nii.gz")
    _check_name(Path(name))
    if name.endswith(".") and Path(name).name.strip("."):
        raise ReconError(f"{name} ends in a dot, which names no format; did you mean {name.rstrip('.')}?")
    if name.endswith(("/", os.sep)) or Path(name).is_dir() or not Path(name).suffix:
        return "dicom folder"
    for suffix, found in SUFFIXES.items():
        if name.lower().endswith(suffix) and len(Path(name).name) > len(suffix):
            return found
    wrong = Path(name).suffix.lower()
    near = difflib.get_close_matches(wrong, SUFFIXES, n=1, cutoff=0.5)
    raise ReconError(
        f"{name} ends in {wrong}, which names no format; use {', '.join(SUFFIXES)}, or a folder for DICOM ({name}/)"
        + (f"; did you mean {near[0]}?" if near else "")
    )


def check_names(
    paths: Sequence[str | os.PathLike[str]],
    *,
    inputs: Sequence[str | os.PathLike[str]] = (),
    records: Sequence[str | os.PathLike[str]] = (),
) -> None:
    """Raise ReconError for impossible outputs: without a known suffix, or in place of each other or of an input.

    No output may be one of `inputs` or another output; no DICOM may be written into a folder of `inputs`, and nothing
    into a folder that is to hold a DICOM series. `records` are JSON files written beside the images.
    """
    taken: dict[Path, str] = {Path(i).resolve(): "the input" for i in inputs}
    series: list[Path] = []
    for item in paths:
        found, path = kind(item), Path(item)
        series += [path.resolve()] if found == "dicom folder" else []
        for target in _targets(path, found):
            if target in taken and target.suffix == ".json":
                raise ReconError(
                    f"{item} has the sidecar {target.name}, which would overwrite that of {taken[target]}; "
                    "give outputs names that differ in more than the suffix"
                )
            if target in taken:
                raise ReconError(f"{item} would overwrite {taken[target]}; give each output its own name")
            taken[target] = f"another output, {item}"
        if found in ("dicom", "dicom folder"):
            for read in (Path(i).resolve() for i in inputs):
                if read in path.resolve().parents:
                    raise ReconError(
                        f"{item} lies inside the input folder, which would then hold another series; give a "
                        "path elsewhere"
                    )
    for item in records:
        path = Path(item)
        _check_name(path)
        if path.suffix.lower() != ".json":
            raise ReconError(f"{item} will hold JSON: give it a name that ends in .json")
        if path.resolve() in taken:
            raise ReconError(f"{item} would overwrite {taken[path.resolve()]} or its sidecar; give it another name")
    for item in (*paths, *records):
        if not set(series).isdisjoint(Path(item).resolve().parents):
            raise ReconError(
                f"{item} lies inside another output, a folder for one DICOM series only; give a path elsewhere"
            )


def check_paths(
    paths: Sequence[str | os.PathLike[str]],
    *,
    inputs: Sequence[str | os.PathLike[str]] = (),
    records: Sequence[str | os.PathLike[str]] = (),
    slices: int = 1,
) -> None:
    """Raise ReconError unless every output can be written, as `check_names` and `check_places` say."""
    check_names(paths, inputs=inputs, records=records)
    check_places(paths, records=records, slices=slices)


def check_places(
    paths: Sequence[str | os.PathLike[str]], *, records: Sequence[str | os.PathLike[str]] = (), slices: int = 1
) -> None:
    """Raise ReconError if an output cannot be created; call this before a long reconstruction.

    The parent folder must exist and be writable; a DICOM folder must be new or empty, because series of different runs
    in one folder cannot be told apart. An existing file will be replaced. `slices` is the smallest number of slices of
    an image.
    """
    for item in paths:
        found, path = kind(item), Path(item)
        if found == "dicom":
            check_single(path.name, slices)
        _check_place(path, found)
    for item in records:
        check_parent(Path(item))


def check_even(paths: Sequence[str | os.PathLike[str]], geometry: Geometry) -> None:
    """Raise ReconError if unevenly spaced slices would go into a format with a single spacing."""
    if not geometry.steps:
        return
    usual = geometry.voxel[2]
    i, gap = max(enumerate(geometry.steps), key=lambda step: abs(step[1] - usual))
    for item in (p for p in paths if kind(p) in ("nifti", "mrd")):
        raise ReconError(
            f"{item} can hold only equally spaced slices, and these are {usual:.2f} mm apart but {gap:.2f} mm "
            f"between slices {i + 1} and {i + 2} of {geometry.shape[0]}; write DICOM (a folder), which keeps "
            "the position of each slice"
        )


def write(
    image: Image,
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    parts: Sequence[Part] = ("magnitude",),
    complex_: bool = False,
    series_number: int = 1,
    derived: bool = False,
) -> list[Path]:
    """Write an image to one path or several, each in the format of its name (see `kind`); returns all files.

    `parts` are the parts of complex voxels to write (magnitude, phase, real, imag). `complex_` keeps NIfTI and ISMRMRD
    complex; a PNG always shows the magnitude. `series_number` and `derived` go to DICOM. Each output appears completely
    or not at all. Raises ReconError if an output cannot be written.
    """
    if not isinstance(image, Image):
        raise ReconError(
            f"write takes an Image, which has a position in space, and was given {type(image).__name__}; "
            "dataclasses.replace(image, data=array) puts an array into an existing Image"
        )
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    check(image)
    check_even(paths, image.geometry)
    if not parts:
        raise ReconError("no part of the image was asked for; use magnitude, phase, real or imag")
    kinds = [kind(item) for item in paths]
    if "dicom" in kinds:
        from recon.io.dicom import check_file

        # Before the first output exists.
        for item in (p for p, found in zip(paths, kinds) if found == "dicom"):
            check_file(image, Path(item), parts)
    written: list[Path] = []
    for item, found in zip(paths, kinds):
        path = Path(item)
        if found == "nifti":
            from recon.io.nifti import write_nifti

            written += write_nifti(image, path, parts=parts, complex_=complex_)
        elif found == "png":
            from recon.io.png import write_png

            written += write_png(image, path)
        elif found == "mrd":
            from recon.io.mrd_image import write_mrd

            written += write_mrd(image, path, parts=("complex",) if complex_ else parts)
        else:
            from recon.io.dicom import write_dicom, write_dicom_file

            if found == "dicom":
                written += write_dicom_file(image, path, parts=parts, series_number=series_number, derived=derived)
            else:
                written += write_dicom(image, path, parts=parts, series_number=series_number, derived=derived)
    return written


def _targets(path: Path, found: Kind) -> list[Path]:
    if found != "nifti":
        return [path.resolve()]
    return [path.resolve(), side_car(path).resolve()]


def _check_name(path: Path) -> None:
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):  # Path.is_dir, Path.resolve and the like do not catch them
            raise write_error(path, error) from error


def _check_place(path: Path, found: Kind) -> None:
    if found == "dicom folder" and path.exists():
        if not path.is_dir():
            raise ReconError(f"{path} is a file, and DICOM series go into a folder; give another name")
        held = len(entries(path))
        if held:
            raise ReconError(
                f"{path} holds {counted(held, 'file')} already, and the series of two runs in one folder would "
                "be mixed up; give a new folder or empty this one"
            )
    check_parent(path)
