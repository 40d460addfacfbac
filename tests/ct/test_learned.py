"""CT images through a network: what speaks for a slice and against it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

import recon
from recon.ct import denoise, learned
from recon.data import ReconError
from recon.learn.ct_train import Plan
from recon.nets import denoiser, weights
from recon.nets.unrolled import Shape, Unrolled
from recon.prepare import image_noise
from recon.recipe import CT, Recipe, Solve, Trust

SHAPE = replace(Plan().network, channels=(6, 8), condition=6)
CPU = torch.device("cpu")


def silent(stage: str, done: int, total: int) -> None:
    """No report."""


def body(sigma: float) -> np.ndarray:
    """Two slices of water in air with noise."""
    y, x = np.mgrid[-1:1:97j, -1:1:90j]
    clean = np.where(x**2 + y**2 < 0.7, 30.0, -1000.0).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal((2, *clean.shape)).astype(np.float32)
    return clean + np.float32(sigma) * noise


def trained(folder: Path, shape: Shape = SHAPE, push: float = 0.0) -> Recipe:
    """A recipe with weights that add `push` times the noise level, roughly."""
    torch.manual_seed(1)
    network = Unrolled(shape)
    for unet in network.correction:
        torch.nn.init.constant_(unet.last.bias, push)
    weights.save(network, folder)
    return Recipe(solve=Solve(method="unrolled", weights=str(folder)))


def test_an_untrained_network_changes_nothing(tmp_path: Path) -> None:
    found = learned.denoise(body(20), trained(tmp_path / "w"), CPU, silent)
    assert np.abs(found.data - body(20)).max() < 0.01
    assert found.trust["fallbacks"] == 0
    assert re.fullmatch(r"noise estimated from the image: (?!(\d+) to \1 )\d+( to \d+)? HU", found.notes[0])
    assert found.provenance["weights_sha256"] == weights.load(tmp_path / "w").sha256


def test_a_network_that_removes_too_much_falls_back_to_the_unchanged_image(tmp_path: Path) -> None:
    recipe = replace(trained(tmp_path / "w", push=-4.0), ct=CT(strength=1.0, coarse=0.0))
    found = learned.denoise(body(20), recipe, CPU, silent)
    assert np.array_equal(found.data, body(20))
    assert found.trust["fallbacks"] == 2
    assert "times the noise" in found.notes[-1]
    kept = learned.denoise(body(20), replace(recipe, trust=Trust(fallback=False)), CPU, silent)
    assert np.abs(kept.data - body(20)).max() > 20
    assert kept.trust["reasons"]


def test_what_is_judged_is_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide shade that a network takes away is given back for the most part; a small lesion is not, and is named."""
    y, x = np.mgrid[:192, :192] - 96
    white = np.random.default_rng(0).standard_normal(y.shape)
    # Noise of filtered backprojection has little power where lesions have theirs.
    noise = 6 * white - 6 * ndimage.gaussian_filter(white, 2.0)
    clean = np.where(np.hypot(y, x) < 85, 30.0, -1000.0)
    for cy, cx, r, hu in ((-50, 0, 20, -800.0), (50, 20, 14, 300.0), (10, -60, 14, 120.0)):
        clean[np.hypot(y - cy, x - cx) < r] = hu
    clean = ndimage.gaussian_filter(clean, 0.8)
    shade = 25 * np.exp(-(x**2 + y**2) / (2 * 9**2))
    disc = np.where(np.hypot(y, x) < 3, 50.0, 0.0)

    def judged(lesion: np.ndarray, ct: CT) -> tuple[dict, np.ndarray]:
        scan = (clean + lesion + noise).astype(np.float32)[None]
        blind = torch.from_numpy((clean + 0.1 * noise).astype(np.float32)[None])
        monkeypatch.setattr(denoiser, "denoised", lambda *a: blind)
        found = learned.denoise(scan, replace(trained(tmp_path / "w"), ct=ct), CPU, silent)
        return found.trust["items"][0], scan[0] - found.data[0]

    wide, removed = judged(shade, CT())
    assert not wide["reasons"]
    inside = np.hypot(y, x) < 85
    assert np.square(removed[inside]).mean() ** 0.5 == pytest.approx(wide["removed"] * wide["noise"], rel=0.02)
    for lesion, ct in ((shade, CT(strength=1.0, coarse=0.0)), (disc, CT())):
        gone, removed = judged(lesion, ct)
        assert any("patch of" in r for r in gone["reasons"])
        assert np.abs(removed).max() == 0


def test_an_uncertainty_map_is_as_large_as_the_noise_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser, "denoised", lambda network, image, *told: image / 2)
    noise = 20 * np.random.default_rng(0).standard_normal((1, 96, 96)).astype(np.float32)
    told = {"noise": 20.0, "removed": 0.5, "blur": 0.7, "patch": 0.0, "reasons": ()}
    for strength, share, left in ((1.0, 1.0, 5.0), (0.8, 1.0, 6.0), (1.0, 0.5, 7.5)):
        monkeypatch.setattr(learned, "evidence", lambda *a, share=share: told | {"share": share})
        recipe = replace(trained(tmp_path / "w"), trust=Trust(replicas=24), ct=CT(strength=strength))
        found = learned.denoise(noise, recipe, CPU, silent)
        assert found.uncertainty is not None
        # Half of the noise is taken away; what is drawn anew is as strong, and half of that is left, or more of it.
        assert float(np.sqrt((found.uncertainty**2).mean())) == pytest.approx(left, rel=0.1)


def test_weights_for_mri_are_refused(tmp_path: Path) -> None:
    recipe = trained(tmp_path / "mri", Shape(cascades=1, channels=(4, 6), condition=6))
    with pytest.raises(ReconError, match="a network for MRI scans"):
        learned.denoise(body(20), recipe, CPU, silent)


@pytest.mark.parametrize("shape", [(33, 47), (64, 64), (1, 5), (100, 18)])
def test_images_of_any_size_are_denoised(shape: tuple[int, int]) -> None:
    network = Unrolled(SHAPE).eval()
    image = torch.randn(2, *shape)
    out = denoiser.denoised(network, image, torch.tensor([5.0, 0.0]), torch.zeros(2, 3))
    assert out.shape == image.shape
    assert torch.equal(out[1], image[1])


@pytest.mark.parametrize(("cut", "ramp"), [(9.0, False), (0.5, True), (0.25, True), (0.18, True)])
@pytest.mark.parametrize("sigma", [5.0, 40.0])
def test_noise_of_known_strength_is_measured(cut: float, ramp: bool, sigma: float) -> None:
    n = 192
    white = torch.randn(n, n, generator=torch.Generator().manual_seed(0))
    k, q = torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)
    f = (k**2 + q**2).sqrt()
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * (f if ramp else 1) * (-((f / cut) ** 2)).exp(), s=(n, n))
    y, x = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    clean = torch.where(x**2 + y**2 < 0.8, 40.0, -1000.0)
    clean = torch.where((x**2 + (y - 0.3) ** 2 < 0.05) | (x.abs() < 0.02), 120.0, clean)
    found = image_noise.estimate(clean + sigma * noise / noise.std())
    assert float(found.level) == pytest.approx(sigma, rel=0.12)


def test_texture_distinguishes_a_smooth_kernel_from_a_sharp_one() -> None:
    white = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(white, 3, 1, 1)
    sharp = image_noise.estimate(30 * white).texture[0, 0]
    assert abs(float(sharp)) < 0.05
    assert float(image_noise.estimate(30 * smooth).texture[0, 0]) < float(sharp) - 0.5
    assert float(image_noise.estimate(torch.full((8, 8), -1000.0)).level) == 0


def test_rims_of_bone_in_air_do_not_pass_for_noise() -> None:
    y, x = np.mgrid[:256, :256] - 127.5
    skull = np.where(np.abs(np.hypot(x, y) - 100) < 4, 700.0, -1000.0)
    skull[110:150, 110:150] = 60
    noisy = torch.from_numpy(skull + 5 * np.random.default_rng(0).standard_normal(skull.shape)).float()
    assert float(image_noise.estimate(noisy).level) > 100
    assert float(image_noise.measured(noisy).level) == pytest.approx(5, rel=0.15)
    # An image of a body is measured as it was in training, to the last bit.
    usual = torch.from_numpy(body(20))
    assert torch.equal(image_noise.measured(usual).level, image_noise.estimate(usual).level)
    assert torch.equal(image_noise.measured(usual).texture, image_noise.estimate(usual).texture)


def test_an_ordinary_run_does_not_load_what_trains_networks() -> None:
    code = "import sys, recon.pipeline; print(*(m for m in sys.modules if m.startswith('recon.learn')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_remaining_contrast_is_stated_only_for_slices_from_which_something_was_removed() -> None:
    """Of a slice with metal, which comes back as it was, and of one of air nothing is gone."""
    water, metal = body(30.0), body(30.0)
    metal[:, 40:44, 40:44] = 3500
    air = -1000 + 10 * np.random.default_rng(0).standard_normal(water.shape).astype(np.float32)
    mixed = np.stack([water[0], air[0], metal[1]])
    told = [denoise.denoise_images(v, Recipe(), CPU, silent).notes for v in (metal, air, mixed)]
    assert [any("of their contrast" in note for note in notes) for notes in told] == [False, False, True]
    alone = denoise.denoise_images(water[:1], Recipe(), CPU, silent).notes
    assert told[2][-1] == alone[-1]


def grained(shape: tuple[int, int], sigma: float, seed: int = 0) -> np.ndarray:
    """Noise as filtered backprojection with Hann's window leaves it."""
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal(shape))
    n = np.fft.irfft2(white * np.sqrt(f) * (0.5 + 0.5 * np.cos(2 * np.pi * np.minimum(f, 0.5))), s=shape)
    return (sigma * n / n.std()).astype(np.float32)


@pytest.mark.parametrize("name", learned.PREFERRED)
@pytest.mark.parametrize("value", [-1000.0, -1024.0])
def test_a_pelvis_next_to_an_unmeasured_place_is_denoised_like_any_other(
    name: str, value: float, data_dir: Path
) -> None:
    series = recon.read(data_dir / "train/totalseg_abdpelvis_3mm.nii.gz").series[0]
    clean = np.maximum(series.voxels.read(37, 38), -1000).astype(np.float32)
    noisy = clean + grained(clean.shape[1:], 80)
    y, x = (np.arange(n) - (n - 1) / 2 for n in clean.shape[1:])
    inside = np.hypot(y[:, None], x) < min(len(y), len(x)) / 2
    recipe = Recipe(solve=Solve(method="unrolled", weights=name))
    tissue = inside & (clean > -300)
    left = []
    for given in (noisy, np.where(inside, noisy, np.float32(value))):
        found = learned.denoise(given, recipe, CPU, silent)
        assert not found.trust["fallbacks"]
        left.append(float(np.square(found.data - clean)[tissue].mean() ** 0.5))
    assert left[0] < 0.75 * np.square(noisy - clean)[tissue].mean() ** 0.5
    assert left[1] < 1.1 * left[0]


def test_unmeasured_places_are_filled_with_noise_only_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(denoiser, "denoised", lambda network, image, *told: seen.append(image) or image + 5)
    noisy = body(20)[:1]
    noisy[:, :, :30] = -1024
    recipe = Recipe(solve=Solve(method="unrolled", weights="ct-small"), ct=CT(strength=1.0, coarse=0.0))
    found = learned.denoise(noisy, recipe, CPU, silent)
    (image,) = seen
    assert float(image[..., :30].std()) == pytest.approx(20, rel=0.1)
    assert torch.equal(image[..., 30:], torch.from_numpy(noisy[..., 30:]))
    assert np.array_equal(found.data[..., :30], noisy[..., :30])
    assert np.allclose(found.data[..., 30:], noisy[..., 30:] + 5)


def test_unmeasured_places_are_distinguished_from_noise_however_faint_and_rounded() -> None:
    x = np.rint(-1000 + 3 * np.random.default_rng(0).standard_normal((2, 120, 130)))
    x[1, 20:60, 30:80] = -1024
    x[1, 90:94] = x[1, :4] = x[1, :, -4:] = 0  # as narrow as chance could make it
    found = image_noise.unmeasured(torch.from_numpy(x).float())
    assert not found[0].any()
    assert torch.equal(found[1].nonzero().amin(0), torch.tensor([20, 30]))
    assert int(found[1].sum()) == 40 * 50


def test_noise_that_is_drawn_has_the_level_and_texture_that_were_found() -> None:
    for cut, sigma in ((0.0, 20.0), (1.0, 60.0)):
        x = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((1, 256, 256)), (0, cut, cut))
        noise = image_noise.estimate(torch.from_numpy(sigma * x / x.std()).float())
        drawn = image_noise.drawn(noise, (256, 256))
        again = image_noise.estimate(drawn)
        assert float(drawn.std()) == pytest.approx(float(noise.level), rel=1e-4)
        assert float(again.level) == pytest.approx(float(noise.level), rel=0.15)
        assert torch.allclose(again.texture[..., :2], noise.texture[..., :2], atol=0.6)
        assert torch.equal(drawn, image_noise.drawn(noise, (256, 256)))
