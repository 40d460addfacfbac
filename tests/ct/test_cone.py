"""Cone beams to HU: the file, every method against ellipsoids whose line integrals are exact, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

import recon
from recon import plan
from recon.ct import report
from recon.data import CTProjections, ReconError
from recon.io import ct_projections
from recon.prepare import ct as prepare
from recon.recipe import CT, Recipe, Solve
from recon.simulation import ct_cone, ct_scan
from tests import command
from tests.io import ct_files
from tests.operators import cones

N = 48
VOXEL = 220 / N
SCAN = ct_scan.Scan(beam="cone", views=180, fineness=0.7, photons=1e6)
#: Parts of the head: middle and radius in mm, HU. The last lies 24 mm beside the plane of the source.
PARTS = (((0, -20, 0), 10, 40), ((0, 60, 2), 7, 40), ((-36, 34, 0), 6, 50), ((36, 34, 24), 5, 80))


@cache
def exact() -> CTProjections:
    """Line integrals without noise."""
    made, _ = ct_scan.of_phantom(N, SCAN)
    p = ct_cone.integrals(ct_cone.HEAD, prepare.cone(made)).float().numpy()
    p.setflags(write=False)
    return replace(made, values=p, kind="line integrals", air=None)


def mean(image: recon.Image, at: tuple[float, float, float], radius: float) -> float:
    """Mean HU around a place in LPS mm, by the image's own geometry."""
    g = image.geometry
    z, y, x = ((np.arange(n) * v + p) for n, v, p in zip(g.shape, g.voxel[::-1], g.position[::-1]))
    near = (z[:, None, None] - at[2]) ** 2 + (y[:, None] - at[1]) ** 2 + (x - at[0]) ** 2 < radius**2
    return float(image.data[near].mean())


def test_integrals_of_the_simulated_head_are_those_of_its_definition() -> None:
    g = prepare.cone(ct_scan.of_phantom(16, replace(SCAN, views=7))[0])
    body = [cones.Ellipsoid(e.middle, e.axes, e.turn, e.hu / 1000 * ct_cone.WATER) for e in ct_cone.HEAD]
    assert torch.allclose(ct_cone.integrals(ct_cone.HEAD, g), cones.integrals(body, g), rtol=0, atol=1e-10)
    hu = cones.picture(body, (9, 16, 16), 14.0, 20.0, 3) / ct_cone.WATER * 1000 - 1000
    assert torch.allclose(ct_cone.picture(ct_cone.HEAD, (9, 16, 16), 14.0, 20.0).double(), hu, rtol=0, atol=1e-3)


def test_a_head_keeps_its_hu_from_the_file_to_the_volume(tmp_path: Path) -> None:
    ct_projections.write(exact(), tmp_path / "p.h5")
    scan = recon.read(tmp_path / "p.h5")
    image = recon.reconstruct(scan, Recipe(ct=CT(filter="ramp")))
    assert image.provenance["method"] == "fbp"
    assert image.provenance["acquisition"] == "3D"
    assert image.units == "HU"
    assert image.data.shape == (N, N, N)
    for at, radius, hu in PARTS:
        assert mean(image, at, radius) == pytest.approx(hu, abs=6 if at[2] < 10 else 25)
    assert mean(image, (95, 0, 0), 8) == pytest.approx(-1000, abs=12)
    assert any("only the plane of the orbit completely" in note for note in image.notes)


@pytest.mark.parametrize(("method", "n", "limit"), [("sirt", 15, 12), ("cgls", 6, 30), ("tv", 15, 12)])
def test_iterative_methods_agree_with_the_truth_on_counts(method: str, n: int, limit: float) -> None:
    scan, _ = ct_scan.of_phantom(32, replace(SCAN, views=90))
    image = recon.reconstruct(scan, Recipe(solve=Solve(method=method, iterations=n)))
    assert image.provenance["method"] == method
    assert mean(image, (0, -20, 0), 12) == pytest.approx(40, abs=limit)
    assert mean(image, (0, 0, 40), 12) == pytest.approx(40, abs=limit + 13)


def test_the_report_of_a_cone_counts_rows() -> None:
    scan = exact()
    (told,) = report.describe(scan).items
    assert (told["beam"], told["rows"]) == ("cone", len(scan.values))


def test_slices_that_the_file_leaves_open_cover_what_the_rows_see(tmp_path: Path) -> None:
    scan = replace(exact(), positions=(), thickness=0.0, row_offset=30.0)
    A = prepare.volume_operator(scan, 64, 3.0)
    g = A.geometry
    reach = (g.source_distance + g.detector_distance) / g.source_distance
    low, high = ((g.rows * s / 2 * g.row_spacing + 30) / reach for s in (-1, 1))
    assert A.step == 3.0
    assert A.height == pytest.approx((low + high) / 2)
    assert A.shape == (int((high - low) / 3), 64, 64)
    assert prepare.volume_operator(scan, 64, 3.0, 5.0).step == 5.0


def test_slices_asked_for_from_above_to_below_are_those_from_below_to_above() -> None:
    scan = exact()
    up, down = (
        prepare.volume_operator(replace(scan, positions=p), 64, 3.0) for p in ((-6.0, -1.0, 4.0), (4.0, -1.0, -6.0))
    )
    assert (down.shape, down.step, down.height) == (up.shape, up.step, up.height) == ((3, 64, 64), 5.0, -1.0)


def test_flat_fields_of_the_panel_are_averaged_over_their_frames(tmp_path: Path) -> None:
    scan = exact()
    rows, _, columns = scan.values.shape
    gain = 5e4 * (1 + 0.3 * np.sin(np.arange(columns) / 7) * np.cos(np.arange(rows) / 5)[:, None])
    dark = np.full((rows, columns), 40.0)
    counts = (gain[:, None] * np.exp(-scan.values) + 40).astype(np.float32)
    ct_projections.write(
        replace(scan, values=counts, kind="counts", air=gain.astype(np.float32)[:, None]), tmp_path / "p.h5"
    )
    with h5py.File(tmp_path / "p.h5", "a") as file:
        del file["flat"]
        file["flat"] = np.stack([gain * 0.9 + 40, gain * 1.1 + 40])
        file["dark"] = dark
    read = recon.read(tmp_path / "p.h5")
    assert isinstance(read, CTProjections)
    assert np.abs(prepare.projected(read, 0, rows).p.numpy() - scan.values).max() < 1e-3


def _say(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "a") as file:
            for name, value in values.items():
                if value is None:
                    del file["geometry"].attrs[name]
                else:
                    file["geometry"].attrs[name] = value

    return change


def _flat_stack(path: Path) -> None:
    with h5py.File(path, "a") as file:
        data, attrs = file["projections"][()], dict(file["projections"].attrs)
        del file["projections"]
        file["projections"] = data[0]
        file["projections"].attrs.update(attrs)


BAD = {
    "no row spacing": (_say(row_spacing_mm=None), "geometry lacks row_spacing_mm"),
    "rows at one place": (_say(row_spacing_mm=0.0), "not all above 0"),
    "offset that is no number": (_say(row_offset_mm=np.nan), "offset of the detector is not a number"),
    "steep rows": (_say(row_offset_mm=4000.0), "above the plane of the source"),
    "source in the body": (_say(source_to_axis_mm=90.0), "within the image"),
    "one sinogram": (_flat_stack, "a cone beam's are (row, view, detector)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_makes_no_scan_ends_with_a_sentence_and_nothing_written(kind: str, tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(16, replace(SCAN, views=12))
    ct_projections.write(scan, tmp_path / "p.h5")
    change, says = BAD[kind]
    change(tmp_path / "p.h5")
    end = command.recon("run", tmp_path / "p.h5", "-o", tmp_path / "o.nii.gz", "--method", "fbp")
    assert says in command.refused(end, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


def test_a_volume_that_does_not_fit_into_memory_is_refused_before_the_work_begins() -> None:
    scan, _ = ct_scan.of_phantom(16, replace(SCAN, views=12))
    with pytest.raises(ReconError, match=r"a volume of 300×300×300 .* GiB are allowed; .*lower ct.matrix"):
        recon.reconstruct(
            replace(scan, positions=tuple(np.arange(300.0))), Recipe(ct=CT(matrix=300)), memory=600 * 2**20
        )
    assert plan.cone(1000, 1000, "tv") > plan.cone(1000, 1000, "fbp")


def test_a_body_beyond_the_detector_asks_for_the_memory_of_its_continued_views() -> None:
    whole, _ = ct_scan.of_phantom(16, replace(SCAN, views=12))
    cut, _ = ct_scan.of_phantom(16, replace(SCAN, views=12, elements=12))
    recipe = Recipe(solve=Solve(method="fbp"))
    counted = [plan.cone(scan.values.size, 16**3, "fbp") for scan in (whole, cut)]
    assert recon.reconstruct(whole, recipe, memory=counted[0]).trust.get("truncated", 0) == 0
    with pytest.raises(ReconError, match="GiB are allowed"):
        recon.reconstruct(cut, recipe, memory=counted[1])


def test_rays_have_no_say_in_the_volume_of_a_network() -> None:
    scan, _ = ct_scan.of_phantom(16, replace(SCAN, views=12))
    with pytest.raises(ReconError, match="this is a cone beam"):
        recon.reconstruct(scan, Recipe(solve=Solve(method="unrolled"), ct=CT(consistency="rays")))


def test_the_verb_simulates_a_volume_that_run_gives_back(tmp_path: Path) -> None:
    hu = ct_files.body((8, 64, 64), noise=0)
    ct_files.write(tmp_path / "in", hu, change=lambda d, k: setattr(d, "PixelSpacing", [4, 4]))
    low, out, truth = tmp_path / "low.h5", tmp_path / "o.nii.gz", tmp_path / "t.nii.gz"
    options = ("--beam", "cone", "--views", 180, "--photons", 1e6, "--truth", truth)
    end = command.recon("simulate-ct", tmp_path / "in", "-o", low, *options)
    assert end.code == 0, end.err
    assert command.recon("run", low, "-o", out, "-q").code == 0
    found, given = nib.load(out), nib.load(truth)
    assert np.allclose(found.affine, given.affine, atol=1e-4)
    x = found.get_fdata().T
    assert x.shape == (8, 64, 64)
    for value in (40, 800):
        where = hu[3:5] == value
        assert x[3:5][where].mean() == pytest.approx(value, abs=0.08 * (1000 + value))


@pytest.mark.parametrize("slices", [8, 9])
def test_a_share_of_the_dose_adds_the_noise_that_the_source_lacks(slices: int) -> None:
    y, x = np.mgrid[:64, :64] - 31.5
    hu = np.where(x**2 + y**2 < 25**2, 0.0, -1000.0).astype(np.float32)
    source = hu + 10 * np.random.default_rng(0).standard_normal((slices, 64, 64)).astype(np.float32)
    positions = tuple(2.5 * k for k in range(slices))
    stds = []
    for dose in (0.25, 0.0):
        scan = replace(SCAN, dose=dose, photons=1e9, views=240, electronic=0)
        made = ct_scan.of_volume(source, 2.5, positions, 2.5, scan)
        image = recon.reconstruct(made, Recipe(solve=Solve(method="fbp"), ct=CT(filter="hann")))
        middle = image.data[(slices - 4) // 2 : (slices + 4) // 2]
        stds.append(float(middle[:, (x**2 + y**2 < 20**2) & (x**2 + y**2 > 3**2)].std()))
        assert any("own noise is that of" in note for note in made.notes) == bool(scan.dose)
    low, own = stds
    # A quarter of the dose: three times the variance of the source's own noise comes to what the filter left of that.
    assert (low**2 - own**2) ** 0.5 == pytest.approx(3**0.5 * 10, rel=0.15)
