"""Images without what identifies the patient, by the basic profile of PS3.15."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset

import recon
from recon.data import Patient
from recon.io.dicom import datasets
from recon.pacs import verify
from recon.pacs.deidentify import deidentified, secret
from recon.recipe import CT, Recipe
from tests.io import ct_files, pictures, validators
from tests.pacs.conftest import Post, series
from tests.pacs.peers import Told

KEY = bytes(range(32))


def rich() -> Dataset:
    """An image with the patient in every corner: sequences, private attributes, curves, dates."""
    d = next(iter(datasets(pictures.picture())))
    d.OtherPatientNames, d.PatientAddress = "Marked^Other", "1 Marked Street"
    d.InstitutionName, d.OperatorsName, d.ReferringPhysicianName = "Marked Hospital", "Marked^Operator", "Marked^Doctor"
    inner = Dataset()
    inner.PatientID, inner.StudyDate = "SECRET-42", "20240506"
    inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = d.SOPClassUID, "1.2.826.0.1.3680043.8.498.77"
    d.SourceImageSequence = [inner]
    request = Dataset()
    request.RequestedProcedureDescription, request.AccessionNumber = "Marked request", "ACC42"
    d.RequestAttributesSequence = [request]
    unknown = Dataset()
    unknown.PatientName, unknown.EvaluatorName = "Marked^Nested", "Marked^Evaluator"
    d.AcquisitionContextSequence = [unknown]
    d.private_block(0x0071, "MARKED VENDOR", create=True).add_new(1, "LO", "Marked private")
    d.add_new(0x60003000, "OW", b"Marked overlay")
    d.PatientBirthDateInAlternativeCalendar, d.PatientDeathDateInAlternativeCalendar = "Marked 1348", "Marked 1402"
    d.DigitalSignaturesSequence = []
    d.preamble = b"Marked preamble".ljust(128, b"\0")
    d.file_meta.SourceApplicationEntityTitle = "MARKED"
    d.file_meta.SendingApplicationEntityTitle = d.file_meta.ReceivingApplicationEntityTitle = "MARKED"
    d.file_meta.add_new(0x00020026, "UR", "https://Marked.hospital/")  # source presentation address
    d.file_meta.PrivateInformationCreatorUID = "1.2.826.0.1.3680043.8.498.78"
    d.file_meta.PrivateInformation = b"Marked meta."
    return d


def raw(d: Dataset, path: Path) -> bytes:
    d.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def test_nothing_of_the_patient_is_left_anywhere_in_the_file(tmp_path: Path) -> None:
    before = rich()
    words = [b"Marked", b"MARKED", b"SECRET", b"ACC42", b"19700102", b"20240506", b"070809", b"61.5"]
    words += [str(before[k].value).encode() for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]
    words += [b"1.2.826.0.1.3680043.8.498.77", b"1.2.826.0.1.3680043.8.498.78", before.FrameOfReferenceUID.encode()]
    with_patient = raw(before, tmp_path / "before.dcm")
    assert all(w in with_patient for w in words if w != b"MARKED")
    without = raw(deidentified(before, KEY), tmp_path / "after.dcm")
    assert [w for w in words if w in without] == []


def test_what_is_left_is_a_legal_image_with_the_same_pixels(tmp_path: Path) -> None:
    before = next(iter(datasets(pictures.picture())))
    raw(deidentified(before, KEY), path := tmp_path / "after.dcm")
    assert validators.errors(path) == []
    after = verify.read(path)
    facts = verify.check(after)
    assert facts.pixels == verify.check(before).pixels
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "EchoTime"):
        assert after[name].value == before[name].value
    assert (after.PatientIdentityRemoved, after.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert after.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert after.PatientBirthDate in ("", None)


def test_the_input_is_not_changed() -> None:
    before = rich()
    twin = rich()
    deidentified(before, KEY)
    assert before == twin


def test_a_series_and_its_references_stay_together_and_the_key_decides_the_names() -> None:
    a, b, _ = datasets(pictures.picture())
    a.SourceImageSequence = [Dataset()]
    a.SourceImageSequence[0].ReferencedSOPClassUID = b.SOPClassUID
    a.SourceImageSequence[0].ReferencedSOPInstanceUID = b.SOPInstanceUID
    first, second, again, other = (deidentified(d, k) for d, k in ((a, KEY), (b, KEY), (a, KEY), (a, bytes(32))))
    assert first == again
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID == second.SOPInstanceUID
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert first[name].value == second[name].value
        assert first[name].value != a[name].value
        assert first[name].value != other[name].value


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (Patient(name="A", id="1"), Patient(name="B", id="1"), True),
        (Patient(name="A", id="1"), Patient(name="A", id="2"), False),
        (Patient(name="A"), Patient(name="B"), False),
    ],
)
def test_f39_patients_are_neither_mixed_nor_split(one: Patient, two: Patient, same: bool) -> None:
    names = []
    for patient in (one, two):
        header = replace(pictures.HEADER, patient=patient)
        d = next(iter(datasets(pictures.picture(header=header))))
        names.append(deidentified(d, KEY).PatientID)
    assert (names[0] == names[1]) is same


def test_f39_one_number_of_two_hospitals_is_two_patients() -> None:
    """PatientID is unique within its issuer alone (PS3.3, C.7.1.1)."""
    names = set()
    for issuer in ("Marked Hospital A", "Marked Hospital B", None):
        d = rich()
        if issuer:
            d.IssuerOfPatientID = issuer
        names.add(deidentified(d, KEY).PatientID)
    assert len(names) == 3


def test_the_statement_that_a_network_denoised_a_ct_image_stays(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", ct_files.body().clip(-1024))
    image = recon.reconstruct(recon.read(tmp_path / "in"), Recipe(ct=CT(strength=0)))
    learned = replace(image, provenance={**image.provenance, "weights_sha256": "ef" * 32})
    for made, words in ((image, "Research use."), (learned, "AI-assisted image, research use.")):
        before = next(iter(datasets(made)))
        assert words in before.ImageComments
        assert deidentified(before, KEY).ImageComments == words


@pytest.mark.parametrize(("made", "words"), [({"weights_sha256": "ef" * 32}, "AI-assisted"), ({}, "Research use.")])
def test_the_statement_that_a_network_made_an_image_stays(made: dict[str, Any], words: str) -> None:
    provenance = {**pictures.RECIPE, **made, **({"method": "unrolled"} if made else {})}
    before = next(iter(datasets(pictures.picture(provenance=provenance))))
    assert words in before.ImageComments
    after = deidentified(before, KEY)
    assert after.ImageComments.startswith(words)
    assert any("recon" in str(item.get("Manufacturer", "")) for item in after.ContributingEquipmentSequence)


def test_a_spool_for_research_never_holds_the_patient(told: Callable[..., tuple[Told, Post]], tmp_path: Path) -> None:
    folder = series(tmp_path / "images")
    originals = {pydicom.dcmread(p).SOPInstanceUID for p in folder.iterdir()}
    pacs, here = told(deidentify=True)
    uids = here.put(folder)
    for path in here.folder.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_bytes() for word in (b"Marked", b"SECRET", b"ACC42", b"19700102"))
    assert here.put(folder) == uids  # the same job has the same new UIDs
    here.once()
    assert here.states(uids) == ["sent"] * 3
    assert sorted(pacs.came) == sorted(uids)
    assert not originals & set(uids)
    assert (here.folder / "pseudonyms.key").stat().st_mode & 0o077 == 0
    assert secret(here.folder) == secret(here.folder)


def test_attributes_go_or_are_emptied_as_the_standard_says() -> None:
    """Every attribute of the classic MR image that table E.1-1 (2026c) removes or empties, read off the standard."""
    d = rich()
    after = deidentified(d, KEY)
    removed = ["PatientWeight", "OtherPatientNames", "PatientAddress", "StudyDescription",
               "RequestAttributesSequence"]  # fmt: skip
    assert [name for name in removed if after.get(name)] == []
    emptied = ["StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientSex"]
    assert [name for name in emptied if name not in after or not after[name].is_empty] == []


def test_a_key_of_pseudonyms_that_the_disk_does_not_take_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        secret(tmp_path)
    assert not list(tmp_path.iterdir())


def test_sessions_that_make_the_first_pseudonyms_at_once_make_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session must not read the key of another before it is whole, and not replace it either."""
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda n: (time.sleep(0.05), real(n))[1])
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: secret(tmp_path), range(8)))
    assert len(keys) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["pseudonyms.key"]
    assert (tmp_path / "pseudonyms.key").stat().st_mode & 0o777 == 0o600
