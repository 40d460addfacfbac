"""Lines that are appended to a file for good."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recon.io import journal


@contextmanager
def opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def test_each_record_is_a_line_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n')
    with opened(path) as file:
        journal.append(file, {"n": 2, "name": "Müller\n"})
        journal.append(file, {"n": 3})
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [1, 2, 3]
    assert json.loads(lines[1])["name"] == "Müller\n"


def test_a_record_begins_on_its_own_behind_a_line_that_broke_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2, "ev')
    with opened(path) as file:
        journal.append(file, {"n": 3})
        journal.append(file, {"n": 4})
    assert path.read_text() == '{"n": 1}\n{"n": 2, "ev\n{"n": 3}\n{"n": 4}\n'


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with opened(tmp_path / "a.jsonl") as file:
        monkeypatch.setattr(os, "write", lambda f, data: write(f, bytes(data)[:3]))
        journal.append(file, {"n": 1, "event": "started"})
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"n": 1, "event": "started"}


def test_a_record_is_on_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, bytes]] = []

    def sync(file: int) -> None:
        synced.append((file, os.pread(file, 100, 0)))

    monkeypatch.setattr(os, "fsync", sync)
    with opened(tmp_path / "a.jsonl") as file:
        journal.append(file, {"n": 1})
        assert synced == [(file, b'{"n": 1}\n')]


def test_a_disk_that_takes_nothing_is_an_error_and_the_next_record_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, taken = os.write, []

    def full(file: int, data: Any) -> int:
        taken.append(data)
        if len(taken) == 1:
            return write(file, bytes(data)[:5])
        raise OSError(28, "No space left on device")

    with opened(tmp_path / "a.jsonl") as file:
        with monkeypatch.context() as m:
            m.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space"):
                journal.append(file, {"n": 1})
        journal.append(file, {"n": 2})
    assert (tmp_path / "a.jsonl").read_text() == '{"n":\n{"n": 2}\n'
