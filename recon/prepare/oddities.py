"""Contradictions between the header of a scan and its lines; where possible the lines are used."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recon.data import ARRAYS, Encoding, Flag, RawScan, flagged
from recon.prepare import sort
from recon.prepare.sampling import disagreements, sampling

_LIMITED = ("average", "slice", "contrast", "phase", "repetition", "set")


def oddities(scan: RawScan) -> tuple[str, ...]:
    """One sentence for each rule that the scan's header breaks, found without reading samples.

    Compares encoding limits, centres, readouts, acceleration, directions, channels and field strength with the imaging
    lines. Raises DataError if there are no imaging lines.
    """
    kinds, number = sort.kinds(scan), sort.choose_encoding(scan)
    encoding = scan.encodings[number]
    rows = kinds.imaging
    lines = scan.lines[rows]
    return tuple(
        [
            *(_counters(lines, encoding, number) if scan.source not in ARRAYS else ()),
            *_spaces(encoding, number),
            *_readouts(lines, encoding),
            *(_encodes(scan, rows, encoding, number) if encoding.on_grid else _trajectory(lines, encoding)),
            *_directions(lines),
            *_system(scan, lines),
        ]
    )


def _counters(lines: NDArray[np.void], encoding: Encoding, number: int) -> Iterator[str]:
    for name in _LIMITED:
        limit, top = encoding.limits.get(name), int(lines[name].max())
        if limit is not None and limit.maximum != top:
            yield (
                f"encoding[{number}]/encodingLimits/{name} ends at {limit.maximum}, but the lines go up to "
                f"{top}; the lines are used"
            )
        elif limit is None and top:
            yield (
                f"encoding[{number}]/encodingLimits/{name} is missing, and the lines go up to {top}; the lines are used"
            )


def _spaces(encoding: Encoding, number: int) -> Iterator[str]:
    for i, axis in enumerate("xyz"):
        acquired, wanted = encoding.encoded_fov[i], encoding.recon_fov[i]
        if wanted > acquired * 1.01:
            yield (
                f"encoding[{number}] asks for {wanted:g} mm along {axis} where {acquired:g} mm were acquired; "
                "the image can only show what was acquired"
            )


def _readouts(lines: NDArray[np.void], encoding: Encoding) -> Iterator[str]:
    nx, ns, centre = encoding.encoded_matrix[0], lines["number_of_samples"], lines["center_sample"]
    if not encoding.on_grid:
        return
    if encoding.trajectory == "cartesian" and (ns > nx).any():
        yield f"readouts have up to {int(ns.max())} samples, more than encodedSpace/matrixSize/x = {nx}"
    unset = (ns == nx) & (centre == 0)
    if nx > 1 and unset.any():
        yield f"center_sample is 0 in {int(unset.sum())} of {len(lines)} full readouts; it is read as {nx // 2}"
    taken = sort.centre_samples(lines, nx)
    late = ~unset & (taken != centre)
    if late.any():
        yield (
            f"center_sample is {nx // 2} in {int(late.sum())} reversed readouts of {nx} samples, counted after "
            f"the reversal; it is read as {nx // 2 - 1}"
        )


def _encodes(scan: RawScan, rows: NDArray[np.intp], encoding: Encoding, number: int) -> Iterator[str]:
    lines, stated_by_file = scan.lines[rows], scan.source not in ARRAYS
    for axis, user in ((1, 5), (2, 6)):
        name, step = f"kspace_encoding_step_{axis}", lines[f"kspace_encode_step_{axis}"]
        limit = encoding.limits.get(name)
        if limit is None or not stated_by_file:
            continue
        first, last = int(step.min()), int(step.max())
        spacing = int(np.diff(np.unique(step)).max(initial=1))
        if last > limit.maximum or last <= limit.maximum - spacing or first >= limit.minimum + spacing:
            yield (
                f"encoding[{number}]/encodingLimits/{name} runs from {limit.minimum} to {limit.maximum}, the lines "
                f"from {first} to {last}; "
                + ("the lines are used" if last > limit.maximum else "the scan may have been stopped early")
            )
        # Siemens' converter stores the centre line and partition of each readout here.
        stated = np.unique(lines["user"][:, user])
        siemens = "siemens" in scan.header.system.vendor.lower()
        if siemens and len(stated) == 1 and stated[0] and stated[0] != limit.center:
            yield (
                f"encoding[{number}]/encodingLimits/{name}/center is {limit.center}, the lines' user[{user}] "
                f"says {int(stated[0])}; the header is used, correct it if the image is blurred or has a phase "
                "ramp"
            )
    frames = sort.frames(scan, rows)
    broken = [f for f in frames if not f.complete]
    if broken:
        yield (
            f"{len(broken)} of {len(frames)} frames lack phase encodes that the others have: they were stopped "
            "early, or accelerated more"
        )
    ky, kz, valid = sort.row_index(scan.lines[frames[0].rows], encoding)
    if valid.any() and stated_by_file:
        nz, ny = encoding.encoded_matrix[2], encoding.encoded_matrix[1]
        counts = np.bincount(kz[valid] * ny + ky[valid], minlength=nz * ny).reshape(nz, ny)
        yield from disagreements(sampling(counts), encoding, number)


def _trajectory(lines: NDArray[np.void], encoding: Encoding) -> Iterator[str]:
    if not lines["trajectory_dimensions"].any():
        yield f"the trajectory is {encoding.trajectory}, but the lines hold no k-space coordinates"


def _directions(lines: NDArray[np.void]) -> Iterator[str]:
    vectors = np.stack([lines[n].astype(np.float64) for n in ("read_dir", "phase_dir", "slice_dir")], axis=1)
    if not np.isfinite(vectors).all() or not np.isfinite(lines["position"]).all():
        yield ("positions or directions hold NaN or infinity; the position of the image in the patient is unknown")
        return
    if not vectors.any():
        return  # reported by recon.prepare.stacks
    gram = np.einsum("nik,njk->nij", vectors, vectors)
    off = np.abs(gram - np.eye(3)).max(axis=(1, 2)) > 2e-3
    if off.any():
        yield f"the directions of {int(off.sum())} of {len(lines)} lines are not orthogonal unit vectors"


def _system(scan: RawScan, lines: NDArray[np.void]) -> Iterator[str]:
    system, channels = scan.header.system, int(lines["active_channels"][0])
    if system.coil_labels and len(system.coil_labels) != channels:
        yield f"the header names {len(system.coil_labels)} coils, the lines have {channels} channels"
    if system.field_T and system.frequency_Hz:
        field = system.frequency_Hz / 42.577e6
        if abs(field - system.field_T) > 0.1 * system.field_T:
            yield f"the header states {system.field_T:g} T, but a proton frequency that belongs to {field:.3g} T"
    noise = scan.lines[flagged(scan.lines, Flag.NOISE)]
    if len(noise) and not (noise["sample_time_us"] > 0).all():
        yield ("the noise lines have no sample_time_us, so their noise cannot be scaled to the image's bandwidth")
