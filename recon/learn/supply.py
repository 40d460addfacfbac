"""The source of a training's scans: a pool made beforehand, or one that grows while the network trains."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recon.data import ReconError
from recon.io.atomic import put
from recon.learn import fastmri, pool, stream, synth, volumes
from recon.learn.pool import Groups, Item
from recon.learn.ranks import Rank
from recon.learn.settings import Training
from recon.progress import Report

#: Seconds without a new scan after which a training gives up.
PATIENCE = 120.0
#: Fewest scans of a short training, if its recipe names that many.
LEAST = 64


@dataclass(frozen=True)
class Supply:
    """Items to train on, by group, and those held for validation; `clock` is the start time, if the clock counts."""

    groups: Groups
    held: list[Item]
    clock: float | None = None


def stocked(
    recipe: Training,
    data: Path,
    output: Path,
    device: torch.device,
    rank: Rank,
    report: Report,
    *,
    share: float = 1.0,
) -> Supply:
    """A complete pool, with missing files made; processes that train together share this work.

    A training with a `share` below one of its recipe's time uses that share of its scans, so that a trial is not spent
    on preparation. Raises ReconError if the folder holds scans with other settings.
    """
    _belongs(recipe, output / "pool")
    read = maker(recipe, data)
    found = {}
    for which, folder, numbers in wanted(recipe, output):
        if which == "train":
            numbers = numbers[: max(LEAST, math.ceil(share * len(numbers)))]
        part = (rank.number, rank.size)
        found[which] = pool.fill(folder, len(numbers), partial(read, which), report, part)
    rank.together()
    groups = Groups(recipe.loop.width, (pool.placed(pool.read(p), device) for p in found["train"]))
    return Supply(groups, [pool.read(p) for p in found["validation"]])


@contextmanager
def streamed(
    recipe: Training,
    data: Path,
    output: Path,
    device: torch.device,
    workers: int,
    rank: Rank,
    report: Report,
    lock: threading.Lock,
) -> Iterator[Supply]:
    """A pool filled by `workers` processes; training begins with the first few batches.

    `lock` is held while scans are put on the device. Processes that train together have separate pools and numbers.
    Raises ReconError if the folder holds scans with other settings.
    """
    begun, own = time.monotonic(), output if rank.size == 1 else output / f"rank-{rank.number}"
    _belongs(recipe, own / "pool")
    plan = [
        (which, folder, numbers if which == "validation" else numbers[rank.number :: rank.size])
        for which, folder, numbers in wanted(recipe, own)
        if which == "train" or rank.first
    ]
    held = recipe.pool.validation if rank.first else 0
    first = min(recipe.pool.first, len(plan[-1][2]))
    with stream.running(partial(maker, recipe, data), plan, workers, device, recipe.loop.width, lock) as s:
        s.wait(first, held, PATIENCE, report)
        rank.together()
        yield Supply(s.groups, [s.held[i] for i in sorted(s.held)], begun)


def wanted(recipe: Training, output: Path) -> list[stream.Wanted]:
    """The parts of a pool, their folders and numbers; the validation set is made first."""
    folder = output / "pool"
    return [
        ("validation", folder / "validation", range(recipe.pool.validation)),
        ("train", folder / "train", range(recipe.pool.size)),
    ]


def _belongs(recipe: Training, folder: Path) -> None:
    """Raise ReconError unless the scans of a pool belong to the recipe: a file beside them records the settings.

    More scans with the same settings may be added; without such a file they are assumed to be the recipe's.
    """
    told, file = recipe.pool, folder / "settings.json"
    values = {
        "data": asdict(recipe.data),
        "check": asdict(recipe.check),
        "pool": {"seed": told.seed, "validation_seed": told.validation_seed},
        "network": {"start": recipe.network.start},
    }
    now = json.dumps(values, indent=1)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        put(file, now.encode())
    elif (before := file.read_text(encoding="utf-8")) != now:
        raise ReconError(
            f"{folder} holds scans made with other settings than the recipe's ({_difference(before, values)}); "
            "give a new folder, or delete that one to have its scans made again"
        )


def _difference(before: str, values: dict[str, dict[str, Any]]) -> str:
    """The first setting of a recipe that differs from the stored one."""
    with suppress(ValueError, TypeError, AttributeError):
        stored, own = json.loads(before), json.loads(json.dumps(values))
        for section, keys in own.items():
            for key, value in keys.items():
                if stored.get(section, {}).get(key) != value:
                    return f"{section}.{key}"
    return "they cannot be read"


def maker(recipe: Training, data: Path) -> stream.Make:
    """The function that makes the item of a number; volumes are read at the first request.

    `data` is a folder of volumes, or `fastmri:FOLDER` with the data set of that name.
    """
    if str(data).startswith(fastmri.PREFIX):
        return fastmri.Maker(recipe, fastmri.folder(data))
    return Maker(recipe, data, {})


@dataclass(frozen=True)
class Maker:
    """Makes items from the volumes of a folder, which it reads once for each part."""

    recipe: Training
    data: Path
    sources: dict[str, volumes.Sources]

    def __call__(self, which: str, number: int) -> Item:
        """The item with this number."""
        if which not in self.sources:
            self.sources[which] = volumes.read(self.data / which)
        seed, drawn = (
            (self.recipe.pool.seed, self.recipe.data)
            if which == "train"
            else (self.recipe.pool.validation_seed, self.recipe.check)
        )
        return pool.prepared(synth.example(seed + number, self.sources[which], drawn), self.recipe.network.start)
