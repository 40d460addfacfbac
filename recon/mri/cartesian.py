"""Cartesian scans: batches of slices or slabs through calibration and solver to the image's grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import plan as planning
from recon import trust
from recon.data import Measurement, ReconError
from recon.job import Job, devices
from recon.mri import encoded, measured, networks
from recon.mri import pace as paces
from recon.mri.calibration import Calibrated, calibrated, calibrating_rows
from recon.mri.choice import Choice, cautions, choose, offered
from recon.mri.encoded import EncodedImages
from recon.mri.pace import Pace
from recon.operators.sense import Sense
from recon.prepare import ghost, hybrid, units
from recon.prepare import offset as receiver
from recon.prepare.complete import complete
from recon.prepare.finish import finish
from recon.prepare.gauge import interpolated
from recon.prepare.hybrid import Lines, Slab
from recon.prepare.sampling import Sampling, decisive, sampling
from recon.prepare.sort import Frame
from recon.progress import Report
from recon.recipe import Method
from recon.trust import Evidence


@dataclass(frozen=True)
class Finished:
    """Images of a batch on the image's own grid, their uncertainty if requested, evidence and notes."""

    images: list[NDArray[np.complex64]]
    deviations: list[NDArray[np.float32]]
    evidence: tuple[Evidence, ...]
    notes: list[str]


def volumes(job: Job, report: Report) -> tuple[NDArray[np.complex64], dict[str, Any], list[str]]:
    """All volumes of a job, (volume, z, y, x) on the image's own grid, how they were made, and notes.

    `how` holds the uncertainty map of the same shape if the recipe asks for replicas. Raises DataError for lines that
    cannot calibrate or contain NaN, ReconError for a method that does not fit the scan or the memory.
    """
    acquired = {key: hybrid.counts(job.scan, f.rows, job.encoding) for key, f in job.frames.items()}
    job, tops = replace(job, gain=_gain(job, acquired)), _tops(job, acquired)
    found = job.whole.sampled or sampling(decisive(acquired.values()) > 0)
    choice = _choice(job, found)
    lines = _lines(job, choice.method)
    choice, problem, plan = _planned(job, lines, choice, acquired)

    shape = job.stack.geometry.shape if len(job.stack.slices) == 1 else (1, *job.stack.geometry.shape[1:])
    out = np.empty((len(job.volumes), *job.stack.geometry.shape), np.complex64)
    keys = sorted(job.frames, key=lambda key: (key[1], key[0]))
    spread = np.zeros(out.shape, np.float32) if job.recipe.trust.replicas else None
    evidence: list[Evidence] = []
    notes = cautions(choice.method, job.recipe.solve, found.shape, job.whitening.matrix.shape[0])
    calibrating = {key: calibrating_rows(job, job.frames[key], acquired[key]) for key in keys}
    notes += _shared(job, calibrating)
    last: tuple[Pace, NDArray[np.intp], Calibrated] | None = None

    def work(batch: Sequence[tuple[int, int]], pace: Pace) -> Finished:
        nonlocal last
        here, slabs, known, said, top = replace(job, device=pace.device), [], [], list[str](), tops[batch[0]]
        seeds = [_seed(job.recipe.solve.seed, job.frames[key]) for key in batch]
        if job.solver:
            measured.whole(job, len(batch), pace.columns)
        # The k-space of a volume that is solved in parts stays on the CPU.
        near = replace(lines, device=torch.device("cpu") if pace.columns else pace.device)
        for key in batch:
            own, rows = job.frames[key].rows, calibrating[key]
            image = _ghost_free(near, own, job, said)
            if last is None or last[0] != pace or not np.array_equal(last[1], rows):
                apart = _calibrating(near, image, own, rows, job, said)
                last = pace, rows, calibrated(apart, rows, choice.method, here, in_parts=pace.columns > 0)
            known.append(replace(last[2], separate=not np.isin(rows, own).any()))
            slabs.append(_slab(replace(image, compression=last[2].compression), own, job, said))
        if pace.columns:
            solved = encoded.by_columns(choice.method, slabs[0], known[0], top, here, pace.columns, seeds[0])
        else:
            solved = encoded.images(choice.method, slabs, known, top, here, seeds=seeds, instead=choice.instead)
        return _finished(solved, slabs, choice.method, here, shape, said)

    batch_size = measured.whole(job, plan.batch, plan.columns) if job.solver else plan.batch
    reached = start = Pace(job.device, batch_size, plan.columns)
    how = _description(job, choice, found)
    parts = _alike(job, keys, tops, acquired)
    for batch, made, reached in paces.walk_parts(parts, start, problem, work, notes):
        evidence += made.evidence
        notes += made.notes
        for i, key in enumerate(batch):
            z = 0 if len(job.stack.slices) == 1 else key[1]
            out[key[0], z : z + shape[0]] = made.images[i]
            if spread is not None and made.deviations:
                spread[key[0], z : z + shape[0]] = made.deviations[i]
            if job.hand:
                _hand_on(job, key, made, i, {**how, "device": devices(job.device, reached.device)}, notes)
        report("reconstruct", keys.index(batch[-1]) + 1, len(keys))
    told = trust.summary(evidence)
    if told and spread is not None:
        told["calibration"] = networks.calibration(job.recipe.solve.weights)
    how["device"] = devices(job.device, reached.device)
    notes += trust.not_trusted(told, how["instead"], job.recipe.trust.fallback)
    return out, {**how, "uncertainty": spread, "trust": told}, notes


def _description(job: Job, choice: Choice, found: Sampling) -> dict[str, Any]:
    """How the images of a scan are made: the method, the reason, the fallback, and the sampling."""
    how = {"method": choice.method, "why": choice.why, "sampling": asdict(found)}
    return {**how, "instead": choice.instead or "classical", **networks.evidence(choice.method, job.recipe.solve)}


def _seed(seed: int, frame: Frame) -> int:
    """The seed of the replicas of a frame: it does not depend on other frames."""
    counters = (frame.contrast, frame.phase, frame.repetition, frame.set, frame.slice)
    return int(np.random.SeedSequence((seed % 2**63, *counters)).generate_state(1)[0])


def _gain(job: Job, acquired: Mapping[tuple[int, int], NDArray[np.int32]]) -> float:
    """The gain of all frames: by the averages of the first complete frame, or those of the whole scan."""
    first = min(job.frames, key=lambda key: int(job.frames[key].rows[-1]))
    return units.gain(job.encoding, job.whole.averages or units.averages(acquired[first]))


def _tops(job: Job, acquired: Mapping[tuple[int, int], NDArray[np.int32]]) -> dict[tuple[int, int], int]:
    """How often the most frequently measured row of the frame, or of all frames for a joint solver, was acquired."""
    tops = {key: max(1, int(c.max())) for key, c in acquired.items()}
    return dict.fromkeys(tops, max(tops.values())) if job.solver else tops


def _alike(
    job: Job,
    keys: Sequence[tuple[int, int]],
    tops: Mapping[tuple[int, int], int],
    acquired: Mapping[tuple[int, int], NDArray[np.int32]],
) -> Iterator[list[tuple[int, int]]]:
    """The frames that may be solved together: those with the same `top`, and on a CPU with the same rows.

    Together with a frame of other rows, the last bits of an image would differ from those of a separate run.
    """
    exact = job.device.type == "cpu" and not job.solver
    for _, some in groupby(keys, lambda key: acquired[key].tobytes() if exact else tops[key]):
        yield list(some)


def _hand_on(
    job: Job, key: tuple[int, int], made: Finished, item: int, how: dict[str, Any], notes: Sequence[str]
) -> None:
    """Pass on the image of one frame, with the notes from its own evidence."""
    assert job.hand is not None
    told = trust.summary(made.evidence[item : item + 1])
    doubts = trust.not_trusted(told, how["instead"], job.recipe.trust.fallback)
    spread = made.deviations[item][np.newaxis] if made.deviations else None
    job.hand(key, made.images[item], {**how, "uncertainty": spread, "trust": told}, [*notes, *doubts])


def _choice(job: Job, found: Sampling) -> Choice:
    """The method for the sampling found; raises ReconError if replicas are requested of a method that makes none."""
    if job.solver:
        choice = measured.choice(job)
    else:
        network = offered(job.recipe, job.whitening.source)
        choice = choose(job.recipe.solve.method, found, job.whitening.matrix.shape[0], network=network)
    if job.recipe.trust.replicas and choice.method in ("combine", "grappa", "varnet"):
        raise ReconError(f"{choice.method} does not support replicas; choose --method sense, or set trust.replicas = 0")
    return choice


def _shared(job: Job, calibrating: Mapping[tuple[int, int], NDArray[np.intp]]) -> list[str]:
    """A note if coils are calibrated by more lines than those of their own frame."""
    for key, rows in calibrating.items():
        own = job.frames[key].rows
        if len(rows) > len(own) and np.isin(own, rows).all():
            return [
                "no frame holds ACS lines: coil sensitivities are calibrated on the mean over repetitions and phases"
            ]
    return []


def _finished(
    solved: EncodedImages,
    slabs: list[Slab],
    method: Method,
    job: Job,
    shape: tuple[int, int, int],
    said: Sequence[str],
) -> Finished:
    images, deviations, notes = [], [], [*said, *solved.notes]
    for i, (slab, x) in enumerate(zip(slabs, solved.images, strict=True)):
        if method != "varnet":  # a magnitude has no phase to complete k-space with
            x, completed = complete(x, slab.counts > 0, slab.columns, job.recipe.prepare.partial_fourier)
            notes += completed
        images.append(_scaled(_on_grid(x, i, solved, job, shape), job.gain).cpu().numpy())
        if solved.deviation is not None:
            wide = finish(solved.deviation[i].to(x.dtype), job.encoding, shape)
            deviations.append(_scaled(wide.abs(), job.gain).cpu().numpy())
    return Finished(images, deviations, solved.evidence, notes)


def _ghost_free(lines: Lines, rows: NDArray[np.intp], job: Job, said: list[str]) -> Lines:
    """The lines with the remaining echo-planar ghost removed from some of them; a correction is added to `said`."""
    if job.recipe.prepare.ghost != "auto":
        return lines
    lines, note = ghost.freed(lines, rows)
    said += [note] if note else []
    return lines


def _calibrating(
    lines: Lines, image: Lines, own: NDArray[np.intp], rows: NDArray[np.intp], job: Job, said: list[str]
) -> Lines:
    """The calibrating lines without the ghost: those of the `image` if they are its `own`, else corrected here."""
    return image if rows is own else _ghost_free(lines, rows, job, said)


def _slab(lines: Lines, rows: NDArray[np.intp], job: Job, said: list[str]) -> Slab:
    """The slab of some lines without the receiver's offset; a correction is added to `said`."""
    slab = hybrid.slab(lines, rows)
    # A constant that noise lines do not contain is a bright point of the object.
    wanted = job.recipe.prepare.offset == "auto" and job.whitening.offset is not False
    found = receiver.offset(slab) if wanted else None
    if found is not None:
        receiver.subtract(slab, found)
        size = f", {found.size:.1g} times the noise" if job.whitening.known else ""
        said.append(
            f"the receiver added a constant (DC offset) to all samples{size}: it would make a bright dot in "
            'the middle of the image and was subtracted (prepare.offset = "keep" leaves it)'
        )
    return slab


def _on_grid(x: Tensor, item: int, solved: EncodedImages, job: Job, shape: tuple[int, int, int]) -> Tensor:
    """The image of an item on the image's own grid; if the grid is finer, it is interpolated in a smooth phase."""

    def to(image: Tensor) -> Tensor:
        return finish(image, job.encoding, shape)

    if solved.phase is None:
        return to(x)
    maps, reference = solved.phase
    return interpolated(x, maps[item], reference[item], to)


def _scaled(x: Tensor, gain: float) -> Tensor:
    return x if gain == 1 else x * gain


def _planned(
    job: Job, lines: Lines, choice: Choice, acquired: Mapping[Any, NDArray[np.int32]]
) -> tuple[Choice, planning.Problem, planning.Plan]:
    """The plan of a method; if a network chosen by "auto" needs too much memory, that of the classical method."""
    budget, problem = planning.budget(job.memory), _problem(job, lines, choice.method, acquired)
    try:
        return choice, problem, planning.plan(problem, budget)
    except ReconError:
        if choice.instead is None:
            raise
    order: list[Method] = [choice.instead, "sense"]  # which needs the least
    while True:
        method = order.pop(0)
        smaller = Choice(method, f"{method}: the network would need more memory than is allowed")
        problem = _problem(job, lines, method, acquired)
        try:
            return smaller, problem, planning.plan(problem, budget)
        except ReconError:
            if not order:
                raise


def _lines(job: Job, method: Method) -> Lines:
    if method == "varnet":
        # It was trained on coils as they were stored, with the whole readout; it cannot take a coil without signal.
        alive = job.whitening.matrix.abs().sum(0) > 0
        raw = replace(job.whitening, matrix=torch.eye(len(alive), dtype=job.whitening.matrix.dtype)[alive])
        return Lines(job.scan, job.encoding, raw, job.encoding.encoded_matrix[0])
    return Lines(job.scan, job.encoding, job.whitening, hybrid.inner_columns(job.encoding))


def _problem(job: Job, lines: Lines, method: Method, acquired: Mapping[Any, NDArray[np.int32]]) -> planning.Problem:
    headers, recipe = job.scan.lines[job.kinds.imaging], job.recipe.prepare
    coils = int(headers["active_channels"][0])
    compressed = recipe.coil_compression != "none" and method != "varnet"
    # On a CPU such a slice is solved alone: in a batch its last bits would depend on the other slices.
    alone = method in ("combine", "grappa", "unrolled")
    return planning.Problem(
        coils=coils,
        virtual_coils=min(coils, recipe.virtual_coils) if compressed else coils,
        grid=(*lines.shape, lines.nx),
        samples=int(headers["number_of_samples"].max()),
        lines=max(int((c > 0).sum()) for c in acquired.values()),
        items=len(job.frames),
        voxels=int(np.prod(job.stack.geometry.shape)) // len(job.stack.slices),
        method=method,
        map_sets=recipe.map_sets,
        most=len(job.volumes) if job.solver else 1 if job.device.type == "cpu" and (alone or job.hand) else 16,
    )


def measurements(job: Job, most: int) -> list[Measurement]:
    """Measurements of slices of a job as the solvers get them, at most `most`, evenly spaced: y (coil, 1, ky, x).

    Raises ReconError for a volume.
    """
    acquired = {key: hybrid.counts(job.scan, f.rows, job.encoding) for key, f in job.frames.items()}
    lines = replace(_lines(job, "unrolled"), device=job.device)
    if lines.shape[0] > 1:
        raise ReconError(
            "a network can be adapted only to slices, and this scan is a 3D volume; use --method unrolled "
            "without adapting it, or cs"
        )
    keys = sorted(job.frames)
    found = []
    count = min(most, len(keys))
    for n in ((2 * np.arange(count) + 1) * len(keys) // (2 * count)).tolist():
        own, rows = job.frames[keys[n]].rows, calibrating_rows(job, job.frames[keys[n]], acquired[keys[n]])
        image = _ghost_free(lines, own, job, [])
        known = calibrated(_calibrating(lines, image, own, rows, job, []), rows, "unrolled", job)
        slab = _slab(replace(image, compression=known.compression), own, job, [])
        top = max(1, int(acquired[keys[n]].max()))
        m = encoded.measurement(slab.y[None], slab.counts[None], [known], top, 1)
        assert isinstance(m.A, Sense)
        found.append(Measurement(m.y[0], Sense(m.A.maps[0], m.A.mask[0], m.A.axes), m.sigma))
    return found
