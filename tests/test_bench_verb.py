"""Acceleration factors against fully sampled references: what is left out, what is scored, what is written."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recon import masks, metrics, pipeline
from recon import recipe as recipes
from recon.accuracy import page, results
from recon.accuracy.compare import Plan, compare, reference, score
from recon.accuracy.picture import detail
from recon.accuracy.undersample import mask_of, undersample
from recon.data import Patient, RawScan, ReconError
from recon.io.arrays import scan_from_array
from recon.io.read import read
from recon.simulation import preset, simulate, simulate_to
from tests.command import recon, refused

METHODS = ("zero-filled", "grappa", "sense", "cs")
FIELDS = {
    *("scan", "method", "acceleration", "effective_acceleration", "mask", "acs", "seed", "psnr", "ssim", "nmse"),
    *("seconds", "psnr_whole", "ssim_whole", "nmse_whole", "psnr_ci", "data_range", "scale", "slices", "failed"),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "head.h5"
    simulate_to(path, preset(coils=6, matrix=64, slices=8, noise=0.01))
    return path


@pytest.fixture(scope="module")
def full(file: Path) -> RawScan:
    return read(file)


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "results"
    done = recon("bench", file, "--accel", 2, 4, "--methods", *METHODS, "-o", out, "--acs", 16, "--seed", 3)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def records(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / results.RECORDS).read_text())
    return found


def rows_of(scan: RawScan) -> np.ndarray:
    """Phase encodes of the lines without the noise flag."""
    imaging = scan.lines["flags"] & np.uint64(1 << 18) == 0
    return np.asarray(scan.lines["kspace_encode_step_1"][imaging])


def one_slice(coils: int = 1) -> RawScan:
    return simulate(preset(coils=coils, matrix=48, noise=0.01))


# Undersampling


def test_an_undersampled_scan_is_the_scan_with_the_other_lines_removed(full: RawScan) -> None:
    mask = mask_of("equispaced", (1, 64), 4, 16, 3)
    ky = full.lines["kspace_encode_step_1"]
    noise = full.lines["flags"] & np.uint64(1 << 18) != 0
    keep = np.nonzero(noise | mask[0, ky])[0]
    fewer = undersample(full, mask).scan
    assert np.array_equal(fewer.lines, full.lines[keep])
    for n in (0, len(keep) // 2, len(keep) - 1):
        assert np.array_equal(fewer.samples.read(np.array([n])), full.samples.read(keep[[n]]))


def test_it_gives_the_image_of_k_space_in_which_those_lines_were_never_written() -> None:
    rng = np.random.default_rng(0)
    ramp = np.exp(-np.abs(np.arange(-24, 24)) / 6)
    k = (rng.standard_normal((4, 48, 48)) + 1j * rng.standard_normal((4, 48, 48))) * ramp[:, None] * ramp
    k = k.astype(np.complex64)
    mask = np.asarray(masks.random((48,), 2, 12, 5))
    axes = ("coil", "y", "x")
    fewer = undersample(scan_from_array(k, axes, source="numpy", name="a"), mask[None]).scan
    zeroed = scan_from_array(k * mask[:, None], axes, source="numpy", name="a")
    recipe = recipes.parse({"solve": {"method": "sense"}})
    a, b = (pipeline.reconstruct(s, recipe).data for s in (fewer, zeroed))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("kind", ["equispaced", "equispaced-fraction", "random", "variable-density"])
def test_the_effective_factor_is_lines_before_over_lines_after(full: RawScan, kind: Any) -> None:
    mask = mask_of(kind, (1, 64), 4, 12, 1)
    found = undersample(full, mask)
    assert found.effective == len(np.unique(rows_of(full))) / len(np.unique(rows_of(found.scan)))
    assert set(rows_of(found.scan)) >= set(range(32 - 6, 32 + 6))
    if kind != "equispaced":
        assert found.effective == 4


@pytest.mark.parametrize("limit", [None, "header"])
def test_the_centre_of_k_space_is_known_whatever_lines_are_left(full: RawScan, limit: str | None) -> None:
    encoding = full.encodings[0]
    limits = {} if limit is None else encoding.limits
    bare = replace(full, encodings=(replace(encoding, limits=limits), *full.encodings[1:]))
    fewer = undersample(bare, mask_of("random", (1, 64), 2, 16, 0)).scan
    assert pipeline.reconstruct(fewer, recipes.parse({"solve": {"method": "sense"}})).data.shape == (8, 64, 64)


# Scores


def test_scores_agree_with_scikit_image(full: RawScan) -> None:
    from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

    plan = Plan()
    ref = reference(full, plan)
    fewer = undersample(full, mask_of("equispaced", (1, 64), 4, 16, 3)).scan
    x = np.abs(pipeline.reconstruct(fewer, recipes.parse({"solve": {"method": "sense"}})).data).astype(np.float64)
    found = score(x, ref)
    y, r, b = found["scale"] * x, ref.magnitude, ref.body
    top = r.max()
    assert found["data_range"] == top
    assert found["scale"] == pytest.approx(np.linalg.lstsq(x[b][:, None], r[b], rcond=None)[0][0])
    assert found["psnr_whole"] == pytest.approx(peak_signal_noise_ratio(r, y, data_range=top))
    assert found["psnr"] == pytest.approx(peak_signal_noise_ratio(r[b], y[b], data_range=top))
    assert found["nmse_whole"] == pytest.approx(normalized_root_mse(r, y) ** 2)
    assert found["nmse"] == pytest.approx(normalized_root_mse(r[b], y[b]) ** 2)
    maps = [structural_similarity(a, c, data_range=top, full=True)[1] for a, c in zip(r, y)]
    inner = np.zeros_like(b)
    inner[:, 3:-3, 3:-3] = True
    assert found["ssim_whole"] == pytest.approx(np.stack(maps)[inner].mean())
    assert found["ssim"] == pytest.approx(np.stack(maps)[inner & b].mean())


def test_the_intervals_agree_with_scipys_bootstrap() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(1)
    r = rng.random((24, 16, 16))
    x = r + rng.standard_normal(r.shape) * rng.uniform(0.02, 0.2, (24, 1, 1))
    found = metrics.scores(x, r, data_range=1.0, replicates=8000)

    def psnr(index: np.ndarray, axis: int) -> np.ndarray:
        error = np.square(x - r).mean((1, 2))[index.astype(int)]
        return -10 * np.log10(error.mean(axis))

    theirs = bootstrap((np.arange(24),), psnr, n_resamples=8000, method="percentile", rng=2).confidence_interval
    assert found.intervals["psnr"] == pytest.approx((theirs.low, theirs.high), abs=0.05)
    for name in ("psnr", "ssim", "nmse"):
        low, high = found.intervals[name]
        assert low < getattr(found, name) < high


def test_one_slice_has_no_interval() -> None:
    r = np.random.default_rng(0).random((1, 16, 16))
    assert metrics.scores(0.9 * r, r, data_range=1.0).intervals == {}


def test_the_body_is_the_head_and_not_the_air(full: RawScan) -> None:
    ref = reference(full, Plan())
    y, x = np.meshgrid(*(np.linspace(-120, 120, 64, endpoint=False),) * 2, indexing="ij")
    inside = (x / 72) ** 2 + (y / 95) ** 2 < 1
    outside = (x / 88) ** 2 + (y / 112) ** 2 > 1
    assert ref.body[0][inside].mean() > 0.99
    assert ref.body[0][outside].mean() < 0.01


def test_the_reference_is_the_combination_of_all_coils_and_lines(full: RawScan) -> None:
    """Against the root-sum-of-squares of whitened coil images, which maps of unit norm give up to noise."""
    white = recipes.parse({"solve": {"method": "combine"}, "prepare": {"noise": "none"}})
    ref = reference(full, Plan(recipe=white))
    keep = full.lines["flags"] & np.uint64(1 << 18) == 0
    rows = np.nonzero(keep & (full.lines["slice"] == 0))[0]
    order = np.argsort(full.lines["kspace_encode_step_1"][rows])
    k = full.samples.read(rows[order])[:, :, ::1].transpose(1, 0, 2)
    shifted = np.fft.ifft2(np.fft.ifftshift(k, axes=(1, 2)), axes=(1, 2), norm="ortho")
    rss = np.linalg.norm(np.fft.fftshift(shifted, axes=(1, 2)), axis=0)[:, 32:96]
    b = ref.body[0]
    a = metrics.best_scale(rss, ref.magnitude[0], mask=b)
    assert metrics.nmse(a * rss, ref.magnitude[0], mask=b) < 1e-3


# Records


def test_a_record_is_complete_and_there_is_one_for_each_method_and_factor(records: list[dict[str, Any]]) -> None:
    assert [(r["acceleration"], r["method"]) for r in records] == [(a, m) for a in (2, 4) for m in METHODS]
    for r in records:
        assert set(r) >= FIELDS
        assert (r["scan"], r["mask"], r["acs"], r["seed"], r["slices"]) == ("head", "equispaced", 16, 3, 8)
        kept = np.asarray(masks.equispaced((64,), r["acceleration"], 16, 3))
        assert r["effective_acceleration"] == 64 / kept.sum()
        assert r["psnr_ci"][0] <= r["psnr"] <= r["psnr_ci"][1]
        assert r["seconds"] > 0
        assert r["failed"] == ""
    by = {(r["acceleration"], r["method"]): r["psnr"] for r in records}
    assert by[2, "sense"] > by[2, "zero-filled"] + 10
    assert all(by[2, m] > by[4, m] for m in METHODS)


def test_a_method_runs_as_run_does_it(full: RawScan, records: list[dict[str, Any]]) -> None:
    fewer = undersample(full, mask_of("equispaced", (1, 64), 4, 16, 3)).scan
    image = pipeline.reconstruct(fewer, recipes.parse({"solve": {"method": "cs"}}))
    again = score(np.abs(image.data).astype(np.float64), reference(full, Plan()))
    record = next(r for r in records if (r["acceleration"], r["method"]) == (4, "cs"))
    assert record["recipe_hash"] == image.provenance["recipe_hash"]
    assert record["psnr"] == pytest.approx(again["psnr"], abs=1e-3)


def test_a_method_that_fails_leaves_its_reason(tmp_path: Path) -> None:
    plan = Plan(accelerations=(2, 6), methods=("grappa", "cs", "unrolled"), mask="random", acs=16)
    plan = replace(plan, recipe=recipes.parse({"solve": {"weights": str(tmp_path / "nowhere"), "iterations": 3}}))
    found = results.bench({"a": one_slice()}, plan, tmp_path / "out")
    by = {(r["acceleration"], r["method"]): r for r in found}
    assert "grappa needs several channels" in by[2, "grappa"]["failed"]
    assert "nowhere" in by[2, "unrolled"]["failed"]
    assert by[2, "cs"]["failed"] == ""
    assert "R = 6 allows 8 of 48 lines" in by[6, "cs"]["failed"]
    assert all(r["psnr"] is None for r in found if r["failed"])
    assert "grappa needs several channels" in (tmp_path / "out" / results.PAGE).read_text()
    assert set(by[2, "grappa"]) == set(by[2, "cs"])


# What is written


def test_the_table_holds_what_the_records_hold(folder: Path, records: list[dict[str, Any]]) -> None:
    rows = list(csv.DictReader((folder / results.TABLE).open()))
    assert len(rows) == len(records)
    for row, r in zip(rows, records, strict=True):
        assert float(row["psnr"]) == r["psnr"]
        assert float(row["ssim_low"]) == r["ssim_ci"][0]
        assert row["method"] == r["method"]


def test_the_page_holds_everything_and_asks_for_nothing(folder: Path, records: list[dict[str, Any]]) -> None:
    html = (folder / results.PAGE).read_text()
    words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)
    assert html.count("data:image/png;base64,") == 1
    for sign in ("http", "//", "<script", "<link", "url(", "@import", "<iframe"):
        assert sign not in words
    assert all(target.startswith("data:") for target in re.findall(r'(?:src|href)="([^"]*)"', html))
    for r in records:
        assert f"{r['psnr']:.2f}" in words
        assert f"effective {r['effective_acceleration']:.2f}" in words


def test_means_are_of_scans_that_share_mask_and_factor_and_that_every_method_managed() -> None:
    def record(scan: str, method: str, mask: str, psnr: float | None) -> dict[str, Any]:
        measures = {"psnr": psnr, "ssim": psnr and psnr / 50, "nmse": psnr and 1 / psnr}
        known: dict[str, Any] = {m + s: v for m, v in measures.items() for s in ("", "_whole")}
        known |= {f"{name}_ci": None for name in known}
        known |= {"scan": scan, "method": method, "acceleration": 2, "effective_acceleration": 2.0, "mask": mask}
        known |= {"acs": 8, "seed": 0, "seconds": 1.0, "data_range": 1.0, "scale": 1.0, "slices": 1, "scan_sha256": "x"}
        return {**known, "settings": "", "fallbacks": None, "failed": "" if psnr else "why"}

    made = [
        record("a", "cs", "random", 30.0), record("a", "sense", "random", 20.0), record("b", "cs", "random", 40.0),
        record("b", "sense", "random", 26.0), record("c", "cs", "random", 90.0), record("c", "sense", "random", None),
        record("d", "cs", "equispaced", 50.0), record("d", "<b>", "equispaced", 10.0),
    ]  # fmt: skip
    html = page.page(made, {})
    table = [re.findall("<td>(.*?)</td>", row) for row in html.split("</table>")[0].split("<tr>")[2:]]
    assert table == [
        ["cs", "2", "random", "2", "35.00", "0.7000"],
        ["sense", "2", "random", "2", "23.00", "0.4600"],
        ["cs", "2", "equispaced", "1", "50.00", "1.0000"],
        ["&lt;b&gt;", "2", "equispaced", "1", "10.00", "0.2000"],
    ]
    assert "<b>" not in html


def test_the_picture_shows_reference_images_and_errors(folder: Path) -> None:
    picture = np.asarray(Image.open(folder / "head.png").convert("L")).astype(float)
    tile = 224
    truth, zero, sense = (picture[30 : 30 + tile, x : x + tile] for x in (0, 228, 3 * 228))
    error = picture[30 + tile + 34 :][:tile]
    assert np.corrcoef(truth.ravel(), sense.ravel())[0, 1] > 0.95
    assert np.abs(error[:, 228 : 228 + tile] - np.clip(5 * np.abs(zero - truth), 0, 255)).mean() < 12
    assert error[:, 228 : 228 + tile].mean() > 3 * error[:, 3 * 228 : 3 * 228 + tile].mean()


def test_the_magnified_region_is_where_detail_is() -> None:
    image = np.ones((100, 80))
    image[55:65, 40:50] += np.random.default_rng(0).random((10, 10))
    top, bottom, left, right = detail(image, np.ones(image.shape, bool))
    assert (bottom - top, right - left) == (30, 24)
    assert top <= 55
    assert bottom >= 65
    assert left <= 40
    assert right >= 50


def test_nothing_of_the_patient_is_in_names_pictures_or_pages(full: RawScan, tmp_path: Path) -> None:
    patient = Patient(name="Featherstone^Marjolein", id="4711-0815", birth_date="19700101")
    known = replace(full, header=replace(full.header, patient=patient))
    files = [Path(n) for n in ("a/marjolein_t2.h5", "b/knee 1.h5", "c/meas4711.dat", "d/knee_2.h5", "e/knee_2.h5")]
    names = results.names(files, [known] * 5)
    assert names == ["scan-1", "knee_1", "scan-3", "scan-4", "scan-5"]
    assert results.names(files, [full] * 5, numbered=True) == [f"scan-{n}" for n in range(1, 6)]
    out = tmp_path / "out"
    results.bench({"scan-1": known}, Plan(accelerations=(2,), methods=("zero-filled",)), out)
    for path in out.iterdir():
        for word in (b"marjolein", b"Marjolein", b"Featherstone", b"4711-0815", b"19700101"):
            assert word not in path.read_bytes()


# The verb


def test_the_verb_refuses_in_one_sentence_and_writes_nothing(file: Path, folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.h5"
    simulate_to(half, preset(coils=4, matrix=48, accel=2))
    out = tmp_path / "out"
    assert "half: the scan is not fully sampled" in refused(recon("bench", half, "-o", out), 1)
    assert "magic" in refused(recon("bench", file, "--methods", "sense", "magic", "-o", out), 2)
    assert "spiral" in refused(recon("bench", file, "--mask", "spiral", "-o", out), 2)
    assert "above 1" in refused(recon("bench", file, "--accel", 4, 1, "-o", out), 2)
    assert "--force" in refused(recon("bench", file, "--methods", "cs", "-o", folder), 1)
    assert not out.exists()


def test_several_values_may_precede_the_scans(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = recon("bench", "-o", out, "--methods", "zero-filled", "sense", "--accel", 2, 3, file)
    assert done.code == 0, done.err
    found = json.loads((out / results.RECORDS).read_text())
    assert [(r["acceleration"], r["method"]) for r in found] == [
        (a, m) for a in (2, 3) for m in ("zero-filled", "sense")
    ]


def test_a_file_that_is_called_like_a_value_is_still_a_value(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("3", "sense"):
        (tmp_path / name).mkdir()
    done = recon("bench", file, "--accel", 2, 3, "--methods", "zero-filled", "sense", "-o", "out", "--quiet")
    assert done.code == 0, done.err
    assert len(json.loads(Path("out", results.RECORDS).read_text())) == 4
    assert done.out == ""


def test_series_and_stacks_are_compared_whole(full: RawScan) -> None:
    scan = simulate(replace(preset(coils=3, matrix=32, noise=0.01), repetitions=2))
    found = compare(scan, "a", Plan(accelerations=(2,), methods=("sense",), acs=12))
    assert found.trials[0].record["slices"] == 2


def test_a_mask_that_no_scan_can_have_is_an_error_with_a_sentence() -> None:
    with pytest.raises(ReconError, match="whole acceleration factor"):
        mask_of("equispaced", (1, 64), 2.5, 8, 0)
    with pytest.raises(ReconError, match="two phase-encoded axes"):
        mask_of("poisson-disc", (1, 64), 4, 8, 0)
