"""The content of a series: volumes in order, a real-valued part of complex voxels, and their integer scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recon.data import FRAME_COUNTERS, Image, ReconError

Part = Literal["magnitude", "phase", "real", "imag"]
PARTS: tuple[Part, ...] = ("magnitude", "phase", "real", "imag")


@dataclass(frozen=True)
class Volume:
    """One volume of an image: its 0-based counters, the number of entries of each counter, voxels (z, y, x)."""

    counters: Mapping[str, int]
    counts: Mapping[str, int]
    data: NDArray[Any]


def volumes(image: Image) -> Iterator[Volume]:
    """The volumes of an image, last axis fastest. Raises ReconError if data, axes and geometry do not agree."""
    check(image)
    counts = dict(zip(image.axes, image.data.shape))
    for index in np.ndindex(*image.data.shape[:-3]):
        yield Volume(dict(zip(image.axes, index)), counts, image.data[index])


def check(image: Image) -> None:
    """Raise ReconError for an image that no format can hold: axes that do not fit, no voxels, NaN or infinity."""
    shape = image.data.shape
    if len(shape) != len(image.axes) + 3 or tuple(shape[-3:]) != tuple(image.geometry.shape) or not image.data.size:
        raise ReconError(
            f"the image has shape {shape}, but axes {image.axes} and a geometry of {image.geometry.shape} voxels; both "
            "must describe the array"
        )
    unknown = [a for a in image.axes if a not in FRAME_COUNTERS]
    if unknown or len(set(image.axes)) != len(image.axes):
        raise ReconError(f"image axes {image.axes} must be different ones of {', '.join(FRAME_COUNTERS)}")
    bad = sum(int(np.count_nonzero(~np.isfinite(v))) for v in image.data.reshape(-1, *shape[-2:]))
    if bad:
        raise ReconError(
            f"{bad} of {image.data.size} voxels are NaN or infinite and cannot be written; reconstruct with another "
            "method (--method) or look for faulty lines with `recon info`"
        )


def check_single(name: str, slices: int) -> None:
    """Raise ReconError if more than one slice would go into the DICOM file `name`, which can hold one."""
    if slices > 1:
        raise ReconError(
            f"{name} can hold one slice, and the image has {slices}; write the series into a folder: --output "
            f"{name.rpartition('.')[0]}/"
        )


def part(data: NDArray[Any], name: Part) -> NDArray[np.float32]:
    """A real-valued part of the voxels as float32: magnitude |x|, phase in radians, real or imaginary part.

    Voxels that are already real are their own magnitude and keep their sign: a difference or a map in HU may be
    negative. Raises ReconError for another name, and for the phase of real voxels.
    """
    if name not in PARTS:
        raise ReconError(f"a part of an image is one of {', '.join(PARTS)}, not {name!r}")
    if not np.iscomplexobj(data):
        if name == "magnitude" or name == "real":
            return np.ascontiguousarray(data, dtype=np.float32)
        raise ReconError(f"the image holds real values and has no {name}; write its magnitude")
    if name == "phase":
        return np.asarray(np.angle(data), dtype=np.float32)
    value = {"magnitude": np.abs(data), "real": data.real, "imag": data.imag}[name]
    return np.ascontiguousarray(value, dtype=np.float32)


def of_contrast(values: Sequence[float], i: int) -> float | None:
    """The value of contrast i, its own or a common one; None if the header states neither."""
    return values[i] if i < len(values) else values[0] if len(values) == 1 else None


@dataclass(frozen=True)
class Scale:
    """How values become integers: value · unit ≈ stored · slope; `low` to `high` is the window of value · unit."""

    slope: float
    signed: bool
    low: float
    high: float
    unit: float = 1.0

    def stored(self, value: NDArray[np.float32]) -> NDArray[Any]:
        """The integers that represent `value`: int16 if any may be negative, otherwise uint16."""
        number = np.rint(value.astype(np.float64) * (self.unit / self.slope))
        return number.astype(np.int16 if self.signed else np.uint16)


def scale(values: Sequence[NDArray[np.float32]], *, top: int = 30000, step: float | None = None) -> Scale:
    """One scale for all `values` of a series, so that their intensities stay comparable.

        slope = max |value| / top,   |value − stored · slope| ≤ slope / 2

    Nothing is clipped: a single very bright voxel makes the steps coarser, but is not dimmed. `step` fixes the slope (1
    for HU) as long as the values fit. The window spans 0 (or the 0.5 percentile, if values are negative) to the 99.5
    percentile. If this range is below 10, `unit` is the power of ten that raises it to between 100 and 1000, because
    viewers expect windows of at least 1.
    """
    peak = max((float(np.abs(v).max()) for v in values), default=0.0)
    signed = any(float(v.min()) < 0 for v in values)
    if peak == 0:
        return Scale(step or 1.0, signed, 0.0, 1.0)
    # For a large series, a percentile of every 7th voxel is as good as one of all.
    sample = np.concatenate([v.ravel()[:: 7 if v.size > 1_000_000 else 1] for v in values])
    low, high = (float(q) for q in np.percentile(sample, (0.5, 99.5)))
    low = min(low, 0.0) if signed else 0.0
    high = high if high > low else peak
    if step is not None and peak / step <= 32767:
        return Scale(step, signed, low, high)
    unit = 1.0 if high - low >= 10 else 10.0 ** (2 - int(np.floor(np.log10(high - low))))
    return Scale(peak * unit / top, signed, low * unit, high * unit, unit)
