"""One session and what can go wrong in it: protocol, transport, header. The numbers are those of the list of faults."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from recon.data import RawScan
from recon.io.read import read
from recon.pipeline import reconstruct
from recon.prepare import scan_noise
from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import CLOSE, Recording, Reply, Scanner, config, header, line, run, session, step_of

Start = Callable[..., Local]


def pixels(reply: Reply) -> np.ndarray:
    return np.concatenate([i.pixels[0] for i in sorted(reply.images, key=lambda i: (i.repetition, i.slice))])


def truth(path: Path) -> np.ndarray:
    return np.abs(reconstruct(read(path)).data)


def ends_well(reply: Reply) -> str:
    """The reason of a session that failed and said so: one ERR text with the job, CLOSE, end of the connection."""
    assert (reply.closes, reply.ended, reply.images, reply.broken) == (1, True, [], "")
    assert len(reply.texts) == 1
    assert reply.texts[0].startswith("ERR j0b: ")
    return reply.texts[0]


def next_session_works(server: Local, recording: Recording) -> None:
    assert len(run(server.port, session(recording)).images) == 2


def test_a_streamed_scan_gives_the_pixels_of_its_file(local: Start, recording: Recording, scan_file: Path) -> None:
    reply = run(local().port, session(recording))
    assert (reply.closes, reply.ended, reply.error()) == (1, True, "")
    assert np.array_equal(pixels(reply), truth(scan_file))


def test_images_carry_what_the_scanner_reads(local: Start, recording: Recording) -> None:
    image = run(local().port, session(recording)).images[0]
    for name in ("Keep_image_geometry", "ImageRowDir", "ImageColumnDir", "ImageSliceDir", "WindowCenter", "WindowWidth",
                 "ImageProcessingHistory", "DataRole", "ImageComment", "SeriesDescription"):  # fmt: skip
        assert f"<name>{name}</name>" in image.attributes
    assert image.head[1] == 5
    assert image.head[36] == 1
    assert image.head[55] == len(image.attributes.encode())


def test_int16_images_keep_to_twelve_bits(local: Start, recording: Recording, scan_file: Path) -> None:
    images = run(local(pixel="int16").port, session(recording)).images
    assert {i.pixels.dtype for i in images} == {np.dtype("<i2")}
    expected = truth(scan_file)
    (step,) = {step_of(i) for i in images}
    assert step == pytest.approx(max(512, 4 * float(expected[0].max())) / 4095)
    found = np.concatenate([i.pixels[0] for i in images])
    assert 256 < found.max() <= 4095
    assert np.abs(found * step - expected).max() <= 0.51 * step


def test_int16_of_a_scan_of_one_image_reach_its_peak(local: Start, full: Recording, full_file: Path) -> None:
    (image,) = run(local(pixel="int16").port, session(full)).images
    assert image.pixels.max() == 4095
    assert step_of(image) == pytest.approx(float(truth(full_file).max()) / 4095)


def test_images_of_the_scanner_come_back_untouched(local: Start, recording: Recording) -> None:
    phase = np.arange(-12, 12).reshape(1, 2, 3, 4)
    mini = b"<ismrmrdMeta><meta><name>IceMiniHead</name><value>QUJD</value><value>RA==</value></meta></ismrmrdMeta>\0"
    sent = [scanner.picture(phase, mini, 2, image_type=2), scanner.picture(phase * 2, b"", 5)]
    reply = run(local().port, [config(), header(recording.xml), *sent, CLOSE])
    assert (len(reply.images), reply.closes, reply.texts) == (2, 1, [])
    first, second = reply.images
    assert np.array_equal(first.pixels, phase)
    assert np.array_equal(second.pixels, phase * 2)
    assert (first.head[36], first.series, first.head[1]) == (2, 3, 2)
    assert "<name>IceMiniHead</name><value>QUJD</value><value>RA==</value>" in first.attributes
    assert all("<name>Keep_image_geometry</name><value>1</value>" in i.attributes for i in (first, second))


def test_raw_data_and_images_of_the_scanner_have_series_of_their_own(local: Start, recording: Recording) -> None:
    messages = session(recording)
    messages.insert(2, scanner.picture(np.ones((1, 1, 4, 4)), series=3))
    assert [i.series for i in run(local().port, messages).images] == [3, 4, 4]


def test_the_user_interface_chooses_among_registered_recipes(local: Start, recording: Recording) -> None:
    server = local()
    wish = scanner.string(5, json.dumps({"version": "1.1.0", "parameters": {"config": "combine"}}).encode())
    first, *rest = session(recording)
    reply = run(server.port, [first, rest[0], wish, *rest[1:]])
    assert len(reply.images) == 2
    assert {t["made"]["method"] for t in server.told if "made" in t} == {"combine"}
    reply = run(server.port, [first, rest[0], wish.replace(b"combine", b"os.path"), *rest[1:]])
    assert "not registered" in ends_well(reply)


def test_f01_a_silent_client_is_dropped_and_others_are_served(local: Start, recording: Recording) -> None:
    server = local(first_s=0.4)
    silent, slow = Scanner(server.port), Scanner(server.port).send([config()[:500]])
    next_session_works(server, recording)
    assert "no configuration arrived within 0.4 s" in ends_well(silent.wait(5))
    assert "no configuration arrived within 0.4 s" in ends_well(slow.wait(5))


def test_after_the_configuration_silence_may_last_as_long_as_in_mid_scan(local: Start, full: Recording) -> None:
    client = Scanner(local(first_s=0.3).port).send([config()])
    client.thread.join(0.8)  # no answer, which would end the session
    assert client.thread.is_alive()
    assert len(client.send(session(full)[1:]).wait().images) == 1


@pytest.mark.parametrize("messages", [[CLOSE], [config(), CLOSE]])
def test_f02_a_session_without_a_scan_closes_quietly(local: Start, messages: list[bytes]) -> None:
    reply = run(local().port, messages)
    assert (reply.closes, reply.texts, reply.images, reply.ended) == (1, [], [], True)


ORDERS = {
    "header arrived before the configuration": lambda r: [header(r.xml)],
    "second configuration": lambda r: [config(), config()],
    "second header": lambda r: [config(), header(r.xml), header(r.xml)],
    "arrived before the config": lambda r: [line(r.lines[0])],
    "arrived before the header": lambda r: [config(), line(r.lines[0])],
}


@pytest.mark.parametrize("rule", ORDERS)
def test_f03_messages_out_of_order_name_the_rule(local: Start, recording: Recording, rule: str) -> None:
    server = local()
    assert rule in ends_well(run(server.port, ORDERS[rule](recording)))


def test_f04_unknown_messages_end_the_session_and_queries_are_answered(local: Start, recording: Recording) -> None:
    server = local()
    assert "999" in ends_well(run(server.port, [scanner.number(999) + bytes(100)]))
    assert "1234" in ends_well(run(server.port, [*session(recording)[:9], scanner.number(1234) + bytes(100)]))
    question = scanner.number(6) + (0).to_bytes(8, "little") + (7).to_bytes(8, "little") + (15).to_bytes(8, "little")
    reply = run(server.port, [question + b"gadgetron::info", question + b"gadgetron::what", CLOSE])
    assert reply.responses[0][1].startswith("recon ")
    assert reply.responses[1] == (7, "Unknown query")
    assert (reply.closes, reply.texts) == (1, [])
    next_session_works(server, recording)


def test_f05_f06_huge_sizes_are_refused_at_once(local: Start, recording: Recording) -> None:
    server = local()
    for n in (5, 2, 3):
        start = [config(), header(recording.xml)] if n == 5 else [config()] if n == 3 else []
        reply = run(server.port, [*start, scanner.number(n) + b"\xff\xff\xff\xff"])
        assert "4294967295 bytes" in ends_well(reply)
    big = scanner.edited(recording.lines[0][:340], samples=65535, channels=65535)
    assert "65535 samples, 65535 channels" in ends_well(run(server.port, [*session(recording)[:2], line(big)]))


def test_a_session_that_sends_more_than_it_may_is_ended(local: Start, recording: Recording) -> None:
    messages = session(recording, close=False)
    reply = run(local(early=False, session_MiB=1).port, [*messages, *messages[2:] * 40])
    assert "more than 1 MiB of raw data" in ends_well(reply)


def test_f07_a_line_that_breaks_off_makes_no_image(local: Start, full: Recording) -> None:
    server = local()
    messages = session(full, close=False)
    reply = Scanner(server.port).send([*messages[:-1], messages[-1][:-7]]).fin().wait()
    assert "incomplete" in ends_well(reply)
    broken = Scanner(server.port, reading=False).send([*messages[:-1], messages[-1][:-7]])
    broken.reset()
    assert len(run(server.port, session(full)).images) == 1
    deadline = time.monotonic() + 5
    while sum(t.get("state") == "incomplete" for t in server.told) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sum(t.get("state") == "incomplete" for t in server.told) == 2


def test_f08_all_lines_without_close_make_no_image(local: Start, full: Recording) -> None:
    reply = Scanner(local().port).send(session(full, close=False)).fin().wait()
    assert "ended before CLOSE" in ends_well(reply)


def test_f09_a_cancelled_scan_makes_no_image(local: Start, full: Recording) -> None:
    imaging = [b for b in full.lines if not scanner.value(b, "flags") & 1 << 18]
    noise = [b for b in full.lines if scanner.value(b, "flags") & 1 << 18]
    messages = [config(), header(full.xml), *map(line, noise + imaging[:12]), CLOSE]
    assert "incomplete 12/32" in ends_well(run(local().port, messages))


@pytest.mark.parametrize("lost", [[0], [5], [31], [10, 20]])
def test_missing_lines_make_no_image(local: Start, full: Recording, lost: list[int]) -> None:
    imaging = [b for b in full.lines if not scanner.value(b, "flags") & 1 << 18]
    kept = [b for b in full.lines if not any(b is imaging[i] for i in lost)]
    reply = run(local().port, session(Recording(full.xml, kept)))
    assert f"incomplete {32 - len(lost)}/32" in ends_well(reply)


def test_a_line_missing_from_a_regular_pattern_makes_no_image(local: Start, recording: Recording) -> None:
    imaging = [b for b in recording.lines if not scanner.value(b, "flags") & 1 << 18]
    steps = {scanner.value(b, "step1") for b in imaging}
    assert {0, 2, 4} < steps
    assert not {1, 3} & steps
    kept = [b for b in recording.lines if not (b in imaging and scanner.value(b, "step1") == 2)]
    assert len(kept) == len(recording.lines) - 2
    # ACS lines on top of the pattern: more came than the header alone leads to expect.
    assert "incomplete 54/32 or more: " in ends_well(
        run(local(early=False).port, session(Recording(recording.xml, kept)))
    )


def test_a_missing_slice_makes_no_image(local: Start, recording: Recording) -> None:
    kept = [b for b in recording.lines if not scanner.value(b, "slice")]
    assert "incomplete" in ends_well(run(local(early=False).port, session(Recording(recording.xml, kept))))


def test_f09_of_a_series_only_whole_repetitions_come_back(local: Start, full: Recording, full_file: Path) -> None:
    noise = [b for b in full.lines if scanner.value(b, "flags") & 1 << 18]
    imaging = [b for b in full.lines if not scanner.value(b, "flags") & 1 << 18]
    lines = noise + [scanner.edited(b, repetition=r) for r in range(3) for b in imaging][: 2 * 32 + 12]
    reply = run(local().port, [config(), header(_limited(full.xml, repetition=2)), *map(line, lines), CLOSE])
    assert sorted(i.repetition for i in reply.images) == [0, 1]
    assert [t for t in reply.texts if t.startswith("WRN") and "incomplete 76/96: 2 of 3 repetitions" in t]
    for image in reply.images:
        assert np.allclose(image.pixels[0], truth(full_file), rtol=1e-4, atol=1e-5 * image.pixels.max())


@pytest.mark.parametrize("early", [True, False])
def test_noise_lines_with_too_much_noise_are_checked_once_and_cause_a_warning(
    early: bool, local: Start, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    usual = scan_noise.contradicted

    def contradicted(scan: RawScan, *known: Any) -> tuple[str, ...]:
        asked.append(len(scan.lines))
        return usual(scan, *known)

    monkeypatch.setattr(scan_noise, "contradicted", contradicted)
    lines = [scanner.louder(b, 30.0) if scanner.value(b, "flags") & 1 << 18 else b for b in recording.lines]
    reply = run(local(early=early).port, session(Recording(recording.xml, lines)))
    assert len(reply.images) == 2
    assert sum(t.startswith("WRN j0b: warning: the noise scan gives") for t in reply.texts) == 1
    assert asked == [len(lines)]


def _limited(xml: bytes, **maxima: int) -> bytes:
    """The header with other limits of some counters."""
    for name, top in maxima.items():
        limit = f"<{name}><minimum>0</minimum><maximum>{top}</maximum><center>0</center></{name}>".encode()
        xml, n = re.subn(rf"<{name}>.*?</{name}>".encode(), limit, xml, flags=re.DOTALL)
        if not n:
            at = xml.index(b"</encodingLimits>")
            order = (b"<segment>", b"<user_0>")
            at = min([at, *(xml.index(o) for o in order if o in xml)])
            xml = xml[:at] + limit + xml[at:]
    return xml


@pytest.mark.parametrize("piece", [1, 1460, 0])
def test_f10_pieces_and_packets_change_nothing(local: Start, full: Recording, full_file: Path, piece: int) -> None:
    messages = session(full)
    # One byte at a time, the header and the first lines; then everything at once.
    start, rest = messages[:3], b"".join(messages[3:])
    client = Scanner(local(first_s=30).port)
    client.socket.setsockopt(6, 1, 1)
    client.send(start, piece=piece)
    assert np.array_equal(pixels(client.send([rest], piece=0 if piece == 1 else piece).wait()), truth(full_file))


def test_real_time_pace_changes_nothing(local: Start, full: Recording, full_file: Path) -> None:
    assert np.array_equal(pixels(run(local().port, session(full), pause=0.005)), truth(full_file))


def test_f11_who_never_reads_is_given_up(local: Start, recording: Recording) -> None:
    server = local(send_s=0.3, queue_MiB=1)
    picture = scanner.picture(np.zeros((1, 1, 1024, 1024)))
    client = Scanner(server.port, reading=False)
    client.socket.settimeout(5)
    client.send([config(), header(recording.xml), *[picture] * 20])
    deadline = time.monotonic() + 10
    while not any("state" in t for t in server.told) and time.monotonic() < deadline:
        time.sleep(0.02)
    client.socket.close()
    last = next(t for t in server.told if "state" in t)
    assert last["state"] != "done"
    assert any("read nothing for 0.3 s" in t.get("reason", "") for t in server.told)
    # What waits is bounded: the queue, the sockets' buffers and the image in hand, and not all 40 MiB.
    assert last["images_passed"] < 15


def test_f12_silence_in_mid_scan_ends_the_session(local: Start, recording: Recording) -> None:
    server = local(idle_s=0.4)
    reply = Scanner(server.port).send(session(recording)[:20]).wait(5)
    assert "nothing arrived for 0.4 s" in ends_well(reply)


@pytest.mark.parametrize(
    "name", [b"../../etc/passwd", b"os", b"x" * 1024, b"\xff\xfe", b"", b"auto.xml", b"<configuration/>"]
)
def test_f17_only_registered_recipes_are_taken(local: Start, recording: Recording, name: bytes) -> None:
    server, before = local(), set(sys.modules)
    for message in (scanner.number(1) + name.ljust(1024, b"\0"), scanner.string(2, name)):
        said = ends_well(run(server.port, [message, header(recording.xml)]))
        assert "not registered" in said
        assert not name or name.decode(errors="replace") not in said.replace("auto, ", "")
    assert set(sys.modules) <= before | {"lxml"} or not {"passwd", "antigravity"} & set(sys.modules)


def test_f25_waveforms_in_between_are_counted_and_not_used(local: Start, recording: Recording, scan_file: Path) -> None:
    server = local()
    messages = session(recording)
    for at, wave in ((30, scanner.wave()), (10, scanner.wave(0, 0)), (4, scanner.wave(5, 1, 4711))):
        messages.insert(at, wave)
    assert np.array_equal(pixels(run(server.port, messages)), truth(scan_file))
    assert any(t.get("waveforms") == 3 for t in server.told)


def test_f14_sessions_leave_nothing_behind(local: Start, full: Recording) -> None:
    server, process = local(), psutil.Process()

    def held() -> tuple[int, int]:
        return process.num_fds(), threading.active_count()

    run(server.port, session(full))
    before = held()
    for messages in [session(full), session(full)[:9], [CLOSE]] * 4:
        Scanner(server.port).send(messages).fin().wait()
    deadline = time.monotonic() + 5
    while held() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held() <= before
