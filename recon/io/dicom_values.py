"""Text and numbers as DICOM's value representations allow them: cleaned, cut, or left empty; never invented."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

from recon import __version__

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

#: Longest text of each value representation (DICOM PS3.5, table 6.2-1). The standard counts characters; validators and
#: many databases count bytes of UTF-8, so the stricter limit is used here.
LONGEST = {"SH": 16, "CS": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240}
#: Storage classes of MR and CT images.
MR_IMAGE, CT_IMAGE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
#: ImageComments for an image from a network: one that was reconstructed, one that was denoised.
AI = ("AI-assisted reconstruction, research use.", "AI-assisted image, research use.")
RESEARCH = "Research use."


def text(value: object, vr: str = "LO") -> str:
    """`value` as text of a value representation (SH, LO, ST, LT): no control characters, cut to its longest length.

    A backslash separates values of SH and LO, so in these it becomes a slash. Line ends stay in ST and LT.
    """
    if vr in ("ST", "LT"):
        lines = str(value).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        return cut("\r\n".join(_printable(line, "") for line in lines), LONGEST[vr])
    return cut(one_line(str(value)), LONGEST[vr])


def one_line(value: str) -> str:
    """`value` without control characters and backslashes, with single spaces; of any length."""
    return " ".join(_printable(value, " ").replace("\\", "/").split())


def cut(value: str, size: int) -> str:
    """The longest prefix of `value` whose UTF-8 has at most `size` bytes, without spaces around it."""
    return value.strip().encode("utf-8")[:size].decode("utf-8", "ignore").strip()


def person_name(value: str) -> str:
    """A name of at most three groups (=) with five components (^), 64 bytes in total; the rest is cut."""
    groups = []
    for group in one_line(value).split("=", 2):
        components = group.replace("=", " ").split("^", 4)
        components[-1] = components[-1].replace("^", " ")
        groups.append("^".join(c.strip() for c in components))
    return cut("=".join(groups), LONGEST["PN"]).rstrip("=^ ")


def _printable(value: str, instead: str) -> str:
    # A lone surrogate, which Python reads from undecodable bytes, has no UTF-8 form.
    raw = unicodedata.normalize("NFC", value.encode("utf-8", "replace").decode("utf-8"))
    return "".join(instead if unicodedata.category(c) == "Cc" else c for c in raw)


def code(value: str) -> str:
    """A code string (CS): capitals, digits, space and underscore, at most 16; empty if nothing is left."""
    return re.sub(r"[^A-Z0-9_ ]", "", value.upper()).strip()[: LONGEST["CS"]].strip()


def date(value: str) -> str:
    """A date as YYYYMMDD from YYYYMMDD or YYYY-MM-DD; empty if it is not a calendar day."""
    digits = value.strip()[:10].replace("-", "")
    try:
        return datetime.strptime(digits, "%Y%m%d").strftime("%Y%m%d") if re.fullmatch(r"\d{8}", digits) else ""
    except ValueError:
        return ""


def time(value: str) -> str:
    """A time as HHMMSS(.ffffff) from that or HH:MM:SS(.f…); empty if it is not a time of day."""
    found = re.fullmatch(r"([01]\d|2[0-3]):?([0-5]\d):?([0-5]\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?", value.strip())
    return "".join(found.group(1, 2, 3)) + (found.group(4) or "")[:7] if found else ""


def number(value: float) -> str:
    """A finite number as decimal string (DS): at most 16 characters with as many digits as fit."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)  # + 0.0 turns −0 into 0


def uid(value: str) -> str:
    """`value` if it is a legal UID, otherwise empty."""
    value = value.strip()
    return value if len(value) <= 64 and re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", value) else ""


def uid_of(*content: str | bytes) -> str:
    """A UID under the root 2.25 (DICOM PS3.5, B.2) computed from `content` alone: same content, same UID."""
    digest = hashlib.sha256()
    for item in content:
        raw = item.encode("utf-8", "replace") if isinstance(item, str) else item
        # The length distinguishes ("ab", "c") and ("a", "bc").
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"


def coded(value: str, meaning: str) -> Dataset:
    """An item of a code sequence, with DICOM's own codes (DCM)."""
    from pydicom import Dataset as New

    item = New()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def sign(meta: FileMetaDataset) -> None:
    """Name recon as the writer of a file, in its file meta information (DICOM PS3.10, 7.1)."""
    from pydicom.uid import UID

    meta.ImplementationClassUID = UID(uid_of("recon"))
    meta.ImplementationVersionName = text(f"RECON {__version__}", "SH")
