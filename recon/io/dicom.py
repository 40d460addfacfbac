"""Images as DICOM: classic MR Image Storage (CT Image Storage for HU), one file per slice."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import Image
from recon.io import ct_derived
from recon.io import dicom_values as dv
from recon.io.atomic import atomic_dir, atomic_file
from recon.io.dicom_header import Series, series_header
from recon.io.parts import Part, Scale, Volume, check_single, of_contrast, part, scale, volumes
from recon.io.provenance import plain

if TYPE_CHECKING:
    from pydicom import Dataset

#: What determines the image: part of every UID, so that a repeated job is recognised and a changed one is new.
_SETTINGS = (
    "engine",
    "version",
    "method",
    "recipe",
    "recipe_hash",
    "weights_sha256",
    "seed",
    "seeds",
    "job",
    "scan_sha256",
)
#: Phase is written in milliradians: −π … π fits 16 bits in steps of 0.1 mrad.
_MRAD = 1000.0


def write_dicom(
    image: Image,
    folder: Path,
    *,
    parts: Sequence[Part] = ("magnitude",),
    series_number: int = 1,
    derived: bool = False,
) -> list[Path]:
    """Write an image as a folder of DICOM files, all or nothing: IM0001.dcm …, below SE01 … if several series.

    See `datasets` for the division into series. `folder` must not exist or must be empty. Returns the files.
    """
    found: list[Path] = []
    with atomic_dir(folder) as temporary:
        several = len(_groups(image)) * len(parts) > 1
        for dataset in datasets(image, parts=parts, series_number=series_number, derived=derived):
            sub = f"SE{int(dataset.SeriesNumber) - series_number + 1:02d}" if several else ""
            (temporary / sub).mkdir(exist_ok=True)
            name = Path(sub) / f"IM{int(dataset.InstanceNumber):04d}.dcm"
            dataset.save_as(temporary / name, enforce_file_format=True)
            found.append(folder / name)
    return found


def write_dicom_file(
    image: Image,
    path: Path,
    *,
    parts: Sequence[Part] = ("magnitude",),
    series_number: int = 1,
    derived: bool = False,
) -> list[Path]:
    """Write an image of one slice as one DICOM file. Raises ReconError for images that need several files."""
    check_file(image, path, parts)
    (dataset,) = datasets(image, parts=parts, series_number=series_number, derived=derived)
    with atomic_file(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return [path]


def check_file(image: Image, path: Path, parts: Sequence[Part]) -> None:
    """Raise ReconError unless the parts of an image are one slice, which one DICOM file can hold."""
    check_single(path.name, len(parts) * math.prod(image.data.shape[:-2]))


def datasets(
    image: Image,
    *,
    parts: Sequence[Part] = ("magnitude",),
    series_number: int = 1,
    derived: bool = False,
) -> Iterator[Dataset]:
    """The DICOM objects of an image, slice by slice, ready to be saved or sent.

    A series has one meaning: each part (magnitude, phase, …) and each `set` is a separate series, and so is each
    contrast, unless the contrasts are echoes with different known echo times, which share a series under EchoNumbers.
    Repetitions and cardiac phases share a series under TemporalPositionIdentifier.

        value · unit = stored · RescaleSlope,
        one slope for each part, nothing clipped

    where unit is 1 (1000 for phase: milliradians; a power of ten for very small values, stated in ImageComments). UIDs
    follow from pixels and settings: the same give the same UIDs, any change gives new ones. Geometry follows PS3.3
    C.7.6.2; an unknown one gets a separate frame of reference and a comment. `derived` labels the image DERIVED, as
    some sites want for learned methods; PS3.3 C.7.6.1.1.2 calls every image from raw data ORIGINAL, and every image
    made from images DERIVED (see `ct_derived`). Raises ReconError for NaN or infinity.
    """
    content = _digest(image)
    if image.source:
        yield from ct_derived.datasets(image, content, series_number=series_number)
        return
    derived = derived or bool(image.provenance.get("derived"))
    study = dv.uid(image.header.study.uid) or _study(image, content)
    for n, series in enumerate(_series(image, parts)):
        uid = dv.uid_of("series", content, series.part, series.label, str(derived), str(series_number))
        base = series_header(image, series, study, content, derived)
        base.SeriesInstanceUID, base.SeriesNumber = uid, str(series_number + n)
        instance = 0
        for volume, values in zip(series.volumes, series.values):
            for k, pixels in enumerate(series.scale.stored(values)):
                instance += 1
                dataset = copy.deepcopy(base)
                _slice(dataset, image, volume, k, pixels)
                dataset.InstanceNumber = str(instance)
                dataset.SOPInstanceUID = dv.uid_of("instance", uid, str(instance))
                dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
                yield dataset


def _groups(image: Image) -> dict[str, list[Volume]]:
    everything = list(volumes(image))
    TE = image.header.sequence.TE
    n = everything[0].counts.get("contrast", 1)
    echoes = len(TE) >= n and len(set(TE[:n])) == n
    apart = ("set",) if echoes else ("contrast", "set")
    groups: dict[str, list[Volume]] = {}
    for volume in everything:
        label = " ".join(f"{a} {volume.counters[a] + 1}" for a in apart if a in volume.counters)
        groups.setdefault(label, []).append(volume)
    return groups


def _series(image: Image, parts: Sequence[Part]) -> Iterator[Series]:
    groups = _groups(image)
    for name in parts:
        values = {label: [part(v.data, name) for v in group] for label, group in groups.items()}
        one = _scale(image, name, [v for group in values.values() for v in group])
        for label, group in groups.items():
            yield Series(name, group, values[label], one, label)


def _scale(image: Image, name: Part, values: Sequence[NDArray[np.float32]]) -> Scale:
    if name == "phase":
        return Scale(0.1, True, -math.pi * _MRAD, math.pi * _MRAD, _MRAD)
    found = scale(values, step=1.0 if image.units == "HU" else None)
    # Values are divided by the slope as written in the file, not by one with more digits.
    return replace(found, slope=float(dv.number(found.slope)), signed=found.signed or image.units == "HU")


def _study(image: Image, content: str) -> str:
    """A new StudyInstanceUID, shared by all images of one scan of one patient, for all stacks and recipes."""
    scan = image.provenance.get("scan_sha256")
    patient = json.dumps(dataclasses.asdict(image.header.patient), sort_keys=True)
    return dv.uid_of("study", str(scan), patient) if scan else dv.uid_of("study", content)


def _digest(image: Image) -> str:
    settings = {key: image.provenance.get(key) for key in _SETTINGS}
    g, digest = image.geometry, hashlib.sha256()
    words = [settings, dataclasses.asdict(g), dataclasses.asdict(image.header), image.axes, image.units, image.notes]
    digest.update(json.dumps(plain(words), sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image.data).data)
    return digest.hexdigest()


def _slice(d: Dataset, image: Image, volume: Volume, k: int, pixels: NDArray[Any]) -> None:
    g, sequence = image.geometry, image.header.sequence
    position = g.slice_position(k)
    d.ImagePositionPatient = [dv.number(v) for v in position]
    d.ImageOrientationPatient = [dv.number(v) for v in (*g.read_dir, *g.phase_dir)]
    d.PixelSpacing = [dv.number(g.voxel[1]), dv.number(g.voxel[0])]
    d.SliceThickness, d.SpacingBetweenSlices = dv.number(g.thickness), dv.number(g.voxel[2])
    if image.units == "HU":
        del d.SpacingBetweenSlices  # not part of CT Image Storage
    d.SliceLocation = dv.number(float(np.asarray(g.normal) @ position))
    d.Rows, d.Columns = pixels.shape
    counters, counts = volume.counters, volume.counts
    repetition, phase, contrast = (counters.get(a, 0) for a in ("repetition", "phase", "contrast"))
    d.AcquisitionNumber = str(repetition + 1)
    if counts.get("repetition", 1) * counts.get("phase", 1) > 1:
        d.TemporalPositionIdentifier = str(repetition * counts.get("phase", 1) + phase + 1)
        d.NumberOfTemporalPositions = str(counts.get("repetition", 1) * counts.get("phase", 1))
    if image.units != "HU":
        if "phase" in counts:
            d.CardiacNumberOfImages = str(counts["phase"])
        d.EchoNumbers = str(contrast + 1)
        for keyword, values in (("EchoTime", sequence.TE), ("RepetitionTime", sequence.TR)):
            value = _stated(values, contrast)
            setattr(d, keyword, "" if value is None else dv.number(value))
        for keyword, values in (("InversionTime", sequence.TI), ("FlipAngle", sequence.flip_deg)):
            value = _stated(values, contrast)
            if value is not None:
                setattr(d, keyword, dv.number(value))
        if "IR" in d.ScanningSequence and "InversionTime" not in d:
            d.InversionTime = ""
    d.add_new("PixelData", "OW", pixels.astype(pixels.dtype.newbyteorder("<")).tobytes())  # 16 bits: always even


def _stated(values: Sequence[float], contrast: int) -> float | None:
    value = of_contrast(values, contrast)
    return value if value is not None and math.isfinite(value) and value >= 0 else None
