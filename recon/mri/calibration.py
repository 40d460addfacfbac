"""Calibration of the coils of a Cartesian scan: which lines are used, coil compression and sensitivity maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.job import Job
from recon.operators import ifft
from recon.prepare import compress, hybrid, sort
from recon.prepare.espirit import SignalSpace, eigenmaps, signal_space
from recon.prepare.hybrid import Lines
from recon.prepare.sensitivities import first_coil
from recon.prepare.sort import Frame
from recon.prepare.walsh import walsh
from recon.recipe import Method


@dataclass(frozen=True)
class Calibrated:
    """The result of a slice's calibration lines: the coil compression, the calibration block and the maps.

    A volume that is solved in parts has the `signal` space instead of maps, which are made for each part. `reference`
    is the coil (coil) whose component of the maps is real and positive. `separate` says that none of the lines belongs
    to the image.
    """

    compression: Tensor | None
    block: Tensor | None
    maps: Tensor | None
    signal: SignalSpace | None = None
    reference: Tensor | None = None
    separate: bool = False


def calibrating_rows(job: Job, frame: Frame, acquired: NDArray[np.int32]) -> NDArray[np.intp]:
    """Lines that calibrate a frame: those flagged for it in its slice, or the image's own if these are more.

    Flagged lines of the same contrast and set come first; a scan that calibrates once serves all repetitions. If
    neither are enough, the mean over all repetitions and phases of the slice is used, whose lines may interleave
    (Breuer et al.: TGRAPPA, Magn Reson Med 53:981, 2005).
    """
    rows = sort.flagged_for(job.scan.lines, job.kinds.calibration, int(frame.rows[0]))

    def area(sampled: NDArray[np.bool_]) -> int:
        z0, z1, y0, y1 = hybrid.calibration_block(sampled, job.recipe.prepare.calibration_size)
        return (z1 - z0) * (y1 - y0)

    # Without any line, the centre of k-space would be unknown if the header has no limits.
    own = acquired > 0
    flagged = hybrid.counts(job.scan, rows, job.encoding) > 0 if len(rows) else np.zeros_like(own)
    rows = rows if len(rows) and area(flagged) >= area(own) else frame.rows
    if hybrid.enough(flagged if rows is not frame.rows else own):
        return rows
    series = [f.rows for f in job.frames.values() if _same_object(f, frame)]
    every = np.sort(np.concatenate(series))
    return every if hybrid.enough(hybrid.counts(job.scan, every, job.encoding) > 0) else rows


def _same_object(a: Frame, b: Frame) -> bool:
    """Whether two frames show the same slice at different times."""
    return (a.slice, a.contrast, a.set) == (b.slice, b.contrast, b.set)


def calibrated(lines: Lines, rows: NDArray[np.intp], method: Method, job: Job, *, in_parts: bool = False) -> Calibrated:
    """The calibration of the coils from some lines for a method; with `in_parts` the signal space instead of maps.

    Raises DataError for lines that cannot calibrate.
    """
    prepare = job.recipe.prepare
    if method == "varnet":
        return Calibrated(None, None, None)
    coils = lines.whitening.matrix.shape[0]
    shrink = prepare.coil_compression != "none" and coils > prepare.virtual_coils
    needs_maps = method not in ("combine", "grappa") and coils > 1
    if not (shrink or needs_maps or method == "grappa"):
        return Calibrated(None, None, None)
    block = hybrid.calibration(lines, rows, prepare.calibration_size)
    compression = None
    if shrink and prepare.coil_compression == "svd":
        compression = compress.svd(block, virtual=prepare.virtual_coils).matrix
        block = torch.tensordot(compression, block, 1)
    elif shrink:
        columns = ifft(hybrid.padded(block, (*block.shape[1:3], lines.nx)), (-1,))
        compression = compress.geometric(columns, virtual=prepare.virtual_coils).matrix
        block = hybrid.calibration(replace(lines, compression=compression), rows, prepare.calibration_size)
    if not needs_maps:
        return Calibrated(compression, block, None)
    if prepare.maps == "walsh":
        images = ifft(hybrid.padded(block, (*lines.shape, lines.nx)), (-3, -2, -1))
        first = first_coil(images)
        return Calibrated(compression, block, walsh(images, reference=first).maps, reference=first)
    signal = signal_space(
        block.to(job.device),
        (*lines.shape, lines.nx),
        kernel=prepare.espirit_kernel,
        threshold=prepare.espirit_threshold,
    )
    if in_parts:
        return Calibrated(compression, block, None, signal)
    maps = maps_of(signal, (*lines.shape, lines.nx), job)
    return Calibrated(compression, block, maps, reference=signal.reference)


def maps_of(
    signal: SignalSpace, shape: tuple[int, int, int], job: Job, columns: tuple[int, int] | None = None
) -> Tensor:
    """Maps of the signal space on a grid (z, y, x), or on some of its columns, with the recipe's settings."""
    prepare = job.recipe.prepare
    return eigenmaps(signal, shape, crop=prepare.espirit_crop, sets=prepare.map_sets, columns=columns).maps
