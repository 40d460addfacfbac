"""The process of one session: it imports everything, waits for a connection, reconstructs, answers, and ends."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon import recipe as recipes
from recon.data import DataError, Image, RawScan, ReconError
from recon.errors import sentence
from recon.io.ismrmrd import HEAD
from recon.io.mrd_image import ImageMessage, messages
from recon.recipe import Recipe
from recon.serve import counting, early, memory, settings, store, wire, words
from recon.serve.control import Speaking
from recon.serve.pacs import to_pacs
from recon.serve.session import Inbox, Key, receive, stamp
from recon.serve.settings import MiB, Site
from recon.serve.slabs import hold
from recon.serve.streams import Broken, Incoming, Outgoing
from recon.serve.thumbnail import thumbnail
from recon.serve.wire import Acquisition

if TYPE_CHECKING:
    from recon.pipeline import Solved

#: Seconds between two reports of a running session.
_PROGRESS_S = 1.0

#: What helps a session that ran out of memory.
_MEMORY = "lower process_MiB or max_sessions in the site's file"


@dataclass(frozen=True)
class Job:
    """What a session needs: its name, the site's settings, the recipes, and where it reports to."""

    name: str
    site: Site
    recipes: Mapping[str, Recipe]
    control: Speaking
    #: Called where the server has ended.
    alone: Callable[[], None] = lambda: None

    def tell(self, **what: Any) -> None:
        """Report to the server's process."""
        self.control.tell(**what)


def talk(connection: socket.socket, job: Job, ready: Sequence[memoryview] = ()) -> None:
    """One session from its first byte to CLOSE, its lines first in memory that is `ready`.

    Every session that began ends with TEXT and CLOSE where it can.
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
            reason += f"; {inbox.returned} images of slices that were whole have been returned before"
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
    """Hear from the server what has left; where the server has ended, nothing else would end this session."""
    for what in job.control.heard():
        out.heard(**what)
    job.alone()


def _progress(inbox: Inbox, out: Outgoing, job: Job) -> None:
    """Tell the status page now and then how far a session is."""
    while not out.ended.wait(_PROGRESS_S):
        so_far = {"recipe": inbox.recipe, "lines": len(inbox.lines), "received_MiB": round(inbox.bytes / MiB, 1)}
        job.tell(progress={**so_far, "waiting_MiB": round(out.held / MiB, 1)})


def _work(inbox: Inbox, out: Outgoing, job: Job, keep: list[Callable[[], None]]) -> str:
    sender = _Sender(inbox, out, job)
    while (key := _candidate(inbox)) is not None:
        # int16 needs one scale for all. The last image waits for CLOSE: without it no series is ever complete.
        if job.site.early and job.site.pixel == "float32" and key not in sender.sent:
            scan = early.frame(inbox, key)
            if scan and early.may_go(scan, inbox.plan) and len(sender.sent) + 1 < early.images(scan):
                sender.frame(scan, key)
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
    scan, warning = complete(whole, job)
    if warning:
        out.put(words.text(f"WRN {job.name}: {warning}"))
    late = [key for key, n in sender.sent.items() if len(inbox.frames[key]) != n]
    if late:
        raise DataError(
            f"lines came for {len(late)} images that were whole by the header and are returned already; correct "
            "encodingLimits and accelerationFactor in the header, and do not use these images"
        )
    sender.rest(scan, arrived)
    if job.site.pacs.to:
        keep.append(lambda: to_pacs(scan, sender.whole, sender.frames, inbox.plan, job.name, job.site, job.tell))
    return "done"


def _candidate(inbox: Inbox) -> Key | None:
    """The next frame that may be whole, or None when no more lines come; waits for either."""
    with inbox.changed:
        inbox.changed.wait_for(lambda: inbox.ended or inbox.candidates)
        if inbox.ended:
            return None
        first = min(inbox.candidates, key=lambda key: inbox.frames[key][-1])  # the one that was measured first
        inbox.candidates.remove(first)
        return first


class _Sender:
    """Reconstructs and sends: frames by themselves, then what is left; `sent` has the number of lines of each frame."""

    def __init__(self, inbox: Inbox, out: Outgoing, job: Job) -> None:
        self._inbox, self._out, self._job = inbox, out, job
        self.sent: dict[Key, int] = {}
        #: Images of whole stacks, where no frame went out early.
        self.whole: list[Image] = []
        #: What was solved of each frame that went out by itself; both for the PACS alone.
        self.frames: dict[Key, Solved] = {}
        self._series = -1
        self._index = 0
        self._orientations: list[NDArray[np.float32]] = []

    def frame(self, scan: RawScan, key: Key) -> None:
        """Send the images of one frame, which `scan` holds alone, in the series of its orientation."""
        inbox, arrived = self._inbox, time.monotonic()
        stack = self._orientation(inbox.lines[inbox.frames[key][0]])
        with inbox.changed:
            self.sent[key] = lines = inbox.named[key]
            if inbox.usual != lines:  # others may have been whole before this was known
                alike = [k for k, rows in inbox.frames.items() if len(rows) == lines]
                inbox.named.update(dict.fromkeys(alike, lines))
                inbox.candidates.extend(alike)
            inbox.usual = lines
        self._index += 1
        counters = dict(zip(("slice", "contrast", "phase", "repetition", "set"), key))
        keep = (lambda made: self.frames.update({key: made})) if self._job.site.pacs.to else None
        for n, (message, image) in enumerate(images(scan, self._job, inbox.plan, 0, self._memory(), keep)):
            first = inbox.lines[inbox.frames[key][0]]
            series = self._first_series() + stack * self._parts()
            self._put(stamp(message, first, series, image_index=self._index, **counters), image)
            if n == 0:
                self._timed(arrived)

    def rest(self, scan: RawScan, arrived: float) -> None:
        """Send what of a whole scan has not been sent yet."""
        from recon import pipeline

        inbox = self._inbox
        stacks = pipeline.stacks(scan)
        if self.sent:
            placed = {number for stack in stacks for number in stack.slices}
            repetitions = set(np.unique(scan.lines["repetition"]).tolist())
            for key in sorted(inbox.frames, key=lambda k: (k[3], k)):
                if key not in self.sent and key[0] in placed and key[3] in repetitions:
                    inbox.named[key] = len(inbox.frames[key])
                    alone = early.frame(inbox, key)
                    assert alone is not None
                    self.frame(alone, key)
            return
        for n in range(len(stacks)):
            series = self._first_series() + n * self._parts()
            for i, (message, image) in enumerate(images(scan, self._job, inbox.plan, n, self._memory())):
                self._put(stamp(message, inbox.lines[0], series), image)
                if n == i == 0:
                    self._timed(arrived)
                if i == 0 and self._job.site.pacs.to:
                    self.whole.append(image)

    def _memory(self) -> int:
        """Bytes that a reconstruction may use beside what came and what waits to be sent."""
        return memory.work(self._job.site, self._inbox.bytes + self._out.held)

    def _orientation(self, line: Acquisition) -> int:
        """The number of a slice's orientation, in the order in which they went out: a series holds only one."""
        head = np.frombuffer(line.head, HEAD)[0]
        here = np.concatenate([head["read_dir"], head["phase_dir"]])
        for n, there in enumerate(self._orientations):
            if np.allclose(here, there, atol=1e-3, equal_nan=True):
                return n
        self._orientations.append(here)
        return len(self._orientations) - 1

    def _parts(self) -> int:
        output = self._inbox.plan.output
        return 1 if output.complex else len(output.parts)

    def _first_series(self) -> int:
        """The first series that is ours: after those of the scanner's own images that came before."""
        if self._series < 0:
            self._series = self._inbox.images.highest_series + 1
        return self._series

    def _timed(self, arrived: float) -> None:
        self._job.tell(last_line_to_image_s=round(time.monotonic() - arrived, 3))

    def _put(self, message: ImageMessage, image: Image) -> None:
        self._out.put(wire.image(message))
        self._inbox.returned += 1
        _account(message, image, self._job)


def complete(scan: RawScan, job: Job) -> tuple[RawScan, str]:
    """The part of a scan that is whole, and a warning where that is not all; raises DataError where nothing is."""
    found = counting.count(scan)
    job.tell(lines_received=found.received, lines_expected=found.expected)
    if found.complete:
        return scan, ""
    if not found.whole or found.announced == 1:
        raise counting.refuse(found)
    return (
        counting.only_repetitions(scan, found.whole),
        f"incomplete {found.received}/{found.expected}: {len(found.whole)} of {found.announced} repetitions are whole, "
        "and only these are returned",
    )


def images(
    scan: RawScan, job: Job, recipe: Recipe, stack: int, most: int, keep: Callable[[Solved], None] | None = None
) -> Iterator[tuple[ImageMessage, Image]]:
    """The messages of one stack of a scan, and the image that each is of, made with `most` bytes of memory.

    `keep` is handed what was solved.
    """
    from recon import pipeline

    site = job.site
    memory.bound_gpu(site)
    parts: Any = ("complex",) if recipe.output.complex else recipe.output.parts
    image = pipeline.reconstruct(scan, recipe, device=site.device, memory=most, stack=stack, keep=keep)
    numbers = {k: v for k, v in image.trust.items() if k != "items"}
    job.tell(
        notes=list(image.notes), scan_sha256=image.provenance["scan_sha256"], **({"trust": numbers} if numbers else {})
    )
    for message in messages(image, parts=parts, pixel=site.pixel):
        yield message, image


#: What of an image's provenance an audit needs.
_MADE = ("version", "method", "recipe_hash", "weights_sha256", "device", "versions")


def _account(message: ImageMessage, image: Image, job: Job) -> None:
    head, made = message.header, image.provenance
    sha256 = hashlib.sha256(message.pixels.tobytes()).hexdigest()
    shown = job.site.status_port is not None
    picture = {"thumbnail": base64.b64encode(thumbnail(message.pixels)).decode()} if shown else {}
    job.tell(
        **picture,
        image={"series": int(head["image_series_index"]), "index": int(head["image_index"]), "sha256": sha256},
        made={k: made[k] for k in _MADE if k in made},
    )


def main() -> None:
    """Wait for one connection on the control socket whose number is the argument, and serve it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the patient's data
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as likelihood:
        likelihood.write("500")  # where the machine runs out of memory, a session ends and not the server
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
    with contextlib.suppress(OSError):  # behind TLS it is no TCP connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    talk(connection, job, slabs)
    os._exit(0)  # taking apart what was imported would keep the next scanner waiting


if __name__ == "__main__":
    main()
