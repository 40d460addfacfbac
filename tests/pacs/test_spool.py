"""The spool: what lies where, who may read it, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from recon.data import ReconError
from recon.pacs import deliver
from recon.pacs import spool as spools
from recon.pacs.summary import summary
from tests.pacs.conftest import Post, blackened, series
from tests.pacs.peers import Told


def test_f40_names_and_records_hold_no_patient_data_and_are_private(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = here.put(brain)
    found = sorted(p for p in here.folder.rglob("*"))
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
        assert not any(word in str(path) for word in ("Marked", "SECRET"))
        if path.is_file() and path.name != "image.dcm":
            text = path.read_text()
            assert not any(word in text for word in ("Marked", "SECRET", "ACC42", "19700102"))
    assert {p.parent.name for p in found if p.name == "image.dcm"} == set(uids)
    assert "Marked" not in json.dumps(summary(here.folder))


def test_the_copy_in_the_spool_is_the_file_byte_for_byte(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    here.put(brain)
    copies = {p.read_bytes() for p in here.folder.rglob("image.dcm")}
    assert copies == {p.read_bytes() for p in brain.iterdir()}


def test_f32_a_full_disk_leaves_nothing_behind_and_the_next_try_works(
    post: Callable[..., Post], brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, real, calls = post("PACS@127.0.0.1:1"), os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReconError, match="the disk is full"):
        here.put(brain)
    assert not list(here.folder.rglob("*.dcm"))
    monkeypatch.undo()
    assert len(here.put(brain)) == 3


def test_f35_the_same_job_twice_waits_once(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    assert here.put(brain) == here.put(brain)
    assert summary(here.folder)["new"] == 6  # not looked at yet
    spools.admit(here.folder)
    assert summary(here.folder)["new"] == 3


def test_f35_other_pixels_under_a_known_uid_never_leave(
    told: Callable[..., tuple[Told, Post]], brain: Path, tmp_path: Path
) -> None:
    pacs, here = told()
    uids = here.put(brain)
    here.once()
    here.put(blackened(brain, tmp_path / "other"))
    here.once()
    assert sorted(pacs.came) == sorted(uids)
    assert here.reasons("failed") == {
        "an image with the same UID but different pixels is already in the spool; write it again"
    }


def test_f43_a_spool_of_one_pacs_is_not_emptied_into_another(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    here.put(brain)
    with pytest.raises(ReconError, match=r"holds 3 images for PACS@127.0.0.1:1"):
        deliver.claim(replace(here.pacs, to="OTHER@127.0.0.1:1"))


def test_f42_how_each_image_ended_is_kept_in_a_file_that_only_grows(
    told: Callable[..., tuple[Told, Post]], brain: Path
) -> None:
    _, here = told([0xC000, 0], keep_days=0.0)
    uids = here.put(brain)
    here.once()
    lines = [json.loads(line) for line in (here.folder / "deliveries.jsonl").read_text().splitlines()]
    assert sorted(line["uid"] for line in lines) == sorted(uids)
    assert sorted(line["state"] for line in lines) == ["failed", "sent", "sent"]
    before = (here.folder / "deliveries.jsonl").read_bytes()
    with spools.locked(here.folder):
        spools.retry(here.folder)
    here.once()
    assert (here.folder / "deliveries.jsonl").read_bytes().startswith(before)


def test_the_settings_of_a_spool_are_those_of_its_last_sender(
    told: Callable[..., tuple[Told, Post]], brain: Path
) -> None:
    pacs, here = told()
    here.put(brain)
    here.once()
    deliver.hand_over(replace(here.pacs, aet="OTHER"), [("a", brain / "IM0001.dcm")])
    assert deliver.known(here.folder) == here.pacs  # a process that only adds images changes nothing for the sender
    here.pacs = replace(here.pacs, tries=7)
    here.once()
    assert deliver.known(here.folder).tries == 7
    assert len(pacs.came) == 3


def test_two_senders_do_not_share_a_spool(told: Callable[..., tuple[Told, Post]], brain: Path) -> None:
    _, here = told()
    with spools.locked(here.folder), pytest.raises(ReconError, match="another sender"):
        here.once()


def test_an_image_that_the_disk_changed_is_not_sent(told: Callable[..., tuple[Told, Post]], brain: Path) -> None:
    pacs, here = told()
    here.put(brain)
    path = sorted(here.folder.rglob("image.dcm"))[0]
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    here.once()
    assert len(pacs.came) == 2
    assert summary(here.folder)["failed"] == 1


def test_failed_images_are_tried_again_when_asked(told: Callable[..., tuple[Told, Post]], brain: Path) -> None:
    pacs, here = told([0xC000, 0])
    uids = here.put(brain)
    here.once()
    assert sorted(here.states(uids)) == ["failed", "sent", "sent"]
    with spools.locked(here.folder):
        assert spools.retry(here.folder) == 1
    here.once()
    assert here.states(uids) == ["sent"] * 3
    assert len(pacs.came) == 4


def settled(here: Post, folder: Path, state: spools.State) -> list[str]:
    """UIDs of images that were put, taken in and brought into a state, without a PACS."""
    uids = here.put(folder)
    spools.admit(here.folder)
    for item in list(spools.items(here.folder, "new")):
        spools.move(here.folder, item, state)
    return uids


def test_a_failed_image_that_is_sent_again_has_one_state(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = settled(here, brain, "failed")
    here.put(brain)
    assert spools.admit(here.folder) == []
    assert here.states(uids) == ["new"] * 3
    assert not list((here.folder / "failed").iterdir())


def test_an_image_refused_for_its_pixels_replaces_none_and_is_not_retried(
    post: Callable[..., Post], brain: Path, tmp_path: Path
) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = settled(here, brain, "sent")
    here.put(blackened(brain, tmp_path / "other"))
    assert len(spools.admit(here.folder)) == 1
    assert here.states(uids) == ["sent"] * 3
    (refused,) = spools.items(here.folder, "failed")
    assert refused.record.uid == str(pydicom.dcmread(brain / "IM0001.dcm").SOPInstanceUID) != refused.folder.name
    assert spools.retry(here.folder) == 0
    assert here.states(uids) == ["sent"] * 3


def test_f35_what_was_refused_for_its_pixels_may_come_again(
    post: Callable[..., Post], brain: Path, tmp_path: Path
) -> None:
    here = post("PACS@127.0.0.1:1")
    settled(here, brain, "sent")
    other = blackened(brain, tmp_path / "other")
    for _ in range(2):
        here.put(other)
        assert len(spools.admit(here.folder)) == 1
    assert len(list(spools.items(here.folder, "failed"))) == 1


@pytest.mark.parametrize("state", spools.STATES)
def test_f33_an_image_that_cannot_be_read_any_more_keeps_no_whole_one_out(
    post: Callable[..., Post], brain: Path, state: spools.State
) -> None:
    here = post("PACS@127.0.0.1:1")
    torn, *uids = settled(here, brain, state)
    (here.folder / state / torn / "record.json").write_text("{")
    here.put(brain)
    assert spools.admit(here.folder) == []
    assert here.states([torn]) == ["new"]
    assert len([p for name in spools.STATES for p in (here.folder / name).iterdir()]) == 1 + len(uids)
    assert spools.unreadable(here.folder) == 0


@pytest.mark.parametrize("state", ["sent", "failed"])
def test_f33_an_image_is_taken_away_whole_or_not_at_all(
    post: Callable[..., Post], brain: Path, state: spools.State, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = post("PACS@127.0.0.1:1")
    settled(here, brain, state)
    here.put(brain)

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        (folder / "record.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            spools.admit(here.folder)
    spools.admit(here.folder)
    assert spools.unreadable(here.folder) == 0
    assert not list((here.folder / "incoming").iterdir())


def test_an_image_that_is_tried_again_starts_from_its_first_try_and_is_due_at_once(
    post: Callable[..., Post], brain: Path
) -> None:
    here = post("PACS@127.0.0.1:1")
    settled(here, brain, "failed")
    for item in list(spools.items(here.folder, "failed")):
        spools.note(item, tries=9, due=time.time() + 3600, reason="refused")
    assert spools.retry(here.folder) == 3
    again = [item.record for item in spools.items(here.folder, "new")]
    assert [(r.tries, r.due, r.reason) for r in again] == [(0, 0.0, "")] * 3


def test_pixels_left_beside_the_record_of_a_sent_image_are_deleted(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = settled(here, brain, "sent")
    left = here.folder / "sent" / uids[0] / "image.dcm"  # the machine went down between the two
    left.write_bytes(b"pixels")
    spools.resume(here.folder)
    assert not left.exists()
    assert here.states(uids) == ["sent"] * 3


def test_records_of_what_was_sent_are_kept_for_their_days(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = settled(here, brain, "sent")
    for uid, days in zip(uids, (0.5, 1.5, 2.5)):
        then = time.time() - days * 86400
        os.utime(here.folder / "sent" / uid, (then, then))
    spools.forget(here.folder, 2.0)
    assert here.states(uids) == ["sent", "sent", "none"]


def test_images_leave_in_the_order_in_which_they_came(post: Callable[..., Post], brain: Path) -> None:
    here = post("PACS@127.0.0.1:1")
    uids = here.put(brain)
    spools.admit(here.folder)
    for n, uid in enumerate(sorted(uids, reverse=True)):
        found = spools.find(here.folder, uid)
        assert found is not None
        spools.note(found[1], added=1000.0 + n)
    assert [item.record.uid for item in spools.items(here.folder, "new")] == sorted(uids, reverse=True)


def test_only_a_batch_uncommitted_for_a_day_is_deleted(
    post: Callable[..., Post],
) -> None:
    tmp = spools.prepare(post("PACS@127.0.0.1:1").folder) / "tmp"
    for name, hours in (("young", 23), ("old", 25)):
        (tmp / name).mkdir()
        (tmp / name / "image.dcm").touch()
        then = time.time() - hours * 3600
        os.utime(tmp / name, (then, then))
    spools.resume(tmp.parent)
    assert [p.name for p in tmp.iterdir()] == ["young"]


def test_delivered_images_are_removed_at_once_and_their_records_later(
    told: Callable[..., tuple[Told, Post]], brain: Path
) -> None:
    _, here = told(keep_days=0.0)
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["none"] * 3
    assert not list(here.folder.rglob("image.dcm"))


def killed_at(n: int, work: Callable[[], Any]) -> bool:
    """Do work in a process that is killed before its n-th rename of a folder; whether it came so far."""
    pid = os.fork()
    if pid == 0:
        real, count = os.rename, 0

        def rename(a: Any, b: Any) -> None:
            nonlocal count
            count += 1
            if count == n:
                os.kill(os.getpid(), 9)
            real(a, b)

        os.rename = rename
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_f33_a_sender_killed_between_any_two_steps_resumes_and_each_image_arrives_once(
    told: Callable[..., tuple[Told, Post]], tmp_path: Path
) -> None:
    one = series(tmp_path / "one", 1)
    steps = 0
    for n in range(1, 20):
        pacs, here = told()
        uids = [pydicom.dcmread(one / "IM0001.dcm").SOPInstanceUID]
        if not killed_at(n, lambda here=here: (here.put(one), here.once())):  # type: ignore[misc]
            break
        steps += 1
        here.put(one)
        here.once()
        assert here.states(uids) == ["sent"], n
        # A PACS keeps one image of a UID however often it comes; after the step that settles it, it comes no more.
        assert set(pacs.came) == set(uids)
        assert len(pacs.came) == (2 if n == 5 else 1), n
        shutil.rmtree(here.folder)
    assert steps == 6  # file, incoming, new, sending, unconfirmed, sent
    assert here.states(uids) == ["sent"]
