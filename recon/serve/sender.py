"""Reconstructs and sends: single frames while a scan continues, and the rest when it has ended."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Image, RawScan
from recon.io.mrd_image import ImageMessage, ImagePart, messages
from recon.job import Whole
from recon.recipe import Method, Recipe
from recon.serve import early, memory, wire
from recon.serve.control import Speaking
from recon.serve.counting import COUNTERS, Key, key_of
from recon.serve.session import Inbox, stamp
from recon.serve.settings import Site
from recon.serve.streams import Outgoing
from recon.serve.thumbnail import thumbnail
from recon.serve.whole_numbers import Steps
from recon.serve.wire import Acquisition

if TYPE_CHECKING:
    from recon.pipeline import FrameImage, Solved
    from recon.prepare.sampling import Sampling


@dataclass(frozen=True)
class Job:
    """What a session needs: its name, the site's settings, the recipes, and the connection for its reports."""

    name: str
    site: Site
    recipes: Mapping[str, Recipe]
    control: Speaking
    #: Called when the server has ended.
    alone: Callable[[], None] = lambda: None

    def tell(self, **what: Any) -> None:
        """Report to the server's process."""
        self.control.tell(**what)


class Sender:
    """Reconstructs and sends: single frames, then the rest; `sent` has the number of lines of each frame."""

    def __init__(self, inbox: Inbox, out: Outgoing, job: Job) -> None:
        self._inbox, self._out, self._job = inbox, out, job
        self.sent: dict[Key, int] = {}
        #: Lines, not belonging to the image, that calibrated each frame.
        self.calibration_lines: dict[Key, int] = {}
        #: Images of whole stacks, if no frame was sent early.
        self.whole: list[Image] = []
        #: Slices that were sent early, each with the method expected for all.
        self._chosen: set[tuple[int, Method]] = set()
        #: The solution of each frame that was sent early; both are only for the PACS.
        self.frames: dict[Key, Solved] = {}
        self._series = -1
        self._index = 0
        self._orientations: list[NDArray[np.float32]] = []
        #: What determines the scale of each series whose frames are sent early.
        self._averages: dict[int, float] = {}
        self._arrived: float | None = None
        self._steps = Steps((), later=True)
        #: Pixels above the range of their series' whole numbers.
        self.cut = 0
        #: The noise of the scan, if its frames are reconstructed one by one.
        self.noise = early.Noise()

    def early(self, scan: RawScan, key: Key) -> None:
        """Send the images of one frame as `frame` does, once the noise is known.

        If none can be made, nothing is sent: later lines may fix the problem, or it is reported for the whole scan.
        Nothing is sent either if later frames may choose another method for all.
        """
        inbox, known, usual = self._inbox, self.noise.whitening is not None, self._inbox.usual
        if not self.noise.look(inbox, inbox.plan):
            return
        assert self.noise.whitening is not None
        try:
            method = early.agreed(scan, self.noise.whitening, inbox.plan)
            if method is not None:
                self.frame(scan, key)
                self._chosen.add((key[0], method))
        except DataError:
            inbox.usual = usual
            self.sent.pop(key, None)
            self.calibration_lines.pop(key, None)
        if not known:  # those that were complete earlier
            with inbox.changed:
                inbox.candidates.extend(k for k in inbox.named if k not in self.sent and k not in inbox.candidates)

    def frame(self, scan: RawScan, key: Key, sampled: Sampling | None = None) -> None:
        """Send the images of the only frame of `scan`, in the series of its orientation.

        `sampled` decides the method, by default the sampling of the frame itself.
        """
        inbox, self._arrived = self._inbox, time.monotonic()
        if not self.sent:
            self._steps = Steps(self._which(), later=True)
        self.calibration_lines[key] = early.calibration_lines(scan.lines, key)
        stack = self._orientation(inbox.lines[inbox.frames[key][0]])
        with inbox.changed:
            self.sent[key] = lines = inbox.named[key]
            if inbox.usual != lines:  # others may have been complete before this was known
                alike = [k for k, rows in inbox.frames.items() if len(rows) == lines]
                inbox.named.update(dict.fromkeys(alike, lines))
                inbox.candidates.extend(alike)
            inbox.usual = lines
        keep = (lambda made: self.frames.update({key: made})) if self._job.site.pacs.to else None
        averages = self._averages.get(stack) or early.averages(inbox, key)
        whole = Whole(self.noise.whitening, averages=averages, sampled=sampled)
        image = self._made(scan, 0, keep=keep, whole=whole)
        self._averages[stack] = averages
        for message in self._messages(image, stack):
            self._put(message, image, key, stack, self._index, image.geometry.shape[0])
        self._index += 1

    def rest(self, scan: RawScan, arrived: float) -> None:
        """Send what has not been sent yet of a whole scan, each image as soon as it is made where possible."""
        from recon import pipeline

        inbox = self._inbox
        stacks = pipeline.stacks(scan)
        if self.sent:
            sampled = {n: of for s in stacks for of in [early.decisive(scan, s.slices)] for n in s.slices}
            self._same_methods(sampled)
            repetitions = set(np.unique(scan.lines["repetition"]).tolist())
            for key in sorted(inbox.frames, key=lambda k: (k[3], k)):
                if key not in self.sent and key[0] in sampled and key[3] in repetitions:
                    inbox.named[key] = len(inbox.frames[key])
                    self.frame(early.alone(scan, key), key, sampled[key[0]])
            self.noise.end(scan, inbox.plan)
            return
        self._arrived, self.noise = arrived, early.Noise()
        self.noise.end(scan, inbox.plan)
        self._steps = Steps(self._which(), later=max(early.images(scan), len(inbox.frames)) > 1)
        for n in range(len(stacks)):
            self._stack(scan, n)

    def _same_methods(self, sampled: Mapping[int, Sampling | None]) -> None:
        """Raise DataError if the sampling requires another method than that of a slice already sent."""
        assert self.noise.whitening is not None
        for number, method in self._chosen:
            of = sampled.get(number)
            if of is not None and early.chosen(of, self.noise.whitening, self._inbox.plan) != method:
                raise DataError(
                    f"images were made by {method} and returned before frames came that need another method; "
                    "do not use the returned images; set early = false in the site's file, or set the method "
                    "in the recipe"
                )

    def _stack(self, scan: RawScan, n: int) -> None:
        """Send the images of one stack of a scan."""
        held: list[FrameImage] = []
        leader = self._leader(scan, n)

        def put(made: FrameImage) -> None:
            for message in self._messages(made.image, n):
                self._put(message, made.image, key_of(made.frame), n, made.number, made.image.geometry.shape[0])

        def each(made: FrameImage) -> None:
            if leader is not None and not self._steps.known(n) and key_of(made.frame) != leader:
                held.append(made)
                return
            put(made)
            while held and self._steps.known(n):
                put(held.pop(0))

        image = self._made(scan, n, each=each, whole=Whole(self.noise.whitening, self.noise.doubts))
        for made in sorted(held, key=lambda made: int(made.frame.rows[-1])):
            put(made)
        if self._job.site.pacs.to:
            self.whole.append(image)

    def _made(
        self,
        scan: RawScan,
        stack: int,
        keep: Callable[[Solved], None] | None = None,
        each: Callable[[FrameImage], None] | None = None,
        whole: Whole = Whole(),
    ) -> Image:
        """The image of one stack of a scan, with the memory left besides received data and waiting images."""
        from recon import pipeline

        site = self._job.site
        memory.bound_gpu(site)
        most = memory.work(site, self._inbox.bytes + self._out.held)
        image = pipeline.reconstruct(
            scan, self._inbox.plan, device=site.device, memory=most, stack=stack, keep=keep, each=each, whole=whole,
        )  # fmt: skip
        numbers = {k: v for k, v in image.trust.items() if k != "items"}
        self._job.tell(
            notes=list(image.notes),
            scan_sha256=image.provenance["scan_sha256"],
            **({"trust": numbers} if numbers else {}),
        )
        return image

    def _messages(self, image: Image, stack: int) -> Iterator[ImageMessage]:
        """The messages of the next image of a stack."""
        pixel = self._job.site.pixel
        step = self._steps.steps_of(stack, image) if pixel == "int16" else None
        return messages(image, parts=self._which(), pixel=pixel, step=step)

    def _which(self) -> Sequence[ImagePart]:
        output = self._inbox.plan.output
        return ("complex",) if output.complex else output.parts

    def _leader(self, scan: RawScan, n: int) -> Key | None:
        """The frame of a stack that was complete first; its image decides the step for integer pixels."""
        from recon import pipeline

        if self._job.site.pixel != "int16":
            return None

        slices, repetitions = set(pipeline.stacks(scan)[n].slices), set(np.unique(scan.lines["repetition"]).tolist())
        frames = self._inbox.frames
        here = [key for key in frames if key[0] in slices and key[3] in repetitions]
        return min(here, key=lambda key: frames[key][-1])

    def _put(self, message: ImageMessage, image: Image, key: Key, stack: int, number: int, depth: int) -> None:
        """Send one of the `depth` images of a frame (partitions of a slab, or one slice) with the frame's counters.

        The frame has position `number` in its series.
        """
        inbox = self._inbox
        partition = (int(message.header["image_index"]) - 1) % depth
        counters = dict(zip(COUNTERS, key))
        counters |= {"image_index": number * depth + partition + 1} | ({"slice": partition} if depth > 1 else {})
        series = self._first_series() + stack * len(self._which())
        message = stamp(message, inbox.lines[inbox.frames[key][0]], series, **counters)
        self._out.put(wire.image(message))
        inbox.returned += 1
        self.cut += message.cut
        _account(message, image, self._job)
        if self._arrived is not None:
            self._job.tell(last_line_to_image_s=round(time.monotonic() - self._arrived, 3))
            self._arrived = None

    def _orientation(self, line: Acquisition) -> int:
        """The number of a slice's orientation, in order of sending: a series holds only one."""
        here = early.directions(line)
        for n, there in enumerate(self._orientations):
            if early.parallel(here, there):
                return n
        self._orientations.append(here)
        return len(self._orientations) - 1

    def _first_series(self) -> int:
        """The first series of recon: after those of the scanner's own images sent before."""
        if self._series < 0:
            self._series = self._inbox.images.highest_series + 1
        return self._series


#: The part of an image's provenance for the audit.
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
