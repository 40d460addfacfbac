"""A scanner, written from the protocol alone: it shares no code with what it tests."""

from __future__ import annotations

import html
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

LINE = struct.Struct("<HQIII3IHHH16QHHHHHf3f3f3f3f3f17H8i8f")
IMAGE = struct.Struct("<HHQI3H3fH3f3f3f3f3f6HI3IHHH8i8fI")
WAVE = struct.Struct("<H6xQIIIHHfH2x")
DTYPE = {1: "<u2", 2: "<i2", 3: "<u4", 4: "<i4", 5: "<f4", 6: "<f8", 7: "<c8", 8: "<c16"}


@dataclass(frozen=True)
class Recording:
    """What a scanner would send of a scan: its XML header and the body of each acquisition."""

    xml: bytes
    lines: list[bytes]


def load(path: Path) -> Recording:
    with h5py.File(path, "r") as file:
        group = file["dataset"]
        xml = bytes(np.asarray(group["xml"][()]).reshape(-1)[0])
        return Recording(xml, [_body(record) for record in group["data"][()]])


def _body(record: Any) -> bytes:
    values: list[Any] = []

    def add(item: Any) -> None:
        if getattr(item, "dtype", None) is not None and item.dtype.names:
            for name in item.dtype.names:
                add(item[name])
        elif np.ndim(item):
            values.extend(np.asarray(item).tolist())
        else:
            values.append(item.item())

    add(record["head"])
    return (
        LINE.pack(*values) + np.asarray(record["traj"], "<f4").tobytes() + np.asarray(record["data"], "<f4").tobytes()
    )


def edited(line: bytes, **fields: int) -> bytes:
    """A line with other header values, by the names in AT."""
    head = list(LINE.unpack_from(line))
    for name, value in fields.items():
        head[AT[name]] = value
    return LINE.pack(*head) + line[LINE.size :]


#: Places of header values in the tuple that LINE unpacks.
AT = {
    "flags": 1, "samples": 8, "channels": 10, "reference": 30, "dimensions": 31, "step1": 48, "step2": 49,
    "average": 50, "slice": 51, "contrast": 52, "phase": 53, "repetition": 54, "set": 55,
}  # fmt: skip


def louder(body: bytes, factor: float) -> bytes:
    """A line with all of its samples multiplied."""
    at = LINE.size
    return body[:at] + (np.frombuffer(body[at:], "<f4") * np.float32(factor)).tobytes()


def value(line: bytes, name: str) -> int:
    return int(LINE.unpack_from(line)[AT[name]])


def number(n: int) -> bytes:
    return struct.pack("<H", n)


def string(n: int, text: bytes, end: bytes = b"\0") -> bytes:
    return struct.pack("<HI", n, len(text + end)) + text + end


def config(name: str = "auto") -> bytes:
    return number(1) + name.encode().ljust(1024, b"\0")


def header(xml: bytes) -> bytes:
    return string(3, xml)


def line(body: bytes) -> bytes:
    return number(1008) + body


def question(correlation: int, words: str) -> bytes:
    return number(6) + struct.pack("<QQQ", 0, correlation, len(words)) + words.encode()


def wave(samples: int = 3, channels: int = 2, kind: int = 0) -> bytes:
    return number(1026) + WAVE.pack(1, 0, 1, 1, 1, samples, channels, 2.5, kind) + bytes(4 * samples * channels)


def picture(pixels: np.ndarray, attributes: bytes = b"", kind: int = 2, image_type: int = 1, series: int = 3) -> bytes:
    """An image message; `pixels` are (channel, z, y, x)."""
    c, z, y, x = pixels.shape
    axes = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    head = [1, kind, 0, 7, x, y, z, 100.0, 100.0, 5.0, c, *[0.0] * 3, *axes, *[0.0] * 3, *[0] * 10]
    head += [image_type, 4, series, *[0] * 8, *[0.0] * 8, len(attributes)]
    body = IMAGE.pack(*head) + struct.pack("<Q", len(attributes)) + attributes
    return number(1022) + body + pixels.astype(DTYPE[kind]).tobytes()


CLOSE = number(4)


def session(recording: Recording, name: str = "auto", close: bool = True) -> list[bytes]:
    """All messages of a scan."""
    return [config(name), header(recording.xml), *map(line, recording.lines), *([CLOSE] if close else [])]


@dataclass
class Image:
    """An image as it came: some of its header, its attributes, pixels (channel, z, y, x), and when."""

    head: tuple[Any, ...]
    attributes: str
    pixels: np.ndarray
    at: float

    @property
    def series(self) -> int:
        return int(self.head[38])

    @property
    def slice(self) -> int:
        return int(self.head[27])

    @property
    def repetition(self) -> int:
        return int(self.head[30])


@dataclass
class Reply:
    """What came back until the server closed the connection, or until the client gave up waiting."""

    images: list[Image] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    responses: list[tuple[int, str]] = field(default_factory=list)
    closes: int = 0
    ended: bool = False
    broken: str = ""

    def error(self) -> str:
        return "\n".join(t for t in self.texts if t.startswith("ERR"))


class Scanner:
    """A connection to the server; it reads in a separate thread, as a scanner does.

    Over TLS it reads when all is sent: one connection of OpenSSL must not be used by two threads at once.
    """

    def __init__(self, port: int, *, reading: bool = True, sock: socket.socket | None = None) -> None:
        self.socket = sock or socket.create_connection(("127.0.0.1", port), timeout=30)
        self.reply = Reply()
        self.thread = threading.Thread(target=self._read, daemon=True)
        if reading and not isinstance(self.socket, ssl.SSLSocket):
            self.thread.start()

    def send(self, messages: Iterable[bytes], *, piece: int = 0, pause: float = 0.0) -> Scanner:
        """Send the messages, in pieces of `piece` bytes, with a pause after each piece or message."""
        for message in messages:
            for start in range(0, len(message), piece or len(message)):
                try:
                    self.socket.sendall(message[start : start + (piece or len(message))])
                except OSError:
                    return self  # the server has ended the session; what it said is in the reply
                if pause:
                    time.sleep(pause)
        return self

    def fin(self) -> Scanner:
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Break the connection off; only for a client that does not read."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def wait(self, seconds: float = 120.0) -> Reply:
        """The reply, when the server has closed the connection; where nothing is wrong, no wait is as long."""
        if self.thread.ident is None:
            self.thread.start()
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"the server did not end the session: {self.reply}"
        self.socket.close()
        return self.reply

    def _take(self, n: int) -> bytes:
        out = bytearray()
        while len(out) < n:
            got = self.socket.recv(min(n - len(out), 1 << 20))
            if not got:
                raise EOFError(f"{len(out)} of {n} bytes")
            out += got
        return bytes(out)

    def _read(self) -> None:
        self.socket.settimeout(120)
        reply = self.reply
        try:
            while True:
                first = self.socket.recv(1)
                if not first:
                    reply.ended = True
                    return
                kind = struct.unpack("<H", first + self._take(1))[0]
                if kind == 4:
                    reply.closes += 1
                elif kind == 5:
                    text = self._take(struct.unpack("<I", self._take(4))[0])
                    reply.texts.append(text.partition(b"\0")[0].decode())
                elif kind == 7:
                    correlation, length = struct.unpack("<QQ", self._take(16))
                    reply.responses.append((correlation, self._take(length).decode()))
                elif kind == 1022:
                    head = IMAGE.unpack(self._take(IMAGE.size))
                    attributes = self._take(struct.unpack("<Q", self._take(8))[0]).decode()
                    shape = head[10], head[6], head[5], head[4]
                    dtype = np.dtype(DTYPE[head[1]])
                    pixels = np.frombuffer(self._take(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)
                    reply.images.append(Image(head, attributes, pixels, time.monotonic()))
                else:
                    raise ValueError(f"message id {kind}")
        except (OSError, EOFError, ValueError) as error:
            reply.broken = repr(error)
            reply.ended = isinstance(error, OSError)


def run(port: int, messages: Sequence[bytes], **pace: Any) -> Reply:
    """One whole session."""
    return Scanner(port).send(messages, **pace).wait()


def value_of(image: Image, name: str) -> str:
    """An attribute of an image that has one value."""
    return html.unescape(image.attributes.partition(f"<name>{name}</name><value>")[2].partition("<")[0])


def step_of(image: Image) -> float:
    """What one whole number of an image stands for, as it says itself."""
    return float(json.loads(value_of(image, "recon"))["slope"])


def wait_for_images(client: Scanner, n: int) -> None:
    """Wait until so many images have come back while the session goes on."""
    deadline = time.monotonic() + 30
    while len(client.reply.images) < n and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(client.reply.images) == n
