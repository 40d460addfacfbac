"""Scans through fastMRI's network on the one path: what it is given, what comes out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from recon import check, pipeline, recipe
from recon.data import ReconError
from recon.io.read import read
from recon.nets import checkpoint
from recon.nets.e2e_varnet import Shape, VarNet
from recon.simulation import preset, simulate_to
from tests.command import recon

ROWS, COLUMNS = 44, 38


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(VarNet(Shape(cascades=2, channels=4, pools=2, sens_channels=3, sens_pools=2)).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices of four coils in fastMRI's layout, undersampled, one coil dead; a picture of 20 × 30."""
    path = tmp_path_factory.mktemp("scan") / "file.h5"
    rng = np.random.default_rng(0)
    k = rng.standard_normal((2, 4, ROWS, COLUMNS, 2)).astype(np.float32).view(np.complex64)[..., 0] * 1e-6
    mask = np.arange(COLUMNS) % 3 == 0
    mask[COLUMNS // 2 - 3 : COLUMNS // 2 + 3] = True
    k *= mask
    k[:, 2] = 0
    with h5py.File(path, "w") as f:
        f["kspace"], f["mask"] = k, mask.astype(np.float32)
        f["reconstruction_rss"] = np.zeros((2, 20, 30), np.float32)
    return path


def plan(weights: Path) -> recipe.Recipe:
    return recipe.parse({"solve": {"method": "varnet", "weights": str(weights)}, "prepare": {"virtual_coils": 2}})


def test_the_network_sees_the_coils_as_they_were_stored(scan: Path, weights: Path) -> None:
    image = pipeline.reconstruct(read(scan), plan(weights))
    with h5py.File(scan) as f:
        k = torch.from_numpy(f["kspace"][:][:, [0, 1, 3]])
        mask = torch.from_numpy(f["mask"][:] > 0)[None, None, None]
    loaded = checkpoint.load(weights)
    with torch.no_grad():
        wanted = loaded.network(k, mask).numpy()
    # The middle of the picture as the file wants it; ours has the readout along x.
    wanted = wanted[:, ROWS // 2 - 10 : ROWS // 2 + 10, COLUMNS // 2 - 15 : COLUMNS // 2 + 15].swapaxes(-1, -2)
    assert image.data.shape == wanted.shape
    assert np.abs(image.data - wanted).max() < 1e-5 * wanted.max()
    assert image.provenance["method"] == "varnet"
    assert image.provenance["weights"] == "small.pt"
    assert image.provenance["weights_sha256"] == loaded.sha256
    assert sum("no evidence is collected" in note for note in image.notes) == 1


def test_a_state_dict_chooses_the_method_and_its_image_can_be_checked(
    scan: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.nii.gz"
    done = recon("run", scan, "-o", out, "--weights", weights)
    assert done.code == 0, done.err
    wanted = pipeline.reconstruct(read(scan), plan(weights)).data
    assert np.allclose(
        np.sort(nibabel.load(out).get_fdata(), None), np.sort(np.abs(wanted), None), rtol=1e-3, atol=1e-9
    )
    assert not any("network" in d or "weights" in d for d in check.check(out).differences)


def test_averages_of_a_simulated_scan_with_oversampling_give_a_picture_of_the_size_asked_for(
    weights: Path, tmp_path: Path
) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=4, accel=2, matrix=48, slices=2))
    image = pipeline.reconstruct(read(tmp_path / "scan.h5"), plan(weights))
    assert image.data.shape[-3:] == image.geometry.shape
    assert np.isfinite(image.data).all()
    assert (image.data.real >= 0).mean() > 0.99


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"volume": True, "slices": 8}, "is three-dimensional"), ({"trajectory": "radial"}, "is not Cartesian")],
)
def test_scans_that_the_network_does_not_know_are_refused(
    settings: dict[str, object], reason: str, weights: Path, tmp_path: Path
) -> None:
    simulate_to(tmp_path / "scan.h5", preset(coils=2, matrix=32, **settings))  # type: ignore[arg-type]
    with pytest.raises(ReconError, match=f"2D Cartesian slices and this scan {reason}; use --method"):
        pipeline.reconstruct(read(tmp_path / "scan.h5"), plan(weights))


def test_without_a_file_of_weights_or_with_a_wrong_one_a_sentence_says_what_is_wanted(
    scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.nii.gz"
    done = recon("run", scan, "-o", out, "--method", "varnet")
    assert done.code == 1
    assert "--method varnet needs --weights FILE.pt" in done.err
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    done = recon("run", scan, "-o", out, "--weights", tmp_path / "other.pt")
    assert done.code == 1
    assert "expected the state dict of fastMRI's VarNet" in done.err
    assert not out.exists()


def test_replicas_are_refused(scan: Path, weights: Path) -> None:
    with pytest.raises(ReconError, match="varnet does not support replicas"):
        pipeline.reconstruct(read(scan), recipe.parse({**recipe.asdict(plan(weights)), "trust": {"replicas": 2}}))
