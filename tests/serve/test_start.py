"""The start of a server: it listens before it imports much, and keeps to its limits while its processes start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.conftest import Running
from tests.serve.scanner import Recording, Scanner, config, number, session
from tests.serve.test_server import wait_for

#: Packages that take long to import; each is loaded by a worker, or by what needs it, when the server listens already.
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "ismrmrd",
    "pydicom",
    "pynetdicom",
    "nibabel",
    "cryptography",
    "sigpy",
    "matplotlib",
}

_CODE = """
import json, os, runpy, sys
from recon.serve import service
listen = service.listen
def spy(site):
    sock = listen(site)
    print(json.dumps([sock.getsockname()[1], sorted(sys.modules)]), flush=True)
    os._exit(0)
service.listen = spy
sys.argv = ["recon", "serve", "--config", sys.argv[1]]
runpy.run_module("recon", run_name="__main__")
"""


def test_nothing_slow_is_imported_before_the_server_listens(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('port = 0\nstatus_port = 0\naudit = "a.jsonl"\n[pacs]\nto = "A@127.0.0.1:104"\nspool = "spool"\n')
    done = subprocess.run([sys.executable, "-c", _CODE, str(site)], capture_output=True, text=True, check=False)
    port, loaded = json.loads(done.stdout)
    assert port > 0, done.stderr
    assert "recon.serve.server" in loaded
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()
    # All that Python, typer and pydantic bring along is some 300 modules and 0.3 s of a processor; numpy is 100 more.
    assert len(loaded) < 350


#: Runs in every process that Python starts with its folder on PYTHONPATH: those of the sessions wait for a file.
HELD = """
import pathlib, sys, time

while "recon.serve" in sys.orig_argv and not pathlib.Path(__file__).with_name("go").exists():
    time.sleep(0.01)
"""


def test_f01_a_first_message_that_breaks_off_is_ended_in_time_while_no_process_is_ready(
    server: Callable[..., Running], full: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HELD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = server("max_sessions = 2\n[limits]\nfirst_s = 1.5\n")
    text = number(2) + (100).to_bytes(4, "little") + b"auto"
    cut = [Scanner(one.port).send([first]) for first in (config()[:1000], text, text[:3])]
    gone = Scanner(one.port).send([text]).fin()
    whole = Scanner(one.port).send(session(full)[:1], piece=100, pause=0.01)
    for client in cut:
        reply = client.wait(60)  # no process of a session has begun to import
        assert "no message came within 1.5 s" in reply.error()
        assert (reply.closes, reply.ended) == (1, True)
    wait_for(lambda: one.log().count(" started") == 2)
    (tmp_path / "go").touch()
    assert len(whole.send(session(full)[1:]).wait().images) == 1
    assert "ended before CLOSE" in gone.wait().error()
    assert one.audit()[-1]["state"] in ("done", "incomplete")
