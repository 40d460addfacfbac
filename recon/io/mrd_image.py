"""Images as ISMRMRD: the messages that a scanner receives, and the same in an HDF5 file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from recon.data import Image, ReconError, counted
from recon.geometry import Geometry, Vector, centre_index
from recon.io.parts import Scale, Volume, part, scale, volumes
from recon.io.provenance import KEY, as_json, describe, is_learned, series_description

#: ISMRMRD's image header, 198 bytes without padding (ismrmrd.h, version 1).
IMAGE_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("data_type", "<u2"),
        ("flags", "<u8"),
        ("measurement_uid", "<u4"),
        ("matrix_size", "<u2", (3,)),
        ("field_of_view", "<f4", (3,)),
        ("channels", "<u2"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("acquisition_time_stamp", "<u4"),
        ("physiology_time_stamp", "<u4", (3,)),
        ("image_type", "<u2"),
        ("image_index", "<u2"),
        ("image_series_index", "<u2"),
        ("user_int", "<i4", (8,)),
        ("user_float", "<f4", (8,)),
        ("attribute_string_len", "<u4"),
    ]
)
_INT16, _FLOAT32, _COMPLEX64 = 2, 5, 7
_TYPE = {"magnitude": 1, "phase": 2, "real": 3, "imag": 4, "complex": 5}
#: Range of the whole numbers of a series whose later images are not yet known: this many times the peak of the first
#: image. If the noise is known, the range is at most this many of its standard deviations: steps of an eighth of it add
#: 0.1 % of its power.
HEAD_ROOM, REACH = 4.0, 512.0
#: Bytes of a file besides an image's pixels, for its header and its record: an upper bound.
_ABOUT = 1 << 13
#: Largest whole number of a pixel: 12 bits, as scanners have.
TOP = (1 << 12) - 1

ImagePart = Literal["magnitude", "phase", "real", "imag", "complex"]


@dataclass(frozen=True)
class ImageMessage:
    """One ISMRMRD image: `header` is a scalar of IMAGE_HEADER, `pixels` have shape (channel, z, y, x).

    `cut` is the number of pixels above the largest whole number, to which they were clipped.
    """

    header: NDArray[np.void]
    attributes: str
    pixels: NDArray[Any]
    cut: int = 0

    def body(self) -> bytes:
        """The bytes after message id 1022 on the wire: header, length of attributes, attributes, pixels."""
        text = self.attributes.encode()
        header = self.header.copy()
        header["attribute_string_len"] = len(text)
        return bytes(header) + len(text).to_bytes(8, "little") + text + self.pixels.tobytes()


def centre(g: Geometry) -> Vector:
    """The position that ISMRMRD states for a volume or slice: inverse of `recon.geometry.from_centre`.

    centre = position + i₀·Δx·r + j₀·Δy·c + k₀·Δz·s
    """
    out = np.asarray(g.position, dtype=np.float64)
    for n, step, direction in zip(g.shape[::-1], g.voxel, (g.read_dir, g.phase_dir, g.slice_dir)):
        out = out + centre_index(n) * step * np.asarray(direction)
    return (float(out[0]), float(out[1]), float(out[2]))


def steps(image: Image, parts: Sequence[ImagePart], *, later: bool) -> dict[ImagePart, float]:
    """The value of one whole number in the series of each part that begins with this image: see `messages`.

        step = peak / TOP
        step = max(HEAD_ROOM · peak, REACH · σ) / TOP   if `later` images follow

    The noise σ of a whitened image is 1; if no noise was measured or estimated, only the peak counts. Parts whose step
    is not known yet, because they are zero everywhere, are left out.
    """
    known = image.provenance.get("noise") in ("noise scan", "estimate")
    found: dict[ImagePart, float] = {}
    for name in parts:
        if name == "phase" or name == "complex":
            found[name] = math.pi / TOP if name == "phase" else 1.0
            continue
        peak = max(float(np.abs(part(v.data, name)).max()) for v in volumes(image))
        reach = max(HEAD_ROOM * peak, REACH if known else 0.0) if later else peak
        if reach > 0:
            found[name] = reach / TOP
    return found


def messages(
    image: Image,
    *,
    parts: Sequence[ImagePart] = ("magnitude",),
    pixel: Literal["float32", "int16"] = "float32",
    volume: bool = False,
    step: Mapping[ImagePart, float] | None = None,
) -> Iterator[ImageMessage]:
    """The images as ISMRMRD messages: one for each slice, or with `volume` one for each volume.

    Each part (magnitude, phase, …) has its own image_series_index, counted from 0, so that a series has one size and
    one type. position is the centre of the slice or volume in LPS mm (see `centre`). field_of_view is the extent of all
    voxels, for a slice along z its thickness. `pixel` "int16" scales each part into 0 … TOP (signed if values are
    negative), by the `step` of its series, or by its own peak; the record in the attributes states the slope. If values
    are larger, `cut` and the comment state how many. Phase is in radians, or −TOP … TOP for −π … π.
    """
    for n, name in enumerate(parts):
        kind = _COMPLEX64 if name == "complex" else _INT16 if pixel == "int16" else _FLOAT32
        everything = list(volumes(image))
        values: list[NDArray[Any]] = [
            v.data.astype(np.complex64) if name == "complex" else part(v.data, name) for v in everything
        ]
        scaled = _scale(name, values, (step or {}).get(name))
        index = 0
        for v, array in zip(everything, values):
            for k, g, block in _blocks(image.geometry, array, volume):
                index += 1
                header = _header(g, v, kind, _TYPE[name], k, n, index)
                stored, cut = _whole(block, scaled) if kind == _INT16 else (block, 0)
                text = _attributes(image, g, name, scaled, kind, cut)
                yield ImageMessage(header, text, np.ascontiguousarray(stored[np.newaxis]), cut)


def _whole(values: NDArray[np.float32], scaled: Scale) -> tuple[NDArray[np.int16], int]:
    """Values as whole numbers of at most TOP, and how many of them are larger."""
    number = np.rint(values.astype(np.float64) * (scaled.unit / scaled.slope))
    return np.clip(number, -TOP, TOP).astype(np.int16), int(np.count_nonzero(np.abs(number) > TOP))


def write_mrd(image: Image, path: Path, *, parts: Sequence[ImagePart] = ("magnitude",)) -> list[Path]:
    """Write an image as ISMRMRD HDF5 (`ismrmrd.Dataset(path).read_image("image_0", n)`), float32 or complex64.

    One group image_<series index> for each part, one entry for each slice. The file contains no patient data.
    """
    return write_messages(messages(image, parts=parts), path)


def write_messages(images: Iterable[ImageMessage], path: Path) -> list[Path]:
    """Write image messages as ISMRMRD HDF5, one group for each series; a second size or type in it gets its own.

    Raises ReconError if the system refuses the file.
    """
    from recon.io import hdf5

    series: dict[tuple[Any, ...], list[ImageMessage]] = {}
    for m in images:
        series.setdefault((int(m.header["image_series_index"]), m.pixels.shape, m.pixels.dtype), []).append(m)
    with hdf5.created(path, sum(m.pixels.nbytes + _ABOUT for group in series.values() for m in group)) as file:
        for (n, *_), group in series.items():
            twin = sum(name.split("_")[1] == str(n) for name in file.get("dataset", ()))
            _write_group(file.create_group(f"dataset/image_{n}" + (f"_{twin}" if twin else "")), group)
    return [path]


def _write_group(where: Any, group: list[ImageMessage]) -> None:
    import h5py

    where["header"] = np.stack([m.header for m in group])
    pixels = np.stack([m.pixels for m in group])
    if np.iscomplexobj(pixels):
        # ISMRMRD names the parts of a complex number differently from h5py.
        half = pixels.real.dtype
        pixels = pixels.view(np.dtype([("real", half), ("imag", half)]))
    where["data"] = pixels
    where.create_dataset("attributes", data=[m.attributes for m in group], dtype=h5py.string_dtype())


def _scale(name: ImagePart, values: Sequence[NDArray[Any]], step: float | None) -> Scale:
    if name == "phase":
        return Scale(math.pi / TOP, True, -math.pi, math.pi)
    if name == "complex":
        return Scale(1.0, True, 0.0, 1.0)
    own = scale(values, top=TOP)
    return own if step is None else Scale(step, own.signed, own.low / own.unit, own.high / own.unit)


def _blocks(g: Geometry, data: NDArray[Any], volume: bool) -> Iterator[tuple[int, Geometry, NDArray[Any]]]:
    if volume:
        yield 0, g, data
        return
    for k in range(g.shape[0]):
        position = g.slice_position(k)
        one = replace(
            g,
            position=(float(position[0]), float(position[1]), float(position[2])),
            shape=(1, *g.shape[1:]),
            voxel=(*g.voxel[:2], g.thickness),
        )
        yield k, one, data[k : k + 1]


def _header(g: Geometry, v: Volume, kind: int, image_type: int, k: int, series: int, index: int) -> NDArray[np.void]:
    matrix = g.shape[::-1]
    if max(*matrix, index, series) > 0xFFFF:
        raise ReconError(
            f"ISMRMRD counts voxels and images up to 65535, and this is image {index} of {matrix} voxels; write fewer "
            "repetitions at once, or NIfTI or DICOM"
        )
    h = np.zeros((), dtype=IMAGE_HEADER)
    h["version"], h["data_type"], h["channels"], h["image_type"] = 1, kind, 1, image_type
    h["matrix_size"] = matrix
    h["field_of_view"] = [n * step for n, step in zip(matrix, g.voxel)]
    h["position"] = centre(g)
    h["read_dir"], h["phase_dir"], h["slice_dir"] = g.read_dir, g.phase_dir, g.slice_dir
    h["slice"], h["image_index"], h["image_series_index"] = k, index, series
    for name, i in v.counters.items():
        h[name] = i
    return h


def _attributes(image: Image, g: Geometry, name: ImagePart, scaled: Scale, kind: int, cut: int) -> str:
    unit = scaled.slope if kind == _INT16 else scaled.unit
    low, high = scaled.low / unit, scaled.high / unit
    high = max(high, low + 1) if kind == _INT16 else high  # a window of whole numbers contains at least one
    also = {"cut": cut} if cut else {}
    said = [f"{counted(cut, 'pixel was', 'pixels were')} clipped to the largest number"] if cut else []
    meta: dict[str, list[str]] = {
        "DataRole": ["Image"],
        "ImageProcessingHistory": ["RECON", *(["AI"] if is_learned(image) else [])],
        "SeriesDescription": [series_description(image, name)],
        "ImageComment": [describe(image), *said],
        # The scanner must not rotate the image again: the directions here and in the header are those of the pixels.
        "Keep_image_geometry": ["1"],
        "ImageRowDir": [f"{x:.18f}" for x in g.read_dir],
        "ImageColumnDir": [f"{x:.18f}" for x in g.phase_dir],
        "ImageSliceDir": [f"{x:.18f}" for x in g.slice_dir],
        KEY: [as_json(image, part=name, slope=scaled.slope / scaled.unit if kind == _INT16 else 1.0, **also)],
    }
    if name != "complex":
        meta["WindowCenter"], meta["WindowWidth"] = [f"{(low + high) / 2:.9g}"], [f"{high - low:.9g}"]
    return meta_xml(meta)


def meta_xml(meta: Mapping[str, Sequence[str]]) -> str:
    """ISMRMRD's attribute text of an image: <ismrmrdMeta><meta><name/><value/>…</meta>…</ismrmrdMeta>."""
    root = ElementTree.Element("ismrmrdMeta")
    for name, values in meta.items():
        entry = ElementTree.SubElement(root, "meta")
        ElementTree.SubElement(entry, "name").text = name
        for value in values:
            ElementTree.SubElement(entry, "value").text = value
    return ElementTree.tostring(root, encoding="unicode")
