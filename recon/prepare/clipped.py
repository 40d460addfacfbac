"""Samples that a receiver cut off at the largest number that it can hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.data import RawScan, counted
from recon.prepare import sort

#: Frames that are looked at, and lines of each around the centre of k-space, where samples are largest.
FRAMES, LINES = 8, 24
#: Samples at the limit from which on a channel counts, and the share of the limit above which fewer must lie below it.
LEAST, NEAR = 3, 0.75
#: Values that a channel must take for its largest to say anything: of a recording of few bits many are the same.
VALUES = 128


def clipped(scan: RawScan) -> tuple[str, ...]:
    """A warning that names the channels whose samples are clipped; none where none is.

    Of noise and signal one sample is the largest. Where several real or imaginary parts of a channel have the largest
    value to the last bit, LEAST of them and as many as lie between it and NEAR of it, the receiver could not go
    further: samples grow towards the centre of k-space so that fewer are large, and of noise most are small. What was
    cut off before a digital filter no longer has one value, and is not seen.
    """
    number = sort.choose_encoding(scan)
    imaging = sort.kinds(scan).imaging
    frames = sort.frames(scan, imaging)
    found: dict[int, int] = {}
    for i in sorted({int(i) for i in np.linspace(0, len(frames) - 1, FRAMES)}):
        rows = _central(scan, frames[i].rows, number)
        if not len(rows):
            continue
        for channel, x in enumerate(scan.samples.read(rows).swapaxes(0, 1)):
            if count := _at_limit(x):
                found[channel] = found.get(channel, 0) + count
    if not found:
        return ()
    channels = ", ".join(map(str, sorted(found)[:6])) + (", …" if len(found) > 6 else "")
    return (
        f"warning: {counted(len(found), 'channel is', 'channels are')} clipped ({channels}): "
        f"{sum(found.values())} values of the central lines are exactly at the receiver's limit, so contrast "
        "is wrong with any method; acquire again with a lower receiver gain",
    )


def _central(scan: RawScan, rows: NDArray[np.intp], number: int) -> NDArray[np.intp]:
    """The lines nearest to the centre of k-space, all of one length; off the grid some of all."""
    lines, encoding = scan.lines[rows], scan.encodings[number]
    if encoding.on_grid:
        ky, kz, valid = sort.row_index(lines, encoding)
        _, ny, nz = encoding.encoded_matrix
        rows, distance = rows[valid], np.hypot(ky - ny // 2, kz - nz // 2)[valid]
        rows = rows[np.argsort(distance, kind="stable")[:LINES]]
    else:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, LINES).astype(np.intp))]
    return (
        rows[scan.lines["number_of_samples"][rows] == scan.lines["number_of_samples"][rows[0]]] if len(rows) else rows
    )


def _at_limit(x: NDArray[np.complex64]) -> int:
    """How many real and imaginary parts lie at either limit of a channel, 0 where none is one."""
    parts = np.concatenate([x.real.ravel(), x.imag.ravel()])
    parts = parts[np.isfinite(parts)]
    if len(np.unique(parts)) < VALUES:
        return 0
    total = 0
    for value in (parts, -parts):
        top = value.max(initial=0.0)
        count = int((value == top).sum())
        if top > 0 and count >= LEAST and count >= int(((value < top) & (value >= NEAR * top)).sum()):
            total += count
    return total
