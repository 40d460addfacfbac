"""The status page: its content, that only this machine can see it, and in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from recon.data import ReconError
from recon.serve.board import Board, worst
from recon.serve.page import page
from recon.serve.status import showing
from recon.serve.thumbnail import thumbnail
from tests.serve import scanner
from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, run, session
from tests.serve.test_server import wait_for
from tests.tools import need

Start = Callable[..., Running]


def board() -> Board:
    one = Board({"version": "0", "address": "127.0.0.1:1", "max_sessions": 4})
    one.began("j0b", "192.168.2.9")
    return one


@pytest.fixture
def port() -> Iterator[int]:
    with showing(board(), 0) as number:
        yield number


def ask(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    out = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return out


def state(port: int) -> dict[str, Any]:
    return dict(json.loads(ask(port, "/status.json")[2]))


def test_the_page_and_its_json_are_read(port: int) -> None:
    code, headers, body = ask(port, "/")
    assert (code, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"j0b" in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert b"<script" not in body
    assert state(port)["running"][0]["peer"] == "192.168.2.9"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_only_get_is_accepted(port: int, method: str) -> None:
    code, headers, _ = ask(port, "/", method)
    assert (code, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/thumbnails/../status.json", "/thumbnails/1.png", "/thumbnails/%2e%2e/1.png", "/?a",
        "/thumbnails/-1.png", "/thumbnails/9999999999999999.png", "/etc/passwd", "http://127.0.0.1/", "/status.json/",
    ],
)  # fmt: skip
def test_no_path_leads_anywhere_else(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "192.168.2.2", "", "@"])
def test_a_name_that_points_here_gets_nothing(port: int, host: str) -> None:
    code, _, body = ask(port, "/status.json", host=host)
    assert code == 421
    assert b"j0b" not in body


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:9"])
def test_this_machine_is_known_by_its_names(port: int, host: str) -> None:
    assert ask(port, "/", host=host)[0] == 200


def test_who_says_nothing_or_rubbish_does_not_keep_others_out(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(7)]
    with socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"<script>alert(1)</script>\r\n\r\n")
        assert b"<script>" not in rude.recv(1 << 16)

    def answered() -> bool:
        with contextlib.suppress(OSError):  # of eight places the seven silent ones hold theirs: one must come free
            return ask(port, "/")[0] == 200
        return False

    wait_for(answered, 4)  # before the silent ones are sent away
    for one in silent:
        one.close()


def test_a_port_in_use_is_reported(port: int) -> None:
    with pytest.raises(ReconError, match="--status-port"), showing(board(), port):
        pass


def test_what_peers_and_errors_say_is_text_and_never_markup() -> None:
    one = board()
    one.reported("j0b", {"recipe": "<b>x</b>"})
    assert "&lt;b&gt;x" in page(one.snapshot())
    one.ended("j0b", 1.0, {"state": "failed", "reason": '<img src="x">'})
    text = page(one.snapshot())
    assert "<img" not in text
    assert "&lt;img" in text


def test_the_board_counts_and_forgets() -> None:
    one = board()
    one.refused("busy")
    one.workers(1, 2, 1)
    for n in range(40):
        picture = thumbnail(np.ones((1, 1, 4, 4)))
        what = {"thumbnail": __import__("base64").b64encode(picture).decode(), "image": {"series": 0, "index": n}}
        one.reported("j0b", what)
        assert "thumbnail" not in what
    one.reported("j0b", {"last_line_to_image_s": 0.5})
    one.reported("gone", {"last_line_to_image_s": 0.7, "progress": {"lines": 3}})
    one.ended("j0b", 2.0, {"state": "done", "lines_received": 5, "lines_expected": 9})
    s = one.snapshot()
    assert (s["running"], s["counts"]) == ([], {"busy": 1, "done": 1})
    assert s["latency_s"] == {"n": 2, "last": 0.7, "median": 0.7, "most": 0.7}
    assert [i["index"] for i in s["images"]] == list(range(39, 15, -1))
    assert one.thumbnail(1) is None
    assert one.thumbnail(40) is not None
    assert s["ended"][0]["returned"] == 40
    assert "5 of 9" in page(s)


def test_the_spool_is_shown_and_an_unreadable_one_is_reported() -> None:
    values = {
        "new": 2,
        "sending": 1,
        "unconfirmed": 3,
        "sent": 40,
        "failed": 1,
        "oldest_s": 300.0,
        "last_error": "0xA700",
    }
    text = page(Board({}, lambda: values).snapshot())
    assert "<b>6</b><span>images on their way to the PACS, oldest 5 min</span>" in text
    assert "<b>40</b><span>in the PACS; 1 failed</span>" in text
    assert "0xA700" in text

    def broken() -> dict[str, Any]:
        raise OSError("/secret/place")

    text = page(Board({}, broken).snapshot())
    assert "cannot be read (OSError)" in text
    assert "secret" not in text


def test_trust_numbers_of_slices_are_joined_to_the_worst() -> None:
    a = {"residual": 1.0, "added": 0.02, "changed": 0.1, "fallbacks": 0, "reasons": []}
    b = {"residual": 0.9, "added": 0.03, "changed": 0.2, "fallbacks": 1, "reasons": ["noise"]}
    expected = {"residual": 1.0, "added": 0.03, "changed": 0.2, "fallbacks": 1, "reasons": ["noise"]}
    assert worst(worst(None, a), b) == expected


@pytest.mark.parametrize("shape", [(1, 1, 300, 200), (1, 3, 17, 31), (2, 1, 1, 1), (1, 1, 1000, 1)])
@pytest.mark.parametrize("kind", ["float32", "int16", "complex64"])
def test_thumbnails_are_small_and_keep_the_shape(shape: tuple[int, ...], kind: str) -> None:
    pixels = (np.arange(np.prod(shape)) // 2).reshape(shape).astype(kind)
    picture = pil.open(io.BytesIO(thumbnail(pixels)))
    assert max(picture.size) <= 128
    assert picture.mode == "L"
    if shape == (1, 1, 300, 200):
        grey = np.asarray(picture)
        assert grey[0, 0] < 8
        assert grey[-1, -1] > 247


def test_a_constant_and_an_empty_image_have_a_thumbnail() -> None:
    for value in (0.0, 7.0, -1.0):
        assert thumbnail(np.full((1, 1, 9, 9), value))


@pytest.fixture
def browser(tmp_path: Path) -> Callable[..., bytes]:
    """A function that opens an address in headless Chromium."""
    chromium = need("chromium")

    def open_(url: str, *options: str) -> bytes:
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                 "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,900",
                 f"--user-data-dir={tmp_path / 'browser'}"]  # fmt: skip
        return subprocess.run([chromium, *words, *options, url], capture_output=True, timeout=60, check=True).stdout

    return open_


def test_a_browser_shows_sessions_images_and_latency(
    server: Start, recording: Recording, browser: Callable[..., bytes], tmp_path: Path
) -> None:
    one = server("max_sessions = 3\n", **{"status-port": "0"})
    assert one.process.stdout is not None
    found = re.fullmatch(r"status page at http://127\.0\.0\.1:(\d+)/\n", one.process.stdout.readline())
    assert found
    port = int(found[1])
    marked = recording.xml.replace(b"<subjectInformation>", b"<subjectInformation><patientName>Zzyzx</patientName>")
    assert b"Zzyzx" in marked
    assert len(run(one.port, session(Recording(marked, recording.lines))).images) == 2
    assert run(one.port, [*session(recording)[:9], scanner.CLOSE]).error()
    still = Scanner(one.port).send(session(Recording(marked, recording.lines))[:30])
    wait_for(lambda: state(port)["running"] and state(port)["running"][0].get("lines") == 28, 30)

    s = state(port)
    assert (s["counts"], len(s["images"]), s["latency_s"]["n"] >= 1) == ({"done": 1, "failed": 1}, 2, True)
    assert s["ended"][-1]["lines_received"] >= s["ended"][-1]["lines_expected"] > 0
    assert all(0 < i["number"] for i in s["images"])
    png = ask(port, f"/thumbnails/{s['images'][0]['number']}.png")[2]
    assert pil.open(io.BytesIO(png)).size == (32, 32)

    shot = tmp_path / "page.png"
    dom = browser(f"http://127.0.0.1:{port}/", "--dump-dom", f"--screenshot={shot}").decode()
    assert "1 of 3" in dom
    assert dom.count("<figure>") == 2
    assert s["ended"][0]["job"] in dom
    assert "Zzyzx" not in dom + json.dumps(s)
    # The pictures are there: the page itself has no pixel that is black, and their background is.
    assert (np.asarray(pil.open(shot).convert("RGB")).max(-1) == 0).sum() > 5000
    still.fin().wait()
    assert one.stop() == 0
    time.sleep(0.05)
    with pytest.raises(OSError, match="refused"):
        ask(port, "/")
