"""The records of a spool: those of other versions, damaged ones, and how many looks a summary takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recon.pacs import spool as spools
from recon.pacs.summary import summary
from tests.pacs.conftest import Post, blackened


def test_a_spool_of_another_version_is_delivered(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = here.put(brain)
    spools.admit(here.folder)
    for folder in (here.folder / "new").iterdir():
        path = folder / "record.json"
        # What version 0.1.0 writes; a later one may note more, and one before may lack what has a default.
        record = json.loads(path.read_text())
        assert set(record) >= {"uid", "sop_class", "study", "series", "syntax", "pixels", "file", "added", "changed"}
        del record["coerced"], record["job"]
        path.write_text(json.dumps({**record, "priority": 3}))
    assert sorted(item.record.uid for item in spools.items(here.folder, "new")) == sorted(uids)
    assert summary(here.folder)["unreadable"] == 0
    assert summary(here.folder)["free_MiB"] > 0

    (here.folder / "new" / uids[0] / "record.json").write_text("{")  # a disk that is not well
    found = summary(here.folder)
    assert (found["new"], found["unreadable"]) == (len(uids) - 1, 1)


def test_the_state_of_a_spool_reads_each_record_once(
    post: Callable[..., Post], brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = post("PACS@127.0.0.1:1")
    here.put(brain)
    spools.admit(here.folder)
    first, second, _ = spools.items(here.folder, "new")
    spools.move(here.folder, first, "failed", reason="refused")
    (second.folder / "record.json").write_bytes(b"")
    here.put(blackened(brain, tmp_path / "black"))
    looks, inner = [], Path.read_bytes

    def counted(self: Path) -> bytes:
        looks.append(self)
        return inner(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    found = summary(here.folder)
    assert (found["new"], found["failed"], found["unreadable"], found["last_error"]) == (2, 1, 1, "refused")
    records = [p for p in looks if p.name == "record.json"]
    assert len(records) == len(set(records)) == 4


@pytest.mark.parametrize(
    "change",
    [{"added": None}, {"due": "soon"}, {"changed": 10**400}, {"added": float("nan")}, {"uid": 7}, {"tries": [1]}],
    ids=lambda change: next(iter(change)),
)
def test_a_record_with_values_of_another_type_is_unreadable(
    change: dict[str, Any], post: Callable[..., Post], brain: Path
) -> None:
    here = post("PACS@127.0.0.1:1")
    here.put(brain)
    spools.admit(here.folder)
    first = next(spools.items(here.folder, "new")).folder / "record.json"
    first.write_text(json.dumps({**json.loads(first.read_bytes()), **change}))
    found = summary(here.folder)
    assert (found["new"], found["unreadable"]) == (2, 1)
    here.once()
    assert any("1 folder of" in line and "cannot be read" in line for line in here.lines)


def test_a_record_of_endless_brackets_is_unreadable(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    here.put(brain)
    spools.admit(here.folder)
    (next(spools.items(here.folder, "new")).folder / "record.json").write_bytes(b"[" * 100_000)
    assert summary(here.folder)["unreadable"] == 1
