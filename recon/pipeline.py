"""The pipeline: reconstruct(scan, recipe) → Image. Command line, scanner server and benchmarks all call it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import (
    ARRAYS,
    FRAME_COUNTERS,
    CTImages,
    CTProjections,
    CTSeries,
    CTViews,
    DataError,
    Image,
    Measurement,
    RawScan,
    ReconError,
    counted,
)  # fmt: skip
from recon.io.arrays import plane
from recon.job import Job, Solver, Whole, described, provenance, understood
from recon.prepare import epi, scan_noise, sort, support
from recon.prepare import stacks as stacking
from recon.prepare.clipped import clipped
from recon.prepare.helical import fans
from recon.prepare.oddities import oddities
from recon.prepare.sort import Frame
from recon.prepare.stacks import Stack
from recon.prepare.volumes import whole_volumes
from recon.progress import Report, silent
from recon.recipe import Recipe

Scan = RawScan | CTImages | CTProjections | CTViews


def slices(stack: Stack | CTSeries | CTProjections | CTViews, recipe: Recipe) -> int:
    """How many slices the image of one of `stacks` will have; raises DataError for projections that give none."""
    if isinstance(stack, (Stack, CTSeries)):
        return stack.geometry.shape[0]
    if isinstance(stack, CTViews):
        stack = fans(stack, recipe.ct.thickness)
    if stack.beam == "cone":
        from recon.prepare.ct import volume_operator  # an MRI scan should not wait for what CT needs

        return volume_operator(stack, recipe.ct.matrix, recipe.ct.voxel, recipe.ct.thickness).shape[0]
    return len(stack.values)


@overload
def stacks(scan: RawScan) -> Sequence[Stack]: ...
@overload
def stacks(scan: Scan) -> Sequence[Stack | CTSeries | CTProjections | CTViews]: ...
def stacks(scan: Scan) -> Sequence[Stack | CTSeries | CTProjections | CTViews]:
    """The groups of parallel slices of a scan, or series of CT images; `reconstruct` makes an image of one of them."""
    if isinstance(scan, CTImages):
        return scan.series
    if isinstance(scan, (CTProjections, CTViews)):
        return [scan]
    return stacking.stacks(scan, sort.kinds(scan).imaging, scan.encodings[sort.choose_encoding(scan)])


def reconstruct(
    scan: Scan,
    recipe: Recipe = Recipe(),
    *,
    device: str = "auto",
    memory: int | None = None,
    stack: int = 0,
    progress: Report | None = None,
    keep: Callable[[Solved], None] | None = None,
    each: Callable[[FrameImage], None] | None = None,
    solver: Solver | None = None,
    whole: Whole = Whole(),
) -> Image:
    """The image of a raw scan, of CT projections or of CT images, as its recipe says.

    `stack` numbers the group of parallel slices from 0 (see `stacks`). `device` is "auto", "cpu", "cuda" or "cuda:N".
    `memory` limits the bytes used, by default to what is free. Leading axes of the image are the counters with more
    than one value (FRAME_COUNTERS). `keep` is called with the solution of a raw scan, for `recon.serve.joined`. `each`
    is called with the image of each frame as soon as it is solved; if all of it is zero, only once something is known
    to be nonzero. `whole` is what is known of the scan that this one is a part of.

    `solver` is a method of your own in place of the recipe's. It is a function of a `Measurement` whose first axis is
    that of the volumes (contrasts, repetitions …) of one slice, and returns their images, with the shape of
    `m.A.H(m.y)`. Everything else, from the noise to the position in the patient, is done as usual, including replicas
    for its noise.

    Raises DataError for a scan that cannot be reconstructed as it is, ReconError for a recipe, or a solver, that does
    not fit it.
    """
    started = datetime.now(timezone.utc)
    report = progress or silent
    understood(scan, recipe, memory)
    if solver and not isinstance(scan, RawScan):
        raise ReconError(
            "a custom solver works on raw MRI scans only; for CT, make a Measurement of Xray and call the "
            "solver yourself"
        )
    if isinstance(scan, CTImages):
        from recon.ct import images  # an MRI scan should not wait for what CT needs

        return images.reconstruct(scan, recipe, place(device), stack, report)
    if isinstance(scan, CTViews):
        scan = fans(scan, recipe.ct.thickness)
    if isinstance(scan, CTProjections):
        from recon.ct import projections

        return projections.reconstruct(scan, recipe, place(device), stack, report, memory)
    job = replace(prepare(scan, recipe, place(device), memory, stack, whole), solver=solver)
    frames = _Frames(job, started, each) if each else None
    made = solved(replace(job, hand=frames.hand) if frames else job, report)
    if keep:
        keep(made)
    image = described_image(job, made, started)
    if frames:
        frames.rest()
    return image


def measurements(
    scan: Scan,
    recipe: Recipe = Recipe(),
    *,
    device: str = "auto",
    memory: int | None = None,
    stack: int = 0,
) -> list[Measurement]:
    """The measurements of a scan, y = A x + n, of each slice in spatial order or of the volume of a 3D scan.

    `y` is k-space (volume, coil, kz, ky, x): whitened, compressed, without readout oversampling, and with the readout,
    which is fully sampled, in image space. `A` is a `Sense` with its `maps` and its `mask`. For non-Cartesian scans `y`
    is (volume, coil, slice, line, sample) and `A` a `Stack` with an item for each volume. `sigma` is the standard
    deviation of the noise per real and imaginary part, 1 except for averages. All of it is in memory at once: to
    process slice by slice, and to get an `Image` in the end, pass a `solver` to `reconstruct`. Raises as `reconstruct`.
    """
    found: list[Measurement] = []

    def look(m: Measurement) -> Tensor:
        found.append(m)
        return m.A.adjoint(m.y)

    plain = replace(recipe, trust=replace(recipe.trust, replicas=0))
    reconstruct(scan, plain, device=device, memory=memory, stack=stack, solver=look)
    return found


@dataclass(frozen=True, eq=False)
class Solved:
    """Volumes of a job, complex64 (volume, z, y, x) on the image's own grid, how they were made, and notes."""

    data: NDArray[np.complex64]
    how: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True, eq=False)
class FrameImage:
    """The image of one frame: a slice, or a 3D slab, for one combination of counters.

    `number` is its place among all frames of the image, volume by volume and slice by slice in spatial order.
    """

    number: int
    frame: Frame
    image: Image


class _Frames:
    """Passes on the image of each frame of a job; those that are zero everywhere wait for `rest`."""

    def __init__(self, job: Job, started: datetime, each: Callable[[FrameImage], None]) -> None:
        self._job, self._started, self._each = job, started, each
        self._fingerprint = fingerprint(job.scan, job.kinds.imaging)
        self._dark: list[tuple[tuple[int, int], Solved]] = []

    def hand(
        self, key: tuple[int, int], data: NDArray[np.complex64], how: dict[str, Any], notes: Sequence[str]
    ) -> None:
        made = Solved(data[np.newaxis], how, list(notes))
        if data.any():
            self._one(key, made)
        else:
            self._dark.append((key, made))

    def rest(self) -> None:
        for key, made in self._dark:
            self._one(key, made)

    def _one(self, key: tuple[int, int], made: Solved) -> None:
        volume, k = key
        stack, g = self._job.stack, self._job.stack.geometry
        if len(stack.slices) > 1:
            x, y, z = (float(p) for p in g.slice_position(k))
            g = replace(g, position=(x, y, z), shape=(1, *g.shape[1:]))
        one = replace(stack, slices=stack.slices[k : k + 1], geometry=g)
        job = replace(self._job, axes=(), volumes=self._job.volumes[volume : volume + 1], stack=one)
        image = described_image(job, made, self._started, self._fingerprint)
        self._each(FrameImage(volume * len(stack.slices) + k, job.frames[key], image))


def solved(job: Job, report: Report) -> Solved:
    """The volumes of a job by its recipe's method; raises as `reconstruct` does."""
    if job.recipe.trust.replicas and job.encoding.trajectory != "cartesian":
        raise ReconError(
            f"replicas can be made only of Cartesian scans, and this one is {job.encoding.trajectory}; set "
            "trust.replicas = 0"
        )
    if job.encoding.trajectory == "cartesian":
        from recon.mri.cartesian import volumes
    else:
        from recon.mri.noncartesian import volumes
    return Solved(*volumes(job, report))


def described_image(job: Job, made: Solved, started: datetime, sha256: str = "") -> Image:
    """The image of a job: its volumes with what scan (of this fingerprint), job and solver state about them."""
    scan, recipe, how = job.scan, job.recipe, made.how
    if spoilt := int((~np.isfinite(made.data)).sum()):
        raise ReconError(
            f"{spoilt} of {made.data.size} voxels came out as NaN or infinite, and no "
            "image is shown; try --method combine, and report the scan"
        )
    data = _oriented(made.data, job)
    spread = how.get("uncertainty")
    shape = [len(np.unique([v[FRAME_COUNTERS.index(a)] for v in job.volumes])) for a in job.axes]
    image = Image(
        data=data.reshape(*shape, *data.shape[-3:]),
        geometry=job.stack.geometry,
        axes=job.axes,
        header=described(scan.header, recipe),
        provenance={
            **provenance(recipe, job.device, started),
            "scan_sha256": sha256 or fingerprint(job.scan, job.kinds.imaging),
            "method": "own" if job.solver else how["method"],
            "why": how["why"],
            **{key: how[key] for key in ("weights", "weights_sha256") if key in how},
            "noise": job.whitening.source,
            "acquisition": "3D" if job.encoding.encoded_matrix[2] > 1 else "2D",
            "sampling": how["sampling"],
            "device": how["device"],
        },
        trust=how.get("trust", {}),
        notes=tuple(dict.fromkeys((*job.scan.notes, *job.notes, how["why"], *made.notes, *_blank(made.data, job)))),
        uncertainty=None if spread is None else _oriented(spread, job).reshape(*shape, *data.shape[-3:]),
    )
    return plane(image) if scan.source in ARRAYS else image


def _blank(data: NDArray[np.complex64], job: Job) -> list[str]:
    """A note on slices that are zero everywhere; raises DataError if only zeros were measured."""
    lit = data.any(axis=(-2, -1))
    if lit.all():
        return []
    rows = np.concatenate([f.rows for f in job.frames.values()])
    if not lit.any() and not any(job.scan.samples.read(rows[i : i + 1]).any() for i in range(len(rows))):
        raise DataError("all imaging lines are zero: there is nothing to reconstruct; export the scan again")
    return [
        f"{lit.size - int(lit.sum())} of {lit.size} slices are zero everywhere: their lines hold zeros, or nothing in "
        "them stands above the noise (`--method combine` shows)"
    ]


def prepare(
    scan: RawScan,
    recipe: Recipe,
    device: torch.device,
    memory: int | None,
    stack: int,
    whole: Whole = Whole(),
) -> Job:
    """Sort the lines of a scan, find its stack and frames, and measure its noise; raises as `reconstruct` does."""
    cut_off = clipped(scan)
    scan = epi.straighten(scan)
    kinds = sort.kinds(scan)
    encoding = scan.encodings[sort.choose_encoding(scan)]
    if encoding.multiband > 1:
        raise DataError(
            f"the scan excites {encoding.multiband} slices at once (multiband), which this engine cannot separate; "
            "reconstruct it on the scanner or with a slice-GRAPPA"
        )
    found = stacking.stacks(scan, kinds.imaging, encoding)
    if not 0 <= stack < len(found):
        raise ReconError(
            f"the scan has {counted(len(found), 'stack')} of slices, so there is no number {stack + 1}; `recon "
            "info` lists them"
        )
    chosen = found[stack]
    rows = kinds.imaging[np.isin(scan.lines["slice"][kinds.imaging], chosen.slices)]
    frames = sort.frames(scan, rows)
    axes, volumes, complete, notes = whole_volumes(frames, chosen, encoding)
    whitening, doubts = whole.whitening, whole.doubts
    if whitening is None:
        whitening = scan_noise.whitening(scan, kinds, encoding, recipe.prepare.noise)
        doubts = scan_noise.contradicted(scan, kinds, encoding, whitening)
    said = (*cut_off, *doubts, *oddities(scan), *kinds.notes, *chosen.notes, *whitening.notes, *notes)
    if recipe.prepare.empty_edges == "auto":
        part = support.measured(scan, kinds, encoding, frames, whitening)
        scan, encoding, said = part.scan, part.encoding, (*said, *part.notes)
    return Job(
        scan, recipe, kinds, encoding, chosen, axes, volumes, complete, whitening, device, memory, said, whole=whole
    )


def _oriented(data: NDArray[Any], job: Job) -> NDArray[Any]:
    """The array reversed about index N // 2 along the axes that the recipe names.

    A scanner whose transform has the opposite sign stores k(−k): its pixel n is recon's at −n. The geometry, which
    states the scanner's directions, is unchanged.
    """
    for turned, axis in ((job.recipe.prepare.flip_readout, -1), (job.recipe.prepare.flip_phase, -2)):
        if turned:
            data = np.flip(data, axis)
            data = np.roll(data, 1, axis) if data.shape[axis] % 2 == 0 else data
    return np.ascontiguousarray(data)


def fingerprint(scan: RawScan, imaging: NDArray[np.intp]) -> str:
    """SHA-256 of the table of lines and some samples, whose noise is never the same; patient data are not included."""
    alike = imaging[scan.lines["number_of_samples"][imaging] == scan.lines["number_of_samples"][imaging[0]]]
    few = alike[np.unique(np.linspace(0, len(alike) - 1, 16).astype(np.intp))]
    return hashlib.sha256(scan.lines.tobytes() + scan.samples.read(few).tobytes()).hexdigest()


def place(name: str) -> torch.device:
    """The device with a name: "auto", "cpu", "cuda" or "cuda:N"; raises ReconError if it does not exist."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ReconError(f"there is no device {name!r}; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ReconError("torch finds no CUDA device here; use --device cpu, or see `recon doctor`")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ReconError(f"torch finds {torch.cuda.device_count()} CUDA devices and no {name}; see `recon doctor`")
    return device
