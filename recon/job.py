"""A scan made ready for its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from recon.data import Encoding, RawScan
from recon.prepare.noise import Whitening
from recon.prepare.sort import Frame, Kinds
from recon.prepare.stacks import Stack
from recon.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """Which lines are what, the stack that is wanted, its frames by (volume, slice), the noise.

    `volumes` holds the values of FRAME_COUNTERS of each volume, `axes` the counters that take more than one.
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
