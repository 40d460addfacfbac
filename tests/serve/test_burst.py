"""A scan that comes in one burst, all lines and CLOSE at once: its images leave one by one, as soon as each is made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest

from recon import simulation
from recon.data import Flag, Image, flag_bits, flagged
from recon.io.dicom import datasets
from recon.io.ismrmrd import write
from recon.io.provenance import DICOM_CREATOR, DICOM_GROUP
from recon.io.read import read_raw
from recon.io.samples import SomeRows
from recon.mri import encoded, noncartesian
from recon.pacs.settings import Pacs
from recon.pipeline import reconstruct, stacks
from recon.serve.settings import Site, registered
from recon.simulation import Receiver, Settings
from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import CLOSE, Scanner, run, session, wait_for_images

Start = Callable[..., Local]

#: Small scans of four coils of each kind, and the recipe that is asked for.
SCANS: dict[str, tuple[Settings, str]] = {
    "slices": (Settings(matrix=(32, 32, 1), slices=4, acceleration=(2, 1), acs=12, sigma=0.01), "sense"),
    "learned": (Settings(matrix=(32, 32, 1), slices=2, acceleration=(2, 1), acs=12, sigma=0.01), "small"),
    "random": (Settings(matrix=(32, 64, 1), slices=2, mask="random", acceleration=(2, 1), acs=12, sigma=0.01), "cs"),
    "large": (Settings(matrix=(96, 96, 1), slices=4, sigma=0.02), "combine"),
    "averages": (Settings(matrix=(32, 32, 1), slices=3, averages=2, sigma=0.01), "sense"),
    "no noise lines": (Settings(matrix=(64, 64, 1), slices=3, repetitions=2, noise_lines=0, sigma=0.01), "combine"),
    "no noise lines, learned": (
        Settings(matrix=(128, 64, 1), slices=6, acceleration=(2, 1), acs=16, noise_lines=0, sigma=0.01),
        "small",
    ),
    "no noise lines, volumes": (Settings(matrix=(24, 32, 12), repetitions=3, noise_lines=0, sigma=0.01), "combine"),
    "no noise lines, echo-planar": (
        Settings(matrix=(32, 64, 1), trajectory="epi", slices=2, repetitions=6, noise_lines=0, sigma=0.01),
        "combine",
    ),
    "no noise lines, radial": (
        Settings(matrix=(64, 64, 1), trajectory="radial", readouts=64, repetitions=6, noise_lines=0, sigma=0.01),
        "sense",
    ),
    "calibrated apart": (
        Settings(matrix=(32, 32, 1), slices=3, acceleration=(2, 1), acs=12, calibration="separate", sigma=0.01),
        "sense",
    ),
    "calibrated once": (
        Settings(
            matrix=(32, 32, 1), slices=2, acceleration=(2, 1), acs=12, calibration="separate", repetitions=3, sigma=0.01
        ),
        "sense",
    ),
    "calibrated by lines of their own within": (
        Settings(matrix=(32, 32, 1), slices=3, acceleration=(2, 1), acs=12, calibration="reference", sigma=0.01),
        "sense",
    ),
    "echoes and repetitions": (
        Settings(matrix=(32, 32, 1), slices=2, te_ms=(4.0, 9.0), repetitions=2, sigma=0.01),
        "combine",
    ),
    "volumes": (Settings(matrix=(24, 16, 6), repetitions=2, sigma=0.01), "combine"),
    "echo-planar": (Settings(matrix=(32, 32, 1), slices=2, trajectory="epi", repetitions=2, sigma=0.01), "combine"),
    "radial": (Settings(matrix=(32, 32, 1), slices=2, trajectory="radial", readouts=40, sigma=0.01), "sense"),
    "a constant of the receiver": (
        Settings(matrix=(64, 64, 1), slices=3, acceleration=(2, 1), acs=16, sigma=0.01, receiver=Receiver(offset=3.0)),
        "sense",
    ),
    "no noise lines, a constant of the receiver": (
        Settings(
            matrix=(64, 64, 1),
            slices=2,
            repetitions=4,
            acceleration=(2, 1),
            acs=16,
            noise_lines=0,
            sigma=0.01,
            receiver=Receiver(offset=3.0),
        ),
        "sense",
    ),
}


SCANS = {name: (replace(values, coils=4), recipe) for name, (values, recipe) in SCANS.items()}
#: Scans without early frames.
LATE = ("slices", "learned")


class Made(NamedTuple):
    """A scan of each kind: its file, the site's recipes and the images that `reconstruct` makes of the whole of it."""

    path: Path
    recipes: dict[str, str]
    whole: Image


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A function that makes the scan of a name once for all tests."""
    folder = tmp_path_factory.mktemp("burst")
    # The smaller of the networks that ship takes half of the time.
    (folder / "small.toml").write_text('[solve]\nmethod = "unrolled"\nweights = "mri-small"\n')
    recipes = {"small": str(folder / "small.toml")}

    @cache
    def make(name: str) -> Made:
        path = folder / f"{name}.h5"
        simulation.simulate_to(path, SCANS[name][0])
        return Made(path, recipes, reconstruct(read_raw(path), registered(Site(recipes=recipes))[SCANS[name][1]]))

    return make


def told(image: pydicom.Dataset) -> str:
    """The notes sent with an image."""
    return str(json.loads(image.private_block(DICOM_GROUP, DICOM_CREATOR)[0x01].value)["notes"])


class Gate:
    """Lets each frame but the first be solved only when the images of those before it have come."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, images_each: int) -> None:
        self.client: Scanner | None = None
        self.solved, self.late = 0, 0
        self._each = images_each
        for module, name in ((encoded, "images"), (noncartesian, "_images")):
            monkeypatch.setattr(module, name, self._after(getattr(module, name)))

    def _after(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*given: Any, **more: Any) -> Any:
            deadline = time.monotonic() + 5
            while self._missing() and not self.late and time.monotonic() < deadline:
                time.sleep(0.005)
            self.late += self._missing()
            self.solved += 1
            return inner(*given, **more)

        return wait

    def _missing(self) -> bool:
        assert self.client is not None
        return len(self.client.reply.images) < self.solved * self._each


@pytest.mark.parametrize("name", SCANS)
def test_images_of_a_burst_leave_one_by_one_with_the_pixels_of_the_whole_scan(
    local: Start, made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, recipes, whole = made(name)
    depth = whole.geometry.shape[0] if "volumes" in name else 1
    gate = Gate(monkeypatch, depth)
    client = gate.client = Scanner(local(early=False, recipes=recipes).port)
    reply = client.send(session(scanner.load(path), SCANS[name][1])).wait()
    assert reply.error() == ""
    assert gate.late == 0
    assert gate.solved > 1
    expected = np.abs(whole.data).reshape(-1, *whole.data.shape[-2:])
    assert len(reply.images) == len(expected)
    assert sorted(i.head[37] for i in reply.images) == list(range(1, len(expected) + 1))
    for image in reply.images:
        assert np.array_equal(image.pixels[0, 0], expected[image.head[37] - 1])


@pytest.mark.parametrize("name", [n for n in SCANS if n not in LATE])
def test_frames_of_every_kind_leave_before_close_where_nothing_later_can_change_them(
    local: Start, made: Callable[[str], Made], name: str
) -> None:
    path, recipes, whole = made(name)
    expected = np.abs(whole.data).reshape(-1, *whole.data.shape[-2:])
    depth = whole.geometry.shape[0] if "volumes" in name else 1
    client = Scanner(local(recipes=recipes).port)
    *messages, close = session(scanner.load(path), SCANS[name][1])
    client.send(messages)
    before = len(expected) - depth  # the last frame always waits
    wait_for_images(client, before)
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.error()) == (len(expected), "")
    counters = [np.unique([i.head[k] for i in reply.images]) for k in (28, 29, 30, 31, 27)]
    shape = [len(c) for c in counters]
    for image in reply.images:
        at = [int(np.searchsorted(c, image.head[k])) for c, k in zip(counters, (28, 29, 30, 31, 27))]
        assert np.array_equal(image.pixels[0, 0], expected[np.ravel_multi_index(at, shape)])


@pytest.mark.parametrize(
    "name",
    ["volumes", "radial", "averages", "echo-planar", "no noise lines", *(n for n in SCANS if "constant" in n)],
)
def test_frames_that_left_early_are_the_series_of_the_whole_scan_in_the_pacs(
    local: Start, tmp_path: Path, made: Callable[[str], Made], name: str
) -> None:
    path, _, whole = made(name)
    client = Scanner(local(pacs=Pacs(to="ARCHIVE@127.0.0.1:104", spool=str(tmp_path / "spool"))).port)
    *messages, close = session(scanner.load(path), SCANS[name][1])
    client.send(messages)
    deadline = time.monotonic() + 30
    while name not in LATE and not client.reply.images and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.send([close]).wait().images
    came = [pydicom.dcmread(p) for p in (tmp_path / "spool").rglob("image.dcm")]
    expected = {d.SOPInstanceUID: d for d in datasets(whole)}
    assert sorted(d.SOPInstanceUID for d in came) == sorted(expected)
    assert all(np.array_equal(d.pixel_array, expected[d.SOPInstanceUID].pixel_array) for d in came)
    assert any("added a constant" in note for note in whole.notes) == ("constant" in name)
    assert {told(d) for d in came} == {told(d) for d in expected.values()}


def test_a_frame_that_others_calibrate_does_not_leave_before_them(local: Start, tmp_path: Path) -> None:
    """Repetitions without ACS lines whose lines interleave: together they calibrate each of them."""
    full = simulation.simulate(Settings(matrix=(32, 32, 1), coils=4, repetitions=2, slices=2, sigma=0.01))
    image = ~flagged(full.lines, Flag.NOISE)
    kept = ~image | (full.lines["kspace_encode_step_1"] % 2 == full.lines["repetition"] % 2)
    rows = np.nonzero(kept)[0]
    encodings = tuple(replace(e, acceleration=(2, 1)) for e in full.encodings)
    lines = full.lines[rows].copy()
    last = [max(np.nonzero((lines["slice"] == n) & (lines["repetition"] == r))[0]) for n in range(2) for r in range(2)]
    lines["flags"][last] |= np.uint64(1 << 7)
    scan = replace(full, lines=lines, samples=SomeRows(full.samples, rows), encodings=encodings)
    write(tmp_path / "scan.h5", scan)
    expected = np.abs(reconstruct(read_raw(tmp_path / "scan.h5"), registered(Site())["sense"]).data)
    reply = run(local().port, session(scanner.load(tmp_path / "scan.h5"), "sense"))
    assert (len(reply.images), reply.error()) == (4, "")
    for i in reply.images:
        assert np.array_equal(i.pixels[0, 0], expected[i.repetition, i.slice])


@pytest.mark.parametrize("recipe", ["combine", "sense"])
@pytest.mark.parametrize(
    ("measured", "announced", "soon"),
    [((1, 3, 2), False, 2), ((3, 1, 1), False, 2), ((1, 3, 2), True, 0), ((3, 1, 1), True, 1)],
)
def test_frames_of_different_numbers_of_averages_leave_early_in_the_scale_of_their_series(
    local: Start, tmp_path: Path, measured: tuple[int, ...], announced: bool, soon: int, recipe: str
) -> None:
    """One line of the last slice is measured once more, too.

    Where three averages are announced, those that are fewer wait for the end, and those after them for their scale.
    """
    full = simulation.simulate(Settings(matrix=(32, 32, 1), coils=4, slices=3, averages=3, sigma=0.01))
    image = ~flagged(full.lines, Flag.NOISE)
    kept = np.nonzero(~image | (full.lines["average"] < np.array(measured)[full.lines["slice"]]))[0]
    kept = kept[np.argsort(np.where(image, 1 + full.lines["slice"], 0)[kept], kind="stable")]
    kept = np.insert(kept, len(kept) - 5, kept[-9])
    lines = full.lines[kept].copy()
    lines["flags"] &= ~np.uint64(1 << 7)
    lines["flags"][[np.nonzero(image[kept] & (lines["slice"] == n))[0][-1] for n in range(3)]] |= np.uint64(1 << 7)
    lines["flags"][-1] |= np.uint64(flag_bits(Flag.LAST_IN_MEASUREMENT))
    limits = {k: limit for k, limit in full.encodings[0].limits.items() if announced or k != "average"}
    encodings = (replace(full.encodings[0], limits=limits),)
    write(tmp_path / "scan.h5", replace(full, lines=lines, samples=SomeRows(full.samples, kept), encodings=encodings))
    expected = np.abs(reconstruct(read_raw(tmp_path / "scan.h5"), registered(Site())[recipe]).data)
    *messages, close = session(scanner.load(tmp_path / "scan.h5"), recipe)
    client = Scanner(local().port).send(messages)
    wait_for_images(client, soon)
    time.sleep(0.2)
    assert len(client.reply.images) == soon
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.error()) == (3, "")
    for i in reply.images:
        assert np.array_equal(i.pixels[0, 0], expected[i.slice])


@pytest.mark.parametrize("recipe", ["sense", "auto"])
def test_a_first_repetition_with_all_lines_changes_neither_the_method_nor_the_bits_of_the_others(
    local: Start, tmp_path: Path, recipe: str
) -> None:
    full = simulation.simulate(Settings(matrix=(48, 48, 1), coils=4, repetitions=3, sigma=0.01))
    step = full.lines["kspace_encode_step_1"].astype(int) - 24
    first = flagged(full.lines, Flag.NOISE) | (full.lines["repetition"] == 0)
    rows = np.nonzero(first | (step % 3 == 2) | (np.abs(step) < 7))[0]
    encodings = (replace(full.encodings[0], acceleration=(3, 1)),)
    write(tmp_path / "scan.h5", replace(full, lines=full.lines[rows], samples=SomeRows(full.samples, rows),
                                        encodings=encodings))  # fmt: skip
    whole = reconstruct(read_raw(tmp_path / "scan.h5"), registered(Site())[recipe])
    assert whole.provenance["method"] == ("sense" if recipe == "sense" else "unrolled")
    *messages, close = session(scanner.load(tmp_path / "scan.h5"), recipe)
    client = Scanner(local().port).send(messages)
    deadline = time.monotonic() + 30
    while not client.reply.images and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [i.repetition for i in client.reply.images][:1] == [1]
    reply = client.send([close]).wait()
    assert (len(reply.images), reply.error()) == (3, "")
    for i in reply.images:
        assert np.array_equal(i.pixels[0, 0], np.abs(whole.data)[i.repetition, 0])


def test_calibration_after_its_image_was_returned_is_an_error(local: Start, made: Callable[[str], Made]) -> None:
    found = scanner.load(made("calibrated apart").path)
    apart = [b for b in found.lines if scanner.value(b, "flags") & (1 << 19) and not scanner.value(b, "slice")]
    *messages, close = session(found, "sense")
    client = Scanner(local().port).send(messages)
    wait_for_images(client, 2)
    reply = client.send([scanner.line(apart[0]), close]).wait()
    assert "lines arrived for 1 image that" in reply.error()


def test_each_image_of_a_burst_says_which_frame_it_is_and_where(local: Start, tmp_path: Path) -> None:
    """Slices are measured in another order than they lie in space, and numbered as they were measured."""
    values = replace(SCANS["slices"][0], repetitions=2)
    scan = simulation.simulate(values)
    turned = scan.lines.copy()
    turned["slice"] = values.slices - 1 - turned["slice"]
    write(tmp_path / "scan.h5", replace(scan, lines=turned))
    sent = scanner.load(tmp_path / "scan.h5")
    here = {(scanner.value(b, "slice"), scanner.LINE.unpack_from(b)[35]) for b in sent.lines}
    place = {n: z for n, z in here if z or n}
    for early, pixel in ((False, "float32"), (True, "float32"), (False, "int16")):
        images = run(local(early=early, pixel=pixel).port, session(sent, "sense")).images
        assert {(i.slice, i.repetition) for i in images} == {(n, r) for n in range(4) for r in range(2)}
        assert all(np.isclose(i.head[13], place[i.slice]) for i in images if i.slice in place)


@pytest.mark.parametrize("missing", ["slice 3", "repetition 1"])
def test_f09_nothing_of_an_incomplete_burst_leaves_but_whole_repetitions(
    local: Start, tmp_path: Path, missing: str
) -> None:
    simulation.simulate_to(tmp_path / "scan.h5", replace(SCANS["slices"][0], repetitions=2))
    found = scanner.load(tmp_path / "scan.h5")
    what, number = missing.split()
    if what == "slice":  # the last lines of a slice of each repetition
        lost = [i for i, b in enumerate(found.lines) if scanner.value(b, "slice") == int(number)]
        lost = [i for i in lost if scanner.value(found.lines[i], "step1") > 20]
    else:
        lost = [i for i, b in enumerate(found.lines) if scanner.value(b, "repetition") == int(number)][-3:]
    kept = scanner.Recording(found.xml, [b for i, b in enumerate(found.lines) if i not in lost])
    reply = run(local(early=False).port, session(kept, "sense"))
    assert {i.repetition for i in reply.images} == (set() if what == "slice" else {0})
    assert len(reply.images) == (0 if what == "slice" else 4)
    assert any("incomplete" in text for text in reply.texts)


def test_a_dark_slice_leaves_only_when_others_are_known_to_be_not(local: Start, tmp_path: Path) -> None:
    scan = simulation.simulate(SCANS["slices"][0])
    read = scan.samples.read

    def send(dark: set[int]) -> scanner.Reply:
        class Dark:
            def read(self, rows: np.ndarray) -> np.ndarray:
                lines = scan.lines[rows]
                out = read(rows).copy()
                out[np.isin(lines["slice"], list(dark)) & ~flagged(lines, Flag.NOISE)] = 0
                return out

            def trajectory(self, rows: np.ndarray) -> np.ndarray:
                return scan.samples.trajectory(rows)

        path = tmp_path / f"{len(dark)}.h5"
        write(path, replace(scan, samples=Dark()))
        return run(local(early=False).port, session(scanner.load(path), "combine"))

    reply = send({0})
    assert [i.slice for i in reply.images][-1] == 0
    assert [bool(i.pixels.any()) for i in reply.images] == [True, True, True, False]
    nothing = send({0, 1, 2, 3})
    assert nothing.images == []
    assert "all imaging lines are zero" in nothing.error()


def test_a_burst_of_several_orientations_has_a_series_for_each(local: Start, tmp_path: Path) -> None:
    scan = simulation.simulate(SCANS["slices"][0])
    lines = scan.lines.copy()
    late = lines["slice"] >= 2
    for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), ((0, 1, 0), (0, 0, -1), (-1, 0, 0))):
        lines[name][late] = direction
    lines["position"][late] = 5 * lines["slice"][late, None] * lines["slice_dir"][late]
    write(tmp_path / "scan.h5", replace(scan, lines=lines))
    images = run(local(early=False).port, session(scanner.load(tmp_path / "scan.h5"), "sense")).images
    assert len(stacks(read_raw(tmp_path / "scan.h5"))) == 2
    assert [(i.slice, i.series, i.head[37]) for i in images] == [(0, 0, 1), (1, 0, 2), (2, 1, 1), (3, 1, 2)]


def test_close_in_one_piece_with_all_lines_gives_all_images(local: Start, made: Callable[[str], Made]) -> None:
    path, _, whole = made("slices")
    *messages, _ = session(scanner.load(path), "sense")
    reply = Scanner(local().port).send([b"".join([*messages, CLOSE])]).wait()
    assert (len(reply.images), reply.texts) == (4, [])
    expected = np.abs(whole.data)
    assert all(np.array_equal(i.pixels[0, 0], expected[i.slice]) for i in reply.images)
