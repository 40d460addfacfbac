"""Values in the elements of an ISMRMRD XML header: numbers, dates and times; invalid ones are noted."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element

from recon.data import Sequence

#: Shortest times in milliseconds that scanners play out: a repetition, an echo on a Cartesian or echo-planar readout
#: (radial and spiral readouts have echoes of a few microseconds). Shorter ones are in seconds.
_LEAST_TR, _LEAST_TE = 0.5, 0.3

#: Largest value in seconds that is accepted beside one of those.
_LONGEST = {"TR": 60.0, "TE": 1.0, "TI": 20.0, "echo_spacing": 0.05}


def text(e: Element, path: str) -> str:
    """Text of the element at `path` below `e`, empty if there is none."""
    return (e.findtext(path) or "").strip().strip("\0")


def number(text: str) -> float | None:
    """A finite number, or None. Python's own extras (1_000, nan, infinity) are not numbers here."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def positive(e: Element, name: str, notes: list[str]) -> float | None:
    """The number of an element, or None with a note if it is not above 0."""
    raw = text(e, name)
    value = number(raw)
    if value is not None and value > 0:
        return value
    if raw and value != 0:
        notes.append(f"{e.tag}/{name} is not a positive number; it is treated as unknown")
    return None


def count(e: Element, name: str, path: str, notes: list[str], least: int) -> int | None:
    """The integer of an element from `least` to 65535, or None with a note."""
    raw = text(e, name)
    value = number(raw)
    if value is not None and value == round(value) and least <= value <= 65535:
        return round(value)
    if raw:
        notes.append(f"{path}/{name} is {shown(raw)}; it is treated as unknown")
    return None


def series(e: Element, name: str, notes: list[str]) -> tuple[float, ...]:
    """All numbers of the elements with one name; none, with a note, if one is negative or not a number."""
    values = [number((item.text or "").strip()) for item in e.findall(name)]
    if any(v is None or v < 0 for v in values):
        notes.append(
            f"{e.tag}/{name} holds a value that is not a time or an angle; all of its values are treated as unknown"
        )
        return ()
    return tuple(v for v in values if v is not None)


def in_milliseconds(timing: Sequence, cartesian: bool, notes: list[str]) -> Sequence:
    """The timing of a header in milliseconds, as in the schema; a converter's seconds are converted, with a note.

    TR < 0.5 ms is impossible, and so is TE < 0.3 ms on a Cartesian readout. Times beside one of those are then also in
    seconds, if that is possible.
    """
    TR, TE = max(timing.TR, default=0.0), max(timing.TE, default=0.0)
    if not 0 < TR < _LEAST_TR and not (cartesian and 0 < TE < _LEAST_TE):
        return timing
    times = {name: getattr(timing, name) for name in _LONGEST}
    held = {name: v for name, v in times.items() if max(v, default=0.0) < _LONGEST[name]}
    told = ", ".join(f"{name} {max(v):g}" for name, v in held.items() if any(v))
    notes.append(f"sequenceParameters cannot be in milliseconds ({told}): these times are read as seconds")
    changes: dict[str, Any] = {name: tuple(1000 * t for t in v) for name, v in held.items()}
    return replace(timing, **changes)


def date(e: Element, name: str, notes: list[str]) -> str:
    """YYYYMMDD of an xs:date, empty with a note if it is none."""
    raw = text(e, name)
    match = re.match(r"(\d{4})-?(\d{2})-?(\d{2})(?!\d)", raw, re.ASCII)
    if match and 1 <= int(match[2]) <= 12 and 1 <= int(match[3]) <= 31:
        return "".join(match.groups())
    if raw:
        notes.append(f"{e.tag}/{name} is not a date (YYYY-MM-DD); it is left empty")
    return ""


def time(e: Element, name: str, notes: list[str]) -> str:
    """HHMMSS(.ffffff) of an xs:time, empty with a note if it is none."""
    raw = text(e, name)
    match = re.match(r"(\d{2}):?(\d{2}):?(\d{2})(\.\d{1,6})?", raw, re.ASCII)
    if match and int(match[1]) < 24 and int(match[2]) < 60 and int(match[3]) <= 60:
        return "".join(part or "" for part in match.groups())
    if raw:
        notes.append(f"{e.tag}/{name} is not a time (HH:MM:SS); it is left empty")
    return ""


def shown(text: str) -> str:
    """A value from the file for messages: quoted and cut."""
    return f"'{text[:32]}{'…' if len(text) > 32 else ''}'" if text else "missing"
