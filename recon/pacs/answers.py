"""The meaning of a PACS's answers: stored, worth another try, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: stored: the PACS confirms it; later: another try may succeed; never: this image will not be accepted.
Meaning = Literal["stored", "later", "never"]


class Unreachable(Exception):
    """The PACS gave no association or no answer; the text says why and contains no patient data."""


@dataclass(frozen=True)
class Answer:
    """Meaning of the answer to the transfer of one image, with the reason in recon's own words."""

    meaning: Meaning
    reason: str = ""
    #: The PACS stored the image with attributes changed.
    coerced: bool = False
    #: Nothing more can be sent over this connection.
    broken: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the PACS says about an image afterwards: `kept` is None if it said nothing."""

    kept: bool | None
    reason: str = ""
    #: Sending the image again cannot help.
    final: bool = False


#: Warnings of C-STORE (PS3.4, table B.2-1): the image is stored.
_STORED = {
    0xB000: "attributes coerced",
    0xB006: "elements discarded",
    0xB007: "the image does not match its class",
}
_NAMES = {
    0x0110: "processing failure",
    0x0111: "an image of this UID is there already",
    0x0112: "no such image",
    0x0117: "invalid image",
    0x0119: "another class for this image",
    0x0122: "class not supported",
    0x0124: "not authorised",
    0x0131: "the transaction is known already",
    0x0213: "resource limitation",
}


def name(status: int) -> str:
    """A status as number and text."""
    words = _NAMES.get(status, "")
    words = words or ("out of resources" if status >> 8 == 0xA7 else "the image does not match its class"
                      if status >> 8 == 0xA9 else "cannot understand" if status >> 12 == 0xC else "")  # fmt: skip
    return f"0x{status:04X}" + (f", {words}" if words else "")


def of_store(status: int | None) -> Answer:
    """The meaning of a C-STORE status (PS3.7, annex C; PS3.4, B.2.3); None if no answer arrived.

    Out of resources (0xA7xx), a processing failure and a refused authorisation can be temporary; errors in the image
    (0xA9xx, 0xCxxx, and all unknown ones) are not. A duplicate counts as stored if the confirmation says so.
    """
    if status is None:
        return Answer("later", "the PACS gave no answer to the transfer, or broke it off", broken=True)
    if status in (0x0000, 0x0111):
        return Answer("stored")
    if status in _STORED:
        return Answer("stored", coerced=True)
    meaning: Meaning = "later" if status >> 8 == 0xA7 or status in (0x0110, 0x0124, 0x0213) else "never"
    return Answer(meaning, f"the PACS refused the image ({name(status)})")


def of_commitment(reason: int) -> Verdict:
    """The meaning of a Failure Reason (0008,1197) of storage commitment (PS3.3, C.14.1.1)."""
    words = f"the PACS does not commit itself to keep the image ({name(reason)})"
    if reason == 0x0112:
        return Verdict(False, words)
    if reason in (0x0119, 0x0122):
        return Verdict(False, words, final=True)
    return Verdict(None, words)
