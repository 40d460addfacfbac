from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from dataclasses import replace

import ismrmrd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import DataError, Encoding, Header, Limit, Patient, Sequence, Study, System
from recon.io import mrd_header
from tests.io.mrd_files import XML

SCHEMA = "/usr/share/ismrmrd/schema/ismrmrd.xsd"

FULL = Header(
    Patient("Doe^Jane", "4711", "19700131", "F", 61.5),
    Study(
        uid="1.2.3", id="7", date="20240229", time="123456.789", description="brain", accession="1234",
        referring_physician="Roe", series_description="t1", series_date="20240229", series_time="130000",
        protocol="t1_mprage", measurement_id="42_1", patient_position="HFS", frame_of_reference_uid="1.2.9",
        body_part="HEAD",
    ),
    System(
        "SIEMENS", "Prisma", 2.89, 123253101.0, "A hospital", "MR1", "D7", 0.793, ("H1", "H2", "H3"),
    ),
    Sequence("", "Flash", (2000.0,), (2.5, 5.0), (900.0,), (8.0,), (0.5,)),
    {"BitsStored": 12, "factor": 0.25, "note": "a & b <c>", "list": (1, 2)},
)  # fmt: skip

EPI = Encoding(
    (128, 96, 12), (480.0, 240.0, 60.0), (64, 96, 10), (240.0, 240.0, 50.0), "epi",
    {
        "kspace_encoding_step_1": Limit(0, 71, 24),
        "kspace_encoding_step_2": Limit(0, 11, 6),
        "slice": Limit(0, 3, 0),
        "user_3": Limit(0, 1, 0),
    },
    (2, 3), "embedded", 48, "ConventionalEPI", {"etl": 48, "dwellTime": 2.5},
)  # fmt: skip


def test_what_is_built_is_parsed_back() -> None:
    header, encodings, notes = mrd_header.parse(mrd_header.build(FULL, (EPI, EPI)))
    assert header == FULL
    assert encodings == (EPI, EPI)
    assert notes == ()


def test_a_long_that_holds_a_fraction_keeps_it() -> None:
    """Converters write fractions as userParameterLong; rounding them would lose a millisecond or a shift."""
    plain = mrd_header.build(replace(FULL, user={"n": 7}), (EPI,)).decode()
    parsed, _, _ = mrd_header.parse(plain.replace("<value>7</value>", "<value>7.6</value>").encode())
    assert parsed.user == {"n": 7.6}
    whole, _, _ = mrd_header.parse(plain.replace("<value>7</value>", "<value>7.0</value>").encode())
    assert whole.user["n"] == 7
    assert isinstance(whole.user["n"], int)


@pytest.mark.parametrize(("factors", "mode"), [((2, 1), ""), ((1, 1), "external"), ((1, 3), "separate"), ((1, 1), "")])
def test_acceleration_and_calibration_are_written_each_by_itself(factors: tuple[int, int], mode: str) -> None:
    encoding = replace(EPI, acceleration=factors, calibration_mode=mode)
    assert mrd_header.parse(mrd_header.build(FULL, (encoding,)))[1] == (encoding,)


def test_what_is_built_is_read_by_the_ismrmrd_package() -> None:
    theirs = ismrmrd.xsd.CreateFromDocument(mrd_header.build(FULL, (EPI,)))
    assert theirs.subjectInformation.patientName == "Doe^Jane"
    assert str(theirs.studyInformation.studyDate) == "2024-02-29"
    assert theirs.encoding[0].encodingLimits.kspace_encoding_step_1.center == 24
    assert theirs.encoding[0].parallelImaging.accelerationFactor.kspace_encoding_step_2 == 3
    assert [label.coilName for label in theirs.acquisitionSystemInformation.coilLabel] == ["H1", "H2", "H3"]
    assert theirs.sequenceParameters.TE == [2.5, 5.0]
    assert theirs.experimentalConditions.H1resonanceFrequency_Hz == 123253101
    assert {p.name: p.value for p in theirs.userParameters.userParameterDouble} == {"factor": 0.25}


@pytest.mark.parametrize("header", [FULL, Header(), Header(study=Study(accession="A-17", protocol="x"))])
def test_what_is_built_is_valid_by_the_schema(header: Header) -> None:
    etree = pytest.importorskip("lxml.etree", reason="lxml is not installed; pip install lxml")
    try:
        schema = etree.XMLSchema(etree.parse(SCHEMA))
    except OSError:
        pytest.skip("the schema of ISMRMRD is not installed; on Debian: apt-get install ismrmrd-schema")
    # Names that later versions of the schema added.
    encoding = Encoding(**{**vars(EPI), "limits": {k: v for k, v in EPI.limits.items() if not k.startswith("user")}})
    built = Header(header.patient, Study(**{**vars(header.study), "body_part": ""}), header.system, header.sequence)
    schema.assertValid(etree.fromstring(mrd_header.build(built, (encoding,))))


def test_what_the_schema_has_no_type_for_survives() -> None:
    header = Header(study=Study(accession="A-17/x", protocol="t2", frame_of_reference_uid="1.2", patient_position=""))
    assert mrd_header.parse(mrd_header.build(header, (EPI,)))[0] == header


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_can_be_written(name: str, value: str) -> None:
    xml = mrd_header.build(Header(patient=Patient(name=name), user={"x": value}), (EPI,))
    ours, theirs = mrd_header.parse(xml)[0], ismrmrd.xsd.CreateFromDocument(xml)
    read = theirs.subjectInformation.patientName if theirs.subjectInformation else None
    assert ours.patient.name == (read or "").strip()
    if name.isprintable() and name == name.strip():
        assert ours.patient.name == name


def test_the_packages_own_header_is_parsed() -> None:
    theirs = ismrmrd.xsd.CreateFromDocument(mrd_header.build(FULL, (EPI,)))
    header, encodings, notes = mrd_header.parse(ismrmrd.xsd.ToXML(theirs))
    assert (header, encodings, notes) == (FULL, (EPI,), ())


def put(old: str, new: str, xml: str = XML) -> str:
    assert old in xml
    return xml.replace(old, new, 1)


STUDY_ID = "<studyInformation><studyID>\xe4</studyID></studyInformation>"
BOMB = '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + XML[22:]
EXTERNAL = '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + put("<x>32</x>", "<x>&x;</x>")[22:]
NO_RECON_SPACE = XML[: XML.index("<reconSpace>")] + XML[XML.index("</reconSpace>") + 13 :]

ACCEPTED = {
    "fraction": (put("<x>32</x>", "<x>31.9996</x>"), "encodedSpace/matrixSize/x is '31.9996'; it is rounded to 32"),
    "unknown element": (put("<experimentalC", "<brandNew><a>1</a></brandNew><experimentalC"), "ismrmrdHeader/brandNew"),
    "another namespace": (put("www.ismrm.org/ISMRMRD", "example.org/X"), "XML namespace other than"),
    "no namespace": (put(' xmlns="http://www.ismrm.org/ISMRMRD"', ""), "XML namespace other than"),
    "trajectory": (put("cartesian", "rosette"), "trajectory is 'rosette'; it is read as other"),
    "limit without centre": (put("<center>12</center>", ""), "kspace_encoding_step_1 has no center"),
    "centre outside": (put("<center>12</center>", "<center>40</center>"), "has its centre 40 outside 0 to 23"),
    "frequency": (put("63500000", "many"), "experimentalConditions/H1resonanceFrequency_Hz is not a positive number"),
    "Latin-1": (put("<experimentalC", f"{STUDY_ID}<experimentalC"), ""),
}  # fmt: skip

REFUSED = {
    "matrix 0": (put("<x>32</x>", "<x>0</x>"), r"encoding\[0\]/encodedSpace/matrixSize/x is '0'"),
    "matrix negative": (put("<y>24</y>", "<y>-24</y>"), "encodedSpace/matrixSize/y is '-24'"),
    "matrix abc": (put("<x>32</x>", "<x>abc</x>"), "encodedSpace/matrixSize/x is 'abc'"),
    "matrix half": (put("<x>32</x>", "<x>31.5</x>"), "encodedSpace/matrixSize/x is '31.5'"),
    "matrix missing": (put("<x>32</x>", ""), "encodedSpace/matrixSize/x is missing"),
    "matrix absurd": (put("<x>32</x><y>24</y><z>1</z>", "<x>65535</x><y>65535</y><z>65535</z>"), "more than .* voxels"),
    "field of view 0": (put("<x>480</x>", "<x>0</x>"), "encodedSpace/fieldOfView_mm/x is '0'"),
    "field of view NaN": (put("<x>480</x>", "<x>NaN</x>"), "encodedSpace/fieldOfView_mm/x is 'NaN'"),
    "limit negative": (put("<maximum>23</maximum>", "<maximum>-1</maximum>"), "kspace_encoding_step_1/maximum is '-1'"),
    "limit turned": (put("<minimum>0</minimum>", "<minimum>30</minimum>"), "runs from 30 to 23"),
    "no recon space": (NO_RECON_SPACE, "no element .*reconSpace"),
    "no encoding": ("<ismrmrdHeader xmlns='http://www.ismrm.org/ISMRMRD'/>", "no element encoding"),
    "truncated": (XML[:700], "within element"),
    "end tag missing": (put("</encodedSpace>", ""), "within element encodedSpace"),
    "other root": ("<html><body/></html>", "root element of the header is html"),
    "no XML": ("Dummy XML header", "not well-formed"),
    "empty": ("", "not well-formed"),
    "zeros": ("\0" * 100, "not well-formed"),
    "entity bomb": (BOMB, "declares a document type"),
    "external entity": (EXTERNAL, "declares a document type"),
    "deep": ("<a>" * 10**5, "within element a"),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_an_odd_header_is_accepted_with_a_note(case: str) -> None:
    xml, sentence = ACCEPTED[case]
    _, encodings, notes = mrd_header.parse(xml)
    assert encodings[0].encoded_matrix == (32, 24, 1)
    assert any(sentence in note for note in notes) or not sentence


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_header_is_refused_naming_the_element(case: str) -> None:
    xml, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence) as error:
        mrd_header.parse(xml)
    assert "\n" not in str(error.value)


def test_more_than_the_largest_header_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="at most"):
        mrd_header.parse(b" " * (mrd_header.MAX_BYTES + 1))


def test_bytes_that_are_not_utf8_are_read_as_latin1() -> None:
    header, _, notes = mrd_header.parse(ACCEPTED["Latin-1"][0].encode("latin-1"))
    assert header.study.id == "ä"
    assert any("Latin-1" in note for note in notes)


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", ['<?xml version="1.0" encoding="UTF-16"?>', ""])
@pytest.mark.parametrize("end", ["", "\0", "\n"])
def test_utf16_with_its_byte_order_mark_is_read_as_what_it_says(order: str, declared: str, end: str) -> None:
    body = ACCEPTED["Latin-1"][0].partition("?>")[2] or ACCEPTED["Latin-1"][0]
    assert not body.isascii()
    found = mrd_header.parse(("\ufeff" + declared + body + end).encode(order))
    assert found == mrd_header.parse(body)
    with pytest.raises(DataError, match="not well-formed"):
        mrd_header.parse(("\ufeff" + declared + body).encode(order)[:-9])


@pytest.mark.parametrize("declared", ['encoding="utf-8"', "encoding='UTF-8'", 'encoding = "utf8"'])
def test_bytes_that_are_not_the_utf8_they_are_declared_as_are_read_as_latin1(declared: str) -> None:
    body = ACCEPTED["Latin-1"][0].partition("?>")[2] or ACCEPTED["Latin-1"][0]
    header, _, notes = mrd_header.parse(f'<?xml version="1.0" {declared}?>{body}'.encode("latin-1"))
    assert header.study.id == "ä"
    assert any("Latin-1" in note for note in notes)


def test_an_alphanumeric_accession_number_is_kept() -> None:
    xml = put(
        "<experimentalC", "<studyInformation><accessionNumber>AB12</accessionNumber></studyInformation><experimentalC"
    )
    header, _, notes = mrd_header.parse(xml)
    assert header.study.accession == "AB12"
    assert notes == ()


@pytest.mark.parametrize(("element", "given", "kept"), [
    *(("studyTime", given, kept) for given, kept in (
        ("23:59:60", "235960"), ("000000", "000000"), ("23:59:59.25", "235959.25"), ("24:00:00", ""), ("12:60:00", ""),
        ("12:30:61", ""), ("noon", ""),
    )),
    *(("studyDate", given, kept) for given, kept in (
        ("2024-12-31", "20241231"), ("20240101", "20240101"), ("2024-13-01", ""), ("2024-00-10", ""),
        ("2024-01-32", ""), ("2024-01-00", ""), ("1.1.2024", ""),
    )),
])  # fmt: skip
def test_a_time_or_date_that_there_is_not_is_left_empty_with_a_note(element: str, given: str, kept: str) -> None:
    """DICOM's TM has hours to 23, minutes to 59 and seconds to 60, the leap second (PS3.5, 6.2)."""
    xml = put("<experimentalC", f"<studyInformation><{element}>{given}</{element}></studyInformation><experimentalC")
    header, _, notes = mrd_header.parse(xml.encode())
    what = element.removeprefix("study").lower()
    assert getattr(header.study, what) == kept
    assert any(f"{element} is not a {what}" in n for n in notes) == (not kept)


def test_limits_may_be_missing() -> None:
    start, end = XML.index("<encodingLimits>"), XML.index("</encodingLimits>") + 17
    _, encodings, notes = mrd_header.parse(XML[:start] + XML[end:])
    assert encodings[0].limits == {}
    assert any("encodingLimits is empty" in note for note in notes)


def test_the_patient_is_in_no_note_and_no_error() -> None:
    subject = (
        "<subjectInformation><patientName>Secret^Name</patientName><patientWeight_kg>Secret</patientWeight_kg>"
        "<patientID>Secret</patientID><patientBirthdate>Secret</patientBirthdate><patientGender>Secret</patientGender>"
        "</subjectInformation><experimentalC"
    )
    header, _, notes = mrd_header.parse(put("<experimentalC", subject))
    assert len(notes) == 3
    assert "Secret" not in " ".join(notes) + repr(header)
    for cut in (400, 600, 900):
        with pytest.raises(DataError) as error:
            mrd_header.parse(put("<experimentalC", subject)[:cut])
        assert "Secret" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(XML)), st.integers(0, 60))
def test_any_damage_is_either_read_or_refused(noise: bytes, at: int, removed: int) -> None:
    raw = XML.encode()
    with contextlib.suppress(DataError):
        mrd_header.parse(raw[:at] + noise + raw[at + removed :])


@pytest.mark.parametrize("lxml", [True, False], ids=["with lxml", "without lxml"])
def test_the_verdict_does_not_depend_on_lxml(lxml: bool) -> None:
    if lxml:
        pytest.importorskip("lxml", reason="lxml is not installed; pip install lxml")
    code = f"""
        import sys
        if {lxml}:
            import lxml.etree
        else:
            sys.modules["lxml"] = sys.modules["lxml.etree"] = None
        from recon.data import DataError
        from recon.io import mrd_header
        from tests.io.test_mrd_header import ACCEPTED, REFUSED
        for name, (xml, _) in (ACCEPTED | REFUSED).items():
            try:
                mrd_header.parse(xml)
                print(name, "accepted")
            except DataError as error:
                print(name, "refused", error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == len(ACCEPTED) + len(REFUSED)
    assert sum("accepted" in v for v in verdicts) == len(ACCEPTED)


@pytest.mark.parametrize("space", ["encodedSpace", "reconSpace"])
def test_a_slice_thickness_stated_in_only_one_space_is_used(space: str) -> None:
    start = XML.index(f"<{space}>")
    xml = XML[:start] + XML[start:].replace("<z>6</z>", "<z>0</z>", 1)
    _, (encoding,), notes = mrd_header.parse(xml)
    assert encoding.encoded_fov[2] == encoding.recon_fov[2] == 6
    assert any(f"{space}/fieldOfView_mm/z" in note for note in notes)
    with pytest.raises(DataError, match="fieldOfView_mm/z"):
        mrd_header.parse(XML.replace("<z>6</z>", "<z>0</z>"))


@pytest.mark.parametrize(
    ("trajectory", "written", "kept"),
    [
        ("cartesian", Sequence(TR=(2.5,), TE=(0.09,)), Sequence(TR=(2500,), TE=(90,))),
        (
            "epi",
            Sequence(TR=(3.0,), TE=(0.03,), echo_spacing=(0.0005,)),
            Sequence(TR=(3000,), TE=(30,), echo_spacing=(0.5,)),
        ),
        ("cartesian", Sequence(TR=(0.008,), TE=(0.0035,), TI=(0.9,)), Sequence(TR=(8,), TE=(3.5,), TI=(900,))),
        ("cartesian", Sequence(TE=(0.005, 0.01)), Sequence(TE=(5, 10))),
        ("radial", Sequence(TR=(0.004,), TE=(0.00003,)), Sequence(TR=(4,), TE=(0.03,))),
        ("cartesian", Sequence(TR=(500,), TE=(0.01,)), Sequence(TR=(500,), TE=(10,))),
        # Milliseconds, however short: steady-state precession, an echo at once along a spoke, a single spoiled echo.
        ("cartesian", Sequence(TR=(2.5,), TE=(1.1,)), None),
        ("radial", Sequence(TR=(3.0,), TE=(0.03,)), None),
        ("spiral", Sequence(TR=(8.0,), TE=(0.2,)), None),
        ("cartesian", Sequence(TR=(4000,), TE=(90,), TI=(150,)), None),
        ("cartesian", Sequence(TR=(0,), TE=(0,)), None),
    ],
)
def test_times_in_seconds_are_converted_to_milliseconds_with_a_note(
    trajectory: str, written: Sequence, kept: Sequence | None
) -> None:
    encoding = replace(EPI, trajectory=trajectory)
    xml = mrd_header.build(replace(FULL, sequence=written), (encoding,))
    header, _, notes = mrd_header.parse(xml)
    wanted = kept or written
    for name in ("TR", "TE", "TI", "echo_spacing"):
        assert getattr(header.sequence, name) == pytest.approx(getattr(wanted, name)), name
    assert any("read as seconds" in note for note in notes) == (kept is not None)
