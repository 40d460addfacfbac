"""Runs of the command line on faulty scans, and the rules that every one of them must follow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from recon.io import ismrmrd as mrd
from recon.io.samples import in_memory, join
from recon.simulation import simulate
from tests.command import SMALL, Ended, recon, refused

#: One output of every format.
OUTPUTS = ("a.nii.gz", "a.png", "a.h5", "d/")


def run(scan: Path, folder: Path, *options: object) -> Ended:
    """`recon run` to all formats; whatever the result, the scan stays unchanged and no temporary file is left."""
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in scan.parent.iterdir() if p.is_file()}
    folder.mkdir(exist_ok=True)
    end = recon("run", scan, *(a for name in OUTPUTS for a in ("-o", f"{folder}/{name}")), *options)
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in scan.parent.iterdir() if p.is_file()}
    left = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in left if p.name.startswith(".")]
    assert {p.relative_to(folder) for p in left} == {p.relative_to(folder) for p in end.wrote}
    return end


def refuses(scan: Path, folder: Path, *options: object) -> str:
    """The sentence of a run that must fail and leaves nothing behind."""
    sentence = refused(run(scan, folder, *options))
    assert not list(folder.iterdir())
    assert len(sentence) > 40  # what was found, and the cure
    return sentence


def picture(end: Ended, folder: Path) -> np.ndarray:
    assert end.code == 0, end.err
    return np.asarray(nibabel.load(folder / "a.nii.gz").dataobj, np.float64)


def scene(path: Path) -> Path:
    """A file in a separate folder."""
    path.parent.mkdir()
    return path


def spoilt(path: Path, change: Callable[[np.ndarray], Any], settings: Any = SMALL, noise: bool = False) -> Path:
    """A simulated scan whose imaging samples (line, coil, sample) are changed, with or without its noise scan."""
    raw = simulate(settings)
    imaging = raw.lines["number_of_samples"] == raw.lines["number_of_samples"][-1]
    rows = np.nonzero(imaging)[0]
    data = raw.samples.read(rows).copy()
    changed = change(data)
    data = data if changed is None else changed
    lines = raw.lines[rows].copy()
    lines["active_channels"] = data.shape[1]
    parts = [(lines, in_memory(data))]
    if noise:
        rows = np.nonzero(~imaging)[0]
        parts.insert(0, (raw.lines[rows], in_memory(raw.samples.read(rows))))
    lines, samples = join(*parts)
    mrd.write(scene(path), replace(raw, lines=lines, samples=samples))
    return path
