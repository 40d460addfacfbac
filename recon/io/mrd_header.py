"""The XML header of ISMRMRD (MRD), read tolerantly and written to its schema."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import replace
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import defusedxml.ElementTree as safe
from defusedxml.common import DefusedXmlException

from recon.data import DataError, Encoding, Header, Limit
from recon.io import mrd_about
from recon.io import mrd_values as values

NAMESPACE = "http://www.ismrm.org/ISMRMRD"

#: Largest header that is read; scanners write some ten kilobytes.
MAX_BYTES = 16 * 2**20

#: Largest grid (voxels) that is accepted.
MAX_VOXELS = 2**31

TRAJECTORIES = ("cartesian", "epi", "radial", "goldenangle", "spiral", "other")
STEPS = ("kspace_encoding_step_0", "kspace_encoding_step_1", "kspace_encoding_step_2")
COUNTERS = (
    *STEPS,
    *("average", "slice", "contrast", "phase", "repetition", "set", "segment"),
    *(f"user_{i}" for i in range(8)),
)

_USER = "userParameterLong userParameterDouble userParameterString userParameterBase64"
_KNOWN: dict[str, frozenset[str]] = {
    parent: frozenset(names.split())
    for parent, names in {
        "ismrmrdHeader": "version subjectInformation studyInformation measurementInformation "
        "acquisitionSystemInformation experimentalConditions encoding sequenceParameters userParameters "
        "waveformInformation",
        "subjectInformation": "patientName patientWeight_kg patientHeight_m patientID patientBirthdate patientGender",
        "studyInformation": "studyDate studyTime studyID accessionNumber referringPhysicianName studyDescription "
        "studyInstanceUID bodyPartExamined",
        "measurementInformation": "measurementID seriesDate seriesTime patientPosition relativeTablePosition "
        "initialSeriesNumber protocolName sequenceName seriesDescription measurementDependency seriesInstanceUIDRoot "
        "frameOfReferenceUID referencedImageSequence",
        "acquisitionSystemInformation": "systemVendor systemModel systemFieldStrength_T relativeReceiverNoiseBandwidth "
        "receiverChannels coilLabel institutionName stationName deviceID deviceSerialNumber",
        "experimentalConditions": "H1resonanceFrequency_Hz",
        "encoding": "encodedSpace reconSpace encodingLimits trajectory trajectoryDescription parallelImaging "
        "echoTrainLength",
        "encodedSpace": "matrixSize fieldOfView_mm",
        "reconSpace": "matrixSize fieldOfView_mm",
        "encodingLimits": " ".join(COUNTERS),
        "parallelImaging": "accelerationFactor calibrationMode interleavingDimension multiband",
        "sequenceParameters": "TR TE TI flipAngle_deg sequence_type echo_spacing diffusionDimension diffusion "
        "diffusionScheme",
        "trajectoryDescription": f"identifier comment {_USER}",
        "userParameters": _USER,
    }.items()
}


def parse(xml: bytes | str) -> tuple[Header, tuple[Encoding, ...], tuple[str, ...]]:
    """Header, encodings and notes (irregularities and how they were handled) of an ISMRMRD XML header.

    Unknown elements, a foreign namespace and missing limits are accepted with a note; the result does not depend on the
    installed XML packages. Raises DataError for XML that is cut short or malformed, that declares entities, that has
    another root or more than MAX_BYTES, and for impossible matrices, fields of view and limits. No note and no error
    repeats a value from the patient's, the study's or the user's part.
    """
    notes: list[str] = []
    root = _root(xml, notes)
    unknown = sorted(
        {f"{e.tag}/{c.tag}" for e in root.iter() if e.tag in _KNOWN for c in e if c.tag not in _KNOWN[e.tag]}
    )
    if unknown:
        shown = ", ".join(name[:80] for name in unknown[:8]) + (", …" if len(unknown) > 8 else "")
        notes.append(f"the header holds elements that are not in the schema and are ignored: {shown}")
    found = root.findall("encoding")
    if not found:
        raise DataError("the header has no element encoding; add one encoding with its encodedSpace and reconSpace")
    encodings = tuple(_encoding(e, f"encoding[{i}]", notes) for i, e in enumerate(found))
    header = mrd_about.header(root, notes)
    straight = all(e.trajectory in ("cartesian", "epi") for e in encodings)
    timing = values.in_milliseconds(header.sequence, straight, notes)
    return replace(header, sequence=timing), encodings, tuple(notes)


class _Open(TreeBuilder):
    """A tree builder that knows which elements are open, for the message if the text ends too early."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def start(self, tag: str, attrs: dict[Any, Any], /) -> Element:
        self.open.append(tag)
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self.open.pop()
        return super().end(tag)


def _root(xml: bytes | str, notes: list[str]) -> Element:
    text = xml.encode() if isinstance(xml, str) else bytes(xml)
    if len(text) > MAX_BYTES:
        raise DataError(f"the XML header has {len(text)} bytes; at most {MAX_BYTES} are read")
    wide = text.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    if wide:
        text = text.decode("utf-16", errors="replace").encode()
    text = text.rstrip(b"\0 \t\r\n").lstrip()
    declared = re.search(rb"""<\?xml[^>]*encoding\s*=\s*["']([^"']*)""", text[:200])
    latin = not _is_utf8(text) and (declared is None or declared[1].lower() in (b"utf-8", b"utf8"))
    if latin:
        notes.append("the header is not valid UTF-8, which is its declared or default encoding; it is read as Latin-1")
    builder = _Open()
    try:
        parser = safe.DefusedXMLParser(
            target=builder,
            forbid_dtd=True,
            encoding="iso-8859-1" if latin else "utf-8" if wide or isinstance(xml, str) else None,
        )
        parser.feed(text)
        root = parser.close()
    except DefusedXmlException:
        raise DataError(
            "the header declares a document type or entities (!DOCTYPE, !ENTITY), which ISMRMRD never needs; "
            "remove them"
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        where = _local(builder.open[-1]) if builder.open else "ismrmrdHeader"
        at = getattr(error, "position", (0, 0))
        raise DataError(
            f"the header is not well-formed XML: it ends early or has an error within element {where[:64]} "
            f"(line {at[0]}, column {at[1]}); write the header again"
        ) from None
    space = root.tag[1:].partition("}")[0] if root.tag.startswith("{") else ""
    for element in root.iter():
        element.tag = _local(element.tag)
    if root.tag != "ismrmrdHeader":
        raise DataError(f"the root element of the header is {root.tag[:64]}; ISMRMRD files have ismrmrdHeader")
    if space != NAMESPACE:
        notes.append("the header has an XML namespace other than ISMRMRD's; it is read by element names")
    return root


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _encoding(e: Element, path: str, notes: list[str]) -> Encoding:
    encoded_matrix, encoded_fov = _space(e, f"{path}/encodedSpace", notes, "reconSpace")
    recon_matrix, recon_fov = _space(e, f"{path}/reconSpace", notes, "encodedSpace")
    trajectory = values.text(e, "trajectory").lower()
    if trajectory not in TRAJECTORIES:
        meant = "other" if trajectory else "cartesian"
        notes.append(f"{path}/trajectory is {values.shown(trajectory)}; it is read as {meant}")
        trajectory = meant
    limits = {}
    for element in e.findall("encodingLimits/*"):
        if element.tag in COUNTERS:
            limit = _limit(element, f"{path}/encodingLimits/{element.tag}", notes)
            if limit is not None:
                limits[element.tag] = limit
    if not limits:
        notes.append(f"{path}/encodingLimits is empty: sizes and the centre are taken from the lines")
    factors = [
        values.count(e, f"parallelImaging/accelerationFactor/kspace_encoding_step_{i}", path, notes, 1) for i in (1, 2)
    ]
    multiband = values.number(values.text(e, "parallelImaging/multiband/multiband_factor"))
    if multiband is not None and multiband > 1:
        notes.append(f"{path} was acquired with {multiband:g} slices at once (multiband)")
    parameters = mrd_about.user_parameters(e.find("trajectoryDescription"), f"{path}/trajectoryDescription", notes)
    return Encoding(
        encoded_matrix,
        encoded_fov,
        recon_matrix,
        recon_fov,
        trajectory,
        limits,
        (factors[0] or 1, factors[1] or 1),
        values.text(e, "parallelImaging/calibrationMode"),
        values.count(e, "echoTrainLength", path, notes, 0),
        values.text(e, "trajectoryDescription/identifier"),
        {k: v for k, v in parameters.items() if isinstance(v, (int, float))},
        max(1, round(multiband or 1)),
    )


def _space(
    e: Element, path: str, notes: list[str], other: str
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Matrix and field of view of a space; the slice thickness may be stated only in the `other` space."""
    space = e.find(path.rpartition("/")[2])
    if space is None:
        raise DataError(f"the header has no element {path}; write its matrixSize and fieldOfView_mm into it")
    matrix, fov = [], []
    for axis in "xyz":
        name, text = f"{path}/matrixSize/{axis}", values.text(space, f"matrixSize/{axis}")
        value = values.number(text)
        if value is None or abs(value - round(value)) > 0.05 or not 1 <= round(value) <= 65535:
            raise DataError(f"{name} is {values.shown(text)}; it must be a whole number from 1 to 65535")
        if value != round(value):
            notes.append(f"{name} is {values.shown(text)}; it is rounded to {round(value)}")
        matrix.append(round(value))
        name, text = f"{path}/fieldOfView_mm/{axis}", values.text(space, f"fieldOfView_mm/{axis}")
        value = values.number(text)
        if axis == "z" and matrix[2] == 1 and not value:
            value = values.number(values.text(e, f"{other}/fieldOfView_mm/z"))
            if value and value > 0:
                notes.append(f"{name} is {values.shown(text)}; the {value:g} mm of {other} are used")
        if value is None or not 0 < value < 1e5:
            raise DataError(f"{name} is {values.shown(text)}; it must be a length in millimetres above 0")
        fov.append(value)
    if math.prod(matrix) > MAX_VOXELS:
        raise DataError(
            f"{path}/matrixSize is {matrix[0]}×{matrix[1]}×{matrix[2]}, more than {MAX_VOXELS} voxels; correct it "
            "in the header"
        )
    return (matrix[0], matrix[1], matrix[2]), (fov[0], fov[1], fov[2])


def _limit(e: Element, path: str, notes: list[str]) -> Limit | None:
    found = []
    for name in ("minimum", "maximum", "center"):
        if e.find(name) is None:
            notes.append(f"{path} has no {name}; this limit is treated as missing")
            return None
        text = values.text(e, name) or "0"
        value = values.number(text)
        if value is None or value != round(value) or not 0 <= value <= 65535:
            raise DataError(f"{path}/{name} is {values.shown(text)}; it must be a whole number from 0 to 65535")
        found.append(round(value))
    low, high, centre = found
    if low > high:
        raise DataError(f"{path} runs from {low} to {high}; the minimum must not exceed the maximum")
    if path.rpartition("/")[2].startswith("kspace") and not low <= centre <= high:
        notes.append(f"{path} has its centre {centre} outside {low} to {high}")
    return Limit(low, high, centre)


def build(header: Header, encodings: tuple[Encoding, ...]) -> bytes:
    """ISMRMRD XML of a header, valid by the schema; `parse` reads everything back.

    Values for which the schema has no type (an alphanumeric accession number, a series with unknown patient position)
    go into userParameterString under their element's path.
    """
    from recon.io.mrd_xml import write

    return write(header, encodings)
