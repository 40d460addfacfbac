"""Detection of samples that the receiver clipped at the largest number it can store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.data import RawScan, counted
from recon.prepare import sort

#: Number of frames that are examined, and of lines in each around the centre of k-space, where samples are largest.
FRAMES, LINES = 8, 24
#: A channel is reported if at least LEAST of its samples lie at the limit, and no more samples lie between NEAR times
#: the limit and the limit.
LEAST, NEAR = 3, 0.75
#: Channels with fewer different values are not judged: in a recording of few bits, many samples are equal.
VALUES = 128


def clipped(scan: RawScan) -> tuple[str, ...]:
    """A warning that names the channels with clipped samples; empty if there are none.

    In unclipped data a single sample is the largest. A channel counts as clipped if several of its real or imaginary
    parts equal the largest value exactly: at least LEAST, and at least as many as lie between NEAR times this value and
    it. Without clipping, large samples are rare, since signal grows towards the centre of k-space and most noise is
    small. Samples that were clipped before a digital filter no longer share one value; this is not detected.
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
    """The lines nearest to the centre of k-space, all of the same length; of non-Cartesian scans, a selection."""
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
    """How many real and imaginary parts lie at either limit of a channel; 0 if there is no clipping."""
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
