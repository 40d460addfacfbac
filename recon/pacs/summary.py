"""The state of a spool, for people and for the server's status page; without patient data."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from recon.errors import counted
from recon.pacs import spool as spools

#: Images that are not delivered yet.
_WAITING: tuple[spools.State, ...] = ("new", "sending", "unconfirmed")


def summary(spool: Path) -> dict[str, Any]:
    """Numbers of images by state, the longest waiting time in seconds, and the last reason for a failed delivery.

    Keys: `to`; the number in each of `new` (including those not taken in yet), `sending`, `unconfirmed`, `sent` and
    `failed`; `oldest_s` and `next_try_s` (None if nothing waits); `last_error`, and `last_error_s` since it; the number
    of `unreadable` folders; and `free_MiB` of the disk. A spool that was never used has zeros. It may be called at any
    time, in parallel with a sender.
    """
    out: dict[str, Any] = {"to": target(spool), **dict.fromkeys(spools.STATES, 0)}
    out |= {"oldest_s": None, "next_try_s": None, "last_error": "", "last_error_s": None}
    out |= {"unreadable": 0, "free_MiB": _free(spool)}
    if not (spool / "failed").is_dir():
        return out
    now, waiting, wrong = time.time(), [], []
    out["sent"] = sum(1 for _ in (spool / "sent").iterdir())
    out["unreadable"] = spools.look((spool / "incoming").glob("*/*"))[1]
    for state in (*_WAITING, "failed"):
        found, lost = spools.look((spool / state).iterdir())
        records = [item.record for item in found]
        out[state] = len(records)
        out["unreadable"] += lost
        waiting += records if state != "failed" else []
        wrong += [r for r in records if r.reason]
    out["new"] += sum(1 for _ in (spool / "incoming").glob("*/*/record.json"))
    if waiting:
        out["oldest_s"] = round(now - min(r.added for r in waiting), 1)
        out["next_try_s"] = round(max(0.0, min(r.due for r in waiting) - now), 1)
    if wrong:
        last = max(wrong, key=lambda r: r.changed)
        out["last_error"], out["last_error_s"] = last.reason, round(now - last.changed, 1)
    return out


def _free(spool: Path) -> int:
    """MiB free on the disk of a spool, existing or not."""
    there = next((p for p in (spool, *spool.parents) if p.exists()), Path("/"))
    disk = os.statvfs(there)
    return disk.f_bavail * disk.f_frsize // 2**20


def text(found: dict[str, Any]) -> str:
    """A summary as text."""
    lines = [f"to {found['to'] or 'nobody yet'}"]
    lines += [f"{state:<12} {found[state]}" for state in spools.STATES]
    if found["oldest_s"] is not None:
        lines.append(f"the oldest has waited {found['oldest_s']:.0f} s; next try in {found['next_try_s']:.0f} s")
    if found["unreadable"]:
        lines.append(f"{counted(found['unreadable'], 'folder')} cannot be read; look at their record.json")
    if found["last_error"]:
        lines.append(f"last error, {found['last_error_s']:.0f} s ago: {found['last_error']}")
    return "\n".join(lines)


def target(spool: Path) -> str:
    """The destination of a spool's images, empty if none has been set."""
    try:
        return str(json.loads((spool / "pacs.json").read_bytes())["to"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
