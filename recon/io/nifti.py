"""Images as NIfTI-1 with a BIDS sidecar; neither contains patient data."""

from __future__ import annotations

import gzip
import json
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import Image
from recon.geometry import affine_ras
from recon.io.atomic import atomic_file
from recon.io.parts import Part, Volume, of_contrast, part, volumes
from recon.io.provenance import KEY, as_json, side_car

#: BIDS entity of each counter with separate files; BIDS has none for cardiac phases and sets.
_ENTITY = {"contrast": "echo", "phase": "phase", "set": "set"}
_PART = {"magnitude": "mag", "phase": "phase", "real": "real", "imag": "imag"}
#: A BIDS name; entities come before its last part: sub-01_run-1, _T2starw.
_BIDS = re.compile(r"(sub-[a-zA-Z0-9]+(?:_[a-z]+-[a-zA-Z0-9]+)*)(_[a-zA-Z0-9]+)")


@dataclass(frozen=True)
class _File:
    path: Path
    values: NDArray[Any]
    counters: Mapping[str, int]
    part: str


def write_nifti(
    image: Image, path: Path, *, parts: Sequence[Part] = ("magnitude",), complex_: bool = False
) -> list[Path]:
    """Write an image as .nii or .nii.gz with a .json sidecar each; returns all files.

        (x, y, z)_RAS = affine_ras(geometry) · (i, j, k, 1),
        data[i, j, k] = image[k, j, i]

    float32 with slope 1 keeps recon's values; `complex_` writes complex64 instead of `parts`. Repetitions are the
    fourth dimension with pixdim[4] = TR in seconds (0 if unknown). Other counters give separate files:
    `name_echo-1.nii.gz`, `_phase-1`, `_set-1`; several parts `_part-mag`, `_part-phase`, … Both transform codes are 1
    (scanner) if the geometry is known, otherwise 0 (unknown). The same image gives the same bytes. Raises ReconError
    for NaN or infinity.
    """
    written: list[Path] = []
    # All files are complete before the first of them gets its name.
    with ExitStack() as stack:
        for file in _files(image, path, ("complex",) if complex_ else parts):
            beside = side_car(file.path)
            _save(_nifti(image, file), stack.enter_context(atomic_file(file.path)), file.path.suffix == ".gz")
            stack.enter_context(atomic_file(beside)).write_text(_sidecar(image, file), encoding="ascii")
            written += [file.path, beside]
    return written


def _files(image: Image, path: Path, parts: Sequence[Any]) -> list[_File]:
    stem, suffix = _split(path)
    groups: dict[str, list[Volume]] = {}
    for volume in volumes(image):
        words = [f"_{_ENTITY[a]}-{i + 1}" for a, i in volume.counters.items() if a in _ENTITY]
        groups.setdefault("".join(words), []).append(volume)
    files = []
    for entities, group in groups.items():
        for name in parts:
            values = [v.data.astype(np.complex64) if name == "complex" else part(v.data, name) for v in group]
            ending = f"_part-{_PART[name]}" if len(parts) > 1 else ""
            # (repetition, z, y, x) → [i, j, k, repetition]
            array = np.stack(values).T if "repetition" in group[0].counters else values[0].T
            files.append(
                _File(path.with_name(_named(stem, entities + ending) + suffix), array, group[0].counters, name)
            )
    return files


def _named(stem: str, entities: str) -> str:
    """A name with entities at the end, or before its last part for a BIDS name: sub-01_echo-1_T2starw."""
    bids = _BIDS.fullmatch(stem)
    return bids[1] + entities + bids[2] if bids else stem + entities


def _nibabel() -> Any:
    """nibabel, imported without pydicom if nothing else has imported it.

    It would import pydicom for an extension that is not used here, which takes a tenth of a short run. Meanwhile other
    threads must not find pydicom missing.
    """
    alone = threading.active_count() == 1 and "nibabel" not in sys.modules and "pydicom" not in sys.modules
    if alone:
        sys.modules["pydicom"] = None  # type: ignore[assignment]  # what importing then says is that it is missing
    try:
        import nibabel
    finally:
        if alone:
            del sys.modules["pydicom"]
    return nibabel


def _nifti(image: Image, file: _File) -> Any:
    nibabel = _nibabel()
    g = image.geometry
    affine = affine_ras(g)
    out = nibabel.Nifti1Image(file.values, affine if g.known else None)
    out.header.set_xyzt_units("mm", "sec")
    if g.known:
        # A quaternion has no shear: with code 0 only the matrix gives the voxel positions.
        out.set_qform(affine, 0 if any(g.shear) else 1, strip_shears=True)
        out.set_sform(affine, 1)
    TR = _seconds(image.header.sequence.TR, file.counters.get("contrast", 0)) or 0.0
    out.header.set_zooms((*g.voxel, *([TR] if file.values.ndim == 4 else [])))
    out.header.set_slope_inter(1.0, 0.0)
    provenance = image.provenance
    words = (provenance.get("engine") or KEY, provenance.get("version"), provenance.get("method"))
    out.header["descrip"] = " ".join(str(w) for w in words if w).encode("ascii", "replace")[:79]
    return out


def _save(image: Any, temporary: Path, compress: bool) -> None:
    with open(temporary, "wb") as raw:
        if compress:
            # No name and no time in the gzip header: the same image gives the same bytes.
            with gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(raw)


def _sidecar(image: Image, file: _File) -> str:
    sequence, system, study = image.header.sequence, image.header.system, image.header.study
    contrast = file.counters.get("contrast", 0)
    fields = {
        "Modality": "CT" if image.units == "HU" else "MR",
        "MagneticFieldStrength": system.field_T,
        "ImagingFrequency": system.frequency_Hz and system.frequency_Hz / 1e6,
        "Manufacturer": system.vendor,
        "ManufacturersModelName": system.model,
        "ProtocolName": study.protocol,
        "PulseSequenceDetails": sequence.name,
        "RepetitionTime": _seconds(sequence.TR, contrast),
        "EchoTime": _seconds(sequence.TE, contrast),
        "InversionTime": _seconds(sequence.TI, contrast),
        "FlipAngle": of_contrast(sequence.flip_deg, contrast),
        "EchoNumber": contrast + 1 if "contrast" in file.counters else None,
        "SliceThickness": image.geometry.thickness,
        "Units": {"phase": "rad"}.get(file.part, "HU" if image.units == "HU" else "arbitrary"),
        "ConversionSoftware": str(image.provenance.get("engine") or KEY),
        "ConversionSoftwareVersion": image.provenance.get("version"),
        KEY: json.loads(as_json(image, part=file.part)),
    }
    return json.dumps({k: v for k, v in fields.items() if v not in (None, "")}, indent=2) + "\n"


def _seconds(milliseconds: Sequence[float], i: int) -> float | None:
    value = of_contrast(milliseconds, i)
    return None if value is None else value / 1000


def _split(path: Path) -> tuple[str, str]:
    for suffix in (".nii.gz", ".nii"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.name, ".nii.gz"
