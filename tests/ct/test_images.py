"""CT images denoised along the one path, from the command line to the files."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from scipy import ndimage

import recon
from recon.ct import learned
from recon.nets import denoiser
from recon.prepare import image_noise
from recon.recipe import CT, Recipe, Solve, Trust
from tests import command
from tests.io import ct_files


def study(tmp_path: Path, sigma: float = 30) -> tuple[Path, np.ndarray, np.ndarray]:
    """A folder, the noisy HU in it and those without noise."""
    clean = ct_files.body((2, 96, 96), noise=0)
    noisy = np.clip(np.rint(clean + sigma * np.random.default_rng(1).standard_normal(clean.shape)), -1024, None)
    ct_files.write(tmp_path / "in", noisy)
    return tmp_path / "in", noisy, np.clip(clean, -1024, None)


def test_a_series_is_denoised_in_one_command(tmp_path: Path) -> None:
    folder, noisy, clean = study(tmp_path)
    out, nii = tmp_path / "denoised", tmp_path / "denoised.nii.gz"
    end = command.recon("run", folder, "-o", out, "-o", nii)
    assert end.code == 0, end.err
    found = nib.load(nii).get_fdata().T
    inside = clean == 40
    assert noisy[inside].std() > 28
    # The recipe leaves some of what denoising takes away; so it is with a network and with total variation.
    assert found[inside].std() < 16
    assert found[inside].mean() == pytest.approx(noisy[inside].mean(), abs=2.5)
    assert found[clean == 800].mean() == pytest.approx(800, abs=25)
    (series,) = recon.read(out).series
    assert np.abs(series.voxels.read(0, 2) - found).max() <= 0.5
    record = json.loads((tmp_path / "denoised.json").read_text())
    assert record["Units"] == "HU"
    assert record["Modality"] == "CT"
    assert ct_files.ID not in (tmp_path / "denoised.json").read_text() + end.out + end.err
    for output in (out, nii):
        told = command.recon("check", output)
        assert told.code == 0, told.err
        assert "0 of 2 images classical" in told.out
        assert "blur 0." in told.out


def test_a_series_is_not_written_into_the_folder_that_is_read(tmp_path: Path) -> None:
    folder, _, _ = study(tmp_path)
    before = sorted(folder.rglob("*"))
    for name in ("new", "a.dcm"):
        assert "lies inside the input folder" in command.refused(command.recon("run", folder, "-o", folder / name), 2)
    assert sorted(folder.rglob("*")) == before


def test_strength_blends_the_original_in(tmp_path: Path) -> None:
    folder, noisy, _ = study(tmp_path)
    scan = recon.read(folder)
    whole, half, none = (recon.reconstruct(scan, Recipe(ct=CT(strength=s))).data for s in (1.0, 0.5, 0.0))
    assert np.array_equal(none, noisy)
    assert np.abs(whole - noisy).max() > 20
    assert np.abs(half - (whole + noisy) / 2).max() < 1e-3
    end = command.recon("run", folder, "-o", tmp_path / "half.nii.gz", "--strength", 0.5, "-q")
    assert end.code == 0
    assert np.array_equal(nib.load(tmp_path / "half.nii.gz").get_fdata().T, half)


def test_a_denoiser_that_blurs_has_a_part_of_its_say_and_the_image_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, noisy, _ = study(tmp_path)
    soft = ndimage.gaussian_filter(noisy, (0, 1.5, 1.5))
    slices = iter(torch.from_numpy(np.concatenate([soft, soft]))[:, None])
    monkeypatch.setattr(denoiser, "denoised", lambda *a: next(slices))
    told = {"noise": 30.0, "removed": 1.0, "blur": 1.06, "patch": 4.0, "share": 0.25, "reasons": ()}
    monkeypatch.setattr(learned, "evidence", lambda *a: told)
    plan = Recipe(ct=CT(strength=1.0, coarse=0.0), solve=Solve(method="unrolled", weights="ct-small"))
    image = recon.reconstruct(recon.read(folder), plan)
    assert np.abs(image.data - (noisy + 0.25 * (soft - noisy))).max() < 1e-2
    assert image.trust["share"] == 0.25
    assert any(n.startswith("2 of 2 slices are denoised only in part: 0.25 of what") for n in image.notes)
    whole = recon.reconstruct(recon.read(folder), replace(plan, trust=Trust(fallback=False)))
    assert np.abs(whole.data - soft).max() < 1e-2
    assert not any("in part" in n for n in whole.notes)


def test_a_clean_series_stays_as_it_is(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", ct_files.body((1, 96, 96), noise=0))
    scan = recon.read(tmp_path / "in")
    before = scan.series[0].voxels.read(0, 1)
    assert np.abs(recon.reconstruct(scan).data - before).max() < 1e-3


def test_a_volume_with_a_filling_comes_back_with_it_and_the_scan_stays_as_it_was(tmp_path: Path) -> None:
    hu = ct_files.body((2, 96, 96)).astype(np.float32)
    hu[:, :8] = -2000
    nib.save(nib.Nifti1Image(hu.T.copy(), np.diag([-1, -1, 1, 1])), tmp_path / "in.nii.gz")
    scan = recon.read(tmp_path / "in.nii.gz")
    for strength in (0.0, 1.0):
        image = recon.reconstruct(scan, Recipe(ct=CT(strength=strength)))
        assert np.array_equal(image.data == -2000, hu == -2000)
        assert image.provenance["scan_sha256"] == recon.reconstruct(scan).provenance["scan_sha256"]
        assert np.array_equal(scan.series[0].voxels.read(0, 2), hu)


@pytest.mark.parametrize("sigma", [5, 20, 60, 250])
def test_the_noise_is_read_off_the_image(sigma: float) -> None:
    x = torch.from_numpy(ct_files.body((3, 128, 128), noise=sigma).astype(np.float32))
    assert image_noise.measured(x).level.tolist() == pytest.approx([sigma] * 3, rel=0.15)


def test_a_method_for_projections_is_refused_for_images(tmp_path: Path) -> None:
    folder, _, _ = study(tmp_path)
    for method in ("fbp", "sense", "cs"):
        with pytest.raises(recon.ReconError, match=f"{method} needs projections or a raw scan"):
            recon.reconstruct(recon.read(folder), Recipe(solve=Solve(method=method)))
    said = command.refused(command.recon("run", folder, "-o", tmp_path / "x.nii.gz", "--stack", 3), 1)
    assert "1 CT series, so there is no number 3" in said


def test_every_series_of_a_folder_gets_separate_outputs(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", ct_files.body((1, 32, 32)), number=5)
    ct_files.write(tmp_path / "in", ct_files.body((2, 32, 32)), series="other", number=1)
    end = command.recon("run", tmp_path / "in", "-o", tmp_path / "o.nii.gz", "--strength", 0, "-q")
    assert end.code == 0, end.err
    shapes = [nib.load(tmp_path / f"o_stack-{n}.nii.gz").shape for n in (1, 2)]
    assert shapes == [(32, 32, 2), (32, 32, 1)]
    end = command.recon("run", tmp_path / "in", "-o", tmp_path / "out", "--strength", 0, "-q")
    assert end.code == 0, end.err
    numbers = [pydicom.dcmread(next((tmp_path / f"out_stack-{n}").rglob("*.dcm"))).SeriesNumber for n in (1, 2)]
    assert numbers == [1001, 1005]


def test_a_bad_series_leaves_nothing_behind(tmp_path: Path) -> None:
    paths = ct_files.write(tmp_path / "in", ct_files.body())
    paths[3].write_bytes(paths[3].read_bytes()[:-100])
    end = command.recon("run", tmp_path / "in", "-o", tmp_path / "out", "-o", tmp_path / "o.nii.gz")
    assert "truncated" in command.refused(end, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_info_reports_what_a_folder_contains(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", ct_files.body())
    end = command.recon("info", tmp_path / "in")
    assert end.code == 0
    assert "48×40" in end.out
    assert "ACME Ring 64" in end.out
    assert ct_files.ID not in end.out
    assert json.loads(command.recon("info", "--json", tmp_path / "in").out)["items"][0]["slices"] == 4


def test_verbs_for_raw_scans_refuse_ct(tmp_path: Path) -> None:
    ct_files.write(tmp_path / "in", ct_files.body())
    said = command.refused(command.recon("stream", tmp_path / "in"), 1)
    assert "raw MRI scan" in said


def test_a_series_is_denoised_in_the_memory_that_it_takes(tmp_path: Path) -> None:
    noisy = np.rint(np.random.default_rng(0).normal(40, 30, (12, 256, 256)))
    noisy[:, :40] = -1000
    ct_files.write(tmp_path / "in", noisy)
    scan = recon.read(tmp_path / "in")
    recipe = Recipe(solve=Solve(method="tv", iterations=1))
    recon.write(recon.reconstruct(scan, recipe, device="cpu"), [tmp_path / "first"])  # what is imported on the way
    tracemalloc.start()
    image = recon.reconstruct(scan, recipe, device="cpu")
    recon.write(image, [tmp_path / "out"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * image.data.nbytes
    assert np.array_equal(scan.series[0].voxels.read(0, 12), noisy)


def test_what_was_removed_is_written_as_a_separate_image(tmp_path: Path) -> None:
    hu = ct_files.body()
    ct_files.write(tmp_path / "in", hu)
    out, taken = tmp_path / "o.nii.gz", tmp_path / "taken.nii.gz"
    ended = command.recon("run", tmp_path / "in", "-o", out, "--removed", taken, "--method", "tv", "-q")
    assert ended.code == 0, ended.err
    found, gone = (nib.load(p) for p in (out, taken))
    assert np.allclose(found.affine, gone.affine)
    before = np.clip(hu, -1024, None).transpose(2, 1, 0)
    assert np.allclose(found.get_fdata() + gone.get_fdata(), before, atol=1e-3)
    assert 5 < float(gone.get_fdata().std()) < 30
    refused = command.recon("run", tmp_path / "in", "-o", tmp_path / "p.png", "--removed", out, "-o", out)
    assert "would overwrite" in command.refused(refused, 2)
