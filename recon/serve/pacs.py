"""The server's side of the PACS: images of whole scans go into the spool, and a process sends them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recon.errors import one_line, sentence
from recon.pacs.settings import Pacs
from recon.recipe import Recipe
from recon.serve import memory
from recon.serve.settings import Site

if TYPE_CHECKING:
    from recon.data import Image, RawScan
    from recon.pipeline import Solved
    from recon.serve.counting import Key

#: The time at the start of the sender's lines; the server's log adds its own.
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d ", re.ASCII)
#: Seconds until a sender that ended by itself is restarted: doubled each time that it ends soon after.
_AGAIN_S, _LONGEST_S, _SOON_S = 10.0, 900.0, 60.0
#: Seconds that a sender may take to finish the current image.
_GRACE_S = 5.0


def to_pacs(
    scan: RawScan,
    images: Sequence[Image],
    frames: Mapping[Key, Solved],
    recipe: Recipe,
    job: str,
    site: Site,
    tell: Callable[..., None],
) -> None:
    """Put the series of a whole scan into the spool: as `recon run` writes it, with the same UIDs.

    They are the images sent to the scanner: `images` or, if slices were sent early, those of `frames`, joined because a
    series has one scale. A failure is reported and does not affect the scanner's images.
    """
    from recon import pipeline
    from recon.io.dicom import datasets
    from recon.pacs.deliver import hand_over
    from recon.serve.joined import joined

    out = recipe.output
    try:
        if not images:
            stacks = range(len(pipeline.stacks(scan)))
            images = [joined(scan, recipe, frames, device=site.device, stack=n) for n in stacks]
        named = (
            ("an image of the scan", dataset)
            for n, image in enumerate(images)
            for dataset in datasets(image, parts=out.parts, series_number=out.series_number + n, derived=out.derived)
        )
        records = hand_over(site.pacs, named, job)
        tell(pacs={"spooled": [r.uid for r in records]})
    except Exception as e:
        reason = sentence(e, memory="lower memory_MiB in the site's file", limit=memory.deciding(site))
        tell(pacs={"failed": reason}, reason=f"the images did not reach the PACS's spool: {reason}")


@contextmanager
def delivering(pacs: Pacs, log: Callable[[str], None]) -> Iterator[None]:
    """Run a process that sends the content of a PACS's spool, and restart it when it ends; none without a PACS."""
    if not pacs.to:
        yield
        return
    from recon.pacs.deliver import claim

    claim(pacs)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(pacs, log, ended), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join(2 * _GRACE_S)


def _keep(pacs: Pacs, log: Callable[[str], None], ended: threading.Event) -> None:
    command = [sys.executable, "-m", "recon", "send", "--watch", "--follow", "--spool", pacs.spool]
    wait = _AGAIN_S
    while not ended.is_set():
        began = time.monotonic()
        try:
            # Its standard input closes when this process ends, and it then ends, too.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        except OSError as e:
            log(f"pacs: no sender could be started ({e.strerror}); it is tried again in {wait:g} s")
            ended.wait(wait)
            wait = min(2 * wait, _LONGEST_S)
            continue
        reader = threading.Thread(target=_pass_on, args=(process.stderr, log), daemon=True)
        reader.start()
        while process.poll() is None and not ended.wait(0.2):
            pass
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(1)
        if not ended.is_set():
            log(f"pacs: the sender ended with exit code {process.returncode}; it starts again in {wait:g} s")
            ended.wait(wait)
            wait = min(2 * wait, _LONGEST_S) if time.monotonic() - began - wait < _SOON_S else _AGAIN_S


def _pass_on(stream: Any, log: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            words = one_line(line.decode("utf-8", "replace")).removeprefix("recon: ")
            log(f"pacs: {_TIME.sub('', words)}")
