"""A network on the whole path: from a raw scan and a folder of weights to an image that names them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon import pipeline, recipe
from recon.data import ReconError
from recon.io.read import read
from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.simulation import Settings, preset, simulate, simulate_to
from tests.command import recon


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    simulate_to(path, preset(coils=4, accel=2, matrix=64, slices=2))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "fresh"
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=20)), path)
    return path


def plan(folder: Path, **values: object) -> recipe.Recipe:
    return recipe.parse({"solve": {"method": "unrolled", "weights": str(folder), **values}})


def test_an_untrained_network_gives_nearly_the_wavelet_image_and_names_its_weights(scan: Path, folder: Path) -> None:
    raw = read(scan)
    image = pipeline.reconstruct(raw, plan(folder))
    classical = pipeline.reconstruct(raw, recipe.parse({"solve": {"method": "cs"}}))
    a, b = (np.abs(i.data) for i in (image, classical))
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert image.provenance["weights"] == "fresh"
    assert image.provenance["weights_sha256"] == weights.load(folder).sha256
    assert "weights_sha256" not in classical.provenance


def test_the_same_scan_and_weights_give_the_same_bits(scan: Path, folder: Path) -> None:
    one, two = (pipeline.reconstruct(read(scan), plan(folder)).data for _ in range(2))
    assert np.array_equal(one, two)


def test_two_sets_of_maps_go_through_a_network_with_their_evidence(scan: Path, folder: Path) -> None:
    two = replace(plan(folder), prepare=replace(recipe.Prepare(), map_sets=2))
    image = pipeline.reconstruct(read(scan), two)
    classical = pipeline.reconstruct(read(scan), replace(two, solve=recipe.Solve(method="cs")))
    a, b = (np.abs(i.data) for i in (image, classical))
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert [e["gain"] for e in image.trust["items"]] == [None, None]
    assert all(0.5 < e["residual"] < 1.5 for e in image.trust["items"])


def test_the_verb_takes_a_folder_of_weights(scan: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nii.gz"
    done = recon("run", scan, "-o", out, "--method", "unrolled", "--weights", folder, "--denoise", 0.5)
    assert done.code == 0, done.err
    assert out.is_file()


def test_broken_weights_end_the_run_with_a_sentence(scan: Path, folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / weights.HASH).write_text("0" * 64)
    done = recon("run", scan, "-o", tmp_path / "out.nii.gz", "--method", "unrolled", "--weights", broken)
    assert done.code == 1
    assert "SHA-256" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_scan_off_the_grid_is_refused(scan: Path, folder: Path) -> None:
    from recon.mri.choice import choose
    from recon.prepare.sampling import sampling

    with pytest.raises(ReconError, match="trained on Cartesian scans"):
        choose("unrolled", sampling(np.ones((1, 8), bool)), 4, cartesian=False)


def test_weights_and_denoising_decide_the_hash_of_a_recipe(folder: Path) -> None:
    first = plan(folder)
    assert recipe.digest(first) != recipe.digest(plan(folder, denoise=0.5))
    other = replace(first, solve=replace(first.solve, weights="another"))
    assert recipe.digest(first) != recipe.digest(other)


def test_a_volume_goes_through_the_network_from_the_image_of_cs(folder: Path) -> None:
    volume = simulate(
        Settings(matrix=(24, 32, 28), fov=(240, 240, 240), coils=4, sigma=0.02, acceleration=(2, 1), acs=12)
    )
    image = pipeline.reconstruct(volume, plan(folder))
    classical = pipeline.reconstruct(volume, recipe.parse({"solve": {"method": "cs"}}))
    assert image.provenance["method"] == "unrolled"
    assert image.data.shape == classical.data.shape
    assert 0 < np.linalg.norm(image.data - classical.data) < 0.1 * np.linalg.norm(classical.data)
    assert len(image.trust["items"]) == 1
    assert image.trust["fallbacks"] == 0
    # What is not trusted is replaced as a whole: no column of the one beside a column of the other.
    given_up = pipeline.reconstruct(volume, recipe.parse({
        "solve": {"method": "unrolled", "weights": str(folder)}, "trust": {"added": 0.0},
    }))  # fmt: skip
    assert given_up.trust["fallbacks"] == 1
    assert np.array_equal(given_up.data, classical.data)


def test_refined_maps_make_another_image_and_another_recipe(scan: Path, folder: Path) -> None:
    raw, usual, again = read(scan), plan(folder), plan(folder, refine_maps=True)
    a, b = (pipeline.reconstruct(raw, r) for r in (usual, again))
    assert 0 < np.linalg.norm(np.abs(a.data) - np.abs(b.data)) < 0.1 * np.linalg.norm(a.data)
    assert recipe.digest(usual) != recipe.digest(again)


def test_refined_maps_are_made_as_the_recipe_wants_maps(scan: Path, folder: Path) -> None:
    again = plan(folder, refine_maps=True)
    # Of Walsh's first maps only those that are made again heed the crop of ESPIRiT.
    wide, narrow = (replace(again, prepare=replace(again.prepare, maps="walsh", espirit_crop=c)) for c in (0.8, 0.99))
    raw = read(scan)
    assert not np.array_equal(pipeline.reconstruct(raw, wide).data, pipeline.reconstruct(raw, narrow).data)
