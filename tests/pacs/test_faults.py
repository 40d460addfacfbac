"""A PACS that is down, slow, wrong or lies: nothing is lost, nothing doubled, nothing believed too early."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from recon.data import ReconError
from recon.pacs import reserve, verify
from recon.pacs import spool as spools
from recon.pacs.dimse import Dimse
from recon.pacs.sender import Sender, peer
from recon.pacs.summary import summary
from tests.pacs.conftest import WAITS, Post
from tests.pacs.peers import Told, free_port

Start = Callable[..., tuple[Told, Post]]


def tried_again(here: Post) -> None:
    """A further round, when all is due again."""
    time.sleep(0.1)
    here.once()


def test_images_that_are_stored_and_committed_are_sent(told: Start, brain: Path) -> None:
    pacs, here = told()
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["sent"] * 3, here.lines
    assert sorted(pacs.came) == sorted(uids)
    here.put(brain)
    here.once()
    assert len(pacs.came) == 3  # F35: a job that was sent is not sent again


def test_f34_images_stored_by_one_pacs_do_not_count_for_another(told: Start, brain: Path) -> None:
    _, here = told()
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["sent"] * 3
    here.pacs = replace(here.pacs, to=f"OTHER@127.0.0.1:{free_port()}")
    here.put(brain)
    here.once()
    assert here.states(uids) == ["new"] * 3
    assert len((here.folder / "deliveries.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("status", [0xB000, 0xB007])
def test_a_warning_means_stored_with_changes(told: Start, brain: Path, status: int) -> None:
    _, here = told([status])
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["sent"] * 3
    assert all(item.record.coerced for item in spools.items(here.folder, "sent"))
    assert sum("changed some attributes" in line for line in here.lines) == 3


@pytest.mark.parametrize("status", [0xA700, 0x0213])
def test_f33_out_of_resources_is_tried_again_and_given_up_at_last(told: Start, brain: Path, status: int) -> None:
    pacs, here = told([status, 0, 0, status, status, 0])
    uids = here.put(brain)
    here.once()
    assert sorted(here.states(uids)) == ["new", "sent", "sent"]
    tried_again(here)
    assert sorted(here.states(uids)) == ["new", "sent", "sent"]
    tried_again(here)
    assert sorted(here.states(uids)) == ["failed", "sent", "sent"]
    (reason,) = here.reasons("failed")
    assert f"0x{status:04X}" in reason
    assert "after 3 tries" in reason
    tried_again(here)
    assert len(pacs.came) == 5


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x4711])
def test_f33_a_refused_image_is_put_aside_with_the_reason_and_the_others_go_on(
    told: Start, brain: Path, status: int
) -> None:
    pacs, here = told([0, status, 0])
    uids = here.put(brain)
    here.once()
    tried_again(here)
    assert sorted(here.states(uids)) == ["failed", "sent", "sent"]
    (reason,) = here.reasons("failed")
    assert f"0x{status:04X}" in reason
    assert len(pacs.came) == 3


@pytest.mark.parametrize("how", ["abort", "hang"])
def test_f33_an_answer_that_never_comes_is_a_failure_and_the_next_association_works(
    told: Start, brain: Path, how: str
) -> None:
    _, here = told([how, 0], waits=replace(WAITS, answer_s=1))
    uids = here.put(brain)
    here.once()
    assert sorted(here.states(uids)) == ["new", "sent", "sent"]
    assert here.reasons("new") == {"the PACS gave no answer to the transfer, or broke it off"}
    tried_again(here)
    assert here.states(uids) == ["sent"] * 3


def test_f33_a_pacs_that_is_down_loses_nothing(post: Callable[..., Post], brain: Path) -> None:
    here = post(f"PACS@127.0.0.1:{free_port()}", listen=f"127.0.0.1:{free_port()}", tries=2)
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["new"] * 3
    found = summary(here.folder)
    assert found["new"] == 3
    assert "no connection (Connection refused)" in found["last_error"]
    # One line for all images: a PACS that is down over the night must not fill the log.
    assert [line.partition(": ")[2] for line in here.lines if "3 images wait for the next try" in line]
    assert not [line for line in here.lines if line.startswith("image ")]
    tried_again(here)
    assert here.states(uids) == ["failed"] * 3  # after the number of tries that was set


def test_f33_a_wrong_title_is_reported(told: Start, brain: Path) -> None:
    _, here = told(aet="WRONG")
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["new"] * 3
    assert here.reasons("new") == {
        "the PACS cannot be reached: it rejects the association: its own AE title is a different one"
    }


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_f33_a_server_that_is_not_a_pacs_is_reported_as_such(
    post: Callable[..., Post], brain: Path, said: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):  # until the test ends
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(10)
                        connection.sendall(said)

        threading.Thread(target=answer, daemon=True).start()
        here = post(f"PACS@127.0.0.1:{listener.getsockname()[1]}", listen=f"127.0.0.1:{free_port()}")
        uids = here.put(brain)
        here.once()
        listener.shutdown(socket.SHUT_RDWR)
    assert here.states(uids) == ["new"] * 3
    assert "it aborted the association" in here.reasons("new").pop()


def test_f33_a_pacs_that_does_not_accept_such_images_gets_none(told: Start, brain: Path) -> None:
    pacs, here = told(classes=["1.2.840.10008.5.1.4.1.1.2"])
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["failed"] * 3
    assert "does not accept images of this class" in here.reasons("failed").pop()
    assert pacs.came == []


def test_an_image_that_raises_an_unexpected_error_does_not_stop_the_others(
    told: Start, brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, here = told()
    uids = here.put(brain)
    real, calls = verify.read, []

    def read(path: Path) -> Dataset:
        calls.append(path)
        if len(calls) == 1:
            raise ValueError("Marked^Patient")
        return real(path)

    monkeypatch.setattr(verify, "read", read)
    here.once()
    assert sorted(here.states(uids)) == ["failed", "sent", "sent"]
    assert here.reasons("failed") == {"the image cannot be sent (ValueError)"}
    assert "Marked" not in "".join(here.lines)


def test_f33_the_waits_between_tries_grow_as_set(told: Start, brain: Path) -> None:
    _, here = told([0xA700], retry_minutes=(1.0, 5.0, 15.0), tries=9)
    here.put(brain)
    here.once()
    waits = []
    for _ in range(4):
        item = next(iter(spools.items(here.folder, "new")))
        waits.append(round((item.record.due - time.time()) / 60))
        for other in list(spools.items(here.folder, "new")):
            spools.note(other, due=0.0)
        here.once()
    assert waits == [1, 5, 15, 15]
    here.once()
    assert summary(here.folder)["next_try_s"] > 800


def test_f33_a_clock_set_back_does_not_stop_the_tries(told: Start, brain: Path) -> None:
    _, here = told()
    uids = here.put(brain)
    spools.admit(here.folder)
    for item in list(spools.items(here.folder, "new")):
        spools.note(item, due=time.time() + 1e7)
    here.once()
    assert here.states(uids) == ["sent"] * 3


def test_f32_images_that_fill_the_disk_leave_it_and_make_room(
    told: Start, brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs, here = told()
    here.once()
    reserve = here.folder / "reserve"
    assert reserve.stat().st_blocks * 512 >= 2**20
    uids = here.put(brain)
    note, full = spools._note, [True]

    def scarce(folder: Path, record: spools.Record) -> None:
        if full[0] and reserve.exists():  # nothing but what is set aside is free
            raise OSError(errno.ENOSPC, "No space left on device")
        note(folder, record)

    monkeypatch.setattr(spools, "_note", scarce)
    here.once()
    assert here.states(uids) == ["sent"] * 3, here.lines
    assert sorted(pacs.came) == sorted(uids)
    assert sum("is full; make room on it" in line for line in here.lines) == 1
    assert reserve.exists()  # for the next time


def test_f32_a_full_disk_is_reported_and_nothing_is_lost(
    told: Start, brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, here = told()
    uids = here.put(brain)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(spools, "_note", full)
        with pytest.raises(ReconError, match=r"cannot write .*: the disk is full"):
            here.once()
    here.once()
    assert here.states(uids) == ["sent"] * 3


def test_f32_the_outcome_of_an_image_is_logged_once_there_is_space(
    told: Start, brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs, here = told()
    uids = here.put(brain)
    write, taken = os.write, []

    def full(file: int, data: Any) -> int:
        taken.append(len(data))
        if len(taken) == 1:
            return write(file, bytes(data)[:10])  # the disk's last bytes
        raise OSError(errno.ENOSPC, "No space left on device")

    (here.folder / "reserve").unlink(missing_ok=True)
    with monkeypatch.context() as patched:
        patched.setattr(reserve, "set_aside", lambda spool: None)
        patched.setattr(os, "write", full)
        with pytest.raises(ReconError, match="the disk is full"):
            here.once()
    here.once()
    assert here.states(uids) == ["sent"] * 3
    assert sorted(pacs.came) == sorted(uids)
    torn, *lines = (here.folder / "deliveries.jsonl").read_text().splitlines()
    assert len(torn) == 10
    assert sorted(json.loads(line)["uid"] for line in lines) == sorted(uids)
    assert not list(here.folder.rglob("untold"))
    assert not list((here.folder / "sent").rglob("image.dcm"))


def test_a_full_spool_is_looked_through_once_a_round_however_many_associations_it_takes(
    told: Start, brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, here = told()
    uids = here.put(brain)
    looked: list[spools.State] = []
    usual = spools.items

    def items(spool: Path, state: spools.State) -> Iterator[spools.Item]:
        looked.append(state)
        return usual(spool, state)

    monkeypatch.setattr(spools, "items", items)
    monkeypatch.setattr("recon.pacs.sender._BATCH", 1)
    here.once()
    assert (looked.count("new"), looked.count("unconfirmed")) == (1, 1)
    monkeypatch.undo()
    assert here.states(uids) == ["sent"] * 3


def test_f34_success_without_the_image_is_not_trusted(told: Start, brain: Path) -> None:
    pacs, here = told(commit=0x0112)
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["new"] * 3
    assert "0x0112" in here.reasons("new").pop()
    tried_again(here)
    tried_again(here)
    assert here.states(uids) == ["failed"] * 3  # no endless loop
    assert len(pacs.came) == 9


def test_f34_a_report_over_the_association_that_asked_counts(told: Start, brain: Path) -> None:
    pacs, here = told()
    pacs.within = True
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["sent"] * 3, here.lines


def test_f34_a_report_is_answered_before_the_association_that_asked_is_released(
    told: Start, brain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Dimse._report

    def slowly(*args: Any) -> tuple[int, None]:
        answer = taken(*args)
        time.sleep(0.3)  # the report is known, its answer is not yet on its way
        return answer

    monkeypatch.setattr(Dimse, "_report", slowly)
    pacs, here = told()
    pacs.within = True
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["sent"] * 3
    assert pacs.answers == [0]


def test_f34_a_conflict_of_classes_is_for_people(told: Start, brain: Path) -> None:
    pacs, here = told(commit=0x0119)
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["failed"] * 3
    assert len(pacs.came) == 3


@pytest.mark.parametrize("commit", ["silent", "refuse", "none"])
def test_f34_without_a_report_an_image_stays_unconfirmed_and_is_asked_after_again(
    told: Start, brain: Path, commit: str
) -> None:
    pacs, here = told(commit=commit, waits=replace(WAITS, commitment_s=0.3))
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["unconfirmed"] * 3
    assert sum("stays unconfirmed" in line or "stay unconfirmed" in line for line in here.lines) >= 1
    for _ in range(3):
        tried_again(here)
    assert here.states(uids) == ["unconfirmed"] * 3  # never failed: it may well be there
    assert len(pacs.came) == 3  # and not sent again
    pacs.commit = 0
    if commit != "none":
        here.pacs = replace(here.pacs, waits=WAITS)  # 0.3 s are for a report that does not come
        tried_again(here)
        assert here.states(uids) == ["sent"] * 3


def test_f34_reports_of_strangers_and_of_other_transactions_count_for_nothing(told: Start, brain: Path) -> None:
    pacs, here = told(commit="silent", waits=replace(WAITS, commitment_s=0.3))
    uids = here.put(brain)
    answers: list[int | None] = []

    def meddle(event: object) -> tuple[int, None]:
        information: Dataset = event.action_information  # type: ignore[attr-defined]
        answers.append(pacs.tell(information, 0, aet="STRANGER"))
        information.TransactionUID = "1.2.3"
        answers.append(pacs.tell(information, 0))
        return 0, None

    pacs._action = meddle  # type: ignore[method-assign]
    with pacs.running():
        here.pacs = replace(here.pacs, to=f"TOLD@127.0.0.1:{pacs.port}")
        (here.folder / "pacs.json").unlink()
        with spools.locked(here.folder), peer(here.pacs) as to:
            sender = Sender(here.pacs, to, here.lines.append)
            sender.round()
            time.sleep(0.1)
            sender.round()  # what came late is heard now
    assert answers[:2] == [None, 0]
    assert here.states(uids) == ["unconfirmed"] * 3
