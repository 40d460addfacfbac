"""Images that a scanner sends instead of raw data, sent by a client that knows only the protocol."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from recon import magnitude
from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import CLOSE, Image, Recording, Reply, Scanner, config, header, run, string

Start = Callable[..., Local]

MINI = (
    b"<ismrmrdMeta><meta><name>IceMiniHead</name><value>QUJD</value></meta>"
    b"<meta><name>ImageProcessingHistory</name><value>ICE</value></meta></ismrmrdMeta>\0"
)


def noisy(sigma: float = 20.0, size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A disc with a darker half, and its magnitude with Rician noise, both (1, 1, y, x)."""
    y, x = np.mgrid[:size, :size] - size // 2
    truth = np.where(x**2 + y**2 < (0.4 * size) ** 2, np.where(x < 0, 500.0, 300.0), 0.0)
    rng = np.random.default_rng(seed)
    found = np.hypot(truth + sigma * rng.standard_normal(truth.shape), sigma * rng.standard_normal(truth.shape))
    return truth[None, None], np.rint(found)[None, None]


def meta(image: Image) -> dict[str, list[str]]:
    root = ElementTree.fromstring(image.attributes)
    return {m.findtext("name") or "": [v.text or "" for v in m.findall("value")] for m in root}


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """Recipes that denoise: beside the original, and in its place."""
    for name, original in (("beside", "true"), ("instead", "false")):
        (tmp_path / f"{name}.toml").write_text(f'name = "{name}"\n[images]\ndenoise = 1.0\noriginal = {original}\n')
    return {name: str(tmp_path / f"{name}.toml") for name in ("beside", "instead")}


def play(server: Local, recording: Recording, name: str, *pictures: bytes, text: bytes = b"") -> Reply:
    reply = run(server.port, [config(name), header(recording.xml), *([text] if text else []), *pictures, CLOSE])
    assert (reply.closes, reply.ended, reply.broken, reply.error()) == (1, True, "", "")
    return reply


@pytest.mark.parametrize("kind", [1, 2, 3, 5])
def test_a_magnitude_comes_back_as_it_was_and_denoised(
    local: Start, recording: Recording, site: dict[str, str], kind: int
) -> None:
    truth, sent = noisy()
    reply = play(local(recipes=site), recording, "beside", scanner.picture(sent, MINI, kind))
    first, second = reply.images
    assert np.array_equal(first.pixels, sent)
    assert (first.series, second.series) == (3, 1003)
    inside = truth > 0
    assert np.std((second.pixels - truth)[inside]) < 0.4 * np.std((sent - truth)[inside])
    # Means stay those of the magnitude, also in the air, where they are those of noise alone.
    for part in (truth == 500, truth == 300, truth == 0):
        assert second.pixels[part].mean() == pytest.approx(sent[part].mean(), abs=1.5)
    assert second.pixels.dtype == np.dtype(scanner.DTYPE[kind])
    assert [*second.head[:38], *second.head[39:55]] == [*first.head[:38], *first.head[39:55]]


def test_a_denoised_image_says_so_and_keeps_the_scanners_attributes(
    local: Start, recording: Recording, site: dict[str, str]
) -> None:
    _, sent = noisy()
    (image,) = play(local(recipes=site), recording, "instead", scanner.picture(sent, MINI)).images
    said = meta(image)
    assert image.series == 3
    assert said["IceMiniHead"] == ["QUJD"]
    assert said["ImageProcessingHistory"] == ["ICE", "RECON", "DENOISE"]
    assert said["SequenceDescriptionAdditional"] == ["denoised 100 %"]
    assert said["Keep_image_geometry"] == ["1"]
    assert "recipe instead" in said["ImageComment"][0]
    record = json.loads(said["recon"][0])["provenance"]
    assert record["noise"][0] == pytest.approx(20.0, rel=0.05)
    assert record["recipe_hash"] in said["ImageComment"][0]


@pytest.mark.parametrize(("kind", "image_type"), [(2, 2), (5, 3), (5, 4), (7, 5), (2, 0), (7, 1)])
def test_phase_and_complex_images_are_never_touched(
    local: Start, recording: Recording, site: dict[str, str], kind: int, image_type: int
) -> None:
    _, sent = noisy()
    (image,) = play(local(recipes=site), recording, "instead", scanner.picture(sent, b"", kind, image_type)).images
    assert np.array_equal(image.pixels, sent)
    assert set(meta(image)) == {"Keep_image_geometry"}


@pytest.mark.parametrize("bad", ["negative", "not a number", "constant", "tiny", "empty"])
@pytest.mark.parametrize("recipe_name", ["beside", "instead"])
def test_an_image_that_cannot_be_denoised_comes_back_with_the_reason(
    local: Start, recording: Recording, site: dict[str, str], bad: str, recipe_name: str
) -> None:
    _, sent = noisy()
    if bad == "negative":
        sent = sent - 100
    elif bad == "not a number":
        sent[..., 3, 4] = np.nan
    else:
        sent = np.full({"tiny": (1, 1, 1, 1), "empty": (1, 1, 0, 8)}.get(bad, (1, 1, 64, 64)), 7.0)
    reply = play(local(recipes=site), recording, recipe_name, scanner.picture(sent, b"", 5))
    (image,) = reply.images
    assert np.array_equal(image.pixels, sent, equal_nan=True)
    assert [t for t in reply.texts if t.startswith("WRN j0b: 1 image was returned unchanged: ")]
    assert not any("unexpected error" in t for t in reply.texts)
    assert (recipe_name == "instead") == ("not denoised" in image.attributes)


def test_the_user_interface_asks_for_a_share(local: Start, recording: Recording) -> None:
    _, sent = noisy()
    server = local()

    def ask(share: str) -> np.ndarray:
        text = string(5, json.dumps({"parameters": {"denoise": share}}).encode())
        return play(server, recording, "auto", scanner.picture(sent, b"", 5), text=text).images[-1].pixels

    none, half, full = (ask(share).astype(np.float64) for share in ("none", "half", "full"))
    assert np.array_equal(none, sent)
    assert np.allclose(half, (full + sent) / 2, atol=1e-3)
    assert not np.allclose(full, sent, atol=1)


def test_a_series_that_the_scanner_uses_is_never_written_to(
    local: Start, recording: Recording, site: dict[str, str]
) -> None:
    _, sent = noisy()
    pictures = [
        scanner.picture(sent, series=1003),
        scanner.picture(sent, series=3),
        scanner.picture(sent, series=65000),
    ]
    reply = play(local(recipes=site), recording, "beside", *pictures)
    assert [i.series for i in reply.images] == [1003, 2003, 3, 65000]
    assert sum(t.startswith("WRN j0b: 1 image was returned unchanged: the series") for t in reply.texts) == 2


def held_denoiser(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A denoiser that waits until the event is set."""
    go_on, inner = threading.Event(), magnitude.denoise

    def slow(*words: Any) -> Any:
        assert go_on.wait(60)
        return inner(*words)

    monkeypatch.setattr(magnitude, "denoise", slow)
    return go_on


def test_the_reader_reads_on_while_an_image_is_worked_on(
    local: Start, recording: Recording, site: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question is answered, and lines are taken, while the denoiser has not finished; images keep their order."""
    go_on = held_denoiser(monkeypatch)
    _, sent = noisy()
    client = Scanner(local(recipes=site).port)
    client.send([config("instead"), header(recording.xml), *[scanner.picture(sent, b"", series=n) for n in (5, 4, 3)]])
    client.send([*map(scanner.line, recording.lines), scanner.question(7, "ismrmrd::version")])
    until = time.monotonic() + 60
    while not client.reply.responses:
        assert time.monotonic() < until, "the reader waits for the denoiser"
        time.sleep(0.01)
    assert not [image for image in client.reply.images if image.series in (3, 4, 5)]
    go_on.set()
    reply = client.send([CLOSE]).wait()
    assert reply.responses == [(7, "1.4.1")]
    assert [image.series for image in reply.images if image.series <= 5] == [5, 4, 3]
    assert {image.series for image in reply.images} == {3, 4, 5, 6}


def test_a_scanner_waits_where_too_many_images_wait(
    local: Start, recording: Recording, site: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-pressure: 64 MiB do not leave the scanner while 1 MiB may wait, and none of it is lost."""
    # What is made of so many pixels is not asked for here.
    made = {"version": "0", "recipe_hash": "0"}
    monkeypatch.setattr(magnitude, "denoise", lambda images, recipe: magnitude.Cleaned(images, (1.0,), (1, 1), made))
    go_on = held_denoiser(monkeypatch)
    pictures = [scanner.picture(np.full((1, 1, 1024, 1024), n), b"", 5) for n in range(16)]
    client = Scanner(local(recipes=site, queue_MiB=1).port)
    messages = [config("instead"), header(recording.xml), *pictures, CLOSE]
    sender = threading.Thread(target=client.send, args=(messages,), daemon=True)
    sender.start()
    sender.join(1.0)
    assert sender.is_alive()
    go_on.set()
    reply = client.wait()
    assert [int(image.pixels[0, 0, 0, 0]) for image in reply.images] == list(range(16))
