"""Messages of the MRD streaming protocol without samples, as bytes, identified by an id (u16)."""

from __future__ import annotations

import struct

from recon.errors import ReconError

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT, QUERY, RESPONSE = range(1, 8)
ACQUISITION, IMAGE, WAVEFORM = 1008, 1022, 1026

#: Bytes of CONFIG_FILE's body.
NAME_BYTES = 1024


def whole_first(said: bytes, most: int) -> bool:
    """Whether the first message of a session, the configuration, has arrived completely.

    Also True if it is another message or longer than `most` bytes: its reader then reports the error.
    """
    number = int.from_bytes(said[:2], "little")
    if len(said) < 2:
        return False
    if number == CONFIG_FILE:
        return len(said) >= 2 + NAME_BYTES
    if number == CONFIG_TEXT:
        whole = 6 + int.from_bytes(said[2:6], "little")
        return len(said) >= 6 and (len(said) >= whole or whole > most)
    return True


def config_file(name: str) -> bytes:
    """The message that names a configuration; raises ReconError for a name of more than 1023 bytes."""
    raw = name.encode()
    if len(raw) >= NAME_BYTES:
        raise ReconError(f"the name of a configuration has at most {NAME_BYTES - 1} bytes, this one has {len(raw)}")
    return number_of(CONFIG_FILE) + raw.ljust(NAME_BYTES, b"\0")


def header(xml: bytes) -> bytes:
    """The message that holds the XML header."""
    return _with_length(HEADER, xml)


def text(words: str) -> bytes:
    """A message for people, or JSON."""
    return _with_length(TEXT, words.encode(errors="replace"))


def close() -> bytes:
    """The message after which the sender sends no more data."""
    return number_of(CLOSE)


def query(correlation: int, words: str) -> bytes:
    """Gadgetron's question."""
    raw = words.encode()
    return number_of(QUERY) + struct.pack("<QQQ", 0, correlation, len(raw)) + raw


def response(correlation: int, words: str) -> bytes:
    """The answer to Gadgetron's question."""
    raw = words.encode()
    return number_of(RESPONSE) + struct.pack("<QQ", correlation, len(raw)) + raw


def number_of(number: int) -> bytes:
    """The two bytes at the start of a message with this id."""
    return number.to_bytes(2, "little")


def _with_length(number: int, raw: bytes) -> bytes:
    # One NUL at the end: all readers accept it, and some read the last byte even if there is none.
    raw += b"\0"
    return number_of(number) + len(raw).to_bytes(4, "little") + raw
