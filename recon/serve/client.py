"""A client that streams a raw scan to a server and keeps the images that come back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from recon.data import RawScan, ReconError
from recon.io import mrd_header
from recon.io.mrd_image import ImageMessage
from recon.io.mrd_lines import heads
from recon.serve import wire, words
from recon.serve.streams import Incoming

if TYPE_CHECKING:
    from ssl import SSLContext

#: Lines that are read from the file at once.
_LINES = 256


@dataclass
class Answer:
    """The server's answer: images, texts, and whether it ended with CLOSE."""

    images: list[ImageMessage] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    closed: bool = False


def session(scan: RawScan, recipe: str) -> Iterator[bytes]:
    """All messages of a scan, from the name of the recipe to CLOSE.

    Lines are not numbered: numbers added here would claim completeness for lines missing from the file.
    """
    yield words.config_file(recipe)
    yield words.header(mrd_header.build(scan.header, scan.encodings))
    table = heads(scan.lines, np.zeros(len(scan.lines), np.intp))
    keys = np.stack([table[n] for n in ("active_channels", "number_of_samples", "trajectory_dimensions")], axis=1)
    changes = np.nonzero((np.diff(keys.astype(int), axis=0) != 0).any(axis=1))[0] + 1
    for first, end in pairwise((0, *changes, len(table))):
        for start in range(first, end, _LINES):
            rows = np.arange(start, min(end, start + _LINES))
            samples, k = scan.samples.read(rows), scan.samples.trajectory(rows)
            for i, data, trajectory in zip(rows, samples, k):
                yield wire.acquisition(wire.Acquisition(table[i].tobytes(), trajectory, data))
    yield words.close()


def stream(
    scan: RawScan,
    host: str,
    port: int,
    recipe: str,
    *,
    patience_s: float,
    hear: Callable[[str], None],
    tls: SSLContext | None = None,
) -> Answer:
    """Send a scan and receive the answer, within `tls` if it is given; `hear` gets each text at once.

    Raises ReconError if the server cannot be reached, is silent for `patience_s` seconds, or breaks off.
    """
    try:
        sock = socket.create_connection((host, port), timeout=patience_s)
    except OSError as e:
        raise ReconError(f"cannot reach {host}:{port} ({e.strerror or e}); is `recon serve` running there?") from None
    if tls is not None:
        from recon.serve.tls import shake

        sock = shake(sock, tls, patience_s, name=host)
        sock.settimeout(patience_s)
    with sock:
        failed: list[Exception] = []
        writer = threading.Thread(target=_send, args=(sock.dup(), session(scan, recipe), failed), daemon=True)
        writer.start()
        answer = _take(sock, patience_s, hear)
        writer.join(patience_s)
    if failed and not answer.closed:
        raise failed[0]
    return answer


def _send(sock: socket.socket, messages: Iterator[bytes], failed: list[Exception]) -> None:
    with sock:
        try:
            for message in messages:
                sock.sendall(message)
        except OSError:
            pass  # what the server had to say is in its answer
        except Exception as e:
            failed.append(e)
            sock.shutdown(socket.SHUT_RDWR)


def _take(sock: socket.socket, patience_s: float, hear: Callable[[str], None]) -> Answer:
    answer, source = Answer(), Incoming(sock, patience_s, patience_s)
    while not answer.closed:
        try:
            number = wire.read_id(source.take)
            source.begun()
            message = wire.read_body(number, source.take, wire.Limits())
        except wire.Cut:
            return answer
        if isinstance(message, wire.Text):
            answer.texts.append(message.text)
            hear(message.text)
        elif isinstance(message, ImageMessage):
            answer.images.append(message)
        elif isinstance(message, wire.Close):
            answer.closed = True
    return answer
