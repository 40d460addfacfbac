"""Retrospective undersampling: a fully sampled raw scan with only some of its lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon import masks
from recon.data import DataError, Encoding, Limit, RawScan, ReconError
from recon.io.samples import SomeRows
from recon.masks import Mask
from recon.prepare import epi, hybrid, sort
from recon.prepare.sampling import sampling

Kind = Literal["equispaced", "equispaced-fraction", "random", "variable-density", "poisson-disc", "caipi"]


@dataclass(frozen=True)
class Undersampled:
    """The scan with the lines that `mask` (kz, ky) keeps; `effective` is rows measured before over rows kept."""

    scan: RawScan
    mask: Mask
    effective: float


def acs_lines(acceleration: float) -> int:
    """Number of central lines that are kept: 24 up to R = 4, 16 above."""
    return 24 if acceleration <= 4 else 16


def measured(scan: RawScan) -> Mask:
    """Rows (kz, ky) of the encoded grid that a fully sampled Cartesian scan measured in each of its frames.

    Rows at the edge may be missing if they are missing on both sides alike (zero-filling, an elliptical shutter).
    Raises DataError for a scan that is not Cartesian or not fully sampled.
    """
    scan, encoding, imaging = _sorted(scan)
    if encoding.trajectory != "cartesian":
        raise DataError(
            f"the scan is {encoding.trajectory}, and only Cartesian scans can be undersampled here; give a "
            "fully sampled Cartesian scan"
        )
    out: Mask | None = None
    for frame in sort.frames(scan, imaging):
        rows = hybrid.counts(scan, frame.rows, encoding) > 0
        found = sampling(rows)
        if found.acceleration != (1, 1) or found.partial_fourier != (1.0, 1.0):
            raise DataError(
                f"the scan is not fully sampled ({found.rows} of {rows.size} phase encodes were acquired), so "
                "there is no reference to compare with; give a fully sampled one"
            )
        out = rows if out is None else out & rows
    assert out is not None
    return out


def mask_of(kind: Kind, shape: tuple[int, int], acceleration: float, acs: int, seed: int) -> Mask:
    """A mask (kz, ky) of `recon.masks` by its name, along ky only if there is one partition.

    Regular masks divide R over the two axes of a volume, the larger factor along ky; the ACS block is limited to the
    grid. Raises ReconError for an R, a number of ACS lines or a shape that the mask cannot have.
    """
    axes = shape if shape[0] > 1 else shape[1:]
    block = tuple(min(acs, n) for n in axes)
    try:
        if kind in ("equispaced", "caipi"):
            if acceleration != int(acceleration):
                raise ValueError(
                    f"a mask of kind {kind} needs a whole acceleration factor, not {acceleration:g}; round it"
                )
            made = (masks.equispaced if kind == "equispaced" else masks.caipi)(
                axes, _factors(int(acceleration))[-len(axes) :] if len(axes) > 1 else (int(acceleration),), block, seed
            )
        elif kind == "equispaced-fraction":
            made = masks.equispaced_fraction(axes, acceleration, block, seed)
        elif kind == "random":
            made = masks.random(axes, acceleration, block, seed)
        elif kind == "variable-density":
            made = masks.variable_density(axes, acceleration, block, seed)
        else:
            made = masks.poisson_disc(axes, acceleration, block, seed)
    except ValueError as e:
        raise ReconError(str(e)) from None
    return made.reshape(shape)


def undersample(scan: RawScan, mask: Mask) -> Undersampled:
    """The scan with the imaging lines whose row is set in `mask` (kz, ky), and its noise lines.

    Averages of a row stay together; every frame gets the same mask. Separate calibration lines are left out, so that
    coils are calibrated by the ACS lines of the mask. Raises DataError as `measured`.
    """
    rows = measured(scan)
    scan, encoding, imaging = _sorted(scan)
    ky, kz, valid = sort.row_index(scan.lines[imaging], encoding)
    inside = np.zeros(len(imaging), bool)
    inside[valid] = mask[kz[valid], ky[valid]]
    if not inside.any():
        raise ReconError("the mask keeps no line of the scan; give a smaller acceleration factor or more ACS lines")
    keep = np.sort(np.concatenate([imaging[inside], sort.kinds(scan).noise]))
    whole = scan.samples
    samples = whole.some(keep) if isinstance(whole, epi.StraightSamples) else SomeRows(whole, keep)
    fewer = replace(scan, lines=scan.lines[keep].copy(), samples=samples)
    kept = mask & rows
    return Undersampled(_centred(fewer, encoding), kept, int(rows.sum()) / int(kept.sum()))


def _sorted(scan: RawScan) -> tuple[RawScan, Encoding, NDArray[np.intp]]:
    """The scan with echo-planar lines regridded, the encoding of its images, its imaging lines."""
    scan = epi.straighten(scan)
    return scan, scan.encodings[sort.choose_encoding(scan)], sort.kinds(scan).imaging


def _centred(scan: RawScan, encoding: Encoding) -> RawScan:
    """The scan with the centre of k-space stated in its header: it follows from all lines, but not from a few."""
    limits = dict(encoding.limits)
    for axis, name in ((1, "kspace_encoding_step_1"), (2, "kspace_encoding_step_2")):
        n = encoding.encoded_matrix[axis]
        limits.setdefault(name, Limit(0, n - 1, n // 2))
    stated = replace(encoding, limits=limits)
    return replace(scan, encodings=tuple(stated if e is encoding else e for e in scan.encodings))


def _factors(acceleration: int) -> tuple[int, int]:
    """R as two whole factors (z, y) that are as equal as possible, the larger along y."""
    z = max(f for f in range(1, math.isqrt(acceleration) + 1) if acceleration % f == 0)
    return z, acceleration // z
