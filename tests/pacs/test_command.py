"""`recon send` as a user types it, and the server that hands its images on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pydicom
import pytest

from recon import simulation
from recon.pacs.settings import Pacs
from recon.pacs.summary import summary
from recon.recipe import Recipe
from recon.serve.pacs import delivering, to_pacs
from recon.serve.settings import Site
from tests.command import recon, refused
from tests.io import pictures
from tests.pacs.peers import Told, free_port
from tests.serve import scanner
from tests.serve.conftest import Running
from tests.serve.conftest import server as server
from tests.serve.scanner import Recording, run, session


def sent(folder: Path, n: int, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while summary(folder)["sent"] < n:
        assert time.monotonic() < until, summary(folder)
        time.sleep(0.05)


def section(port: int, report: int) -> str:
    return f"[pacs]\nto = 'TOLD@127.0.0.1:{port}'\nlisten = '127.0.0.1:{report}'\nspool = 'spool'\n"


def test_send_says_that_the_images_are_there(brain: Path, tmp_path: Path) -> None:
    port = free_port()
    with Told(report=port).running() as pacs:
        words = ["send", brain, "--to", f"TOLD@127.0.0.1:{pacs.port}", "--listen", f"127.0.0.1:{port}",
                 "--spool", tmp_path / "spool"]  # fmt: skip
        end = recon(*words)
        assert (end.code, end.out) == (0, "3 images are in the PACS\n"), end
        again = recon(*words)
        assert (again.code, again.out) == (0, "3 images are in the PACS\n"), again
    assert len(pacs.came) == 3
    status = recon("send", "--status", "--json", "--spool", tmp_path / "spool")
    found = json.loads(status.out)
    assert (found["sent"], found["new"], found["failed"]) == (3, 0, 0)
    assert found["to"] == f"TOLD@127.0.0.1:{pacs.port}"


def test_send_says_why_images_wait_and_a_later_call_delivers_them(brain: Path, tmp_path: Path) -> None:
    spool, port, report = tmp_path / "spool", free_port(), free_port()
    end = recon("send", brain, "--to", f"TOLD@127.0.0.1:{port}", "--listen", f"127.0.0.1:{report}", "--spool", spool)
    assert end.code == 1
    assert "0 of 3 images are in the PACS, 3 wait in the spool: the PACS cannot be reached: no connection" in end.err
    text = recon("send", "--status", "--spool", spool).out
    assert "new          3" in text
    assert "Connection refused" in text
    assert "Marked" not in end.err + text
    refused(recon("send", brain, "--to", "OTHER@127.0.0.1:104", "--spool", spool), 1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["send"], "does not say which PACS"),
        (["send", "nowhere", "--to", "A@127.0.0.1:104"], "there is no file or folder nowhere"),
        (["send", "--to", "A@127.0.0.1:104"], "give the images to send"),
        (["send", ".", "--config", "none.toml"], "there is no file none.toml"),
        (["send", ".", "--to", "A"], "AET@host:port"),
        (["send", ".", "--to", "A@127.0.0.1:1", "--confirm", "maybe"], "--confirm takes"),
    ],
)
def test_send_refuses_what_makes_no_sense(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").touch()
    # Which images there are is no matter of usage.
    assert sentence in refused(recon(*words), 1 if "nowhere" in words else 2)


def test_f36_a_folder_with_a_damaged_file_is_refused_whole(brain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in brain.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "IM0002.dcm").write_bytes((brain / "IM0002.dcm").read_bytes()[:-10])
    words = refused(recon("send", folder, "--to", "A@127.0.0.1:1", "--spool", tmp_path / "spool"), 1)
    assert "IM0002.dcm is not sent, and neither is any other image of this call" in words
    assert summary(tmp_path / "spool")["new"] == 0


def test_f16_a_watching_sender_stops_on_request(brain: Path, tmp_path: Path) -> None:
    spool, port = tmp_path / "spool", free_port()
    with Told(report=port).running() as pacs:
        watch = [sys.executable, "-m", "recon", "send", brain, "--watch", "--to", f"TOLD@127.0.0.1:{pacs.port}",
                 "--listen", f"127.0.0.1:{port}", "--spool", spool]  # fmt: skip
        process = subprocess.Popen([*map(str, watch)], stderr=subprocess.PIPE, text=True)
        try:
            sent(spool, 3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 143
        finally:
            process.kill()
        assert process.stderr is not None
        said = process.stderr.read()
    assert "is there" in said
    assert "Marked" not in said


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of two slices with noise lines, of a marked patient, whose slices go out early."""
    folder = tmp_path_factory.mktemp("scan")
    simulation.simulate_to(folder / "plain.h5", simulation.preset(matrix=32, coils=4, accel=2, slices=2))
    return folder / "plain.h5"


def marked(recording: Recording) -> Recording:
    """The scan of a patient whose name must appear nowhere."""
    xml = recording.xml.replace(
        b"<subjectInformation>", b"<subjectInformation><patientName>Zzyzx^Marked</patientName>"
        b"<patientID>PID-4711-X</patientID>", 1,
    )  # fmt: skip
    assert b"Zzyzx" in xml
    return Recording(xml, recording.lines)


def ended(one: Running, n: int, seconds: float = 60) -> list[dict[str, Any]]:
    until = time.monotonic() + seconds
    while len(found := [e for e in one.audit() if e["event"] == "ended"]) < n:
        assert time.monotonic() < until, one.log()
        time.sleep(0.05)
    return found


def test_images_of_a_session_reach_the_pacs_once_with_the_uids_of_run(
    server: Callable[..., Running], scan: Path, tmp_path: Path
) -> None:
    """Slices that went out early are in the whole series; a repeated scan is sent once, a cancelled one never."""
    assert recon("run", scan, "-q", "-o", tmp_path / "dicom").code == 0
    expected = {str(pydicom.dcmread(p).SOPInstanceUID) for p in (tmp_path / "dicom").iterdir()}
    port, recording = free_port(), scanner.load(scan)
    with Told(report=port).running() as pacs:
        one = server(section(pacs.port, port))
        spool = one.folder / "spool"
        assert len(run(one.port, session(recording, "default")).images) == 2
        sent(spool, 2)
        run(one.port, session(recording, "default"))
        run(one.port, session(Recording(recording.xml, recording.lines[:-3]), "default"))
        states = ended(one, 3)
        sent(spool, 2)
        assert one.stop() == 0
    assert sorted(pacs.came) == sorted(expected)
    assert [set(e.get("pacs", {}).get("spooled", [])) for e in states] == [expected, expected, set()]
    assert [e["state"] for e in states] == ["done", "done", "failed"]


def test_f40_the_patient_is_in_no_line_about_the_pacs(server: Callable[..., Running], scan: Path) -> None:
    with Told([0xC000, 0xA700], report=(port := free_port())).running() as pacs:
        one = server("early = false\nmax_sessions = 1\n" + section(pacs.port, port))
        run(one.port, session(marked(scanner.load(scan)), "default"))
        ended(one, 1)
        until = time.monotonic() + 30
        while (found := summary(one.folder / "spool"))["failed"] < 1 or not found["last_error"]:
            assert time.monotonic() < until, one.log()
            time.sleep(0.05)
        one.stop()
    assert found["failed"] == 1
    assert "refused the image (0xC000, cannot understand)" in one.log()
    everything = one.log() + json.dumps(one.audit()) + json.dumps(found)
    for path in (one.folder / "spool").rglob("*"):
        everything += str(path) + (path.read_text() if path.is_file() and path.name != "image.dcm" else "")
    assert "Zzyzx" not in everything
    assert "4711" not in everything
    assert any(b"Zzyzx" in p.read_bytes() for p in (one.folder / "spool").rglob("image.dcm"))


def test_f32_a_spool_that_cannot_be_written_is_reported_and_the_session_succeeds(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("no folder")
    pacs = Pacs(to="A@127.0.0.1:104", spool=str(tmp_path / "spool"))
    told: dict[str, Any] = {}
    to_pacs(None, [pictures.picture()], {}, Recipe(), "j0b", Site(pacs=pacs), lambda **what: told.update(what))  # type: ignore[arg-type]
    assert told["reason"].startswith("the images did not reach the PACS's spool: cannot keep images in")
    assert told["pacs"]["failed"] in told["reason"]


def test_a_sender_that_ends_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.serve.pacs._AGAIN_S", 0.1)
    lines: list[str] = []
    pacs = Pacs(to=f"A@127.0.0.1:{free_port()}", listen=f"127.0.0.1:{free_port()}", spool=str(tmp_path / "spool"))
    with delivering(pacs, lines.append):
        until, ours = time.monotonic() + 30, psutil.Process()
        for n in (1, 2):
            while sum("cannot be reached" in line for line in lines) < n:
                assert time.monotonic() < until, lines
                time.sleep(0.05)
            (child,) = [c for c in ours.children() if "--watch" in c.cmdline()]
            if n == 1:
                child.kill()
    assert not child.is_running()
    assert any("the sender ended with exit code -9; it starts again" in line for line in lines)
    # Each line has one time, which the server's log gives it.
    assert any(line.startswith(f"pacs: {pacs.to} cannot be reached") for line in lines), lines
