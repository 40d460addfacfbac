"""Training scans from the fastMRI data set: its raw multi-coil slices, undersampled in ever new ways."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from recon.data import DataError, ReconError
from recon.io import fastmri
from recon.io.atomic import is_litter
from recon.learn import pool, synth
from recon.learn.draw import Draw
from recon.learn.pool import Item
from recon.learn.settings import Training
from recon.learn.synth import Example, Settings
from recon.operators import fft
from recon.prepare import compress, hybrid, scan_noise, sort

#: Prefix of `--data`.
PREFIX = "fastmri:"

#: Folders of the data set for each part of a training.
FOLDERS = {"train": ("multicoil_train", "train"), "validation": ("multicoil_val", "validation")}


def folder(data: Path) -> Path:
    """The folder behind `fastmri:FOLDER`."""
    return Path(str(data)[len(PREFIX) :])


@lru_cache(maxsize=8)
def files(root: Path, which: str) -> tuple[Path, ...]:
    """HDF5 files of a part of the data set, ordered by name; raises DataError if there are none."""
    for name in FOLDERS[which]:
        if found := tuple(p for p in sorted((root / name).glob("*.h5")) if not is_litter(p)):
            return found
    raise DataError(
        f"{root} holds no {FOLDERS[which][0]}/*.h5; unpack the fastMRI archive there, or give --data another folder"
    )


def example(seed: int, paths: tuple[Path, ...], settings: Settings) -> Example:
    """The scan of a seed: a slice of a file with some of its lines.

    The slice is processed as in a reconstruction: noise measured in the data and whitened, readout oversampling
    removed, coils compressed; maps from its ACS lines only. The target is the combination of the coil images of all
    lines with those maps, including noise. The root sum of squares, fastMRI's own target, has the same magnitude if the
    maps explain the coils. Raises DataError for a file that is itself undersampled.
    """
    draw = Draw.seeded(seed)
    path = draw.one_of(paths)
    scan = fastmri.read(path)
    kinds, encoding = sort.kinds(scan), scan.encodings[0]
    frames = sort.frames(scan, kinds.imaging)
    # The outermost slices show little but noise.
    edge = len(frames) // 8
    frame = frames[draw.integer(edge, len(frames) - 1 - edge)]
    lines = hybrid.Lines(
        scan, encoding, scan_noise.whitening(scan, kinds, encoding, "auto"), hybrid.inner_columns(encoding)
    )
    slab = hybrid.slab(lines, frame.rows)
    full, acquired = slab.y, slab.counts[0] > 0
    middle = acquired[acquired.numel() // 4 : -(acquired.numel() // 4)]
    if not bool(middle.all()):
        raise DataError(f"{path.name} is itself undersampled, so it has no ground truth; train on fully sampled files")
    coils, ny, nx = full.shape[0], int(full.shape[-2]), int(full.shape[-1])
    mask, _, acs = synth.drawn_mask(draw, settings, (ny, nx), False, single=coils == 1)
    kspace = fft(full, (-1,))
    if coils > settings.virtual:
        matrix = compress.svd(synth.calibration_block(kspace, acs, False), virtual=settings.virtual).matrix
        kspace = compress.compress(matrix, kspace)
    truth = torch.ones_like(kspace)
    always = Settings(estimated_maps=1.0)
    maps = synth.calibrated(draw, always, kspace, truth, acs, False)
    mask = mask * acquired.reshape(-1, 1)
    R = ny / max(1.0, float(mask.sum()))
    made = synth.undersampled(kspace, kspace, maps, mask, R, False)
    return Example(made.measurement, made.full, made.full, R, known_clean=False)


@dataclass(frozen=True)
class Maker:
    """Makes items of a pool from a folder of the data set."""

    recipe: Training
    root: Path

    def __call__(self, which: str, number: int) -> Item:
        """The item with this number."""
        p = self.recipe.pool
        seed, drawn = (p.seed, self.recipe.data) if which == "train" else (p.validation_seed, self.recipe.check)
        try:
            made = example(seed + number, files(self.root, which), drawn)
        except ValueError as e:
            raise ReconError(f"{e}; change `acceleration` or `acs` in the training recipe") from None
        return pool.prepared(made, self.recipe.network.start)
