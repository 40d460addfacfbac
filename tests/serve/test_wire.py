"""The wire format, against the bytes that the protocol page states."""

from __future__ import annotations

import io
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from recon import simulation
from recon.data import Encoding, ReconError
from recon.io.mrd_image import IMAGE_HEADER, ImageMessage
from recon.io.mrd_lines import HEAD
from recon.serve import wire, words
from tests.serve import scanner


def reader(raw: bytes, piece: int = 1 << 30) -> wire.Take:
    stream = io.BytesIO(raw)

    def take(n: int) -> memoryview:
        out = bytearray()
        while len(out) < n:
            got = stream.read(min(piece, n - len(out)))
            if not got:
                raise wire.Cut("the bytes are at an end")
            out += got
        return memoryview(out)

    return take


def parse(raw: bytes, bound: wire.Limits = wire.Limits(), piece: int = 1 << 30) -> wire.Message:  # noqa: B008
    take = reader(raw, piece)
    message = wire.read_body(wire.read_id(take), take, bound)
    with pytest.raises(wire.Cut):
        wire.read_id(take)  # nothing is left over
    return message


def test_headers_have_the_sizes_of_the_protocol() -> None:
    assert (HEAD.itemsize, IMAGE_HEADER.itemsize, wire.WAVEFORM_HEAD.itemsize) == (340, 198, 40)


@pytest.mark.parametrize("end", [b"", b"\0", b"\0rubbish"])
def test_strings_end_at_their_first_nul_if_there_is_one(end: bytes) -> None:
    assert parse(scanner.string(5, "µ-Karte".encode(), end)) == wire.Text("µ-Karte")
    assert parse(scanner.string(2, b"auto", end)) == wire.Config("auto", False)
    assert parse(scanner.string(3, b"<x/>", end)) == wire.XmlHeader(b"<x/>")


def test_text_that_is_no_utf8_and_text_of_no_bytes_are_read() -> None:
    assert parse(scanner.string(5, b"\xff\xfea", b"")) == wire.Text("\ufffd\ufffda")
    assert parse(scanner.string(5, b"", b"")) == wire.Text("")


def test_config_files_fill_1024_bytes() -> None:
    assert parse(scanner.config("auto")) == wire.Config("auto", True)
    assert parse(scanner.number(1) + b"x" * 1024) == wire.Config("x" * 1024, True)
    assert words.config_file("auto") == scanner.config("auto")
    with pytest.raises(ReconError, match="1023"):
        words.config_file("x" * 1024)


@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
def test_lines_are_read_as_a_scanner_packs_them(piece: int) -> None:
    head = [0] * 81
    head[0], head[1], head[8], head[10], head[31], head[48], head[64] = 1, 1 << 18, 5, 3, 2, 77, 9
    data = np.arange(30, dtype="<f4").view("<c8").reshape(3, 5)
    k = np.arange(10, dtype="<f4").reshape(5, 2)
    line = parse(scanner.line(scanner.LINE.pack(*head) + k.tobytes() + data.tobytes()), piece=piece)
    assert isinstance(line, wire.Acquisition)
    assert np.array_equal(line.data, data)
    assert np.array_equal(line.trajectory, k)
    stored = np.frombuffer(line.head, HEAD)[0]
    assert (stored["flags"], stored["idx"]["kspace_encode_step_1"], stored["idx"]["user"][7]) == (1 << 18, 77, 9)
    assert wire.acquisition(line) == scanner.line(scanner.LINE.pack(*head) + k.tobytes() + data.tobytes())


def test_f25_waveforms_are_aligned_and_may_have_no_channel() -> None:
    raw = scanner.number(1026) + scanner.WAVE.pack(1, 2, 3, 4, 5, 2, 3, 2.5, 1024) + np.arange(6, dtype="<u4").tobytes()
    w = parse(raw)
    assert isinstance(w, wire.Waveform)
    assert np.array_equal(w.data, np.arange(6).reshape(3, 2))
    assert (w.head["time_stamp"], w.head["sample_time_us"], w.head["waveform_id"]) == (5, 2.5, 1024)
    assert wire.waveform(w) == raw
    assert isinstance(parse(scanner.wave(channels=0, kind=9999)), wire.Waveform)


@pytest.mark.parametrize("kind", sorted(scanner.DTYPE))
def test_images_of_every_type_are_read_and_written(kind: int) -> None:
    pixels = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    raw = scanner.picture(pixels, b"<ismrmrdMeta/>", kind)
    message = parse(raw)
    assert isinstance(message, ImageMessage)
    assert message.pixels.dtype == np.dtype(scanner.DTYPE[kind])
    assert np.array_equal(message.pixels.real, pixels)
    assert message.attributes == "<ismrmrdMeta/>"
    assert wire.image(message) == raw


def test_queries_and_answers_carry_their_correlation() -> None:
    raw = struct.pack("<HQQQ", 6, 0, 42, 15) + b"gadgetron::info"
    assert parse(raw) == wire.Query(42, "gadgetron::info")
    assert words.query(42, "gadgetron::info") == raw
    assert words.response(42, "ja") == struct.pack("<HQQ", 7, 42, 2) + b"ja"


@pytest.mark.parametrize("n", [0, 7, 8, 999, 1002, 1030, 1234, 65535])
def test_f04_unknown_ids_are_refused(n: int) -> None:
    with pytest.raises(wire.WireError, match=f"id {n} is unknown"):
        parse(scanner.number(n))


HUGE = {
    "text": struct.pack("<HI", 5, 0xFFFFFFFF),
    "configuration": struct.pack("<HI", 2, 0xFFFFFFFF),
    "header": struct.pack("<HI", 3, 0xFFFFFFFF),
    "query": struct.pack("<HQQQ", 6, 0, 0, 2**63),
    "waveform": scanner.wave(0, 0)[:2] + scanner.WAVE.pack(1, 0, 1, 1, 1, 65535, 65535, 2.5, 0),
    "line": scanner.line(scanner.LINE.pack(*[65535 if i in (8, 10) else 0 for i in range(81)])),
    "image": scanner.number(1022) + scanner.IMAGE.pack(*[{1: 5, 4: 65535, 5: 65535}.get(i, 1) for i in range(56)]),
    "text of attributes": scanner.picture(np.zeros((1, 1, 1, 1)))[: 2 + 198] + struct.pack("<Q", 2**63),
}


def header_of(samples: int, channels: int, dimensions: int) -> bytes:
    sizes = {8: samples, 10: channels, 31: dimensions}
    return scanner.LINE.pack(*[sizes.get(i, 0) for i in range(81)])


@pytest.mark.parametrize("sizes", [(6, 2, 2), (5, 3, 2), (5, 2, 3)])
def test_each_size_of_a_line_is_taken_up_to_its_own_limit_and_no_farther(sizes: tuple[int, int, int]) -> None:
    bound = wire.Limits(samples=5, channels=2, dimensions=2)
    whole = parse(scanner.line(header_of(5, 2, 2) + bytes(4 * 5 * 2 + 8 * 5 * 2)), bound)
    assert isinstance(whole, wire.Acquisition)
    assert (whole.data.shape, whole.trajectory.shape) == ((2, 5), (5, 2))
    with pytest.raises(wire.WireError, match="at most 5, 2 and 2"):
        parse(scanner.line(header_of(*sizes) + bytes(1000)), bound)


def test_texts_waveforms_and_images_are_taken_up_to_their_limits_and_no_farther() -> None:
    texts = scanner.string(5, b"12345678", b"")
    wave = scanner.number(1026) + scanner.WAVE.pack(1, 2, 3, 4, 5, 2, 3, 2.5, 1024) + bytes(4 * 6)
    image = scanner.picture(np.zeros((2, 3, 4, 5)), b"", 5)
    for raw, name, size in ((texts, "text", 8), (wave, "waveform", 24), (image, "image", 480)):
        parse(raw, wire.Limits(**{name: size}))
        with pytest.raises(wire.WireError, match=f"{size} bytes of {name} are announced; at most {size - 1} are"):
            parse(raw, wire.Limits(**{name: size - 1}))


@pytest.mark.parametrize("what", HUGE)
def test_f05_f06_sizes_beyond_a_limit_are_refused_before_anything_is_allocated(what: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError, match=what):
            parse(HUGE[what])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_header_bounds_the_length_of_a_readout() -> None:
    encoding = Encoding((256, 256, 1), (500.0, 250.0, 5.0), (128, 128, 1), (250.0, 250.0, 5.0))
    assert wire.limits([encoding]).samples == 4 * 256 + 1024
    assert wire.limits([Encoding((256, 256, 1), (1.0,) * 3, (128, 128, 1), (1.0,) * 3, "spiral")]).samples == 65535  # type: ignore[arg-type]
    # Of several encodings the longest readouts count, of calibration lines for instance.
    small = Encoding((64, 64, 1), (500.0, 250.0, 5.0), (32, 32, 1), (250.0, 250.0, 5.0))
    assert wire.limits([small, encoding]) == wire.limits([encoding, small]) == wire.limits([encoding])
    with pytest.raises(wire.WireError, match="2049 samples"):
        parse(scanner.line(scanner.LINE.pack(*[2049 if i == 8 else 0 for i in range(81)])), wire.limits([encoding]))


def test_a_recorded_scan_arrives_as_the_file_holds_it(tmp_path: Path) -> None:
    from recon.io import mrd_header
    from recon.io.read import read
    from recon.serve import store

    simulation.simulate_to(tmp_path / "s.h5", simulation.preset(matrix=16, coils=2))
    recording = scanner.load(tmp_path / "s.h5")
    lines = [parse(scanner.line(body)) for body in recording.lines]
    scan, filed = store.scan(lines, mrd_header.parse(recording.xml)), read(tmp_path / "s.h5")  # type: ignore[arg-type]
    assert np.array_equal(scan.lines, filed.lines)
    for shape in np.unique(scan.lines["number_of_samples"]):
        rows = np.nonzero(scan.lines["number_of_samples"] == shape)[0]
        assert np.array_equal(scan.samples.read(rows), filed.samples.read(rows))
    assert (scan.encodings, scan.header, scan.notes) == (filed.encodings, filed.header, filed.notes)
