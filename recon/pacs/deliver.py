"""From images to a delivered spool: called by `recon send` and by the server."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from recon.errors import ReconError, counted
from recon.io.atomic import is_litter, write_error
from recon.pacs import reserve, verify
from recon.pacs import settings as settings_of
from recon.pacs import spool as spools
from recon.pacs.sender import Sender, peer
from recon.pacs.settings import Pacs
from recon.pacs.spool import Record
from recon.pacs.summary import summary, target

if TYPE_CHECKING:
    from pydicom import Dataset


def files(paths: Iterable[Path]) -> list[Path]:
    """The files below folders, and files given by name, without hidden ones; ReconError if there are none."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            out += sorted(p for p in inside if p.name != "DICOMDIR" and not is_litter(p))
        elif path.is_file():
            out.append(path)
        else:
            raise ReconError(f"there is no file or folder {path}; give a folder of DICOM files")
    if not out:
        raise ReconError("it holds no files; give a folder of DICOM files")
    return out


def hand_over(pacs: Pacs, images: Iterable[tuple[str, Dataset | Path]], job: str = "") -> list[Record]:
    """Put images, each with a name for messages, into a PACS's spool, de-identified if the settings ask for it.

    Raises ReconError, and takes none of them, if one is not valid, or if the spool belongs to another PACS.
    """
    folder = claim(pacs, settle=False)
    return spools.put(folder, _anonymous(pacs, images) if pacs.deidentify else images, job)


def _anonymous(pacs: Pacs, images: Iterable[tuple[str, Dataset | Path]]) -> Iterator[tuple[str, Dataset | Path]]:
    from recon.pacs.deidentify import deidentified, secret

    key = secret(Path(pacs.spool))
    for name, image in images:
        try:
            dataset = verify.read(image) if isinstance(image, Path) else image
            verify.check(dataset)
        except ReconError as e:
            raise ReconError(f"{name} is not sent, and neither is any other image of this call: {e}") from None
        yield name, deidentified(dataset, key)


def claim(pacs: Pacs, settle: bool = True) -> Path:
    """The spool of a PACS, with a note of these settings; raises ReconError if images wait in it for another PACS.

    Without `settle`, noted settings for this PACS are kept. Records of images stored by another PACS are deleted.
    """
    folder = spools.prepare(Path(pacs.spool))
    before = target(folder)
    if before and before != pacs.to:
        found = summary(folder)
        waiting = sum(found[state] for state in ("new", "sending", "unconfirmed", "failed"))
        if waiting:
            raise ReconError(
                f"{folder} holds {counted(waiting, 'image')} for {before}; use a separate folder for each PACS "
                "with --spool"
            )
        spools.forget(folder, -math.inf)  # what another PACS stored says nothing about this one
    if before == pacs.to and not settle:
        return folder
    temporary = folder / "tmp" / f"pacs.{os.getpid()}"
    with open(os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as out:
        json.dump(asdict(pacs), out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, folder / "pacs.json")
    return folder


def known(folder: Path) -> Pacs:
    """The settings that a spool was last used with; raises ReconError if it never was used."""
    try:
        table = json.loads((folder / "pacs.json").read_bytes())
    except (OSError, ValueError):
        raise ReconError(f"{folder} does not say which PACS its images go to; give it with --to or --config") from None
    return settings_of.parse(table, f"{folder}/pacs.json")


def once(pacs: Pacs, log: Callable[[str], None]) -> None:
    """One round over the spool of a PACS: whatever is due is sent or checked."""
    _work(pacs, log, Sender.round)


def watch(pacs: Pacs, log: Callable[[str], None], stopped: Callable[[float], bool]) -> None:
    """Rounds over the spool of a PACS until `stopped`, which waits for the given seconds, returns true."""
    _work(pacs, log, lambda sender: sender.watch(stopped))


def _work(pacs: Pacs, log: Callable[[str], None], work: Callable[[Sender], None]) -> None:
    """Run the sender; on a full disk, with the reserved space, because delivered images free space."""
    folder = Path(pacs.spool)
    with spools.locked(folder), peer(pacs) as to:
        while True:
            try:
                claim(pacs)
                sender = Sender(pacs, to, log)
                sender.start()
                work(sender)
                return
            except OSError as e:
                if e.errno not in (errno.ENOSPC, errno.EDQUOT) or not reserve.make_room(folder):
                    raise write_error(folder, e) from e
                log(f"the disk of {folder} is full; make room on it: delivery continues with the space reserved for it")
