"""Images on their way to a PACS, on disk: every step is one rename, so that a crash neither loses nor doubles any.

    incoming → new → sending → unconfirmed → sent        with failed for what a person must look at

An image is a folder, named by its SOPInstanceUID, with `image.dcm` and `record.json`; its state is the folder in which
it lies. Producers commit images to `incoming` with one rename of a whole batch; all other folders belong to the one
sender that holds the lock. Folders have mode 0700 and files 0600.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from recon.errors import ReconError
from recon.io import journal
from recon.io.atomic import sync, write_error
from recon.pacs import verify
from recon.pacs.verify import Facts

if TYPE_CHECKING:
    from pydicom import Dataset

State = Literal["new", "sending", "unconfirmed", "sent", "failed"]
STATES: tuple[State, ...] = get_args(State)

#: Seconds after which a batch that was never committed is deleted.
_ABANDONED_S = 86400.0
#: Lies beside an image that has ended until the outcome is logged.
_UNTOLD = "untold"


@dataclass(frozen=True)
class Record(Facts):
    """What is known about one image, without patient data."""

    #: SHA-256 of the whole file.
    file: str
    #: Seconds since 1970: when it was added, when its state changed, and when it is due again.
    added: float
    changed: float
    due: float = 0.0
    tries: int = 0
    #: Transaction UID of the requested storage commitment.
    transaction: str = ""
    #: Why it is not yet, or not, delivered; whether the PACS changed its attributes.
    reason: str = ""
    coerced: bool = False
    job: str = ""


_FIELDS = {f.name: str(f.type) for f in fields(Record)}


@dataclass(frozen=True)
class Item:
    """An image in a state, in its `folder`."""

    folder: Path
    record: Record

    @property
    def image(self) -> Path:
        """The DICOM file."""
        return self.folder / "image.dcm"


def prepare(spool: Path) -> Path:
    """The spool, with missing folders created; raises ReconError if that is impossible."""
    try:
        for folder in (spool, *(spool / name for name in ("tmp", "incoming", *STATES))):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if spool.stat().st_mode & 0o077:
            os.chmod(spool, 0o700)
    except OSError as e:
        raise ReconError(f"cannot keep images in {spool} ({e.strerror}); give another folder with --spool") from None
    return spool


def put(spool: Path, images: Iterable[tuple[str, Dataset | Path]], job: str = "") -> list[Record]:
    """Check images, each with a name for messages, and commit them together: all of them or none are in the spool.

    Files are copied byte for byte. Raises ReconError, naming the image, if one is not valid, and for a full disk.
    """
    prepare(spool)
    batch = spool / "tmp" / secrets.token_hex(8)
    records: dict[str, Record] = {}
    try:
        batch.mkdir(mode=0o700)
        for name, image in images:
            try:
                record = _write(batch, image, job)
            except ReconError as e:
                raise ReconError(f"{name} is not sent, and neither is any other image of this call: {e}") from None
            if records.setdefault(record.uid, record).pixels != record.pixels:
                raise ReconError(f"{name} has the SOPInstanceUID of an image with different pixels; write it again")
        if records:
            sync(batch)
            os.rename(batch, spool / "incoming" / batch.name)
            sync(spool / "incoming")
    except OSError as e:
        raise write_error(spool, e) from e
    finally:
        shutil.rmtree(batch, ignore_errors=True)
    return list(records.values())


def _write(batch: Path, image: Dataset | Path, job: str) -> Record:
    temporary = batch / ".image"
    dataset = verify.read(image) if isinstance(image, Path) else image
    verify.check(dataset)
    with open(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600), "w+b") as out:
        if isinstance(image, Path):
            with image.open("rb") as source:
                shutil.copyfileobj(source, out, 1 << 20)
        else:
            dataset.save_as(out, enforce_file_format=True)
        out.flush()
        os.fsync(out.fileno())
    facts = verify.check(verify.read(temporary))  # the copy on disk is the one that counts
    now = time.time()
    record = Record(**asdict(facts), file=verify.digest(temporary), added=now, changed=now, job=job)
    folder = batch / facts.uid
    if folder.exists():
        temporary.unlink()
        return record
    folder.mkdir(mode=0o700)
    os.rename(temporary, folder / "image.dcm")
    _note(folder, record)
    sync(folder)
    return record


@contextmanager
def locked(spool: Path) -> Iterator[None]:
    """Be the only sender of a spool; raises ReconError if there is another."""
    descriptor = os.open(prepare(spool) / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ReconError(
            f"another sender works on {spool}: it will send these images too; see recon send --status, or stop it first"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def resume(spool: Path) -> int:
    """Take over from a sender that ended: images that it was sending are new again. Returns their number."""
    left = list(items(spool, "sending"))
    for item in left:
        move(spool, item, "new")
    for folder in (spool / "sent").iterdir():
        (folder / "image.dcm").unlink(missing_ok=True)
    _tell_rest(spool)
    for batch in (spool / "tmp").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a session has just committed it
            if time.time() - batch.stat().st_mtime > _ABANDONED_S:
                batch.unlink() if batch.is_file() else shutil.rmtree(batch, ignore_errors=True)
    return len(left)


def admit(spool: Path) -> list[str]:
    """Take committed batches in, each image once; returns reasons for those that are refused.

    An image that is already waiting or sent is dropped; one that had failed or is unreadable is new again. If an
    earlier image with the same UID had other pixels, the new one fails: a PACS would silently keep the old pixels.
    """
    reasons = []
    for batch in sorted((spool / "incoming").iterdir()):
        for folder in sorted(batch.iterdir()):
            item = _item(folder)
            if item is None:
                continue
            before = find(spool, item.record.uid)
            if before is None:
                for state in STATES:  # an unreadable remainder must not block an intact image
                    _remove(spool, spool / state / item.record.uid)
                move(spool, item, "new")
            elif before[1].record.pixels != item.record.pixels:
                reasons.append(
                    "an image with the same UID but different pixels is already in the spool; write it again"
                )
                refused = replace(item, record=replace(item.record, reason=reasons[-1]))
                name = f"{item.record.uid}~{item.record.pixels[:8]}"
                _remove(spool, spool / "failed" / name)
                move(spool, refused, "failed", name=name)
            elif before[0] == "failed":
                _remove(spool, before[1].folder)
                move(spool, item, "new")
            else:
                _remove(spool, folder)
        with contextlib.suppress(OSError):
            batch.rmdir()
    return reasons


def _remove(spool: Path, folder: Path) -> None:
    """Delete an image in one step: an image half deleted by a crash would be unreadable and never sent."""
    if folder.exists():
        out = spool / "tmp" / secrets.token_hex(8)
        os.rename(folder, out)
        shutil.rmtree(out, ignore_errors=True)


def items(spool: Path, state: State) -> Iterator[Item]:
    """The images in a state, oldest first."""
    return iter(look((spool / state).iterdir())[0])


def look(folders: Iterable[Path]) -> tuple[list[Item], int]:
    """The images of some folders, oldest first, and the number of unreadable folders."""
    found, lost = [], 0
    for folder in folders:
        item = _item(folder)
        if item is not None:
            found.append(item)
        else:
            lost += folder.is_dir()  # moved in the meantime
    return sorted(found, key=lambda item: (item.record.added, item.record.uid)), lost


def find(spool: Path, uid: str) -> tuple[State, Item] | None:
    """The state of the image with a UID, and the image; None if there is none, or it is not taken in yet."""
    for state in STATES:
        item = _item(spool / state / uid)
        if item is not None:
            return state, item
    return None


def move(spool: Path, item: Item, state: State, *, name: str = "", **changes: Any) -> Item:
    """Move an image into a state, with changes to its record: first the record, then the rename that counts."""
    record = replace(item.record, **changes, changed=time.time())
    _note(item.folder, record)
    ended = state in ("sent", "failed")
    if ended:
        (item.folder / _UNTOLD).touch(0o600)
    target = spool / state / (name or item.folder.name)
    os.rename(item.folder, target)
    sync(target.parent)
    if item.folder.parent.exists():
        sync(item.folder.parent)
    if state == "sent":
        (target / "image.dcm").unlink(missing_ok=True)
    moved = Item(target, record)
    if ended:
        _trace(spool, state, moved)
    return moved


def _trace(spool: Path, state: State, item: Item) -> None:
    """Append the outcome of an image to a file that is never rewritten and outlives its record.

    The marker that this is still to be done is deleted after the line is on disk: no line is lost if the disk is full
    or the machine crashes. After a crash a line may be there twice.
    """
    record = item.record
    line = {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "uid": record.uid, "state": state,
            "job": record.job, "tries": record.tries, "pixels": record.pixels, "reason": record.reason}  # fmt: skip
    descriptor = os.open(spool / "deliveries.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        journal.append(descriptor, line)
    finally:
        os.close(descriptor)
    (item.folder / _UNTOLD).unlink(missing_ok=True)


def _tell_rest(spool: Path) -> None:
    """Append the lines of ended images whose line could not be written before."""
    for state in ("sent", "failed"):
        for folder in (spool / state).iterdir():
            if (folder / _UNTOLD).exists() and (item := _item(folder)):
                _trace(spool, state, item)


def note(item: Item, **changes: Any) -> Item:
    """The image in its state with changes to its record."""
    record = replace(item.record, **changes)
    _note(item.folder, record)
    return replace(item, record=record)


def retry(spool: Path) -> int:
    """Make all failed images new again, with all tries left. Returns their number."""
    _tell_rest(spool)
    failed = [item for item in items(spool, "failed") if item.folder.name == item.record.uid]
    for item in failed:
        move(spool, item, "new", due=0.0, tries=0, reason="")
    return len(failed)


def forget(spool: Path, days: float) -> None:
    """Delete the records of images that were delivered more than `days` ago."""
    for folder in (spool / "sent").iterdir():
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > days * 86400:
                _remove(spool, folder)


def _item(folder: Path) -> Item | None:
    try:
        known = json.loads((folder / "record.json").read_bytes())
        # Extra entries of another version of recon are not needed to deliver the image.
        values = {name: known[name] for name in _FIELDS if name in known}
        if all(_is(value, _FIELDS[name]) for name, value in values.items()):
            return Item(folder, Record(**values))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError):
        pass
    return None


def _is(value: Any, kind: str) -> bool:
    """Whether a value has the type of a record's field."""
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value).__name__ == kind


def unreadable(spool: Path) -> int:
    """Number of unreadable images that wait or have failed: somebody has to look at them."""
    waiting = [folder for state in STATES if state != "sent" for folder in (spool / state).iterdir()]
    return look([*waiting, *(spool / "incoming").glob("*/*")])[1]


def _note(folder: Path, record: Record) -> None:
    temporary = folder / ".record"
    with open(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as out:
        out.write(json.dumps(asdict(record)).encode())
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, folder / "record.json")
