"""The process of one session: it imports everything, waits for a connection, reconstructs, answers, and ends."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from recon import recipe as recipes
from recon.data import DataError, RawScan, ReconError
from recon.errors import counted, sentence
from recon.serve import counting, early, memory, settings, store, wire, words
from recon.serve.control import Speaking
from recon.serve.counting import Key
from recon.serve.pacs import to_pacs
from recon.serve.sender import Job, Sender
from recon.serve.session import Inbox, receive
from recon.serve.settings import MiB, Site
from recon.serve.slabs import hold
from recon.serve.streams import Broken, Incoming, Outgoing

#: Seconds between two reports of a running session.
_PROGRESS_S = 1.0

#: The note on pixels above the range of the integers.
_CUT = (
    "the integer range of their series, which the first image of the series sets, and were clipped to the "
    'largest value; set pixel to "float32" in the site\'s file'
)

#: The hint for a session that ran out of memory.
_MEMORY = "lower process_MiB or max_sessions in the site's file"


def talk(connection: socket.socket, job: Job, ready: Sequence[memoryview] = ()) -> None:
    """One session from its first byte to CLOSE, with its lines first in memory that is `ready`.

    Every session that began ends with TEXT and CLOSE if possible.
    """
    limits = job.site.limits
    out = Outgoing(job.control.hand, limits.queue_MiB * MiB)
    threading.Thread(target=_follow, args=(out, job), daemon=True).start()
    incoming = Incoming(connection, limits.first_s, limits.idle_s, ready)
    inbox = Inbox()

    def take(n: int) -> memoryview:
        if inbox.recipe:
            incoming.begun()
        return incoming.take(n)

    bounds = memory.raw(job.site), out.put, limits.queue_MiB * MiB
    threading.Thread(target=receive, args=(take, inbox, job.recipes, *bounds), daemon=True).start()
    if job.site.status_port is not None:
        threading.Thread(target=_progress, args=(inbox, out, job), daemon=True).start()
    state = "failed"
    keep: list[Callable[[], None]] = []
    try:
        state = _work(inbox, out, job, keep)
    except Broken as e:
        state = "undelivered"
        job.tell(reason=str(e))
    except Exception as e:
        reason = sentence(e, memory=_MEMORY, limit=memory.deciding(job.site))
        if inbox.returned:
            reason += f"; {counted(inbox.returned, 'image')} of complete slices had already been returned"
        state = "incomplete" if isinstance(e, wire.Cut) else "failed"
        job.tell(reason=reason)
        with contextlib.suppress(Broken):
            out.put(words.text(f"ERR {job.name}: {reason}"))
    with contextlib.suppress(Broken):
        out.put(words.close())
    lost = out.finish()
    if lost:
        job.tell(reason=lost)
    for hand_over in keep:  # the scanner does not wait for the PACS
        hand_over()
    state = "undelivered" if lost and state in ("done", "passed on") else state
    job.tell(state=state, lines=len(inbox.lines), bytes=inbox.bytes,
             images_passed=inbox.images.came, images_denoised=inbox.images.denoised,
             waveforms=inbox.waveforms, recipe=inbox.recipe)  # fmt: skip


def _follow(out: Outgoing, job: Job) -> None:
    """Read from the server what has been sent; if the server has ended, nothing else would end this session."""
    for what in job.control.heard():
        out.heard(**what)
    job.alone()


def _progress(inbox: Inbox, out: Outgoing, job: Job) -> None:
    """Report the progress of a session to the status page now and then."""
    while not out.ended.wait(_PROGRESS_S):
        so_far = {"recipe": inbox.recipe, "lines": len(inbox.lines), "received_MiB": round(inbox.bytes / MiB, 1)}
        job.tell(progress={**so_far, "waiting_MiB": round(out.held / MiB, 1)})


def _work(inbox: Inbox, out: Outgoing, job: Job, keep: list[Callable[[], None]]) -> str:
    sender = Sender(inbox, out, job)
    while (key := _candidate(inbox)) is not None:
        # The last image waits for CLOSE: without it no series is ever complete.
        if job.site.early and key not in sender.sent:
            scan = None
            with contextlib.suppress(DataError):  # errors are reported for the whole scan
                scan = early.frame(inbox, key)
            once = key[0] not in inbox.again
            if scan and early.may_go(scan, once=once) and len(sender.sent) + 1 < early.images(scan):
                sender.early(scan, key)
    arrived = time.monotonic()
    if inbox.error is not None:
        raise inbox.error
    for note in (*inbox.notes, *inbox.images.notes()):
        out.put(words.text(f"WRN {job.name}: {note}"))
    if inbox.parsed is None:
        return "query"
    if inbox.images.came and not inbox.lines:
        return "passed on"
    whole = store.scan(inbox.lines, inbox.parsed, inbox.waveforms)
    numbers = store.heads(inbox.lines)["scan_counter"]
    scan, warning = complete(whole, job, counting.unbroken(numbers, inbox.frames))
    if warning:
        out.put(words.text(f"WRN {job.name}: {warning}"))
    late = [
        key
        for key, n in sender.sent.items()
        if len(inbox.frames[key]) != n or early.calibration_lines(whole.lines, key) != sender.calibration_lines[key]
    ]
    if late:
        raise DataError(
            f"lines arrived for {counted(len(late), 'image')} that were complete according to the header and "
            "had already been returned; do not use the returned images; correct encodingLimits and "
            "accelerationFactor in the header, or, if lines are measured again later, set early = false in "
            "the site's file"
        )
    sender.rest(scan, arrived)
    if not sender.noise.holds(whole, inbox.plan):
        out.put(
            words.text(
                f"WRN {job.name}: noise lines arrived after images had been returned; those images do not use them"
            )
        )
    for doubt in sender.noise.doubts:
        out.put(words.text(f"WRN {job.name}: {doubt}"))
    if sender.cut:
        many = counted(sender.cut, "pixel was", "pixels were")
        out.put(words.text(f"WRN {job.name}: {many} brighter than {_CUT}"))
    if job.site.pacs.to:
        keep.append(lambda: to_pacs(scan, sender.whole, sender.frames, inbox.plan, job.name, job.site, job.tell))
    return "done"


def _candidate(inbox: Inbox) -> Key | None:
    """The next frame that may be complete, or None when no more lines come; waits for either."""
    with inbox.changed:
        inbox.changed.wait_for(lambda: inbox.ended or inbox.candidates)
        if inbox.ended:
            return None
        first = min(inbox.candidates, key=lambda key: inbox.frames[key][-1])  # the one that was measured first
        inbox.candidates.remove(first)
        return first


def complete(scan: RawScan, job: Job, numbered: Mapping[Key, bool] | None) -> tuple[RawScan, str]:
    """The complete part of a scan, and a warning if that is not all; raises DataError if nothing is complete.

    `numbered` is the result of `counting.unbroken` for its frames.
    """
    found = counting.count(scan, numbered)
    job.tell(lines_received=found.received, lines_expected=found.expected)
    if found.complete:
        return scan, ""
    if not found.whole or found.announced == 1:
        raise counting.refuse(found)
    return (
        counting.only_repetitions(scan, found.whole),
        f"incomplete {found.received}/{found.expected}: {len(found.whole)} of {found.announced} repetitions "
        "are complete, and only these are returned",
    )


def main() -> None:
    """Wait for one connection on the control socket whose number is the argument, and serve it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain patient data
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as likelihood:
        likelihood.write("500")  # if the machine runs out of memory, a session ends and not the server
    control = socket.socket(fileno=int(sys.argv[1]))
    setup = json.load(sys.stdin)
    site: Site = recipes.parse(setup["site"], "the site", Site)
    known = {name: recipes.parse(values) for name, values in setup["recipes"].items()}
    import torch

    from recon import pipeline  # noqa: F401  (the first scan shall not wait for it)

    if site.threads:
        torch.set_num_threads(site.threads)
    warm = Job("", site, known, Speaking(control), lambda: os.killpg(0, signal.SIGKILL))
    try:
        settings.rehearse(site, known)
    except ReconError as e:
        warm.tell(unfit=str(e))
        return
    warm.tell(ready=True)
    slabs = hold(memory.ready(site), control)
    warm.tell(held=True)
    data, descriptors, _, _ = socket.recv_fds(control, 1 << 12, 1)
    if not descriptors:
        return  # the server has ended
    job = replace(warm, name=json.loads(data)["job"])
    connection = socket.socket(fileno=descriptors[0])
    with contextlib.suppress(OSError):  # with TLS it is not a TCP connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    talk(connection, job, slabs)
    os._exit(0)  # unloading libraries would keep the next scanner waiting
