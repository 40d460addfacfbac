"""Reconstructs and sends: frames by themselves while a scan goes on, and what is left when it has ended."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import Image, RawScan
from recon.io.mrd_image import ImageMessage, messages
from recon.io.mrd_lines import HEAD
from recon.recipe import Recipe
from recon.serve import early, memory, wire
from recon.serve.control import Speaking
from recon.serve.counting import COUNTERS, Key
from recon.serve.session import Inbox, stamp
from recon.serve.settings import Site
from recon.serve.streams import Outgoing
from recon.serve.thumbnail import thumbnail
from recon.serve.wire import Acquisition

if TYPE_CHECKING:
    from recon.pipeline import FrameImage, Solved


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


class Sender:
    """Reconstructs and sends: frames by themselves, then what is left; `sent` has the number of lines of each frame."""

    def __init__(self, inbox: Inbox, out: Outgoing, job: Job) -> None:
        self._inbox, self._out, self._job = inbox, out, job
        self.sent: dict[Key, int] = {}
        #: Lines beside the image that calibrated each frame.
        self.beside: dict[Key, int] = {}
        #: Images of whole stacks, where no frame went out early.
        self.whole: list[Image] = []
        #: What was solved of each frame that went out by itself; both for the PACS alone.
        self.frames: dict[Key, Solved] = {}
        self._series = -1
        self._index = 0
        self._orientations: list[NDArray[np.float32]] = []
        self._arrived: float | None = None

    def frame(self, scan: RawScan, key: Key) -> None:
        """Send the images of one frame, which `scan` holds alone, in the series of its orientation."""
        inbox, self._arrived = self._inbox, time.monotonic()
        self.beside[key] = early.beside(scan.lines, key)
        stack = self._orientation(inbox.lines[inbox.frames[key][0]])
        with inbox.changed:
            self.sent[key] = lines = inbox.named[key]
            if inbox.usual != lines:  # others may have been whole before this was known
                alike = [k for k, rows in inbox.frames.items() if len(rows) == lines]
                inbox.named.update(dict.fromkeys(alike, lines))
                inbox.candidates.extend(alike)
            inbox.usual = lines
        keep = (lambda made: self.frames.update({key: made})) if self._job.site.pacs.to else None
        image = self._made(scan, 0, keep=keep)
        for message in self._messages(image):
            self._put(message, image, key, stack, self._index, image.geometry.shape[0])
        self._index += 1

    def rest(self, scan: RawScan, arrived: float) -> None:
        """Send what of a whole scan has not been sent yet, each image as soon as it is made where that may be."""
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
        self._arrived = arrived
        for n in range(len(stacks)):
            self._stack(scan, n)

    def _stack(self, scan: RawScan, n: int) -> None:
        """Send the images of one stack of a scan."""
        keys: dict[int, Key] = {}
        together = scaled(self._job.site, self._inbox.plan)

        def each(made: FrameImage) -> None:
            f = made.frame
            keys[made.number] = key = f.slice, f.contrast, f.phase, f.repetition, f.set
            if not together:
                for message in self._messages(made.image):
                    self._put(message, made.image, key, n, made.number, made.image.geometry.shape[0])

        image = self._made(scan, n, each=each)
        if together:
            depth = image.data[..., 0, 0].size // len(keys)
            for message in self._messages(image):
                number = (int(message.header["image_index"]) - 1) // depth
                self._put(message, image, keys[number], n, number, depth)
        if self._job.site.pacs.to:
            self.whole.append(image)

    def _made(
        self,
        scan: RawScan,
        stack: int,
        keep: Callable[[Solved], None] | None = None,
        each: Callable[[FrameImage], None] | None = None,
    ) -> Image:
        """The image of one stack of a scan, with the memory that is left beside what came and what waits to be sent."""
        from recon import pipeline

        site = self._job.site
        memory.bound_gpu(site)
        most = memory.work(site, self._inbox.bytes + self._out.held)
        image = pipeline.reconstruct(
            scan, self._inbox.plan, device=site.device, memory=most, stack=stack, keep=keep, each=each
        )
        numbers = {k: v for k, v in image.trust.items() if k != "items"}
        self._job.tell(
            notes=list(image.notes),
            scan_sha256=image.provenance["scan_sha256"],
            **({"trust": numbers} if numbers else {}),
        )
        return image

    def _messages(self, image: Image) -> Iterator[ImageMessage]:
        output = self._inbox.plan.output
        return messages(image, parts=("complex",) if output.complex else output.parts, pixel=self._job.site.pixel)

    def _put(self, message: ImageMessage, image: Image, key: Key, stack: int, number: int, depth: int) -> None:
        """Send one of the `depth` images of a frame (partitions of a slab, or one slice) with the frame's counters.

        The frame is the `number`-th of its series.
        """
        inbox = self._inbox
        partition = (int(message.header["image_index"]) - 1) % depth
        counters = dict(zip(COUNTERS, key))
        counters |= {"image_index": number * depth + partition + 1} | ({"slice": partition} if depth > 1 else {})
        series = self._first_series() + stack * self._parts()
        message = stamp(message, inbox.lines[inbox.frames[key][0]], series, **counters)
        self._out.put(wire.image(message))
        inbox.returned += 1
        _account(message, image, self._job)
        if self._arrived is not None:
            self._job.tell(last_line_to_image_s=round(time.monotonic() - self._arrived, 3))
            self._arrived = None

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


def scaled(site: Site, plan: Recipe) -> bool:
    """Whether all images of a series share a scale, so that none is ready before all are."""
    return site.pixel == "int16" and not plan.output.complex


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
