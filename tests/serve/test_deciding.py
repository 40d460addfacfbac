"""What decides over all frames of a scan, of which some leave before others have come: the method, and the limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from recon import recipe, simulation
from recon.data import Flag, Limit, flagged
from recon.io.ismrmrd import write
from recon.io.read import read
from recon.io.samples import SomeRows
from recon.mri import networks
from recon.nets import rephased
from recon.pipeline import reconstruct
from recon.serve import early
from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import Recording, Scanner, session, wait_for_images

Start = Callable[..., Local]


def drawn(path: Path, lines_each: tuple[int, ...], *, announced: int | None = None) -> Recording:
    """Repetitions of one slice of 64 phase encodes, each with so many lines: 12 ACS lines, the others at random.

    `announced` is how many repetitions the header announces, by default as many as there are.
    """
    scan = simulation.simulate(simulation.preset(matrix=64, coils=4))
    noise, rng = flagged(scan.lines, Flag.NOISE), np.random.default_rng(3)
    step = scan.lines["kspace_encode_step_1"]
    parts = [np.nonzero(noise)[0]]
    for n in lines_each:
        acs = np.arange(26, 38)
        others = rng.permutation(np.setdiff1d(np.arange(64), acs))[: n - 12]
        parts.append(np.nonzero(~noise & np.isin(step, [*acs, *others]))[0])
    table = np.concatenate(parts)
    lines = scan.lines[table].copy()
    lines["flags"] &= ~np.uint64(1 << 7 | 1 << 24)
    ends = np.cumsum([len(part) for part in parts])
    for repetition, (start, stop) in enumerate(pairwise(ends)):
        lines["repetition"][start:stop] = repetition
        lines["flags"][stop - 1] |= np.uint64(1 << 7)
    limits = {**scan.encodings[0].limits, "repetition": Limit(0, (announced or len(lines_each)) - 1, 0)}
    encoding = replace(scan.encodings[0], limits=limits, acceleration=(2, 1))
    encodings = (encoding, *scan.encodings[1:])
    write(path, replace(scan, lines=lines, samples=SomeRows(scan.samples, table), encodings=encodings))
    return scanner.load(path)


#: Of 64 lines 46 are R = 1.4, which the network does not serve, and 43 are R = 1.5. Most have 43, by which the method
#: of all is chosen.
STRADDLING = (46, 43, 43, 43)


@pytest.mark.parametrize(
    ("lines_each", "soon", "method"),
    [
        ((40, 36, 36, 36), 3, "unrolled"),
        ((40, 38, 33, 34), 3, "unrolled"),
        (STRADDLING, 0, "unrolled"),
        ((47, 47, 47, 47), 0, "cs"),
    ],
)
def test_frames_of_random_lines_leave_early_only_where_later_ones_cannot_choose_another_method(
    local: Start, tmp_path: Path, lines_each: tuple[int, ...], soon: int, method: str
) -> None:
    *messages, close = session(drawn(tmp_path / "drawn.h5", lines_each))
    client = Scanner(local().port).send(messages)
    wait_for_images(client, soon)
    time.sleep(0.3)
    assert len(client.reply.images) == soon
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.error()) == (4, "")
    whole = reconstruct(read(tmp_path / "drawn.h5"))
    assert whole.provenance["method"] == method
    for image in reply.images:
        assert np.array_equal(image.pixels[0, 0], np.abs(whole.data[image.repetition, 0]))


def test_a_scan_that_needs_another_method_than_its_early_images_ends_in_an_error(
    local: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "agreed", lambda *of: "cs")
    *messages, close = session(drawn(tmp_path / "drawn.h5", STRADDLING))
    client = Scanner(local().port).send(messages)
    wait_for_images(client, 3)
    reply = client.send([close]).wait()
    assert "images were made by cs and returned before frames came that need another method" in reply.error()
    assert len(reply.images) == 3


@pytest.mark.parametrize("soon", [True, False], ids=["while it goes on", "once it has ended"])
def test_noise_lines_with_far_too_much_noise_are_doubted_whenever_images_are_sent(
    local: Start, tmp_path: Path, soon: bool
) -> None:
    found = drawn(tmp_path / "drawn.h5", (40, 36, 36, 36))
    louder = [scanner.louder(b, 20) if scanner.value(b, "flags") & 1 << 18 else b for b in found.lines]
    for lines, doubted in ((found.lines, False), (louder, True)):
        *messages, close = session(Recording(found.xml, lines), "sense")
        client = Scanner(local(early=soon).port).send(messages)
        wait_for_images(client, 3 if soon else 0)
        reply = client.send([close]).wait()
        assert (len(reply.images), reply.error()) == (4, "")
        assert any("times the noise seen in the imaging lines" in t for t in reply.texts) == doubted


def test_repetitions_beyond_what_the_header_announces_are_judged_by_the_whole_scan(
    local: Start, tmp_path: Path
) -> None:
    """By itself a frame beyond the limit is broken; beside those before it the limit is what is wrong."""
    *messages, close = session(drawn(tmp_path / "drawn.h5", (36, 36, 36, 36), announced=3))
    client = Scanner(local().port).send(messages)
    wait_for_images(client, 2)
    time.sleep(0.3)
    reply = client.send([close]).wait()
    assert reply.error() == ""
    expected = reconstruct(read(tmp_path / "drawn.h5")).data
    assert sorted(i.repetition for i in reply.images) == list(range(4)) == list(range(len(expected)))
    assert all(np.array_equal(i.pixels[0, 0], np.abs(expected[i.repetition, 0])) for i in reply.images)


def test_windows_that_are_shown_without_the_phase_are_those_of_the_whole_scan(
    local: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rephased, "LARGE", 64)
    monkeypatch.setattr(rephased, "SEEN", 1e-3)
    monkeypatch.setattr(networks, "draws", lambda name: True)
    mine = tmp_path / "mine.toml"
    mine.write_text('[solve]\nmethod = "unrolled"\nweights = "mri-small"\n[trust]\nrephased = 0.0\n')
    settings = replace(simulation.preset(accel=4, matrix=64, coils=4, slices=2), sigma=0.02)
    simulation.simulate_to(tmp_path / "scan.h5", settings)
    whole = reconstruct(read(tmp_path / "scan.h5"), recipe.load(mine))
    assert whole.trust["rephased"] == 2
    *messages, close = session(scanner.load(tmp_path / "scan.h5"), "mine")
    client = Scanner(local(recipes={"mine": str(mine)}).port).send(messages)
    wait_for_images(client, 1)
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.error()) == (2, "")
    assert all(np.array_equal(i.pixels[0, 0], np.abs(whole.data[i.slice])) for i in reply.images)
