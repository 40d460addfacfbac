"""Messages of the MRD streaming protocol (version 1), read from a source of bytes and written as bytes.

Everything is little endian: a message id (u16) and a body whose length follows from the id and the body's own header.
There is no other framing, so an unknown id cannot be skipped. `Limits` bound what is read before it is allocated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import Encoding, ReconError
from recon.io.mrd_image import IMAGE_HEADER, ImageMessage
from recon.io.mrd_lines import HEAD
from recon.serve.words import (
    ACQUISITION,
    CLOSE,
    CONFIG_FILE,
    CONFIG_TEXT,
    HEADER,
    IMAGE,
    NAME_BYTES,
    QUERY,
    TEXT,
    WAVEFORM,
    number_of,
)

#: Pixel type of an image by its data_type.
PIXEL = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}

#: The waveform header: unlike the others it has C alignment, 40 bytes.
WAVEFORM_HEAD = np.dtype(
    {
        "names": [
            "version", "flags", "measurement_uid", "scan_counter", "time_stamp", "number_of_samples", "channels",
            "sample_time_us", "waveform_id",
        ],
        "formats": ["<u2", "<u8", "<u4", "<u4", "<u4", "<u2", "<u2", "<f4", "<u2"],
        "offsets": [0, 8, 16, 20, 24, 28, 30, 32, 36],
        "itemsize": 40,
    }
)  # fmt: skip

#: Returns the next bytes, as many as requested, or raises; they stay unchanged as long as anyone holds them.
Take = Callable[[int], memoryview]


class WireError(ReconError):
    """The peer sent something that the protocol or a limit does not allow."""


class Cut(WireError):
    """The connection ended, or became silent, before everything was sent."""


@dataclass(frozen=True)
class Limits:
    """Limits of a message in bytes or counts; larger ones are refused before anything is allocated for them."""

    name: int = 2**20
    header: int = 16 * 2**20
    text: int = 2**20
    samples: int = 65535
    channels: int = 1024
    dimensions: int = 4
    waveform: int = 16 * 2**20
    image: int = 2**30


def limits(encodings: Iterable[Encoding]) -> Limits:
    """Limits of a scan from its header: on a grid, readouts have at most 4 × encodedSpace.x + 1024 samples."""
    longest = [4 * e.encoded_matrix[0] + 1024 if e.on_grid else 65535 for e in encodings]
    return Limits(samples=min(65535, max(longest)))


@dataclass(frozen=True)
class Config:
    """Name of a configuration (id 1), or its text (id 2)."""

    text: str
    is_file: bool


@dataclass(frozen=True)
class XmlHeader:
    """The XML header of the scan."""

    xml: bytes


@dataclass(frozen=True)
class Text:
    """A message for people, or JSON."""

    text: str


@dataclass(frozen=True)
class Close:
    """The sender sends no more data."""


@dataclass(frozen=True)
class Query:
    """Gadgetron's query, e.g. "gadgetron::info"; the answer carries the same `correlation`."""

    correlation: int
    text: str


@dataclass(frozen=True, eq=False)
class Acquisition:
    """One line: `head` are the 340 bytes of HEAD, `trajectory` (sample, dimension), `data` (channel, sample)."""

    head: bytes
    trajectory: NDArray[np.float32]
    data: NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Waveform:
    """ECG, respiration and the like: `head` is a scalar of WAVEFORM_HEAD, `data` uint32 (channel, sample)."""

    head: NDArray[np.void]
    data: NDArray[np.uint32]


Message = Config | XmlHeader | Text | Close | Query | Acquisition | Waveform | ImageMessage


def read_id(take: Take) -> int:
    """The id of the next message."""
    return int.from_bytes(take(2), "little")


def read_body(number: int, take: Take, bound: Limits) -> Message:
    """The message with id `number`, whose body comes next; raises WireError for an unknown id and beyond a limit."""
    if number == ACQUISITION:
        return _acquisition(take, bound)
    if number == CONFIG_FILE:
        return Config(_text(_take(take, NAME_BYTES)), True)
    if number == CONFIG_TEXT:
        return Config(_text(_string(take, "configuration", bound.name)), False)
    if number == HEADER:
        return XmlHeader(_string(take, "header", bound.header).partition(b"\0")[0])
    if number == TEXT:
        return Text(_text(_string(take, "text", bound.text)))
    if number == CLOSE:
        return Close()
    if number == QUERY:
        _, correlation, length = struct.unpack("<QQQ", _take(take, 24))
        return Query(correlation, _text(_take(take, _within(length, "query", bound.text))))
    if number == WAVEFORM:
        return _waveform(take, bound)
    if number == IMAGE:
        return _image(take, bound)
    raise WireError(
        f"message id {number} is unknown, so the rest of the stream cannot be read; send ids 1 to 6, "
        f"{ACQUISITION}, {IMAGE} and {WAVEFORM}"
    )


def _take(take: Take, n: int) -> bytes:
    return bytes(take(n))


def _within(length: int, what: str, most: int) -> int:
    if length > most:
        raise WireError(f"{length} bytes of {what} are announced; at most {most} are accepted")
    return length


def _string(take: Take, what: str, most: int) -> bytes:
    return _take(take, _within(int.from_bytes(_take(take, 4), "little"), what, most))


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")


def _array(take: Take, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    # A view of the received data, which may start at any byte: numpy can read it, and callers that need alignment copy
    # it.
    return np.frombuffer(take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


_F4, _C8 = np.dtype("<f4"), np.dtype("<c8")
_AT = [HEAD.fields[n][1] for n in ("number_of_samples", "active_channels", "trajectory_dimensions")]  # type: ignore[index]
_SIZES = struct.Struct(f"<H{_AT[1] - _AT[0] - 2}xH{_AT[2] - _AT[1] - 2}xH")


def _acquisition(take: Take, bound: Limits) -> Acquisition:
    head = bytes(take(HEAD.itemsize))
    samples, channels, dimensions = _SIZES.unpack_from(head, _AT[0])
    if samples > bound.samples or channels > bound.channels or dimensions > bound.dimensions:
        raise WireError(
            f"a line of {samples} samples, {channels} channels and {dimensions} trajectory dimensions is "
            f"announced; the header allows at most {bound.samples}, {bound.channels} and {bound.dimensions}"
        )
    # Thousands of these arrive per second: the empty value that most lines need is created once.
    trajectory = _array(take, (samples, dimensions), _F4) if dimensions else _no_trajectory(samples)
    return Acquisition(head, trajectory, np.frombuffer(take(8 * channels * samples), _C8).reshape(channels, samples))


@lru_cache(64)
def _no_trajectory(samples: int) -> NDArray[np.float32]:
    out = np.zeros((samples, 0), _F4)
    out.flags.writeable = False
    return out


def _waveform(take: Take, bound: Limits) -> Waveform:
    head = np.frombuffer(_take(take, WAVEFORM_HEAD.itemsize), WAVEFORM_HEAD)[0]
    shape = int(head["channels"]), int(head["number_of_samples"])
    _within(4 * shape[0] * shape[1], "waveform", bound.waveform)
    return Waveform(head, _array(take, shape, np.dtype("<u4")))


def _image(take: Take, bound: Limits) -> ImageMessage:
    header = np.frombuffer(_take(take, IMAGE_HEADER.itemsize), IMAGE_HEADER)[0]
    kind = int(header["data_type"])
    if kind not in PIXEL:
        raise WireError(f"an image of data_type {kind} is announced; the protocol has 1 to 8")
    shape = (int(header["channels"]), *(int(n) for n in header["matrix_size"][::-1]))
    _within(math.prod(shape) * np.dtype(PIXEL[kind]).itemsize, "image", bound.image)
    attributes = _take(take, _within(int.from_bytes(_take(take, 8), "little"), "text of attributes", bound.text))
    return ImageMessage(header, _text(attributes), _array(take, shape, np.dtype(PIXEL[kind])))


def acquisition(line: Acquisition) -> bytes:
    """The message of one line."""
    return number_of(ACQUISITION) + line.head + line.trajectory.tobytes() + line.data.tobytes()


def waveform(w: Waveform) -> bytes:
    """The message of one waveform."""
    return number_of(WAVEFORM) + w.head.tobytes() + w.data.tobytes()


def image(message: ImageMessage) -> bytes:
    """The message of one image."""
    return number_of(IMAGE) + message.body()
