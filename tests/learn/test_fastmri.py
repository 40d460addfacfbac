"""Training on files in the layout of the fastMRI data set."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from recon.data import DataError
from recon.learn import fastmri
from recon.learn.synth import Settings
from recon.nets import weights
from tests.command import recon
from tests.io.test_fastmri import HEADER

NY, NX, COILS, SIGMA = 64, 48, 4, 0.02
DRAWN = Settings(acceleration=(3.0, 3.0), acs=(16, 16), kinds=(1.0, 0.0, 0.0, 0.0), partial=0.0, planar=0.0)


def written(path: Path, seed: int) -> np.ndarray:
    """A file as fastMRI's: readout oversampled twice, along the rows; returns its reconstruction_rss."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, NY), np.linspace(-2, 2, 2 * NX))  # rows are the readout, twice its length
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.4 * np.cos(7 * y + seed) * np.cos(5 * x))
    angles = 2 * np.pi * np.arange(COILS) / COILS
    coils = np.stack([np.exp(-((y - np.cos(a)) ** 2 + (x - np.sin(a)) ** 2) / 2 + 1j * a) for a in angles])
    image = np.stack([coils * body * level for level in (0.8, 1.0, 0.9)])
    axes = (-2, -1)
    k = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho"), axes)
    noise = rng.standard_normal(k.shape) + 1j * rng.standard_normal(k.shape)
    k = (k + SIGMA * noise).astype(np.complex64)
    noisy = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k, axes), axes=axes, norm="ortho"), axes)
    rss = np.sqrt((np.abs(noisy) ** 2).sum(1))[:, NX // 2 : NX // 2 + NX]
    header = HEADER.format(ny=NY, fov=320, last=NY - 1, centre=NY // 2)
    header = header.replace("<x>40</x>", f"<x>{2 * NX}</x>").replace("<x>400</x>", "<x>480</x>")
    header = header.replace("<x>20</x><y>20</y>", f"<x>{NX}</x><y>{NY}</y>")
    header = header.replace("<x>200</x><y>200</y>", "<x>240</x><y>320</y>")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as f:
        f["kspace"], f["reconstruction_rss"], f["ismrmrd_header"] = k, rss.astype(np.float32), header
        f.attrs["patient_id"], f.attrs["acquisition"] = "secret-0815", "AXT2"
    return rss


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    root = tmp_path_factory.mktemp("fastmri")
    rss = written(root / "multicoil_train" / "file1000001.h5", 1)
    written(root / "multicoil_val" / "file1000002.h5", 2)
    return root, rss


def test_the_answer_is_the_reconstruction_that_the_file_brings_along(data) -> None:
    root, rss = data
    e = fastmri.example(3, fastmri.files(root, "train"), DRAWN)
    x = e.full[0].abs().numpy().T  # the file's rows are our columns
    assert x.shape == rss.shape[1:]
    inside = rss[1] > 0.3 * rss[1].max()
    fits = []
    for target in rss:
        ratio = x[inside] / target[inside]
        fits.append(float(ratio.std() / ratio.mean()))
    assert min(fits) < 0.03


def test_the_data_are_those_of_some_lines_in_units_of_their_noise(data) -> None:
    root, _ = data
    e = fastmri.example(3, fastmri.files(root, "train"), DRAWN)
    m = e.measurement
    mask = m.A.mask.reshape(-1) > 0
    assert 2 <= mask.numel() / float(mask.sum()) < 3
    assert e.acceleration == pytest.approx(mask.numel() / float(mask.sum()))
    assert not m.y[:, :, ~mask].any()
    assert not e.known_clean
    # What the coil-combined answer cannot explain is noise, of one unit per real and imaginary part.
    residual = (m.A(e.full) - m.y)[:, :, mask]
    assert float(residual.abs().square().mean() / 2) == pytest.approx(0.85, abs=0.2)
    again = fastmri.example(3, fastmri.files(root, "train"), DRAWN)
    assert torch.equal(again.measurement.y, m.y)
    other = fastmri.example(4, fastmri.files(root, "train"), DRAWN)
    assert not torch.equal(other.measurement.y, m.y)


def test_an_undersampled_file_and_an_empty_folder_are_refused(data, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no multicoil_train/\*\.h5"):
        fastmri.files(tmp_path, "train")
    path = tmp_path / "multicoil_train" / "file1.h5"
    written(path, 1)
    with h5py.File(path, "r+") as f:
        f["mask"] = (np.arange(NY) % 4 == 0).astype(np.float32)
    with pytest.raises(DataError, match=r"file1\.h5 is itself undersampled"):
        fastmri.example(0, (path,), DRAWN)


def test_the_verb_trains_weights_of_a_site_with_one_command(data, tmp_path: Path) -> None:
    root, _ = data
    recipe = tmp_path / "site.toml"
    recipe.write_text(
        'name = "site"\n[network]\ncascades = 1\nchannels = [4, 4]\ncondition = 4\niterations = 2\nstart = 4\n'
        "[data]\nacceleration = [3.0, 4.0]\nacs = [12, 16]\n[check]\nacceleration = [3.0, 3.0]\nacs = [16, 16]\n"
        "[pool]\nsize = 3\nvalidation = 1\n[loop]\nminutes = 0.02\nwidth = 32\n"
    )
    out = tmp_path / "run"
    done = recon("train", recipe, "--data", f"fastmri:{root}", "-o", out)
    assert done.code == 0, done.err
    assert weights.load(out / "site").network.shape.cascades == 1
    text = "".join(p.read_text() for p in out.glob("*.jsonl")) + done.out + done.err
    assert "secret" not in text


def test_a_training_without_data_says_how_to_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECON_DATA", raising=False)
    done = recon("train", tmp_path / "site.toml", "-o", tmp_path / "run")
    assert done.code == 2
    assert "--data DIR" in done.err
    assert not (tmp_path / "run").exists()
