"""Images that go out while later ones are still being measured: which, with which pixels, and what the PACS gets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from recon import simulation
from recon.data import Flag, Limit, flagged
from recon.io.dicom import datasets
from recon.io.ismrmrd import write
from recon.io.read import read
from recon.io.samples import SomeRows
from recon.mri import encoded
from recon.pacs.settings import Pacs
from recon.pipeline import reconstruct
from recon.serve.settings import Site, registered
from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import CLOSE, Recording, Scanner, run, session, step_of, value_of, wait_for_images

Start = Callable[..., Local]


@pytest.mark.parametrize("early", [True, False])
def test_f08_without_close_no_series_is_complete(local: Start, recording: Recording, early: bool) -> None:
    client = Scanner(local(early=early).port).send(session(recording, close=False))
    wait_for_images(client, early)
    time.sleep(0.3)
    reply = client.fin().wait()
    assert len(reply.images) == early
    assert ("1 image of complete slices had already been returned" in reply.error()) == early
    assert "ended before CLOSE" in reply.error()


def test_slices_come_back_while_later_ones_are_measured(local: Start, series: Recording, series_file: Path) -> None:
    client = Scanner(local().port)
    *messages, close = session(series)
    client.send(messages)
    wait_for_images(client, 5)
    before = [(i.repetition, i.slice) for i in client.reply.images]
    assert len(set(before)) == 5
    assert {(0, 0), (0, 1), (0, 2)} < set(before)
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.texts, {i.series for i in reply.images}) == (6, [], {0})
    assert [i.head[37] for i in reply.images] == [1, 2, 3, 4, 5, 6]

    whole = run(local(early=False).port, session(series)).images
    expected = np.abs(reconstruct(read(series_file)).data)
    for image in reply.images:
        assert np.array_equal(image.pixels[0, 0], expected[image.repetition, image.slice])
        (twin,) = [i for i in whole if (i.repetition, i.slice) == (image.repetition, image.slice)]
        assert np.array_equal(image.pixels, twin.pixels)
        assert np.allclose(image.head[7:26], twin.head[7:26], atol=1e-4)


def test_contrasts_come_back_while_later_slices_are_measured(local: Start, tmp_path: Path) -> None:
    # Two echoes of each line, one after the other, of which the second has half the signal.
    scan = simulation.simulate(simulation.preset(matrix=32, coils=4, accel=2, slices=2))
    noise = (scan.lines["flags"] & np.uint64(1 << 18)) != 0
    rows = np.nonzero(~noise)[0]
    table = np.concatenate([np.nonzero(noise)[0], np.repeat(rows, 2)])
    lines = scan.lines[table].copy()
    lines["contrast"][len(table) - 2 * len(rows) + 1 :: 2] = 1
    limits = {**scan.encodings[0].limits, "contrast": Limit(0, 1, 0)}
    encodings = (replace(scan.encodings[0], limits=limits), *scan.encodings[1:])
    write(
        tmp_path / "echoes.h5", replace(scan, lines=lines, samples=SomeRows(scan.samples, table), encodings=encodings)
    )
    found = scanner.load(tmp_path / "echoes.h5")
    second = [np.frombuffer(b[scanner.LINE.size :], "<f4") / 2 for b in found.lines]
    echoes = Recording(
        found.xml,
        [
            b[: scanner.LINE.size] + h.tobytes() if scanner.value(b, "contrast") else b
            for b, h in zip(found.lines, second)
        ],
    )
    client = Scanner(local().port)
    *messages, close = session(echoes)
    client.send(messages)
    wait_for_images(client, 3)
    assert {(i.head[28], i.slice) for i in client.reply.images} > {(0, 0), (1, 0)}
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.texts) == (4, [])
    whole = run(local(early=False).port, session(echoes)).images
    by = {(i.head[28], i.slice): i.pixels for i in reply.images}
    assert all(np.array_equal(by[i.head[28], i.slice], i.pixels) for i in whole)
    assert np.linalg.norm(by[1, 0]) < 0.7 * np.linalg.norm(by[0, 0])


@pytest.mark.parametrize(
    ("series_file", "method"), [("interleaved", "sense"), ("slice after slice", "unrolled")], indirect=["series_file"]
)
def test_images_that_went_out_early_reach_the_pacs_without_a_second_reconstruction(
    local: Start, series: Recording, series_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Six images, each solved once, are the series that `recon run` writes: the same UIDs, pixels, notes and trust."""
    solved, inner = [], encoded.images

    def counted(method: str, slabs: list[Any], *others: Any, **more: Any) -> Any:
        solved.extend(slabs)
        return inner(method, slabs, *others, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(encoded, "images", counted)
    one = local(pacs=Pacs(to="ARCHIVE@127.0.0.1:104", spool=str(tmp_path / "spool")))
    waves = [scanner.wave()] * 2  # each image alone has seen other numbers of them than the scan has
    messages = session(series, method)
    client = Scanner(one.port).send([*messages[:40], *waves, *messages[40:-1], *waves])
    wait_for_images(client, 5)
    assert len(client.send([CLOSE]).wait().images) == 6
    assert len(solved) == 6
    came = [pydicom.dcmread(path) for path in (tmp_path / "spool").rglob("image.dcm")]

    scan = replace(
        read(series_file), notes=("4 waveforms (ECG, respiration, …) are not used", *read(series_file).notes)
    )
    plan = next(r for name, r in registered(Site()).items() if name == method)
    expected = {d.SOPInstanceUID: d for d in datasets(reconstruct(scan, plan))}
    assert sorted(d.SOPInstanceUID for d in came) == sorted(expected)
    for d in came:
        twin = expected[d.SOPInstanceUID]
        assert np.array_equal(d.pixel_array, twin.pixel_array)
        assert d.ImageComments == twin.ImageComments
        ours, theirs = (json.loads(x.private_block(0x0073, "RECON PROVENANCE")[0x01].value) for x in (d, twin))
        for record in (ours, theirs):
            del record["provenance"]["date"]
        assert ours == theirs
    assert bool(ours["trust"]) == (method == "unrolled")


def test_a_line_after_its_image_was_returned_is_an_error(local: Start, series: Recording) -> None:
    client = Scanner(local().port)
    *messages, close = session(series, "sense")
    client.send(messages)
    wait_for_images(client, 5)
    first = next(m for m in messages[2:] if not scanner.value(m[2:], "flags") & 1 << 18)
    reply = client.send([first, close]).wait()
    assert "lines arrived for 1 image that" in reply.error()
    assert len(reply.images) == 5


def test_slices_of_each_orientation_have_a_series_of_their_own_however_early_they_go(
    local: Start, tmp_path: Path
) -> None:
    scan = simulation.simulate(simulation.preset(matrix=32, coils=2, slices=6))
    lines = scan.lines.copy()
    turns = {2: ((0, 1, 0), (0, 0, -1), (-1, 0, 0)), 4: ((1, 0, 0), (0, 0, -1), (0, 1, 0))}  # a localiser
    for first, directions in turns.items():
        for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), directions):
            lines[name][lines["slice"] >= first] = direction
    for k in range(6):
        at = lines["slice"] == k
        lines["position"][at] = 5 * k * lines["slice_dir"][at]
    write(tmp_path / "scan.h5", replace(scan, lines=lines))
    *all_but_close, close = session(scanner.load(tmp_path / "scan.h5"))
    late = run(local(early=False).port, [*all_but_close, close])
    first = late.images[0].series
    assert [i.series - first for i in late.images] == [0, 0, 1, 1, 2, 2]
    client = Scanner(local().port).send(all_but_close)
    wait_for_images(client, 5)
    reply = client.send([close]).wait()
    assert sorted((i.slice, i.series - first) for i in reply.images) == [(k, k // 2) for k in range(6)]


@pytest.mark.parametrize(
    ("series_file", "brighter"), [("interleaved", 1.0), ("slice after slice", 30.0)], indirect=["series_file"]
)
def test_whole_numbers_leave_before_close_in_steps_that_the_first_image_decides(
    local: Start, series: Recording, tmp_path: Path, brighter: float
) -> None:
    """One step for the series, however its images leave; what later images exceed it by is cut, counted and said."""
    sent = Recording(
        series.xml, [scanner.louder(b, brighter) if scanner.value(b, "repetition") else b for b in series.lines]
    )
    whole = session(sent, "sense")
    plain = {(i.repetition, i.slice): i.pixels for i in run(local(early=False).port, whole).images}
    client = Scanner(local(pixel="int16").port).send(whole[:-1])
    wait_for_images(client, 5)
    reply = client.send(whole[-1:]).wait()
    late = run(local(pixel="int16", early=False).port, whole)
    (step,) = {step_of(i) for i in (*reply.images, *late.images)}
    peak = max(float(p.max()) for (repetition, _), p in plain.items() if not repetition)
    assert step == pytest.approx(max(512.0, 4 * float(plain[0, reply.images[0].slice].max())) / 4095)
    lost = 0
    twins = {(i.repetition, i.slice): i for i in late.images}
    for image in reply.images:
        at = image.repetition, image.slice
        number = np.rint(plain[at].astype(np.float64) / step)
        assert image.pixels.dtype == np.dtype("<i2")
        assert np.array_equal(image.pixels, np.minimum(number, 4095))
        assert np.array_equal(image.pixels, twins[at].pixels)
        cut = int((number > 4095).sum())
        assert (f"{cut} pixels were clipped" in image.attributes) == bool(cut)
        width = float(value_of(image, "WindowWidth"))
        assert width == pytest.approx(max(1.0, np.percentile(plain[at], 99.5) / step), rel=1e-3)
        lost += cut
    assert bool(lost) == (brighter * peak > 4095 * step)
    assert [t for t in reply.texts if t.startswith("WRN")] == [t for t in late.texts if t.startswith("WRN")] or lost
    for one in (reply, late):
        assert any(f"{lost} pixels were brighter" in t for t in one.texts) == bool(lost)


def test_repetitions_measured_line_by_line_in_turn_leave_when_another_slice_begins_without_any_flag(
    local: Start, tmp_path: Path
) -> None:
    scan = simulation.simulate(simulation.preset(matrix=32, coils=4, accel=2, slices=3))
    noise = flagged(scan.lines, Flag.NOISE)
    rows = np.concatenate([np.nonzero(~noise & (scan.lines["slice"] == k))[0] for k in range(3)])
    table = np.concatenate([np.nonzero(noise)[0], np.repeat(rows, 2)])
    lines = scan.lines[table].copy()
    lines["repetition"][noise.sum() :] = np.arange(2 * len(rows)) % 2
    lines["flags"] &= ~np.uint64(1 << 7 | 1 << 24)
    limits = {**scan.encodings[0].limits, "repetition": Limit(0, 1, 0)}
    encodings = (replace(scan.encodings[0], limits=limits), *scan.encodings[1:])
    write(tmp_path / "turns.h5", replace(scan, lines=lines, samples=SomeRows(scan.samples, table), encodings=encodings))
    *messages, _ = sent = session(scanner.load(tmp_path / "turns.h5"))
    client = Scanner(local().port)
    of = [scanner.value(m[2:], "slice") if m[:2] == scanner.number(1008) else 0 for m in messages]
    until = of.index(2) + 1  # the first line of the third slice
    client.send(messages[:until])
    wait_for_images(client, 4)
    assert {(i.repetition, i.slice) for i in client.reply.images} == {(r, k) for r in range(2) for k in range(2)}
    reply = client.send(sent[until:]).wait()
    assert (len(reply.images), reply.error()) == (6, "")
    expected = np.abs(reconstruct(read(tmp_path / "turns.h5")).data)
    assert all(np.array_equal(i.pixels[0, 0], expected[i.repetition, i.slice]) for i in reply.images)


def test_noise_lines_after_returned_images_change_none_and_are_reported(local: Start, series: Recording) -> None:
    noise = [b for b in series.lines if scanner.value(b, "flags") & 1 << 18]
    image = [b for b in series.lines if b not in noise]
    *messages, close = session(Recording(series.xml, noise + image), "sense")
    client = Scanner(local().port)
    client.send(messages)
    wait_for_images(client, 5)
    reply = client.send([scanner.line(noise[0]), close]).wait()
    assert (len(reply.images), reply.error()) == (6, "")
    assert any("noise lines arrived after" in t for t in reply.texts)
    first = run(local().port, session(Recording(series.xml, noise + image), "sense"))
    by = {(i.repetition, i.slice): i.pixels for i in first.images}
    assert all(np.array_equal(i.pixels, by[i.repetition, i.slice]) for i in reply.images)
