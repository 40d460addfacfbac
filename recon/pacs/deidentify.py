"""De-identified images: the Basic Application Level Confidentiality Profile (DICOM PS3.15, E.1).

Which attribute is removed, emptied, replaced or renewed is defined in table E.1-1, as the package dicom-anonymizer
copies it from the standard. The actions are recon's own: that package leaves dummy dates, keeps parts of sequences, and
gives a UID another new one in each process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recon.errors import ReconError
from recon.io.dicom_values import AI, RESEARCH, coded, sign, uid_of

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

Action = Literal["remove", "empty", "dummy", "renew"]

#: Attributes of the table by its code; if it leaves a choice, the one that keeps the object legal.
_CODES: dict[str, Action] = {
    "D_TAGS": "dummy", "Z_TAGS": "empty", "X_TAGS": "remove", "U_TAGS": "renew", "Z_D_TAGS": "dummy",
    "X_Z_TAGS": "empty", "X_D_TAGS": "dummy", "X_Z_D_TAGS": "dummy", "X_Z_U_STAR_TAGS": "renew",
}  # fmt: skip
#: Dates of birth and death in another calendar, which the table lacks.
_MORE: dict[tuple[int, int], Action] = {(0x0010, 0x0033): "remove", (0x0010, 0x0034): "remove"}
#: Replacement values for type 1 attributes.
_DUMMIES = {"AS": "000Y", "DA": "19000101", "DT": "19000101000000", "TM": "000000", "DS": "0", "IS": "0",
            "UR": "about:blank",
            "FD": 0.0, "FL": 0.0, "US": 0, "SS": 0, "UL": 0, "SL": 0, "SV": 0, "UV": 0}  # fmt: skip
#: What stays of the file meta information.
_META = ("FileMetaInformationVersion", "MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")


def deidentified(dataset: Dataset, key: bytes) -> Dataset:
    """A de-identified copy, with UIDs and a pseudonym computed from `key` and the old ones.

    The same UID or patient always gets the same new one, so that series and references stay together. Private
    attributes are removed. The statement that an image was made by a network stays. `dataset` is not changed.
    """
    comments = str(dataset.get("ImageComments", ""))
    pseudonym = _pseudonym(dataset, key)
    out = copy.deepcopy(dataset)
    _clean(out, key)
    out.PatientName, out.PatientID = pseudonym, pseudonym
    out.ImageComments = next((said for said in AI if said in comments), RESEARCH)
    out.PatientIdentityRemoved, out.LongitudinalTemporalInformationModified = "YES", "REMOVED"
    out.DeidentificationMethod = "DICOM PS3.15 Basic Profile"
    out.DeidentificationMethodCodeSequence = [coded("113100", "Basic Application Confidentiality Profile")]
    # The file header, which contains titles and addresses, is removed; a new one names recon as the de-identifying
    # software (PS3.15, E.1.1).
    for element in list(out.file_meta):
        if element.keyword not in _META:
            del out.file_meta[element.tag]
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    sign(out.file_meta)
    out.preamble = b"\0" * 128
    return out


def secret(spool: Path) -> bytes:
    """The key from which new UIDs and pseudonyms are computed, created on first use; none is traceable without it.

    Raises ReconError for a damaged key.
    """
    path = spool / "pseudonyms.key"
    if not path.exists():
        temporary = spool / f".pseudonyms.{secrets.token_hex(6)}"
        try:
            with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
                out.write(os.urandom(32))
                out.flush()
                os.fsync(out.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # all or nothing: two sessions may create the first one at the same time
        finally:
            temporary.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != 32:
        raise ReconError(f"{path} is damaged; restore it, or remove it, after which patients get new pseudonyms")
    return key


def _pseudonym(dataset: Dataset, key: bytes) -> str:
    patient = [str(dataset.get(name, "")) for name in ("PatientID", "IssuerOfPatientID")]
    if not patient[0]:  # patients without a number are not one patient
        patient = [str(dataset.get(name, "")) for name in ("PatientName", "PatientBirthDate", "StudyInstanceUID")]
    return "ANON-" + hmac.digest(key, "\0".join(patient).encode(), "sha256").hex()[:16].upper()


def _clean(dataset: Dataset, key: bytes) -> None:
    for element in list(dataset):
        if element.tag.is_private or element.tag.group & 0xFF00 in (0x5000, 0x6000):  # curves and overlays
            del dataset[element.tag]
            continue
        # A person's name is removed whoever it belongs to, in the table or not.
        action = _table().get((element.tag.group, element.tag.elem), "dummy" if element.VR == "PN" else None)
        if action == "remove":
            del dataset[element.tag]
        elif element.VR == "SQ" and action in (None, "renew"):
            for item in element.value:
                _clean(item, key)
        elif element.VR == "SQ":
            element.value = []
        elif action == "empty":
            element.value = None
        elif action == "renew" or (action == "dummy" and element.VR == "UI"):
            _renew(element, key)
        elif action == "dummy":
            element.value = _DUMMIES.get(element.VR, b"" if element.VR in ("OB", "OW", "UN") else "ANONYMIZED")


def _renew(element: DataElement, key: bytes) -> None:
    value: Any = element.value
    several = [value] if isinstance(value, str) else list(value or [])
    new = [uid_of("without the patient", key, str(v)) for v in several if v]
    element.value = new[0] if len(new) == 1 else new


@functools.cache
def _table() -> dict[tuple[int, int], Action]:
    try:
        from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as standard
    except ModuleNotFoundError:
        raise ReconError("de-identification needs dicom-anonymizer; run pip install dicom-anonymizer") from None
    of_standard = {(tag[0], tag[1]): action for name, action in _CODES.items() for tag in getattr(standard, name)
                   if len(tag) == 2}  # fmt: skip
    return {**of_standard, **_MORE}
