"""The sender: transfers images from a spool to a PACS, and then checks whether they are stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from recon.errors import ReconError, counted
from recon.pacs import reserve, verify
from recon.pacs import spool as spools
from recon.pacs.answers import Answer, Unreachable, Verdict
from recon.pacs.settings import Pacs
from recon.pacs.spool import Item

#: Images per association, and per request for confirmation.
_BATCH = 200
#: Seconds between checks of a spool in which nothing is due.
_LOOK_S = 1.0


class Peer(Protocol):
    """What a sender needs of a PACS; each method raises Unreachable if it does not answer."""

    @property
    def name(self) -> str: ...
    def echo(self) -> None: ...
    def session(self, kinds: Collection[tuple[str, str]]) -> AbstractContextManager[Callable[[Item], Answer]]: ...
    def confirm(self, items: Sequence[Item]) -> dict[str, Verdict]: ...
    def late(self) -> list[tuple[str, dict[str, Verdict]]]: ...
    def transaction(self) -> str: ...


@contextmanager
def peer(pacs: Pacs) -> Iterator[Peer]:
    """The PACS of the settings; while it is open, reports of storage commitments are received."""
    if pacs.web:
        from recon.pacs.web import Web

        yield Web(pacs)
    else:
        from recon.pacs.dimse import Dimse

        dimse = Dimse(pacs)
        with dimse.listening():
            yield dimse


def echo(pacs: Pacs) -> None:
    """Ask whether a PACS is there and knows recon's title (C-ECHO, or a query); raises Unreachable if not."""
    if pacs.web:
        from recon.pacs.web import Web

        Web(pacs).echo()
    else:
        from recon.pacs.dimse import Dimse

        Dimse(pacs).echo()


class Sender:
    """Rounds over a locked spool; `log` receives one line for everything that fails."""

    def __init__(self, pacs: Pacs, to: Peer, log: Callable[[str], None]) -> None:
        self._pacs, self._to, self._log = pacs, to, log
        self._spool = Path(pacs.spool)
        self._asked: set[str] = set()

    def start(self) -> None:
        """Take over what the last sender left, and ask whether the PACS is there."""
        left = spools.resume(self._spool)
        if left:
            self._log(f"the last sender stopped while sending {counted(left, 'image')}, now sent again")
        if lost := spools.unreadable(self._spool):
            told = f"{counted(lost, 'folder')} of {self._spool} cannot be read and will not be sent"
            self._log(f"{told}; look at their record.json")
        try:
            self._to.echo()
            self._log(f"{self._to.name} is there")
        except Unreachable as e:
            self._log(f"{self._to.name} cannot be reached: {e}; images wait in the spool")

    def round(self) -> None:
        """Send everything that is due, and check what was sent."""
        for reason in spools.admit(self._spool):
            self._log(f"an image failed: {reason}")
        self._late()
        self._store()
        self._confirm()
        spools.forget(self._spool, self._pacs.keep_days)
        reserve.set_aside(self._spool)

    def watch(self, stopped: Callable[[float], bool]) -> None:
        """Rounds until `stopped`, which waits for the given seconds, returns true."""
        wait = _LOOK_S
        while not stopped(wait):
            began = time.monotonic()
            self.round()
            wait = max(_LOOK_S, 10 * (time.monotonic() - began))  # searching a full spool takes time, too

    def due(self, state: spools.State) -> list[Item]:
        """Images in a state whose time has come; a due time beyond the longest delay is an effect of the clock."""
        now, longest = time.time(), 60 * max(self._pacs.retry_minutes) + 1
        return [i for i in spools.items(self._spool, state) if not now < i.record.due <= now + longest]

    def _store(self) -> None:
        # Listed once: no image is sent twice in a round, however short its retry delay.
        waiting = self.due("new")
        while waiting:
            batch, rest = waiting[:_BATCH], waiting[_BATCH:]
            try:
                waiting = self._send([item for item in batch if self._whole(item)]) + rest
            except Unreachable as e:
                waiting = self.due("new")
                left = counted(len(waiting), "image waits", "images wait")
                self._log(f"{self._to.name} cannot be reached: {e}; {left} for the next try")
                for item in waiting:
                    self._again(item, f"the PACS cannot be reached: {e}", said=True)
                return

    def _whole(self, item: Item) -> bool:
        """Whether an image is what was put into the spool; it fails if the file has changed on disk."""
        try:
            whole = verify.digest(item.image) == item.record.file
        except OSError:
            whole = False
        if not whole:
            self._fail(item, "the file in the spool has changed since it was added; check the disk, and send it again")
        return whole

    def _send(self, batch: list[Item]) -> list[Item]:
        """Send images over one association; returns those that remain if it breaks."""
        if not batch:
            return []
        with self._to.session({(i.record.sop_class, i.record.syntax) for i in batch}) as send:
            for n, due in enumerate(batch, 1):
                item = spools.move(self._spool, due, "sending")
                try:
                    answer = send(item)
                except Exception as e:  # an unexpected error of one image must not block all others forever
                    words = str(e) if isinstance(e, ReconError) else type(e).__name__
                    answer = Answer("never", f"the image cannot be sent ({words})")
                self._settle(item, answer)
                if answer.broken:
                    return batch[n:]
        return []

    def _settle(self, item: Item, answer: Answer) -> None:
        if answer.meaning == "later":
            self._again(item, answer.reason)
        elif answer.meaning == "never":
            self._fail(item, answer.reason)
        else:
            state: spools.State = "sent" if self._pacs.confirmed_by == "none" else "unconfirmed"
            spools.move(self._spool, item, state, reason="", due=0.0, coerced=answer.coerced)
            if answer.coerced:
                self._log(f"image {item.record.uid}: the PACS stored it but changed some attributes")

    def _confirm(self) -> None:
        waiting = self.due("unconfirmed")
        for start in range(0, len(waiting), _BATCH):
            self._asked.add(transaction := self._to.transaction())
            batch = [spools.note(item, transaction=transaction) for item in waiting[start : start + _BATCH]]
            try:
                verdicts, silence = self._to.confirm(batch), "the PACS has not yet confirmed the image"
            except Unreachable as e:
                verdicts, silence = {}, f"the PACS cannot be asked to confirm the image: {e}"
                self._log(f"{self._to.name}: {e}; {counted(len(batch), 'image stays', 'images stay')} unconfirmed")
            for item in batch:
                self._judge(item, verdicts.get(item.record.uid, Verdict(None, silence)))

    def _late(self) -> None:
        for transaction, verdicts in self._to.late():
            for uid, verdict in verdicts.items():
                state, item = spools.find(self._spool, uid) or ("", None)
                known = transaction in self._asked or (item and transaction == item.record.transaction)
                if item and known and state == "unconfirmed":
                    self._judge(item, verdict)

    def _judge(self, item: Item, verdict: Verdict) -> None:
        if verdict.kept:
            spools.move(self._spool, item, "sent", reason="")
        elif verdict.kept is False:
            (self._fail if verdict.final else self._again)(item, verdict.reason)
        else:
            # Regardless of the number of checks: it may well be stored, so it has not failed.
            tries = item.record.tries + 1
            spools.note(item, tries=tries, due=self._next(tries), reason=verdict.reason, changed=time.time())
            self._log(f"image {item.record.uid} stays unconfirmed: {verdict.reason}")

    def _again(self, item: Item, reason: str, *, said: bool = False) -> None:
        tries = item.record.tries + 1
        if tries >= self._pacs.tries:
            self._fail(item, f"{reason}; given up after {tries} tries")
            return
        if item.folder.parent.name == "new":
            spools.note(item, tries=tries, due=self._next(tries), reason=reason, changed=time.time())
        else:
            spools.move(self._spool, item, "new", tries=tries, due=self._next(tries), reason=reason)
        if not said:
            self._log(f"image {item.record.uid} is tried again later: {reason}")

    def _fail(self, item: Item, reason: str) -> None:
        spools.move(self._spool, item, "failed", reason=reason, tries=item.record.tries + 1)
        self._log(f"image {item.record.uid} failed: {reason}; see recon send --status")

    def _next(self, tries: int) -> float:
        minutes = self._pacs.retry_minutes
        return time.time() + 60 * minutes[min(tries, len(minutes)) - 1]
