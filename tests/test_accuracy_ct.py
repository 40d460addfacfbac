"""What the benchmark of CT denoisers measures, against what is known."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from recon.accuracy import ct, ct_measures, ct_methods
from tests import command


def disc(size: int, voxel: float = 1.0, radius: float = 40, inside: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:size, :size] * voxel - (size - 1) / 2 * voxel
    return np.where(np.hypot(x, y) < radius, inside, -1000.0).astype(np.float32)[None]


@pytest.mark.parametrize("beam", ["parallel", "curved"])
def test_a_quarter_of_the_dose_doubles_the_noise(beam: ct.Beam) -> None:
    water = disc(96, 2.0, 80)
    inside = disc(96, 2.0, 60)[0] == 0
    full, quarter = ((ct.low_dose(water, 2.0, d, 1, beam=beam) - water)[0][inside].std() for d in (1.0, 0.25))
    assert quarter / full == pytest.approx(2.0, rel=0.1)


def test_an_observer_sees_stronger_discs_better_and_white_noise_nearly_as_well_as_can_be() -> None:
    absent, present, places, _ = ct_measures.phantom()
    signal = present - absent
    draw = np.random.default_rng(0)
    found = {}
    for contrast in (1.0, 2.0):
        a, p = (base + 40 * draw.standard_normal((12, *base.shape[1:])) for base in (0 * signal, contrast * signal))
        found[contrast] = ct_measures.detectability(a.astype(np.float32), p.astype(np.float32), places)
    cy, cx = places[0]
    one = signal[0, cy - 16 : cy + 16, cx - 16 : cx + 16]
    ideal = float(np.sqrt((one**2).sum()) / 40)
    assert 0.75 * ideal < found[1.0] < 1.15 * ideal
    assert found[2.0] == pytest.approx(2 * found[1.0], rel=0.15)


def test_what_is_left_of_the_contrast_of_discs_is_what_a_filter_leaves_whatever_the_noise() -> None:
    """In the mean over a disc of radius R a Gaussian σ leaves 1 − exp(−z) (I₀(z) + I₁(z)), z = R²/σ²."""
    from scipy.special import ive

    absent, _, places, _ = ct_measures.phantom()
    drawn, kinds = zip(*(ct_measures.discs(absent.shape[1:], places, k) for k in range(3)))
    noisy = absent + 30 * np.random.default_rng(0).standard_normal((3, *absent.shape[1:]))
    images = [noisy.astype(np.float32), (noisy + np.concatenate(drawn)).astype(np.float32)]

    def left(sigma: float, halved: float = 1.0) -> dict[tuple[int, int], float]:
        a, p = (halved * gaussian_filter(v, (0, sigma, sigma)) for v in images)
        return ct_measures.contrast_left(a, p, np.concatenate(drawn), places, kinds)

    assert set(left(0.0)) == {(w, h) for w in ct_measures.WIDTHS for h in ct_measures.HEIGHTS}
    assert all(v == pytest.approx(1, abs=1e-4) for v in left(0.0).values())
    assert all(v == pytest.approx(0.5, abs=1e-4) for v in left(0.0, 0.5).values())
    for (width, _), found in left(2.0).items():
        z = (width / 2) ** 2 / 2.0**2
        assert found == pytest.approx(1 - ive(0, z) - ive(1, z), abs=0.08), width


def test_the_transfer_at_a_rim_is_that_of_the_blur() -> None:
    sharp, _, _, rods = ct_measures.phantom()
    sigma = 1.5
    found = ct_measures.transfer(gaussian_filter(sharp, (0, sigma, sigma)), rods[:1])
    # A Gaussian's transfer is exp(−2π²σ²f²); the rim's own width of 0.25 · logistic and the pixel add a little.
    own = sigma**2 + (0.25 * np.pi / np.sqrt(3)) ** 2
    half, tenth = (np.sqrt(np.log(1 / v) / (2 * np.pi**2 * own)) for v in (0.5, 0.1))
    assert found.mtf50 == pytest.approx(half, rel=0.03)
    assert found.mtf10 == pytest.approx(tenth, rel=0.03)
    faint = ct_measures.transfer(gaussian_filter(sharp, (0, sigma, sigma)), rods[1:])
    assert faint.mtf50 == pytest.approx(half, rel=0.03)
    with pytest.raises(ValueError, match="needs an edge"):
        ct_measures.transfer(np.zeros_like(sharp), rods)


def test_noise_power_adds_up_to_the_variance_and_blur_lowers_its_frequency() -> None:
    noise = 10 * np.random.default_rng(0).standard_normal((4, 128, 128)).astype(np.float32)
    squares = [(k, i, j) for k in range(4) for i in (0, 64) for j in (0, 64)]
    f, white = ct_measures.noise_power(noise, 0.5, squares)
    # White noise: σ² voxel² at every frequency.
    assert np.allclose(white[2:], 100 * 0.25, rtol=0.15)
    assert f[-1] == pytest.approx(1.0)
    soft = ct_measures.noise_power(gaussian_filter(noise, (0, 1.5, 1.5)), 0.5, squares)
    assert ct_measures.mean_frequency(*soft) < ct_measures.mean_frequency(f, white) / 2


def inserts(sigma: float = 6.0) -> np.ndarray:
    """Two slices of round inserts, a square one and a wall of bone in air, with noise."""
    x = np.full((2, 160, 160), -1000, np.float32)
    y, u = np.mgrid[:160, :160]
    for cy, cx, radius in ((50.3, 50.8, 20.0), (105.0, 100.5, 14.0)):
        rim = 1 / (1 + np.exp(np.minimum((np.hypot(y - cy, u - cx) - radius) / 0.5, 60)))
        x += 1040 * rim.astype(np.float32)
    x[:, 30:60, 90:120] = 40
    far = np.hypot(y - 80, u - 80)
    x[:, (far > 70) & (far < 73)] = 900
    return x + sigma * np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)


def test_round_inserts_and_uniform_places_of_a_phantom_are_found() -> None:
    x = inserts()
    rods = ct_measures.rods_of(x)
    assert [r.slice for r in rods] == [0, 0, 1, 1]
    assert (rods[0].y, rods[0].x, rods[0].radius) == pytest.approx((50.3, 50.8, 20.0), abs=0.2)
    assert ct_measures.noise_in(x, ct_measures.uniform(x)) == pytest.approx(6, rel=0.1)
    soft = ct_measures.transfer(gaussian_filter(x, (0, 1, 1)), rods).mtf50
    assert soft < 0.9 * ct_measures.transfer(x, rods).mtf50


def test_shading_counts_as_noise_until_it_is_taken_out() -> None:
    y, u = np.mgrid[:200, :200] / 100.0 - 1
    middles = np.zeros((1, 200, 200), bool)
    middles[:, 20:180, 20:180] = True
    noise = 4 * np.random.default_rng(3).standard_normal((1, 200, 200)).astype(np.float32)
    shaded = (noise + 60 * (u**2 + y**2) + 40 * u + 30 * u * y).astype(np.float32)
    assert ct_measures.noise_in(noise, middles) == pytest.approx(4, rel=0.02)
    assert ct_measures.noise_in(noise, middles, order=2) == pytest.approx(4, rel=0.02)
    assert ct_measures.noise_in(shaded, middles) > 5.5
    assert ct_measures.noise_in(shaded, middles, order=2) == pytest.approx(4, rel=0.02)


def test_a_classical_method_is_given_the_setting_that_suits_the_reference() -> None:
    truth = disc(64, radius=28)
    noisy = truth + 30 * np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    import torch

    found = ct_methods.tuned(noisy, truth, 30.0, ("tv",), torch.device("cpu"))
    setting, run = found["tv"]
    error = np.square(run(noisy) - truth)[truth > -900].mean()
    others = [m(noisy) for _, m in ct_methods.choices(30.0, ("tv",), torch.device("cpu"))["tv"]]
    assert setting.startswith("solve.tv")
    assert error == pytest.approx(min(np.square(o - truth)[truth > -900].mean() for o in others))


@pytest.mark.parametrize("lowest", range(5))
def test_a_valley_is_found_from_its_middle_without_a_look_at_every_place(lowest: int) -> None:
    looked: list[int] = []

    def error(n: int) -> float:
        looked.append(n)
        return abs(n - lowest)

    assert ct_methods.downhill(error, 5) == lowest
    assert len(looked) == len(set(looked)) <= 4
    assert ct_methods.downhill(lambda n: 0.0, 1) == 0


def test_a_filter_restricted_to_a_box_does_the_same_there() -> None:
    import torch

    _, present, places, _ = ct_measures.phantom()
    noisy = present + 30 * np.random.default_rng(0).standard_normal(present.shape).astype(np.float32)
    _, nlm = ct_methods.choices(30.0, ("nlm",), torch.device("cpu"))["nlm"][2]
    box = ct_methods.reach(places, ct_measures.SPOT // 2)
    whole, part = nlm(noisy), ct_methods.boxed(nlm, box)(noisy)
    half = ct_measures.SPOT // 2
    for y, x in places:
        spot = (0, slice(y - half, y + half), slice(x - half, x + half))
        assert part[spot] == pytest.approx(whole[spot], abs=1e-2)
    outside = np.ones(noisy.shape, bool)
    outside[(slice(None), *box)] = False
    assert np.array_equal(part[outside], noisy[outside])


def test_a_missing_package_is_named_with_the_command_and_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = ct_methods.missing(ct_methods.CLASSICAL)
    assert [s.split(" ")[0] for s in said] == ["nlm", "bm3d"]
    assert "pip install bm3d (free for non-commercial use only)" in said[1]


def test_one_command_writes_records_a_table_and_a_page(tmp_path: Path) -> None:
    body = np.repeat(disc(96, radius=40, inside=40.0), 3, 0)
    for name, x in (("body", body), ("phantom_scan", inserts())):
        nib.save(nib.Nifti1Image(np.rint(x).astype(np.int16).T, np.eye(4)), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out"
    asked = ("bench", "ct", tmp_path / "body.nii.gz", "-o", out, "--dose", 0.1, "--methods", "tv", "--slices", 1)
    end = command.recon(*asked, "--real", tmp_path / "phantom_scan.nii.gz", "--weights", "mri-small")
    assert "is a network for MRI scans" in command.refused(end, 1)
    from recon.accuracy.ct import Plan, bench
    from recon.io.read import read

    scans, real = ({n: read(tmp_path / f"{n}.nii.gz")} for n in ("body", "phantom_scan"))
    plan = Plan((0.1,), ("parallel",), 1, (), 1.0, ("tv",), observer=False)
    records = bench(scans, real, plan, out, replace=True)
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(records))
    assert [(r["scan"], r["method"]) for r in records] == [
        ("body", "noisy"), ("body", "tv"), ("phantom_scan", "as scanned"),
    ]  # fmt: skip
    assert records[1]["psnr"] > records[0]["psnr"] + 3
    # The body has no noise of its own, so there is no bound.
    assert records[0]["psnr_bound"] is None
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert float(rows[1]["psnr"]) == pytest.approx(records[1]["psnr"])
    assert "mtf_curve" not in rows[0]
    html = (out / "index.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "body.png" in {p.name for p in out.iterdir()}
    again = command.recon(*asked, "--weights", "mri-small")
    assert "holds results" in command.refused(again, 1)


def test_the_phantom_shows_what_every_method_does_to_faint_discs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ct, "VIEWS", 240)
    monkeypatch.setattr(ct, "REALISATIONS", 3)
    plan = ct.Plan((0.25,), ("parallel",), classical=())
    half = {"half": lambda x: ct_methods.Made(gaussian_filter(x, (0, 3, 3)), "", 0.0)}
    import torch

    noisy, soft = ct.observed(plan, half, torch.device("cpu"))
    assert noisy["method"] == "noisy"
    assert noisy["d_10_HU"] < noisy["d_15_HU"] < noisy["d_20_HU"]
    assert soft["noise_HU"] < noisy["noise_HU"] / 3
    assert soft["mtf50"] < noisy["mtf50"] / 2
    assert noisy["contrast_4_mm"] == pytest.approx(1, abs=1e-3)
    assert 0.1 < soft["contrast_4_mm"] < soft["contrast_15_mm"] < 0.8
    assert len(soft["contrast_curve"]) == len(ct_measures.WIDTHS) * len(ct_measures.HEIGHTS)
    # A linear blur takes nothing from an observer who knows the noise, and gives nothing.
    assert soft["d_15_HU"] == pytest.approx(noisy["d_15_HU"], rel=0.3)
