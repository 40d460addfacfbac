"""The recipe of a training: network, data and loop, read from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from recon import recipe
from recon.data import ReconError
from recon.learn.synth import Settings
from recon.nets.unrolled import Shape


@dataclass(frozen=True)
class Pool:
    """How many scans are made for training and for validation, and the seed of the first."""

    size: Annotated[int, Ge(1)] = 2500
    seed: int = 1_000_000
    validation: Annotated[int, Ge(0)] = 24
    validation_seed: int = 900_000_000
    #: Scans that must exist before the first step, if they are made during training.
    first: Annotated[int, Ge(1)] = 256


@dataclass(frozen=True)
class Loop:
    """Settings of the optimisation."""

    minutes: Annotated[float, Ge(0)] = 60.0
    batch: Annotated[int, Ge(1)] = 2
    #: Columns of a training image; the whole image is used if it is narrower or sampled along both axes.
    width: Annotated[int, Ge(8)] = 96
    optimiser: Literal["muon", "adamw"] = "muon"
    rate: float = 0.02
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: Annotated[int, Ge(1)] = 100
    ema: float = 0.998
    #: Share of the scans whose target has all noise, and none; the rest lies between.
    noisy: float = 0.6
    clean: float = 0.2
    #: Structural similarity is added to the loss in the last part of the time.
    ssim: float = 0.3
    ssim_from: float = 0.75
    #: Convolutions run in bfloat16 until this part of the time.
    bf16_until: float = 0.0
    #: Whether a GPU replays the launches of a step as one graph.
    graphs: bool = True
    validate_minutes: float = 8.0
    checkpoint_minutes: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """Everything that determines the weights of a network."""

    name: str = "untitled"
    kind: Literal["unrolled"] = "unrolled"
    network: Shape = field(default_factory=Shape)
    data: Settings = field(default_factory=Settings)
    #: The settings of the scans of the validation set.
    check: Settings = field(
        default_factory=lambda: Settings(
            sizes=(256,), coils=(4, 6, 8, 12), real=1.0, raw=0.1, estimated_maps=1.0, planar=0.0, partial=0.0,
            kinds=(1.0, 0.0, 0.0, 0.0), acceleration=(4.0, 8.0), acs=(16, 24), noise=(0.003, 0.04),
        )
    )  # fmt: skip
    pool: Pool = field(default_factory=Pool)
    loop: Loop = field(default_factory=Loop)
    #: Weights that ship, or a folder of weights, that training continues from; empty: the seed gives the first weights.
    begin: str = ""


#: Files that a training leaves beside the folder of its weights.
_TAKEN = ("pool", "checkpoint.pt", "log.jsonl")
#: Prefixes of such files and folders: pictures, event files, the scans of each process.
_BEGINNINGS = ("validation-", "events.out.", "rank-")


def load(path: Path) -> Training:
    """The training recipe in a TOML file; raises ReconError for unknown keys and values, and as `named`."""
    made = recipe.parse(recipe.table(path), str(path), Training)
    named(made.name, path)
    return made


def named(name: str, path: Path) -> None:
    """Raise ReconError for a name that conflicts with the other files of a training."""
    plain = name.strip(". ") == name and name.isprintable() and not set(name) & set('/\\:*?"<>|')
    if not name or not plain or len(name.encode()) > 100:
        raise ReconError(
            f"{path} has the name {name!r}, which must be a valid folder name; use only letters, digits, - and _"
        )
    if name.lower() in _TAKEN or name.lower().startswith(_BEGINNINGS):
        raise ReconError(
            f"{path} has the name {name!r}, which is reserved for other files of the training; give another name"
        )
