"""Radial, spiral and other non-Cartesian scans: 2D, stacks of equal planes, and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import plan as planning
from recon.data import DataError, Measurement, ReconError
from recon.job import Job, devices
from recon.mri import measured as own
from recon.mri import methods
from recon.mri import pace as paces
from recon.mri.choice import Choice, choose
from recon.mri.pace import Pace
from recon.operators import Coils, Weight, fft, ifft
from recon.operators.nufft import Nufft
from recon.prepare import compress, noise, place, trajectory
from recon.prepare.density import pipe
from recon.prepare.espirit import espirit
from recon.prepare.readout import crop
from recon.prepare.sampling import Sampling
from recon.prepare.sort import Frame
from recon.progress import Report
from recon.recipe import Method, Prepare

#: A k-space position, in cycles per field of view, outside every grid.
_OUTSIDE = 1e6

#: Any sampling that is not on a grid.
_NONE = Sampling((0, 0), 0, (0, 0), 0, None, (1.0, 1.0), ("", ""), 0.0)


def volumes(job: Job, report: Report) -> tuple[NDArray[np.complex64], dict[str, Any], list[str]]:
    """All volumes of a job, (volume, z, y, x) on the image's own grid, how they were made, and notes."""
    coils = job.whitening.matrix.shape[0]
    choice = own.choice(job) if job.solver else choose(job.recipe.solve.method, _NONE, coils, cartesian=False)
    out = np.empty((len(job.volumes), *job.stack.geometry.shape), np.complex64)
    notes = _otherwise(job.recipe.prepare)
    sampled: list[float] = []
    problem = _problem(job, coils)
    plan = planning.plan(problem, planning.budget(job.memory))
    size = own.whole(job, plan.batch, 0) if job.solver else 1
    keys = sorted(job.frames, key=lambda key: (key[1], key[0]))

    def work(some: Sequence[tuple[int, int]], pace: Pace) -> tuple[NDArray[np.complex64], float, list[str]]:
        if job.solver:
            own.whole(job, len(some), 0)
        here = replace(job, device=pace.device)
        found = [_measured(here, job.frames[key]) for key in some]
        images = _images(here, found, choice.method).cpu().numpy()
        return images, float(np.mean([f.share for f in found])), [note for f in found for note in f.notes]

    reached = start = Pace(job.device, size)
    done = 0
    for some, (images, share, said), reached in paces.walk(keys, start, problem, work, notes):
        sampled.append(share)
        notes += said
        for key, image in zip(some, images, strict=True):
            z = 0 if len(job.stack.slices) == 1 else key[1]
            out[key[0], z : z + image.shape[0]] = image
            if job.hand:
                job.hand(key, image, _description(job, choice, [share], reached), notes)
        done += len(some)
        report("reconstruct", done, len(keys))
    return out, _description(job, choice, sampled, reached), notes


def _otherwise(prepare: Prepare) -> list[str]:
    """Notes on settings with another meaning for non-Cartesian scans."""
    settings = (("maps", "walsh", "espirit"), ("coil_compression", "geometric", "svd"))
    return [
        f'prepare.{name} = "{value}" is for Cartesian scans; for this one it means "{meant}"'
        for name, value, meant in settings
        if getattr(prepare, name) == value
    ]


def _description(job: Job, choice: Choice, sampled: list[float], reached: Pace) -> dict[str, Any]:
    """How the images were made, given the sampled shares of their grids."""
    sampling = {"trajectory": job.encoding.trajectory, "samples_per_voxel": round(float(np.mean(sampled)), 4)}
    device = devices(job.device, reached.device)
    return {"method": choice.method, "why": choice.why, "sampling": sampling, "device": device}


@dataclass(frozen=True)
class _Measured:
    """The measurement of one slice or slab, the mean power of its image, samples per voxel, and notes."""

    measurement: Measurement
    power: float
    sets: int
    share: float
    notes: tuple[str, ...]


def _measured(job: Job, frame: Frame) -> _Measured:
    matrix = job.encoding.recon_matrix
    nz = matrix[2] if job.encoding.encoded_matrix[2] > 1 else 1
    standard = job.recipe.prepare.trajectory or None
    points, notes = trajectory.of_scan(job.scan, frame.rows, job.encoding, standard=standard)
    points = _without_discarded(points, job.scan.lines[frame.rows])
    y = place.upload(job.scan.samples.read(frame.rows), job.device)
    y = noise.apply(job.whitening.matrix, y).movedim(1, 0)  # (coil, line, sample)
    if points.shape[-1] == 2 and nz > 1:
        points, y, said = _planes(job, frame, points, y, nz)
        notes = (*notes, *said)
    else:
        y = y[:, None]
    shape = (matrix[1], matrix[0]) if points.shape[-1] == 2 else (nz, matrix[1], matrix[0])
    # Samples beyond the grid's edge would alias into it.
    keep = torch.from_numpy(trajectory.inside(points, shape)).to(job.device)
    k = torch.from_numpy(points).to(job.device, torch.float32)
    k = torch.where(keep[..., None], k, torch.zeros_like(k))
    y = torch.where(keep, y.to(job.device), 0)
    if not bool(torch.isfinite(torch.view_as_real(y)).all()):
        raise DataError(
            f"lines of slice {frame.slice} hold NaN or infinite samples; leave out these lines or channels, or "
            "convert the scan again"
        )
    if job.recipe.prepare.offcentre:
        y, said = _shifted(job, frame, points, y, shape)
        notes = (*notes, *said)
    nufft = Nufft(k, shape)
    weights = pipe(k, shape, keep=keep)
    gridded = nufft.adjoint(weights * y)  # (coil, z, y, x)
    if gridded.shape[0] > job.recipe.prepare.virtual_coils and job.recipe.prepare.coil_compression != "none":
        matrix_c = compress.svd(_block(gridded, job), virtual=job.recipe.prepare.virtual_coils).matrix
        y, gridded = torch.tensordot(matrix_c, y, 1), torch.tensordot(matrix_c, gridded, 1)
    if gridded.shape[0] == 1:
        maps, sets = torch.ones_like(gridded), 1
    else:
        sets = job.recipe.prepare.map_sets
        found = espirit(
            _block(gridded, job),
            (gridded.shape[-3], gridded.shape[-2], gridded.shape[-1]),
            kernel=job.recipe.prepare.espirit_kernel,
            threshold=job.recipe.prepare.espirit_threshold,
            crop=job.recipe.prepare.espirit_crop,
            sets=sets,
        )
        maps = found.maps
    operator = Weight(keep.to(torch.float32)) @ nufft @ Coils(maps, sets > 1)
    power = _mean_power(Coils(maps, sets > 1).adjoint(gridded))
    return _Measured(Measurement(y, operator), power, sets, float(keep.sum()) / math.prod(shape), notes)


def _mean_power(x: Tensor) -> float:
    """Mean of |x|² over all voxels of an image, never zero."""
    return max(float(x.abs().square().mean(dtype=torch.float64)), torch.finfo(torch.float32).tiny)


def _images(job: Job, found: Sequence[_Measured], method: Method) -> Tensor:
    """The images (item, z, y, x) of slices or slabs, all together for the caller's own solver."""
    if job.solver:
        x = own.solved(job, own.together([f.measurement for f in found]))
    else:
        solve = job.recipe.solve
        x = torch.stack([methods.solve(method, f.measurement, solve, power=f.power, sets=f.sets) for f in found])
    return x[:, 0] if found[0].sets > 1 else x


def _without_discarded(points: NDArray[np.float64], lines: NDArray[np.void]) -> NDArray[np.float64]:
    """The points (line, sample, dimension), with those of discarded samples moved far outside any grid."""
    sample, samples = np.arange(points.shape[1]), lines["number_of_samples"].astype(np.int64)
    late = sample >= (samples - lines["discard_post"])[:, None]
    early = sample < lines["discard_pre"].astype(np.int64)[:, None]
    return np.where((early | late)[..., None], _OUTSIDE, points)


def _problem(job: Job, coils: int) -> planning.Problem:
    headers, recipe = job.scan.lines[job.kinds.imaging], job.recipe.prepare
    nx, ny, nz = job.encoding.recon_matrix
    items = len(job.frames)
    return planning.Problem(
        coils=coils,
        virtual_coils=min(coils, recipe.virtual_coils) if recipe.coil_compression != "none" else coils,
        grid=(nz if job.encoding.encoded_matrix[2] > 1 else 1, ny, nx),
        samples=int(headers["number_of_samples"].max()),
        lines=-(-len(headers) // items),
        items=items,
        voxels=int(np.prod(job.stack.geometry.shape)) // len(job.stack.slices),
        method="noncartesian",
        map_sets=recipe.map_sets,
        most=len(job.volumes) if job.solver else 16,
    )


def _block(gridded: Tensor, job: Job) -> Tensor:
    """The centre of the gridded k-space (coil, cz, cy, cx), for calibration."""
    size = job.recipe.prepare.calibration_size
    axes = (-3, -2, -1) if job.encoding.encoded_matrix[2] > 1 else (-2, -1)
    block = fft(gridded, axes)
    for axis in axes:
        block = crop(block, axis, min(size, block.shape[axis]))
    return block.contiguous()


def _planes(
    job: Job, frame: Frame, points: NDArray[np.float64], y: Tensor, nz: int
) -> tuple[NDArray[np.float64], Tensor, tuple[str, ...]]:
    """A stack of equal planes: the Cartesian axis kz is transformed first, which leaves nz slices with one trajectory.

    Raises DataError if partitions are missing or have different trajectories.
    """
    partition = job.scan.lines["kspace_encode_step_2"][frame.rows]
    numbers = np.unique(partition)
    encoded = job.encoding.encoded_matrix[2]
    order = [np.nonzero(partition == n)[0] for n in numbers]
    order = [
        rows[np.argsort(job.scan.lines["kspace_encode_step_1"][frame.rows[rows]], kind="stable")] for rows in order
    ]
    same = len({len(rows) for rows in order}) == 1
    if (
        len(numbers) != encoded
        or not same
        or any(np.abs(points[rows] - points[order[0]]).max() > 0.05 for rows in order)
    ):
        raise DataError(
            f"the stack of stars or spirals holds {len(numbers)} of {encoded} partitions, or its partitions "
            "have different trajectories; give three-dimensional k-space positions with --trajectory"
        )
    if nz > encoded:
        raise ReconError(
            f"reconSpace has {nz} partitions and only {encoded} were encoded; set them equal in the header"
        )
    stacked = torch.stack([y[:, torch.from_numpy(rows)] for rows in order], dim=1)  # (coil, kz, line, sample)
    hybrid = crop(ifft(stacked, (1,)), 1, nz)
    return points[order[0]], hybrid, (f"{encoded} equal planes, transformed along the partitions first",)


def _shifted(
    job: Job, frame: Frame, points: NDArray[np.float64], y: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, tuple[str, ...]]:
    """Samples that were demodulated at the isocentre, shifted to the position of the slice."""
    line, encoding = job.scan.lines[frame.rows[0]], job.encoding
    voxel = [f / n for f, n in zip(encoding.recon_fov, encoding.recon_matrix)][::-1][-len(shape) :]
    names = ("slice_dir", "phase_dir", "read_dir")[-len(shape) :]
    shift = trajectory.isocentre_shift(line["position"], [line[name] for name in names], voxel)
    phase = trajectory.offcentre_phase(points, shift, shape)
    moved = ", ".join(f"{s:.1f}" for s in shift)
    return y * torch.from_numpy(phase).to(y.device), (f"moved from the isocentre to the slice by {moved} voxels",)
