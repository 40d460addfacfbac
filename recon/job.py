"""A scan prepared for its method, and what every image states about how it was made and from which data."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import __version__
from recon.data import (
    CTImages,
    CTProjections,
    CTViews,
    Encoding,
    Header,
    Measurement,
    RawScan,
    ReconError,
)  # fmt: skip
from recon.prepare.noise import Whitening
from recon.prepare.sampling import Sampling
from recon.prepare.sort import Frame, Kinds
from recon.prepare.stacks import Stack
from recon.recipe import Method, Recipe, digest

#: A user's own method: the image of a measurement, of the shape of `m.A.H(m.y)`.
Solver = Callable[[Measurement], Tensor]

#: Receives a frame when it is solved: its (volume, slice), its voxels (z, y, x), how they were made, and notes so far.
Hand = Callable[[tuple[int, int], NDArray[np.complex64], dict[str, Any], list[str]], None]


@dataclass(frozen=True, eq=False)
class Whole:
    """What is known of a whole scan of which a part is reconstructed; None means that the part decides.

    The `whitening` of its noise and the `doubts` about it from its imaging lines; its `averages` (see
    `recon.prepare.units`), which scale all images alike; and the pattern `sampled` in the frame that decides the method
    for all.
    """

    whitening: Whitening | None = None
    doubts: tuple[str, ...] = ()
    averages: float | None = None
    sampled: Sampling | None = None


@dataclass(frozen=True)
class Job:
    """Which lines serve which purpose, the requested stack, its frames by (volume, slice), the noise.

    `volumes` holds the values of FRAME_COUNTERS of each volume, `axes` the counters with more than one value. `solver`
    is the caller's own, in place of the recipe's method. With `hand` each frame is passed on when it is solved; on a
    CPU frames are then solved one by one. `whole` is what is known of the scan that this is a part of; `gain` follows
    from its averages.
    """

    scan: RawScan
    recipe: Recipe
    kinds: Kinds
    encoding: Encoding
    stack: Stack
    axes: tuple[str, ...]
    volumes: tuple[tuple[int, ...], ...]
    frames: Mapping[tuple[int, int], Frame]
    whitening: Whitening
    device: torch.device
    memory: int | None
    notes: tuple[str, ...]
    solver: Solver | None = None
    hand: Hand | None = None
    whole: Whole = Whole()
    gain: float = 1.0


def understood(scan: Any, recipe: Any, memory: Any) -> None:
    """Raise ReconError for arguments at a prompt that are not a scan, a recipe or a number of bytes."""
    if not isinstance(scan, (RawScan, CTImages, CTProjections, CTViews)):
        raise ReconError(
            f"reconstruct takes a scan and was given {type(scan).__name__}; recon.read(path) reads one, "
            "recon.io.arrays.scan_from_array makes one from an array"
        )
    if not isinstance(recipe, Recipe):
        raise ReconError(
            f"a recipe is a Recipe and not {type(recipe).__name__}; recon.recipe.load(path) reads one, "
            'recon.recipe.parse({"solve": {"method": "cs"}}) makes one'
        )
    if recipe.solve.method not in get_args(Method):
        raise ReconError(f"solve.method = {recipe.solve.method!r} is not one of {', '.join(get_args(Method))}")
    if memory is not None and not isinstance(memory, (int, np.integer)):
        raise ReconError(f"memory is a number of bytes, such as 4 * 2**30, and not {memory!r}")


#: Separator between the devices on which an image was made, one after the other.
_THEN = ", then "


def devices(*names: object) -> str:
    """The devices on which an image was made, in order, each once; a name may itself be such a list."""
    return _THEN.join(dict.fromkeys(one for name in names for one in str(name).split(_THEN)))


def provenance(recipe: Recipe, device: torch.device, started: datetime) -> dict[str, Any]:
    """What every image states about how it was made, for all kinds of scans."""
    return {
        "engine": "recon",
        "version": __version__,
        "recipe": recipe.name,
        "recipe_hash": digest(recipe),
        "recipe_values": {k: v for k, v in asdict(recipe).items() if k != "name"},
        "seed": recipe.solve.seed,
        "device": str(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "date": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def described(header: Header, recipe: Recipe) -> Header:
    """The header with the recipe's series description, if it has one."""
    description = recipe.output.series_description
    return replace(header, study=replace(header.study, series_description=description)) if description else header


def fingerprint(values: NDArray[Any]) -> str:
    """SHA-256 of measured values: distinguishes scans and reveals nothing about the patient."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
