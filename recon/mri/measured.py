"""The interface for a user's own method: the measurements of a scan, and the pipeline with another solver."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import DataError, Measurement, ReconError
from recon.job import Job
from recon.mri.choice import Choice
from recon.operators import Stack


def choice(job: Job) -> Choice:
    """The choice of the caller's own solver; memory is planned as for tv, the most of the classical methods."""
    if not isinstance(getattr(job.solver, "__name__", None), str):
        return Choice("tv", "own: a function given by the caller")
    return Choice("tv", f"own: the function {job.solver.__name__}, given by the caller")  # type: ignore[union-attr]


def solved(job: Job, m: Measurement) -> Tensor:
    """The images of the caller's solver; raises ReconError if a result is not an image of the measurement's shape."""
    assert job.solver is not None
    x, want = job.solver(m), m.A.adjoint(m.y)
    if not isinstance(x, Tensor):
        raise ReconError(
            f"the solver returned a {type(x).__name__}, but a tensor like m.A.H(m.y) is needed, "
            f"{tuple(want.shape)}; with recon's solvers, return the .x"
        )
    if x.shape != want.shape:
        raise ReconError(
            f"the solver returned an image of shape {tuple(x.shape)} where {tuple(want.shape)} is needed, that of "
            "m.A.H(m.y): the volumes of the scan, then z, y, x"
        )
    if not bool(torch.isfinite(torch.view_as_real(x.detach().to(want.dtype))).all()):
        raise ReconError("the solver returned NaN or infinite values; lower its step, or raise its regularisation")
    return x.detach().to(want)


def whole(job: Job, batch: int, columns: int) -> int:
    """How many problems are solved together: all volumes of a slice, for a solver that joins them; or ReconError."""
    if columns or batch < len(job.volumes):
        raise ReconError(
            f"a custom solver gets all {len(job.volumes)} volumes of a slice at once, which needs more memory "
            "than is allowed; raise the limit, or lower prepare.virtual_coils in the recipe"
        )
    return len(job.volumes)


def together(found: list[Measurement]) -> Measurement:
    """Measurements of the volumes of a slice as one, with a first axis of volumes; DataError for unequal samples."""
    if len({m.y.shape for m in found}) > 1:
        raise DataError("the volumes of the scan have different numbers of samples; reconstruct them one by one")
    return Measurement(torch.stack([m.y for m in found]), Stack(tuple(m.A for m in found)), found[0].sigma)
