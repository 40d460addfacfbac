"""What the verb does with the evidence on learned images: images that give way, reports, side-cars, `recon check`."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from recon import pipeline, recipe
from recon.io.read import read
from recon.mri import networks
from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.simulation import preset, simulate_to
from tests.command import recon


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    simulate_to(path, preset(coils=4, accel=3, matrix=64, slices=2))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Weights that leave the classical image nearly as it is, and weights that invent."""
    torch.manual_seed(0)
    made = []
    for name, wild in (("calm", False), ("wild", True)):
        network = Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=30))
        if wild:
            with torch.no_grad():
                for p in network.correction.parameters():
                    p.add_(torch.randn_like(p))
                network.weight[0].bias.fill_(3.0)
        path = tmp_path_factory.mktemp("weights") / name
        weights.save(network, path)
        made.append(path)
    return made[0], made[1]


def plan(folder: Path, **limits: object) -> recipe.Recipe:
    return recipe.parse({"solve": {"method": "unrolled", "weights": str(folder)}, "trust": limits})


def test_an_image_that_invents_is_replaced_by_the_classical_one_with_a_warning(scan: Path, folders) -> None:
    calm, wild = folders
    good = pipeline.reconstruct(read(scan), plan(calm))
    assert good.trust["fallbacks"] == 0
    assert len(good.trust["items"]) == 2
    bad = pipeline.reconstruct(read(scan), plan(wild))
    assert bad.trust["fallbacks"] == 2
    assert any(n.startswith("warning: 2 of 2 learned images are not trusted") for n in bad.notes)
    kept = pipeline.reconstruct(read(scan), plan(wild, fallback=False))
    assert kept.trust["fallbacks"] == 2
    difference = [np.linalg.norm(i.data - good.data) / np.linalg.norm(good.data) for i in (bad, kept)]
    assert difference[0] < 0.1 < difference[1]


def test_the_verb_writes_evidence_and_uncertainty_and_check_reads_them(scan: Path, folders, tmp_path: Path) -> None:
    out, report, spread = tmp_path / "out.nii.gz", tmp_path / "trust.json", tmp_path / "spread.nii.gz"
    done = recon(
        "run", scan, "-o", out, "--method", "unrolled", "--weights", folders[1], "--trust", report,
        "--uncertainty", spread, "--replicas", 3,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "not trusted" in done.err
    for path in (out, report, spread, tmp_path / "spread.json"):
        assert f"wrote {path}" in done.out.splitlines()
    assert json.loads(report.read_text())["trust"]["fallbacks"] == 2
    image, wide = (np.asarray(nibabel.load(p).dataobj) for p in (out, spread))
    assert image.shape == wide.shape
    assert 0 < np.median(wide[image > 0.5 * image.max()]) < 0.2 * image.max()
    checked = recon("check", out)
    assert checked.code == 0, checked.out
    assert weights.load(folders[1]).sha256 in checked.out
    assert "would make the same image" in checked.out


def test_the_calibration_of_replicas_is_stated_if_it_was_measured_for_these_weights(
    scan: Path, folders, tmp_path: Path
) -> None:
    import shutil

    mine = tmp_path / "mine"
    shutil.copytree(folders[0], mine)
    stored = {"factor": 1.7, "within_1": 0.5, "within_2": 0.8, "weights_sha256": weights.load(mine).sha256}
    (mine / "calibration.json").write_text(json.dumps(stored))
    report, dicom = tmp_path / "trust.json", tmp_path / "dicom"
    done = recon(
        "run", scan, "-o", dicom, "--method", "unrolled", "--weights", mine, "--trust", report, "--replicas", 2
    )
    assert done.code == 0, done.err
    told = json.loads(report.read_text())["trust"]
    assert told["calibration"] == {"factor": 1.7, "within_1": 0.5, "within_2": 0.8}
    checked = recon("check", dicom, "--json")
    assert json.loads(checked.out)["trust"] == told
    networks.calibration.cache_clear()
    (mine / "calibration.json").write_text(json.dumps({**stored, "weights_sha256": "another"}))
    assert networks.calibration(str(mine)) == {}


def test_check_says_what_is_different_here(scan: Path, folders, tmp_path: Path) -> None:
    torch.manual_seed(3)
    moving = tmp_path / "moving"
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=20)), moving)
    out = tmp_path / "out.nii.gz"
    assert recon("run", scan, "-o", out, "--method", "unrolled", "--weights", moving).code == 0
    torch.manual_seed(4)
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=20)), moving)
    side = tmp_path / "out.json"
    record = json.loads(side.read_text())
    record["recon"]["provenance"]["version"] = "0.0.1"
    record["recon"]["provenance"]["recipe_values"]["solve"]["l2"] = 9.0
    side.write_text(json.dumps(record))
    checked = recon("check", out)
    assert checked.code == 1
    for words in ("made by recon 0.0.1", "are others here", "different hash"):
        assert words in checked.out
    assert recon("check", scan).code == 1


@pytest.mark.parametrize(("name", "words"), [("out.json", "sidecar"), ("report.txt", "ends in .json")])
def test_a_report_never_takes_the_place_of_a_side_car(scan: Path, tmp_path: Path, name: str, words: str) -> None:
    done = recon("run", scan, "-o", tmp_path / "out.nii.gz", "--trust", tmp_path / name)
    assert done.code in (1, 2)
    assert words in done.err
    assert not list(tmp_path.iterdir())
