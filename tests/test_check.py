"""`recon check` on learned outputs of every format, with the same weights, others, and none."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.simulation import preset, simulate_to
from tests.command import recon


def network(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    return weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=20)), folder)


def test_every_format_says_whether_its_network_is_still_the_one_that_made_it(tmp_path: Path) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=4, accel=3, matrix=64))
    first = network(tmp_path / "mine", 1)
    outputs = [tmp_path / name for name in ("a.nii.gz", "dicom", "a.mrd.h5", "a.png")]
    named = [word for o in outputs for word in ("-o", f"{o}/" if o.name == "dicom" else o)]
    done = recon("run", tmp_path / "scan.h5", "--method", "unrolled", "--weights", tmp_path / "mine", *named)
    assert done.code == 0, done.err
    for output in outputs:
        same = recon("check", output)
        assert same.code == 0, same.out
        assert first in same.out
        assert "would make the same image" in same.out
    second = network(tmp_path / "mine", 2)
    for output in outputs:
        other = recon("check", output)
        assert other.code == 1
        assert f"the weights mine are others here, sha256 {second}" in other.out
    shutil.rmtree(tmp_path / "mine")
    gone = recon("check", outputs[0])
    assert gone.code == 1
    assert "its network is not here" in gone.out
