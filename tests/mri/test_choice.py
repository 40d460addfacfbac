"""What "auto" takes: the best network that ships inside of its range, and the classical method everywhere else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon import pipeline, plan
from recon import recipe as recipes
from recon.data import RawScan, ReconError
from recon.masks import caipi
from recon.mri import networks
from recon.mri.choice import Network, cautions, choose, offered
from recon.nets import weights
from recon.prepare.sampling import Sampling, sampling
from recon.simulation import Settings, simulate
from recon.trust import Range
from tests.command import recon

SMALL = Settings(matrix=(64, 64, 1), fov=(240, 240, 5), coils=6, sigma=0.02, acceleration=(3, 1), acs=16)
TRAINED = Network("mri-small", Range((2, 10), (1e-3, 0.1), (1.5, 4), 320))


def lines(n: int, R: int, acs: int = 24) -> Sampling:
    rows = np.zeros(n, bool)
    rows[::R] = True
    rows[n // 2 - acs // 2 : n // 2 + acs // 2] = True
    return sampling(rows)


@pytest.fixture(scope="module")
def scan() -> RawScan:
    return simulate(SMALL)


def test_a_scan_inside_the_range_is_reconstructed_by_the_network_that_ships(scan: RawScan) -> None:
    image = pipeline.reconstruct(scan)
    shipped = weights.load("auto")
    assert image.provenance["method"] == "unrolled"
    assert image.provenance["weights_sha256"] == shipped.sha256
    assert f"within the training range of {shipped.name}" in image.provenance["why"]
    assert image.provenance["why"] in image.notes
    assert image.trust["fallbacks"] == 0
    asked = pipeline.reconstruct(scan, recipes.parse({"solve": {"method": "unrolled"}}))
    assert np.array_equal(image.data, asked.data)
    assert np.array_equal(image.data, pipeline.reconstruct(scan).data)


@pytest.mark.parametrize(
    ("found", "coils", "method", "words"),
    [
        (lines(256, 2), 8, "unrolled", "within the training range of mri-small"),
        (lines(256, 10), 8, "unrolled", "within"),
        (lines(256, 12), 8, "cs", "the network mri-small was not used: it was trained and tested for R from 2 to 10"),
        (lines(200, 3), 1, "unrolled", "one channel"),
        (lines(320, 4), 8, "unrolled", "within the training range of mri-small"),
        (lines(324, 4), 8, "unrolled", "within the measured range of mri-small"),
        (lines(480, 4), 8, "unrolled", "within the measured range of mri-small"),
        (lines(484, 4), 8, "cs", "trained on up to 320 phase encodes, and with 484 it may invent detail"),
        (lines(384, 3), 1, "unrolled", "within"),
        (lines(387, 3), 1, "cs", "trained on up to 320 phase encodes, and with 387"),
        (sampling(caipi((400, 64), (2, 3), 20)), 8, "sense", "up to 320 phase encodes"),
        (lines(384, 8), 1, "cs", "the network mri-small was not used: it was trained and tested for R from 1.5 to 4"),
        (sampling(np.random.default_rng(0).random((64, 64)) < 0.2), 8, "unrolled", "at irregular positions"),
        (sampling(np.random.default_rng(0).random((64, 64)) < 0.2), 1, "cs", "single-channel volumes"),
        (sampling(np.random.default_rng(0).random((32, 64)) < 0.2), 8, "cs", "48 or more phase encodes"),
        (sampling(caipi((64, 64), (2, 3), 20)), 8, "unrolled", "at regular positions"),
        (sampling(caipi((64, 64), (3, 4), 20)), 8, "sense", "R from 2 to 10"),
        (sampling(np.ones(64, bool)), 8, "combine", "fully sampled"),
    ],
)
def test_the_range_of_the_network_decides(found: Sampling, coils: int, method: str, words: str) -> None:
    choice = choose("auto", found, coils, network=TRAINED)
    assert choice.method == method
    assert words in choice.why
    assert choice.instead == ("cs" if choice.method == "unrolled" else None)
    unknown = choose("auto", found, coils, network=replace(TRAINED, against="of its noise", noise=False))
    assert unknown.method == choose("auto", found, coils).method


def test_what_was_measured_of_slices_of_several_coils_holds_for_nothing_else() -> None:
    wide = replace(TRAINED, slices=(1.5, 14))
    high = sampling(np.arange(192) % 12 == 0)
    assert choose("auto", high, 8, network=wide).method == "unrolled"
    assert choose("auto", high, 1, network=wide).method == "cs"
    volume = choose("auto", sampling(caipi((64, 64), (3, 4), 20)), 8, network=wide)
    assert "R from 2 to 10" in volume.why


def test_outside_of_the_range_of_noise_each_slice_is_the_classical_one(scan: RawScan) -> None:
    quiet = simulate(replace(SMALL, sigma=1e-5))
    image = pipeline.reconstruct(quiet)
    assert image.trust["fallbacks"] == 1
    assert any("its noise of" in n and "the cs image is shown" in n for n in image.notes)
    classical = pipeline.reconstruct(quiet, recipes.parse({"solve": {"method": "cs"}}))
    assert np.array_equal(image.data, classical.data)
    assert not np.array_equal(pipeline.reconstruct(scan).data, classical.data)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ({"noise": "none"}, "noise level of the scan is unknown"),
        ({"maps": "walsh"}, "ESPIRiT"),
        ({"map_sets": 2}, "one set"),
    ],
)
def test_what_the_network_never_saw_is_left_to_the_classical_method(
    scan: RawScan, prepare: dict[str, object], words: str
) -> None:
    image = pipeline.reconstruct(scan, recipes.parse({"prepare": prepare}))
    assert image.provenance["method"] == ("sense" if "noise" in prepare else "cs")
    assert words in image.provenance["why"]
    assert "weights" not in image.provenance


def test_a_little_memory_is_left_to_the_classical_method(scan: RawScan) -> None:
    image = pipeline.reconstruct(scan, memory=plan._base() + 3 * 2**20)
    assert image.provenance["method"] in ("cs", "sense")
    assert "more memory than is allowed" in image.provenance["why"]


def shipped_as(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Copies of the network that ships under these names, in place of what ships."""
    original = weights.available()["mri-small"]
    for name in names:
        shutil.copytree(original, folder / name)
    monkeypatch.setattr(weights, "available", lambda: {n: folder / n for n in names})
    for cache in (networks.load, networks.trained):
        cache.cache_clear()
        monkeypatch.setattr(networks, cache.__name__, cache.__wrapped__)


def test_what_was_measured_of_a_network_widens_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped_as(tmp_path, monkeypatch, "mri-small")
    path, plan = tmp_path / "mri-small" / "reach.json", recipes.Recipe()
    path.unlink(missing_ok=True)

    def high(record: dict[str, object]) -> float:
        path.write_text(json.dumps(record), encoding="utf-8")
        network = offered(plan, "noise scan")
        assert network
        assert network.trained
        assert network.trained.acceleration == (2, 10)
        assert network.slices
        return network.slices[1]

    assert high({"acceleration": [1.5, 14], "weights_sha256": weights.load("mri-small").sha256}) == 14
    assert high({"acceleration": [4, 6], "weights_sha256": weights.load("mri-small").sha256}) == 10
    assert high({"acceleration": [1.5, 14], "weights_sha256": "of others"}) == 10
    path.write_text('{"acceleration": "all"}', encoding="utf-8")
    network = offered(plan, "noise scan")
    assert network
    assert "reach.json was not written by recon" in network.against


def test_one_list_says_which_network_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped_as(tmp_path, monkeypatch, "mri-small", "mri-base", "another")
    assert weights.best() == tmp_path / "mri-base"
    assert weights.load("auto").name == "mri-base"
    monkeypatch.setattr(weights, "available", lambda: {"mri-small": tmp_path / "mri-small"})
    assert weights.find("auto") == tmp_path / "mri-small"
    monkeypatch.setattr(weights, "available", dict)
    assert offered(recipes.Recipe(), "noise scan") is None
    with pytest.raises(ReconError, match="there are no weights"):
        weights.load("auto")


def test_broken_weights_that_ship_are_a_reason_against_the_network(
    scan: RawScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped_as(tmp_path, monkeypatch, "mri-small")
    (tmp_path / "mri-small" / weights.HASH).write_text("0" * 64)
    image = pipeline.reconstruct(scan)
    assert image.provenance["method"] == "cs"
    assert "SHA-256" in image.provenance["why"]


def test_weights_that_are_named_are_used_or_refused(tmp_path: Path) -> None:
    from recon.simulation import simulate_to

    path, folder = tmp_path / "scan.h5", tmp_path / "mine"
    simulate_to(path, SMALL)
    shutil.copytree(weights.available()["mri-small"], folder)
    done = recon("run", path, "-o", tmp_path / "out.nii.gz", "--weights", folder)
    assert done.code == 0, done.err
    assert "within the training range of mine" in done.err
    (folder / weights.HASH).write_text("0" * 64)
    networks.load.cache_clear()
    done = recon("run", path, "-o", tmp_path / "again.nii.gz", "--weights", folder)
    assert done.code == 1
    assert "SHA-256" in done.err
    assert not (tmp_path / "again.nii.gz").exists()


def test_a_network_that_lost_to_cs_on_volumes_is_not_chosen_there_and_requesting_it_warns(
    tmp_path: Path,
) -> None:
    volume = sampling(np.random.default_rng(0).random((64, 64)) < 0.2)
    assert networks.losses("mri-base") == ""
    lost = networks.losses("mri-small")
    assert lost.startswith("on volumes it was up to 0.5 dB worse than cs")
    recipe = recipes.parse({"solve": {"weights": "mri-small"}})
    network = offered(recipe, "scan")
    assert network is not None
    choice = choose("auto", volume, 8, network=network)
    assert choice.method == "cs"
    assert lost in choice.why
    assert choose("auto", lines(256, 4), 8, network=network).method == "unrolled"
    assert choose("unrolled", volume, 8, network=network).method == "unrolled"
    assert cautions("unrolled", recipe.solve, (64, 64), 8) == [f"warning: mri-small: {lost}; compare with --method cs"]
    assert cautions("unrolled", recipe.solve, (320, 1), 8) == []
    assert cautions("unrolled", recipes.Recipe().solve, (64, 64), 8) == []
    # What was measured belongs to those weights and to no others.
    shutil.copytree(weights.find("mri-small"), tmp_path / "mine")
    (tmp_path / "mine" / "volumes.json").write_text(
        (weights.find("mri-small") / "volumes.json").read_text().replace(weights.load("mri-small").sha256, "another")
    )
    assert networks.losses(str(tmp_path / "mine")) == ""
    (tmp_path / "mine" / "volumes.json").write_text("{}")
    with pytest.raises(ReconError, match="not written by recon"):
        networks.losses(str(tmp_path / "mine"))


@pytest.mark.parametrize("name", ["mri-base", "mri-small"])
def test_requesting_a_network_for_more_phase_encodes_than_in_training_warns(name: str) -> None:
    solve = recipes.parse({"solve": {"method": "unrolled", "weights": name}}).solve
    assert cautions("unrolled", solve, (480, 1), 8) == []
    (said,) = cautions("unrolled", solve, (512, 1), 8)
    assert said.startswith(f"warning: {name}: it was trained on up to 320 phase encodes, and with 512")
    assert cautions("cs", solve, (512, 1), 8) == []
    # Of one channel, and of volumes, fewer were measured.
    assert cautions("unrolled", solve, (384, 1), 1) == []
    assert len(cautions("unrolled", solve, (400, 1), 1)) == 1
    assert any("with 400 it may invent" in said for said in cautions("unrolled", solve, (400, 64), 8))


@pytest.mark.parametrize("calibration", ["reference", "separate"])
def test_only_equally_spaced_lines_are_solved_without_iterations(calibration, monkeypatch) -> None:
    scan = simulate(replace(SMALL, acceleration=(2, 1), calibration=calibration))
    iterated = recipes.parse({"solve": {"method": "sense", "iterations": 300, "tolerance": 1e-7}})
    slowly = pipeline.reconstruct(scan, iterated).data
    monkeypatch.setattr("recon.solve.cg.cg", None)
    exactly = pipeline.reconstruct(scan, recipes.parse({"solve": {"method": "sense"}})).data
    assert np.linalg.norm(exactly - slowly) < 1e-5 * np.linalg.norm(slowly)
    with pytest.raises(TypeError):  # a requested number of iterations is used
        pipeline.reconstruct(scan, iterated)
