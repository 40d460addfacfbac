"""Projections to HU: every method against ellipses whose line integrals are exact."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import recon
from recon.ct import report
from recon.data import CTProjections, Measurement, ReconError
from recon.hounsfield import WATER, attenuation, hounsfield
from recon.io import ct_projections
from recon.prepare import ct as prepare
from recon.recipe import CT, Recipe, Solve
from recon.simulation import ct_phantom, ct_scan
from recon.solve.sirt import sirt
from tests import command

N = 96
VOXEL = 380 / N
TRUTH = ct_phantom.picture(ct_phantom.BODY, N, VOXEL).numpy()
BEAMS = {
    "parallel": ct_scan.Scan(beam="parallel", views=300, fineness=0.5),
    "flat": ct_scan.Scan(beam="flat", views=360, fineness=0.5),
    "curved": ct_scan.Scan(beam="curved", views=360, fineness=0.5),
    "curved, short scan": ct_scan.Scan(beam="curved", views=260, arc=230, fineness=0.5, offset=0),
}
#: Regions of the phantom: middle in mm, radius, HU.
PARTS = (((0, 0), 7, 50), ((2, -38), 12, 60), ((-80, -10), 25, -780), ((84, -8), 25, -780), ((0, -85), 5, 50))


def exact(scan: ct_scan.Scan) -> CTProjections:
    """Line integrals without noise."""
    g = ct_scan.rays(scan, N, VOXEL)
    made, _ = ct_scan.of_phantom(N, scan)
    p = ct_phantom.integrals(ct_phantom.BODY, g).float().numpy()[None]
    return replace(made, values=p, kind="line integrals", air=None)


def mean(x: np.ndarray, at: tuple[float, float], radius: float) -> float:
    c = (np.arange(N) - (N - 1) / 2) * VOXEL
    return float(x[(c - at[0]) ** 2 + (c[:, None] - at[1]) ** 2 < radius**2].mean())


def errors(x: np.ndarray) -> list[float]:
    return [abs(mean(x, at, r) - hu) for at, r, hu in PARTS]


@pytest.mark.parametrize("beam", BEAMS)
def test_filtered_backprojection_gives_the_hu_of_every_part(beam: str, tmp_path: Path) -> None:
    ct_projections.write(exact(BEAMS[beam]), tmp_path / "p.h5")
    image = recon.reconstruct(recon.read(tmp_path / "p.h5"), Recipe(ct=CT(filter="ramp")))
    assert image.provenance["method"] == "fbp"
    assert image.units == "HU"
    assert max(errors(image.data[0])) < 4
    assert mean(image.data[0], (0, 150), 15) == pytest.approx(-1000, abs=3)


@pytest.mark.parametrize(
    ("method", "n", "photons", "limit"), [("sirt", 20, 3e5, 8), ("cgls", 6, 3e5, 10), ("tv", 40, 2e4, 12)]
)
def test_iterative_methods_agree_with_the_truth_on_counts(method: str, n: int, photons: float, limit: float) -> None:
    scan, _ = ct_scan.of_phantom(N, replace(BEAMS["curved"], photons=photons, views=180, fineness=0.8))
    image = recon.reconstruct(scan, Recipe(solve=Solve(method=method, iterations=n)))
    assert max(errors(image.data[0])) < limit
    if method == "tv":
        plain = recon.reconstruct(scan, Recipe(solve=Solve(method="fbp"))).data[0]
        c = (np.arange(N) - (N - 1) / 2) * VOXEL
        heart = (c - 2) ** 2 + (c[:, None] + 38) ** 2 < 16**2
        assert image.data[0][heart].std() < 0.7 * plain[heart].std()


def test_more_weight_of_total_variation_leaves_less_of_it() -> None:
    scan, _ = ct_scan.of_phantom(48, replace(BEAMS["curved"], photons=2e4, views=60))
    left = []
    for tv in (0.1, 1.0, 10.0):
        hu = recon.reconstruct(scan, Recipe(solve=Solve(method="tv", iterations=40, tv=tv * Solve().tv))).data[0]
        left.append(float(np.abs(np.diff(hu, axis=0)).sum() + np.abs(np.diff(hu, axis=1)).sum()))
    assert left[0] > 1.02 * left[1] > 1.1 * left[2], left


def test_few_views_are_reported_and_total_variation_is_used() -> None:
    scan, _ = ct_scan.of_phantom(N, replace(BEAMS["curved"], photons=1e6, views=20))
    image = recon.reconstruct(scan, Recipe(solve=Solve(iterations=20)))
    assert image.provenance["method"] == "tv"
    assert any("20 views are too few" in note for note in image.notes)
    plain = recon.reconstruct(scan, Recipe(solve=Solve(method="fbp"))).data
    assert np.square(image.data - TRUTH).mean() < 0.5 * np.square(plain - TRUTH).mean()


def test_sirt_minimises_its_weighted_misfit_and_keeps_what_no_ray_meets() -> None:
    A = prepare.operator(exact(replace(BEAMS["flat"], views=40, fineness=2.0)), 24)
    x = attenuation(ct_phantom.picture(ct_phantom.BODY, 24, 380 / 24))
    misfit: list[float] = []
    y = A(x)
    rows = A(torch.ones_like(x)).clamp_min(1e-9)
    sirt(
        Measurement(y, A),
        iterations=30,
        ndim=2,
        callback=lambda k, z: misfit.append(float(((A(z) - y) ** 2 / rows).sum())),
    )
    assert all(b <= a for a, b in itertools.pairwise(misfit))
    assert misfit[-1] < 0.01 * float((y**2 / rows).sum())
    # Half of the image is seen by no ray of a narrow detector, and stays at what it was.
    narrow = prepare.operator(exact(replace(BEAMS["parallel"], views=1, elements=10, fineness=2.0)), 24)
    unseen = narrow.adjoint(torch.ones(1, 10).double()) == 0
    start = torch.full((24, 24), 0.01).double()
    found = sirt(Measurement(narrow(x), narrow), x0=start, iterations=5, ndim=2).x
    assert unseen.any()
    assert torch.equal(found[unseen], start[unseen])
    assert not torch.equal(found, start)


def test_hu_and_attenuation_are_inverse_and_water_is_zero() -> None:
    assert attenuation(0.0) == WATER
    assert attenuation(-1000.0) == 0
    assert hounsfield(attenuation(torch.tensor([-500.0, 3000.0]))).tolist() == pytest.approx([-500, 3000], abs=1e-3)


def test_flat_and_dark_fields_give_the_line_integrals_of_the_counts(tmp_path: Path) -> None:
    scan = exact(BEAMS["curved"])
    elements = scan.values.shape[-1]
    gain = 1 + 0.3 * np.sin(np.arange(elements) / 7)
    dark = (50 + 10 * np.cos(np.arange(elements) / 5)).astype(np.float32)
    flat = (6e4 * gain + dark).astype(np.float32)
    counts = 6e4 * gain * np.exp(-scan.values) + dark
    counted = replace(scan, values=counts.astype(np.float32), kind="counts", air=flat, dark=dark)
    ct_projections.write(counted, tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5", "a") as file:
        # Repeated exposures, whose mean counts.
        del file["flat"]
        file["flat"] = np.stack([flat - 5, flat + 5])
    read = recon.read(tmp_path / "p.h5")
    assert isinstance(read, CTProjections)
    assert np.abs(prepare.projected(read, 0, 1).p.numpy() - scan.values).max() < 1e-3


def test_a_flat_field_with_a_frame_for_each_view_is_taken_view_by_view(tmp_path: Path) -> None:
    """A tube whose output drifts by a tenth over the turn: the mean of its flat fields would leave that in."""
    scan = exact(replace(BEAMS["curved"], views=40))
    tube = (6e4 * np.linspace(1, 1.1, 40))[:, None] * np.ones(scan.values.shape[-1])
    counted = replace(
        scan, values=(tube * np.exp(-scan.values)).astype(np.float32), kind="counts", air=tube.astype(np.float32)
    )
    ct_projections.write(counted, tmp_path / "p.h5")
    read = recon.read(tmp_path / "p.h5")
    assert isinstance(read, CTProjections)
    assert np.abs(prepare.projected(read, 0, 1).p.numpy() - scan.values).max() < 1e-3


@pytest.mark.parametrize(("positions", "regular"), [
    ((0, 5, 10), True), ((0, 5, 10.04), True), ((0, 5, 10.06), False), ((10, 5, 0), False), ((0, 0, 0), False),
    ((0, 0.5, 1), True), ((0, 0.5, 1.006), False), ((0, 5, 15), False),
])  # fmt: skip
def test_slices_rise_in_steps_that_are_equal_within_a_hundredth(
    positions: tuple[float, ...], regular: bool, tmp_path: Path
) -> None:
    scan, _ = ct_scan.of_phantom(32, replace(BEAMS["flat"], views=20), slices=3)
    ct_projections.write(replace(scan, positions=positions), tmp_path / "p.h5")
    if regular:
        assert recon.read(tmp_path / "p.h5").positions == pytest.approx(positions)  # type: ignore[union-attr]
    else:
        with pytest.raises(recon.ReconError, match="do not increase in equal steps"):
            recon.read(tmp_path / "p.h5")


def test_weights_are_the_inverse_standard_deviations_of_repeated_scans() -> None:
    scan = replace(BEAMS["curved"], views=4, photons=5e3, electronic=8)
    many, _ = ct_scan.of_phantom(32, scan, slices=600)
    data = prepare.projected(many, 0, 600)
    bright = data.p.mean(0) < 2.5
    ratio = data.p.std(0) * data.weights.mean(0)
    assert float(ratio[bright].mean()) == pytest.approx(1, abs=0.03)


def test_methods_for_mri_are_refused_and_those_for_ct_by_mri(tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(32, replace(BEAMS["flat"], views=20))
    with pytest.raises(ReconError, match="sense reconstructs MRI scans"):
        recon.reconstruct(scan, Recipe(solve=Solve(method="sense")))
    raw = command.scan_file(tmp_path / "scan.h5")
    said = command.refused(command.recon("run", raw, "-o", tmp_path / "o.nii.gz", "--method", "fbp"), 1)
    assert "fbp reconstructs CT projections" in said


@pytest.mark.parametrize(("beam", "degrees"), [("parallel", 180), ("flat", 360), ("curved, short scan", 230)])
def test_the_angle_covered_by_the_views_includes_the_last_one(beam: str, degrees: float) -> None:
    (told,) = report.describe(exact(BEAMS[beam])).items
    assert told["covered_degrees"] == pytest.approx(degrees, abs=1)
    if beam != "curved, short scan":
        assert told["covered_degrees"] == pytest.approx(degrees, abs=1e-3)


def test_rays_lost_in_noise_are_reported_only_where_they_bias_soft_tissue() -> None:
    """Repeated scans tell the bias of the logarithm: what their mean is off by is no noise."""
    for photons, told in ((2e6, False), (2e3, True)):
        scan = ct_scan.Scan(photons, electronic=5, views=180)
        clean, truth = ct_scan.of_phantom(64, ct_scan.Scan(1e9, electronic=0, views=180))
        still = recon.reconstruct(clean, Recipe(solve=Solve(method="fbp"))).data
        images = [recon.reconstruct(ct_scan.of_phantom(64, replace(scan, seed=s))[0], Recipe(solve=Solve(method="fbp")))
                  for s in range(16)]  # fmt: skip
        bias = np.mean([i.data for i in images], 0) - still
        body = truth > -200
        assert (abs(float(bias[body].mean())) > 10) == told
        assert all((i.trust["starved"] > 1e-3) == told for i in images)
        assert all(any("lost in noise" in n for n in i.notes) == told for i in images)
        # Of line integrals their own noise tells it.
        made, _ = ct_scan.of_phantom(64, scan)
        p = prepare.projected(made, 0, 1).p.numpy()
        bare = replace(made, values=p, kind="line integrals", air=None)
        image = recon.reconstruct(bare, Recipe(solve=Solve(method="fbp")))
        assert (image.trust["starved"] > 1e-3) == told
        assert any("lost in noise" in n for n in image.notes) == told


@pytest.mark.parametrize(
    ("rays", "told"),
    [(0, None), (1, "photon starvation: 1 ray without"), (500, "photon starvation: 3.31% of the rays without")],
)
def test_rays_without_a_photon_are_counted_however_few(rays: int, told: str | None) -> None:
    made, _ = ct_scan.of_phantom(64, ct_scan.Scan(1e9, electronic=0, views=180))
    values = made.values.copy()
    assert values.size == 180 * 84
    values.reshape(-1)[:rays] = -5
    notes = prepare.projected(replace(made, values=values), 0, 1).notes
    assert [n.split(" a detected")[0] for n in notes] == ([told] if told else [])


def test_total_variation_of_few_views_leaves_no_streaks_in_water() -> None:
    scan, truth = ct_scan.of_phantom(96, ct_scan.Scan(1e5, views=40))
    hu = recon.reconstruct(scan, Recipe(solve=Solve(method="tv"))).data
    at = (np.arange(96) - 47.5) * 380 / 96
    water = np.hypot(at[:, None] + 70, at) < 14
    assert float((hu - truth)[0][water].std()) < 12
    assert abs(float((hu - truth)[0][water].mean())) < 10
