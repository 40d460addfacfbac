"""How an image was made, as JSON that is part of every output and can be read back from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recon.data import Image, ReconError
from recon.io import dicom_values as dv
from recon.io.atomic import is_litter

#: Private block in DICOM, name in NIfTI's sidecar, attribute of ISMRMRD images and text chunk of PNG.
KEY = "recon"
DICOM_GROUP = 0x0073
DICOM_CREATOR = "RECON PROVENANCE"


def record(image: Image) -> dict[str, Any]:
    """Provenance, trust, notes and axes of an image as plain JSON values; contains no patient data."""
    content = {
        "provenance": image.provenance,
        "trust": image.trust,
        "notes": list(image.notes),
        "axes": list(image.axes),
        "units": image.units,
        "geometry_known": image.geometry.known,
    }
    return {k: plain(v) for k, v in content.items()}


def as_json(image: Image, **extra: Any) -> str:
    """`record` of an image as ASCII JSON with sorted keys; `extra` adds format-specific entries."""
    return json.dumps({**record(image), **{k: plain(v) for k, v in extra.items()}}, sort_keys=True)


def plain(value: Any) -> Any:
    """A value in JSON form: arrays as lists, NaN and infinity as null, unknown types as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return str(value)


def is_learned(image: Image) -> bool:
    """Whether a trained network was used: provenance holds the weights' SHA-256 or says `learned`."""
    return bool(image.provenance.get("weights_sha256") or image.provenance.get("learned"))


def describe(image: Image) -> str:
    """One readable line on how the image was made: engine, version, method, recipe and hashes, as far as known."""
    p = image.provenance
    words = [f"Reconstructed by {p.get('engine', KEY)} {p.get('version', '')}".strip()]
    words += [f"{label} {p[key]}" for key, label in (("method", "method"), ("recipe", "recipe")) if p.get(key)]
    words += [
        f"{label} sha256:{p[key]}"
        for key, label in (("recipe_hash", "recipe"), ("weights_sha256", "weights"))
        if p.get(key)
    ]
    return dv.one_line(", ".join(words))


def series_description(image: Image, part: str = "magnitude", label: str = "") -> str:
    """What series lists show, at most 64 bytes: name of the scan, recipe, "AI" for a learned one, label, part."""
    study = image.header.study
    learned = "AI" if is_learned(image) else ""
    tail = (str(image.provenance.get("recipe") or KEY), learned, label, "" if part == "magnitude" else part)
    # If not everything fits, the name of the scan is cut: the processing must stay legible.
    end = dv.text(" ".join(w for w in tail if w))
    start = dv.cut(dv.text(study.series_description or study.protocol), max(0, 63 - len(end.encode())))
    return dv.text(f"{start} {end}")


def side_car(path: Path) -> Path:
    """The JSON file beside a NIfTI: a.nii and a.nii.gz share a.json."""
    name = path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem
    return path.with_name(f"{name}.json")


def read_back(path: str | Path) -> dict[str, Any]:
    """The record in an output of recon (see `record`), whatever its format.

    For a folder, that of its first DICOM file. Raises ReconError if the file cannot be read or holds no record.
    """
    path = Path(path)
    readers = {".dcm": _dicom, ".nii": _nifti, ".gz": _nifti, ".png": _png, ".h5": _mrd, ".mrd": _mrd, ".json": _json}
    if path.is_dir():
        files = sorted(p for p in path.rglob("*.dcm") if not is_litter(p))
        if not files:
            raise ReconError(f"{path} holds no .dcm file; give the folder of a series")
        path = files[0]
    reader = readers.get(path.suffix.lower())
    if not path.exists():
        raise ReconError(f"there is no file {path}; check the name")
    if reader is None:
        raise ReconError(
            f"{path} is not one of {', '.join(readers)}, so it carries no record of a reconstruction; give an output "
            "of recon run"
        )
    try:
        text = reader(path)
        content = json.loads(text) if text else None
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise ReconError(
            f"{path} cannot be read as {path.suffix}: {type(error).__name__}; is the file whole?"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("provenance"), dict):
        raise ReconError(f"{path} carries no record of a reconstruction by recon; write it again with recon")
    return content


def _dicom(path: Path) -> str | None:
    import pydicom

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError as error:  # which derives from Exception directly
        raise ValueError from error
    try:
        return str(data.private_block(DICOM_GROUP, DICOM_CREATOR)[0x01].value)
    except KeyError:  # an image from other software
        return None


def _nifti(path: Path) -> str | None:
    beside = side_car(path)
    if not beside.exists():
        raise ReconError(f"{path} has no sidecar {beside.name} next to it, which would hold the record; put it there")
    return _json(beside)


def _json(path: Path) -> str | None:
    content = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps(content.get(KEY)) if isinstance(content, dict) else None


def _png(path: Path) -> str | None:
    from PIL import Image as Picture

    with Picture.open(path, formats=["PNG"]) as picture:
        text = picture.info.get(KEY)
        return None if text is None else str(text)


def _mrd(path: Path) -> str | None:
    from defusedxml.ElementTree import ParseError, fromstring

    from recon.io import hdf5

    with hdf5.opened(path) as file:
        group = hdf5.group(file, "dataset") if "dataset" in file else {}
        series = sorted(name for name in group if name.startswith("image_"))
        if not series:  # raw data, or images from other software
            return None
        text = hdf5.text(hdf5.group(group, series[0]), "attributes")
    try:
        root = fromstring(text, forbid_dtd=True)
    except ParseError as error:
        raise ValueError from error
    for meta in root.iter("meta"):
        if meta.findtext("name") == KEY:
            return meta.findtext("value")
    return None
