"""Headers and lines that cannot be right, as a scanner may send them."""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import CLOSE, Recording, config, header, line, run, session
from tests.serve.test_session import ends_well, pixels, truth

Start = Callable[..., Local]

BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
EXTERNAL = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
XML: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda x: x[: len(x) // 2], "not well-formed"),
    "missing end tag": (lambda x: x.replace(b"</encodingLimits>", b""), "not well-formed"),
    "entity bomb": (lambda x: x.replace(b"<ismrmrdHeader", BOMB + b"<ismrmrdHeader"), "DOCTYPE"),
    "external entity": (lambda x: x.replace(b"<ismrmrdHeader", EXTERNAL + b"<ismrmrdHeader"), "DOCTYPE"),
    "dummy": (lambda x: b"Dummy XML header", "not well-formed"),
    "200 MB": (lambda x: x, "209715200 bytes"),
}


@pytest.mark.parametrize("what", XML)
def test_f18_headers_that_are_no_xml_are_refused(local: Start, full: Recording, what: str) -> None:
    server = local()
    change, reason = XML[what]
    message = header(change(full.xml)) if what != "200 MB" else scanner.number(3) + struct.pack("<I", 200 * 2**20)
    assert reason in ends_well(run(server.port, [config(), message]))


@pytest.mark.parametrize("change", [(b"http://www.ismrm.org/ISMRMRD", b"urn:x"), (b"<encoding>", b"<odd/><encoding>")])
def test_f18_headers_that_are_only_odd_are_read(
    local: Start, full: Recording, full_file: Path, change: tuple[bytes, bytes]
) -> None:
    assert change[0] in full.xml
    reply = run(local().port, session(Recording(full.xml.replace(*change), full.lines)))
    assert np.array_equal(pixels(reply), truth(full_file))


def test_f18_no_installed_package_changes_how_headers_are_read() -> None:
    # lxml, where it is installed, would be taken by xsdata and accept headers that break off.
    assert importlib.util.find_spec("lxml") is not None
    code = "import recon.serve.worker, recon.pipeline, sys; assert not {'lxml', 'xsdata'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _set(element: str, value: str) -> Callable[[bytes], bytes]:
    def change(xml: bytes) -> bytes:
        old, new = rf"(<{element}>.*?<x>)[^<]*(</x>)", rf"\g<1>{value}\g<2>"
        out, n = re.subn(old.encode(), new.encode(), xml, count=1, flags=re.S)
        assert n == 1
        return out

    return change


VALUES = {
    "matrix 0": (_set("matrixSize", "0"), "encodedSpace/matrixSize/x is '0'"),
    "matrix negative": (_set("matrixSize", "-64"), "encodedSpace/matrixSize/x is '-64'"),
    "matrix abc": (_set("matrixSize", "abc"), "encodedSpace/matrixSize/x is 'abc'"),
    "matrix huge": (lambda x: re.sub(rb"<([xyz])>\d+</\1>", rb"<\1>65535</\1>", x), "more than 2147483648 voxels"),
    "FOV 0": (_set("fieldOfView_mm", "0"), "encodedSpace/fieldOfView_mm/x is '0'"),
    "FOV NaN": (_set("fieldOfView_mm", "nan"), "encodedSpace/fieldOfView_mm/x is 'nan'"),
    "no encoding": (lambda x: re.sub(b"<encoding>.*</encoding>", b"", x, flags=re.S), "no element encoding"),
}


@pytest.mark.parametrize("what", VALUES)
def test_f19_values_that_cannot_be_are_refused_by_their_element(local: Start, full: Recording, what: str) -> None:
    change, reason = VALUES[what]
    assert reason in ends_well(run(local().port, [config(), header(change(full.xml))]))


def test_f19_missing_limits_and_letters_in_the_accession_number_are_accepted(
    local: Start, full: Recording, full_file: Path
) -> None:
    xml = re.sub(b"<encodingLimits>.*?</encodingLimits>", b"<encodingLimits/>", full.xml, flags=re.S)
    xml = re.sub(b"<studyInformation>", b"<studyInformation><accessionNumber>AB12</accessionNumber>", xml)
    reply = run(local().port, session(Recording(xml, full.lines)))
    assert np.array_equal(pixels(reply), truth(full_file))


@pytest.mark.parametrize("odd", [{"reference": 7}, {"step1": 60000}, {"slice": 9}])
def test_f20_lines_outside_the_header_limits_are_left_out_and_counted(
    local: Start, full: Recording, full_file: Path, odd: dict[str, int]
) -> None:
    server = local()
    stray = scanner.edited(full.lines[-1], **odd)
    reply = run(server.port, [*session(full, close=False), line(stray), CLOSE])
    assert np.array_equal(pixels(reply), truth(full_file))
    assert any("1 " in note and "left out" in note for t in server.told for note in t.get("notes", []))
    wrong = [scanner.edited(b, **odd) if i % 10 == 9 else b for i, b in enumerate(full.lines)]
    assert ends_well(run(server.port, session(Recording(full.xml, wrong))))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_f21_samples_that_are_no_numbers_never_become_pixels(local: Start, full: Recording, bad: float) -> None:
    server = local(pixel="int16")
    middle = len(full.lines) - 16
    data = np.frombuffer(full.lines[middle][340:], "<f4").copy()
    data[7] = bad
    lines = [*full.lines[:middle], full.lines[middle][:340] + data.tobytes(), *full.lines[middle + 1 :]]
    reply = run(server.port, session(Recording(full.xml, lines)))
    assert "NaN or infinite" in ends_well(reply)


def test_f21_a_dead_coil_is_left_out(local: Start, recording: Recording) -> None:
    def without(body: bytes) -> bytes:
        data = np.frombuffer(body[340:], "<f4").reshape(4, -1).copy()
        data[1] = 0
        return body[:340] + data.tobytes()

    server = local()
    reply = run(server.port, session(Recording(recording.xml, [without(b) for b in recording.lines])))
    assert len(reply.images) == 2
    assert all(np.isfinite(i.pixels).all() and i.pixels.max() > 0 for i in reply.images)
    assert any("dead" in note for t in server.told for note in t.get("notes", []))


def test_f22_noise_of_other_coils_is_not_used_with_a_note(local: Start, recording: Recording) -> None:
    def fewer(body: bytes) -> bytes:
        if not scanner.value(body, "flags") & 1 << 18:
            return body
        samples = scanner.value(body, "samples")
        return scanner.edited(body, channels=2)[: 340 + 2 * samples * 8]

    server = local()
    reply = run(server.port, session(Recording(recording.xml, [fewer(b) for b in recording.lines])))
    assert len(reply.images) == 2
    notes = [note for t in server.told for note in t.get("notes", [])]
    assert any("16 of 16 noise lines have 2 channels" in note for note in notes)


def _noise(body: bytes) -> bool:
    return bool(scanner.value(body, "flags") & 1 << 18)


def test_f23_no_flags_another_order_and_lines_sent_twice_change_nothing(
    local: Start, full: Recording, full_file: Path
) -> None:
    server, expected = local(), truth(full_file)
    keep = 1 << 18 | 1 << 19 | 1 << 20
    bare = [scanner.edited(b, flags=scanner.value(b, "flags") & keep) for b in full.lines]
    noise, imaging = [b for b in bare if _noise(b)], [b for b in bare if not _noise(b)]
    for lines in (bare, noise + imaging[::-1], noise + imaging + imaging[3:9]):
        found = pixels(run(server.port, session(Recording(full.xml, lines))))
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_f24_impossible_directions_are_never_sent_as_scanner_coordinates(local: Start, full: Recording) -> None:
    def skewed(body: bytes) -> bytes:
        head = list(scanner.LINE.unpack_from(body))
        head[36:45] = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        return scanner.LINE.pack(*head) + body[340:]

    server = local()
    (image,) = run(server.port, session(Recording(full.xml, [skewed(b) for b in full.lines]))).images
    read, phase = np.array(image.head[14:17]), np.array(image.head[17:20])
    assert abs(read @ phase) < 1e-6
    assert any("position in the patient is unknown" in note for t in server.told for note in t.get("notes", []))


def test_f39_scans_with_the_same_measurement_stay_separate(local: Start, full: Recording, full_file: Path) -> None:
    xml = re.sub(b"<subjectInformation>.*?</subjectInformation>", b"", full.xml, flags=re.S)
    server = local()
    first = scanner.Scanner(server.port).send([config(), header(xml), *map(line, full.lines[:20])])
    negated = [b[:340] + (-2 * np.frombuffer(b[340:], "<f4")).tobytes() for b in full.lines]
    second = run(server.port, session(Recording(xml, negated)))
    one = first.send([*map(line, full.lines[20:]), CLOSE]).wait()
    assert np.array_equal(pixels(one), truth(full_file))
    assert len(second.images) == 1
