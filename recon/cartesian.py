"""Cartesian scans: batches of slices or slabs through calibration, solver and the image's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import measured, methods, trust
from recon import pace as paces
from recon import plan as planning
from recon.calibration import Calibrated, calibrated, calibrating_rows, maps_of
from recon.data import Measurement, ReconError
from recon.job import Job, devices
from recon.kernels.steady import total
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.pace import Pace
from recon.prepare import hybrid, place, units
from recon.prepare.complete import complete
from recon.prepare.finish import finer, finish
from recon.prepare.gauge import interpolated
from recon.prepare.hybrid import Lines, Slab
from recon.prepare.sampling import Sampling, sampling
from recon.prepare.sensitivities import combine, first_coil
from recon.prepare.walsh import walsh
from recon.progress import Report
from recon.recipe import Method
from recon.solve import cg, position
from recon.solve.grappa import grappa
from recon.trust import Evidence


@dataclass(frozen=True)
class EncodedImages:
    """Complex images (item, z, y, x) on the encoded grid, their uncertainty (or None), and evidence on learned ones.

    `phase` holds the maps (item, coil, z, y, x) and the coil (item, coil) that decide theirs, where that is wanted.
    `notes` say what is wrong with classical ones.
    """

    images: Tensor
    deviation: Tensor | None = None
    evidence: tuple[Evidence, ...] = ()
    phase: tuple[Tensor, Tensor] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Images of a batch on the image's own grid, their uncertainty where it is wanted, evidence and notes."""

    images: list[NDArray[np.complex64]]
    deviations: list[NDArray[np.float32]]
    evidence: tuple[Evidence, ...]
    notes: list[str]


def volumes(job: Job, report: Report) -> tuple[NDArray[np.complex64], dict[str, Any], list[str]]:
    """All volumes of a job, (volume, z, y, x) on the image's own grid, how they were made, and notes.

    `how` holds the uncertainty map of the same shape where the recipe asks for replicas. Raises DataError for lines
    that cannot calibrate or hold no numbers, ReconError for a method that does not fit the scan or its memory.
    """
    acquired = {key: hybrid.counts(job.scan, f.rows, job.encoding) for key, f in job.frames.items()}
    job = replace(job, gain=units.gain(job.encoding, acquired.values()))
    found = sampling(acquired[0, 0] > 0)
    choice = _choice(job, found)
    lines = _lines(job, choice.method)
    top = max(int(c.max()) for c in acquired.values())
    choice, problem, plan = _planned(job, lines, choice, acquired)

    shape = job.stack.geometry.shape if len(job.stack.slices) == 1 else (1, *job.stack.geometry.shape[1:])
    out = np.empty((len(job.volumes), *job.stack.geometry.shape), np.complex64)
    keys = sorted(job.frames, key=lambda key: (key[1], key[0]))
    spread = np.zeros(out.shape, np.float32) if job.recipe.trust.replicas else None
    evidence: list[Evidence] = []
    notes = methods.cautions(choice.method, job.recipe.solve, volume=lines.shape[0] > 1)
    calibrating = {key: calibrating_rows(job, job.frames[key], acquired[key]) for key in keys}
    notes += _shared(job, calibrating)
    last: tuple[Pace, NDArray[np.intp], Calibrated] | None = None

    def work(batch: Sequence[tuple[int, int]], pace: Pace) -> Finished:
        nonlocal last
        here, slabs, known = replace(job, device=pace.device), [], []
        if job.solver:
            measured.whole(job, len(batch), pace.columns)
        # All of k-space of a volume that is solved in parts stays with the CPU.
        near = replace(lines, device=torch.device("cpu") if pace.columns else pace.device)
        for key in batch:
            rows = calibrating[key]
            if last is None or last[0] != pace or not np.array_equal(last[1], rows):
                last = pace, rows, calibrated(near, rows, choice.method, here, in_parts=pace.columns > 0)
            known.append(replace(last[2], separate=not np.isin(rows, job.frames[key].rows).any()))
            slabs.append(hybrid.slab(replace(near, compression=last[2].compression), job.frames[key].rows))
        if pace.columns:
            solved = _by_columns(choice.method, slabs[0], known[0], top, here, pace.columns)
        else:
            solved = _images(choice.method, slabs, known, top, here, instead=choice.instead)
        return _finished(solved, slabs, choice.method, here, shape)

    batch_size = measured.whole(job, plan.batch, plan.columns) if job.solver else plan.batch
    reached = start = Pace(job.device, batch_size, plan.columns)
    how: dict[str, Any] = {"method": choice.method, "why": choice.why, "sampling": asdict(found)}
    how["instead"] = choice.instead or "classical"
    how |= methods.evidence(choice.method, job.recipe.solve)
    for batch, made, reached in paces.walk(keys, start, problem, work, notes):
        evidence += made.evidence
        notes += made.notes
        for i, key in enumerate(batch):
            z = 0 if len(job.stack.slices) == 1 else key[1]
            out[key[0], z : z + shape[0]] = made.images[i]
            if spread is not None and made.deviations:
                spread[key[0], z : z + shape[0]] = made.deviations[i]
            if job.hand:
                told = trust.summary(made.evidence[i : i + 1])
                doubts = trust.not_trusted(told, how["instead"], job.recipe.trust.fallback)
                about = {**how, "device": devices(job.device, reached.device), "trust": told}
                job.hand(key, made.images[i], about, [*notes, *doubts])
        report("reconstruct", keys.index(batch[-1]) + 1, len(keys))
    told = trust.summary(evidence)
    if told and spread is not None:
        told["calibration"] = methods.calibration(job.recipe.solve.weights)
    how["device"] = devices(job.device, reached.device)
    notes += trust.not_trusted(told, how["instead"], job.recipe.trust.fallback)
    return out, {**how, "uncertainty": spread, "trust": told}, notes


def _choice(job: Job, found: Sampling) -> methods.Choice:
    """The method for what was sampled; raises ReconError where replicas are asked of one that makes none."""
    if job.solver:
        choice = measured.choice(job)
    else:
        network = methods.offered(job.recipe, job.whitening.source)
        choice = methods.choose(job.recipe.solve.method, found, job.whitening.matrix.shape[0], network=network)
    if job.recipe.trust.replicas and choice.method in ("combine", "grappa", "varnet"):
        raise ReconError(f"{choice.method} makes no replicas; choose --method sense, or set trust.replicas = 0")
    return choice


def _shared(job: Job, calibrating: Mapping[tuple[int, int], NDArray[np.intp]]) -> list[str]:
    """A note where coils are calibrated by more lines than those of their own frame."""
    for key, rows in calibrating.items():
        own = job.frames[key].rows
        if len(rows) > len(own) and np.isin(own, rows).all():
            return ["no frame holds ACS lines: coils are calibrated by the mean over repetitions and phases"]
    return []


def _finished(
    solved: EncodedImages, slabs: list[Slab], method: Method, job: Job, shape: tuple[int, int, int]
) -> Finished:
    images, deviations, notes = [], [], list(solved.notes)
    for i, (slab, x) in enumerate(zip(slabs, solved.images, strict=True)):
        if method != "varnet":  # a magnitude has no phase to complete k-space with
            x, said = complete(x, slab.counts > 0, slab.columns, job.recipe.prepare.partial_fourier)
            notes += said
        images.append(_scaled(_on_grid(x, i, solved, job, shape), job.gain).cpu().numpy())
        if solved.deviation is not None:
            wide = finish(solved.deviation[i].to(x.dtype), job.encoding, shape)
            deviations.append(_scaled(wide.abs(), job.gain).cpu().numpy())
    return Finished(images, deviations, solved.evidence, notes)


def _on_grid(x: Tensor, item: int, solved: EncodedImages, job: Job, shape: tuple[int, int, int]) -> Tensor:
    """The image of an item on the image's own grid, in a smooth phase where it is interpolated to a finer one."""

    def to(image: Tensor) -> Tensor:
        return finish(image, job.encoding, shape)

    if solved.phase is None:
        return to(x)
    maps, reference = solved.phase
    return interpolated(x, maps[item], reference[item], to)


def _scaled(x: Tensor, gain: float) -> Tensor:
    return x if gain == 1 else x * gain


def _planned(
    job: Job, lines: Lines, choice: methods.Choice, acquired: Mapping[Any, NDArray[np.int32]]
) -> tuple[methods.Choice, planning.Problem, planning.Plan]:
    """The plan of a method; where a network that nobody asked for needs too much memory, the classical method's."""
    budget, problem = planning.budget(job.memory), _problem(job, lines, choice.method, acquired)
    try:
        return choice, problem, planning.plan(problem, budget)
    except ReconError:
        if choice.instead is None:
            raise
    order: list[Method] = [choice.instead, "sense"]  # which needs the least
    while True:
        method = order.pop(0)
        smaller = methods.Choice(method, f"{method}: the network would need more memory than is allowed")
        problem = _problem(job, lines, method, acquired)
        try:
            return smaller, problem, planning.plan(problem, budget)
        except ReconError:
            if not order:
                raise


def _lines(job: Job, method: Method) -> Lines:
    if method == "varnet":
        # It learned from coils as they were stored, with all of the readout; one without signal it cannot take.
        alive = job.whitening.matrix.abs().sum(0) > 0
        raw = replace(job.whitening, matrix=torch.eye(len(alive), dtype=job.whitening.matrix.dtype)[alive])
        return Lines(job.scan, job.encoding, raw, job.encoding.encoded_matrix[0])
    return Lines(job.scan, job.encoding, job.whitening, hybrid.inner_columns(job.encoding))


def _problem(job: Job, lines: Lines, method: Method, acquired: Mapping[Any, NDArray[np.int32]]) -> planning.Problem:
    headers, recipe = job.scan.lines[job.kinds.imaging], job.recipe.prepare
    coils = int(headers["active_channels"][0])
    compressed = recipe.coil_compression != "none" and method != "varnet"
    # On a CPU such a slice is solved alone: in company its last bits would depend on who is beside it.
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


def _by_columns(method: Method, slab: Slab, known: Calibrated, top: int, job: Job, columns: int) -> EncodedImages:
    """The complex image (1, z, y, x) of a volume, some columns of its readout at a time.

    What belongs to the volume as a whole is found first: its mean power, which sets λ, and the phase of its coils.
    """
    nx, halo = slab.y.shape[-1], planning.HALO[method]
    weights = (slab.counts / top).sqrt()[:, :, None]
    energy = torch.stack([total((c * weights).abs().square().double(), 3) for c in slab.y]).sum()
    samples = torch.count_nonzero(slab.counts) * slab.y[:, 0, 0].numel()
    power = float(cg.signal_power(energy, samples, top**-0.5, slab.y[0].numel()))
    towards = first_coil(slab.y) if method == "combine" else None
    out = torch.empty(1, *slab.y.shape[1:], dtype=slab.y.dtype, device=job.device)
    spread = torch.zeros_like(out.real) if job.recipe.trust.replicas else None
    for start in range(0, nx, columns):
        end = min(nx, start + columns)
        low, high = start - halo, end + halo
        # For wavelets and total variation the grid is periodic; the window of the combination ends at its edges.
        low, high = (max(0, low), min(nx, high)) if method == "combine" else (low, high)
        around = torch.arange(low, high).remainder(nx)
        maps = known.maps.index_select(-1, around.to(known.maps.device)) if known.maps is not None else None
        if known.signal is not None:
            maps = maps_of(known.signal, (*slab.y.shape[1:3], nx), job, (low, high))
        part = replace(slab, y=slab.y.index_select(-1, around))
        solved = _images(method, [part], [replace(known, maps=maps)], top, job, power=power, towards=towards)
        out[..., start:end] = solved.images[..., start - low : end - low]
        if spread is not None and solved.deviation is not None:
            spread[..., start:end] = solved.deviation[..., start - low : end - low]
    return EncodedImages(out, spread)


def _images(
    method: Method,
    slabs: list[Slab],
    known: list[Calibrated],
    top: int,
    job: Job,
    *,
    instead: Method | None = None,
    power: float | None = None,
    towards: Tensor | None = None,
) -> EncodedImages:
    """The images of a batch; those of the method `instead` where a learned one is not trusted.

    `power` and `towards` are the mean power and the first coil of the whole volume where this is a part of one.
    """
    y, acquired = place.together([s.y for s in slabs]).to(job.device), place.together([s.counts for s in slabs])
    counts = acquired.to(job.device)
    if method == "grappa":
        y = torch.stack([_grappa(s, k, job) for s, k in zip(slabs, known, strict=True)])
    if method == "varnet":
        return EncodedImages(methods.varnet(y, counts, job.recipe.solve))
    if method in ("combine", "grappa"):
        coil_images = ifft(y, (-3, -2))
        if y.shape[1] == 1:
            return EncodedImages(coil_images[:, 0])
        first = torch.stack([first_coil(c) for c in coil_images]) if towards is None else towards[None]
        maps = place.together([walsh(c, reference=r).maps for c, r in zip(coil_images, first)])
        return EncodedImages(combine(coil_images, maps), phase=(maps, first) if finer(job.encoding) else None)
    sets = job.recipe.prepare.map_sets if y.shape[1] > 1 else 1
    m = _measurement(y, acquired, known, top, sets)
    solve, limits = job.recipe.solve, job.recipe.trust
    positions = position.compared(m, [k.block if k.separate else None for k in known])

    evidence: Sequence[Evidence] | None = None

    def run(given: Measurement) -> Tensor:
        nonlocal evidence
        if job.solver:
            x = measured.solved(job, given)
        elif method == "unrolled":
            x, evidence = methods.learned(
                given, solve, limits, sets=sets, instead=instead, decided=evidence, positions=positions
            )
        else:
            x = methods.solve(method, given, solve, power=power, sets=sets)
        # The first set is the object; the second takes up what wraps around.
        return x[:, 0] if sets > 1 else x

    x = run(m)
    spread = trust.replicas(m, run, count=limits.replicas, seed=solve.seed) if limits.replicas else None
    references = [k.reference for k in known if k.reference is not None] if finer(job.encoding) else []
    assert isinstance(m.A, Sense)
    phase = (m.A.maps[:, 0] if sets > 1 else m.A.maps, torch.stack(references)) if references else None
    # What is said of learned images says it too.
    far = [] if evidence else [p for p in positions if p is not None and p.elsewhere > limits.elsewhere]
    notes = tuple(f"warning: {trust.elsewhere(p.rows, p.columns)}" for p in far)
    return EncodedImages(x, spread, tuple(evidence or ()), phase, notes)


def _measurement(y: Tensor, counts: Tensor, known: list[Calibrated], top: int, sets: int) -> Measurement:
    # n lines averaged into one have noise σ/√n: weighting by √n keeps it white. What was never measured is zero anyway.
    weights = (counts / top).sqrt()[:, None, :, :, None].to(y.device)
    even = bool(((counts == 0) | (counts == top)).all())
    if y.shape[1] == 1:
        maps = torch.ones_like(y)
    else:
        maps = place.together([k.maps for k in known if k.maps is not None]).to(y.device)
    return Measurement(y if even else y * weights, Sense(maps, weights, (-3, -2), sets > 1), top**-0.5)


def measurements(job: Job, most: int) -> list[Measurement]:
    """What the solvers are given of slices of a job, at most so many, evenly spaced: y (coil, 1, ky, x).

    Raises ReconError for a volume.
    """
    acquired = {key: hybrid.counts(job.scan, f.rows, job.encoding) for key, f in job.frames.items()}
    lines = replace(_lines(job, "unrolled"), device=job.device)
    if lines.shape[0] > 1:
        raise ReconError(
            "a network adapts to slices alone and this scan is a volume; use --method unrolled as it is, or cs"
        )
    top = max(int(c.max()) for c in acquired.values())
    keys = sorted(job.frames)
    found = []
    count = min(most, len(keys))
    for n in ((2 * np.arange(count) + 1) * len(keys) // (2 * count)).tolist():
        rows = calibrating_rows(job, job.frames[keys[n]], acquired[keys[n]])
        known = calibrated(lines, rows, "unrolled", job)
        slab = hybrid.slab(replace(lines, compression=known.compression), job.frames[keys[n]].rows)
        m = _measurement(slab.y[None], slab.counts[None], [known], top, 1)
        assert isinstance(m.A, Sense)
        found.append(Measurement(m.y[0], Sense(m.A.maps[0], m.A.mask[0], m.A.axes), m.sigma))
    return found


def _grappa(slab: Slab, known: Calibrated, job: Job) -> Tensor:
    assert known.block is not None
    solve = job.recipe.solve
    k = fft(slab.y.to(job.device), (-1,))
    mask, block = slab.counts.to(job.device) > 0, known.block.to(job.device)
    z, y, x = solve.grappa_kernel
    full = grappa(k, mask, block, kernel=(z if k.shape[1] > 1 else 1, y, x), lam=solve.grappa_l2)
    return ifft(full, (-1,))
