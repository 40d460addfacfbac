"""Which frames may go out while later ones are still being measured, and with which of the lines."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recon import simulation
from recon.data import DataError, Flag, flagged
from recon.prepare import epi
from recon.serve import early, store
from recon.serve.session import Inbox, receive
from recon.serve.settings import Site, registered
from tests.serve import scanner
from tests.serve.scanner import Recording, session

#: Flags of lines that calibrate, of readouts backwards and of navigators.
CALIBRATES = 1 << 19
BACKWARDS, NAVIGATES = 1 << 21, 1 << 23


def test_a_frame_flagged_before_its_last_line_waits_for_it(series: Recording) -> None:
    """However slow the worker is: a frame that has more lines than when it was named is named again, or waits."""
    noise = [b for b in series.lines if scanner.value(b, "flags") & 1 << 18]
    first = [b for b in series.lines if b not in noise and not scanner.value(b, "slice")]
    one, two = ([b for b in first if scanner.value(b, "repetition") == r] for r in (0, 1))
    said = [scanner.edited(b, flags=scanner.value(b, "flags") & ~(1 << 7)) for b in (*one, two[0])]
    said[-4] = scanner.edited(said[-4], flags=scanner.value(said[-4], "flags") | 1 << 7)  # the last but two

    def after(lines: list[bytes]) -> Inbox:
        stream, inbox = io.BytesIO(b"".join(session(Recording(series.xml, noise + lines)))), Inbox()
        receive(lambda n: memoryview(stream.read(n)), inbox, registered(Site()), 2**40, lambda _: None)
        assert inbox.error is None
        return inbox

    key = (0, 0, 0, 0, 0)
    for n, goes in ((len(one) - 2, True), (len(one) - 1, False), (len(one), False), (len(one) + 1, True)):
        inbox = after(said[:n])
        assert list(inbox.candidates) == [key]
        scan = early.frame(inbox, key)
        assert (scan is not None) == goes, n
        assert scan is None or len(scan.lines) == len(noise) + min(n, len(one))


def test_a_frame_with_a_counter_beyond_its_limit_waits_for_the_whole_scan(series: Recording) -> None:
    """One slice alone was measured twice: by itself its second average would count, in the scan it is an error."""
    first = [b for b in series.lines if not scanner.value(b, "slice") and not scanner.value(b, "repetition")]
    again = [scanner.edited(b, average=1) for b in first if not scanner.value(b, "flags") & 1 << 18]
    key = (0, 0, 0, 0, 0)
    for more, goes in (([], True), (again, False)):
        stream = io.BytesIO(b"".join(session(Recording(series.xml, [*series.lines, *more]))))
        inbox = Inbox()
        receive(lambda n, s=stream: memoryview(s.read(n)), inbox, registered(Site()), 2**40, lambda _: None)
        inbox.named = {k: len(rows) for k, rows in inbox.frames.items()}
        scan = early.frame(inbox, key)
        assert scan is not None
        assert scan.lines["average"].any() != goes
        assert early.may_go(scan) == goes
    assert inbox.parsed is not None
    with pytest.raises(DataError, match="counter average beyond its limit"):
        store.scan(inbox.lines, inbox.parsed)


def _one_way(line: bytes) -> list[bytes]:
    """The second repetition's navigators of the first slice are forward readouts alone."""
    here = scanner.value(line, "repetition") == 1 and scanner.value(line, "slice") == 0
    flags = scanner.value(line, "flags")
    return [] if here and flags & NAVIGATES and flags & BACKWARDS else [line]


def _calibrated(navigators: bool) -> Callable[[bytes], list[bytes]]:
    """The last repetition is one that only calibrates, with its navigators or without."""

    def sent(line: bytes) -> list[bytes]:
        flags = scanner.value(line, "flags")
        if scanner.value(line, "repetition") < 3:
            return [line]
        if flags & NAVIGATES:
            return [line] * navigators
        return [scanner.edited(line, flags=(flags | CALIBRATES) & ~(1 << 7 | 1 << 24))]

    return sent


@pytest.mark.parametrize(
    ("sent", "navigators"),
    [(lambda line: [line], 3), (_one_way, None), (_calibrated(True), 6), (_calibrated(False), None)],
    ids=["as it is", "navigators of one direction", "calibration with navigators", "calibration without"],
)
def test_a_frame_has_the_navigators_that_decide_its_samples_and_no_others_where_it_can(
    sent: Callable[[bytes], list[bytes]], navigators: int | None, tmp_path: Path
) -> None:
    settings = simulation.Settings(matrix=(32, 32, 1), coils=2, slices=2, trajectory="epi", repetitions=4, sigma=0.05)
    simulation.simulate_to(tmp_path / "epi.h5", settings)
    recording = scanner.load(tmp_path / "epi.h5")
    lines = [body for line in recording.lines for body in sent(line)]
    stream, inbox = io.BytesIO(b"".join(session(Recording(recording.xml, lines)))), Inbox()
    receive(lambda n: memoryview(stream.read(n)), inbox, registered(Site()), 2**40, lambda _: None)
    assert inbox.error is None
    assert len(inbox.frames) == (6 if inbox.calibrating else 8)
    everything = store.scan(inbox.lines, inbox.parsed)  # type: ignore[arg-type]
    whole = epi.straighten(everything)
    inbox.named = {key: len(rows) for key, rows in inbox.frames.items()}
    for key in inbox.frames:
        scan = early.frame(inbox, key)
        assert scan is not None
        if navigators:
            assert int(flagged(scan.lines, Flag.PHASECORR).sum()) == navigators
        of_all = early.alone(everything, key)
        assert np.array_equal(of_all.lines, scan.lines)
        last = np.array([len(scan.lines) - 1])
        assert np.array_equal(of_all.samples.read(last), scan.samples.read(last))
        here = epi.straighten(scan)
        mine = np.nonzero((here.lines["slice"] == key[0]) & ~flagged(here.lines, Flag.NOISE))[0]
        assert len(mine) == (64 if inbox.calibrating else 32)
        names = ("slice", "contrast", "phase", "repetition", "set", "kspace_encode_step_1", "flags")
        for row in mine:
            (same,) = np.nonzero(np.logical_and.reduce([whole.lines[n] == here.lines[n][row] for n in names]))[0]
            assert np.array_equal(here.samples.read(np.array([row])), whole.samples.read(np.array([same])))


def test_of_a_long_series_each_line_is_filed_without_a_look_at_all_frames(series: Recording) -> None:
    """Where no image goes out early nothing tells how many lines a frame has, and every frame may have been whole."""

    class Counted(dict[Any, list[int]]):
        looks = 0

        def __getitem__(self, key: Any) -> list[int]:
            self.looks += 1
            return super().__getitem__(key)

    image = [b for b in series.lines if not scanner.value(b, "flags") & 1 << 18 and not scanner.value(b, "slice")]
    one = [scanner.edited(b, flags=0, repetition=0) for b in image if not scanner.value(b, "repetition")]
    lines = [scanner.line(scanner.edited(b, repetition=r)) for r in range(400) for b in one]
    stream = io.BytesIO(b"".join([*session(series)[:2], *lines, scanner.CLOSE]))
    frames = Counted()
    inbox = Inbox(frames=frames)
    receive(lambda n: memoryview(stream.read(n)), inbox, registered(Site()), 2**40, lambda _: None)
    assert inbox.error is None
    assert (len(frames), len(inbox.candidates)) == (400, 399)
    assert frames.looks < 3 * len(lines)
