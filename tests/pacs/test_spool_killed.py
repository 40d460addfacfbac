"""A spool whose process is killed after any single call that changes files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recon.pacs import spool as spools
from recon.pacs import verify
from tests.pacs.conftest import Post, series

#: What makes, moves and takes away files and folders.
CALLS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir")


def killed_after(n: int, work: Callable[[], Any]) -> bool:
    """Do work in a process that is killed after its n-th such call; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                out = real(*arguments, **named)
                if real is not opening or arguments[1] & os.O_CREAT:
                    count += 1
                    if count == n:
                        os.kill(os.getpid(), 9)
                return out

            return call

        opening = os.open
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def through(here: Post, folder: Path, *states: spools.State) -> None:
    """Put an image into the spool and bring it through states."""
    here.put(folder)
    spools.admit(here.folder)
    for state in states:
        (item,) = (i for name in ("new", "sending", "unconfirmed") for i in spools.items(here.folder, name))
        spools.move(here.folder, item, state)


def test_f33_whenever_a_process_is_killed_its_image_is_there_once_and_whole(
    post: Callable[..., Post], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the system outlives the process
    one, here, before = series(tmp_path / "one", 1), post("PACS@127.0.0.1:1"), tmp_path / "before"
    through(here, one, "sending", "failed")  # it failed once, and comes again
    here.folder.rename(before)
    n = 0
    while True:
        n += 1
        shutil.copytree(before, here.folder)
        if not killed_after(n, lambda: through(here, one, "sending", "unconfirmed", "sent")):
            break
        spools.resume(here.folder)
        (uid,) = here.put(one)
        assert spools.admit(here.folder) == [], n
        places = [p for state in spools.STATES for p in (here.folder / state).iterdir()]
        assert [p.name for p in places] == [uid], n
        assert not list((here.folder / "incoming").iterdir()), n
        found = spools.find(here.folder, uid)
        assert found is not None, n
        state, item = found
        told = [json.loads(line)["state"] for line in (here.folder / "deliveries.jsonl").read_text().splitlines()]
        if state == "sent":
            assert not item.image.exists(), n
            assert told[-1] == "sent", n
        else:
            assert verify.digest(item.image) == item.record.file, n
        shutil.rmtree(here.folder)
    assert n > 20
