"""The audit's numbers run on, whatever became of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from recon.serve import audit as auditing
from recon.serve.audit import Audit


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


def test_numbers_go_on_from_the_last_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.jsonl"
    for _ in range(2):
        audit = Audit(path)
        audit.write("started", job="a")
        audit.write("ended", job="a")
        audit.close()
    assert numbers(path) == [1, 2, 3, 4]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("end", ['{"n": 8, "ev', "rubbish\n", "7\n", "null\n", '{"event": "ended"}\n'])
def test_an_unreadable_last_line_is_skipped_for_the_one_before(tmp_path: Path, end: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"n": 6}\n{"n": 7}\n' + end)
    audit = Audit(path)
    audit.write("started")
    audit.close()
    assert json.loads(path.read_text().splitlines()[-1])["n"] == 8


def test_the_last_number_is_found_at_the_end_of_a_file_that_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "_TAIL", 100)
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(1, 501)))
    audit = Audit(path)
    audit.write("started")
    audit.close()
    assert numbers(path)[-1] == 501


def test_numbers_never_go_back_where_a_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit(path)
    for _ in range(3):
        audit.write("started")
    path.rename(tmp_path / "old")
    path.write_text('{"n": 1}\n')
    audit.reopen()
    audit.write("started")
    audit.close()
    assert numbers(path) == [1, 4]


def test_reopening_leaves_no_file_open_behind(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        audit.reopen()
    assert len(os.listdir("/proc/self/fd")) == before
    audit.close()
