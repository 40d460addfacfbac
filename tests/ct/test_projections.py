"""Projections to HU: every method against ellipses whose line integrals are exact, layouts, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
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
from tests.io import ct_files

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


def test_few_views_are_told_and_total_variation_is_taken() -> None:
    scan, _ = ct_scan.of_phantom(N, replace(BEAMS["curved"], photons=1e6, views=20))
    image = recon.reconstruct(scan, Recipe(solve=Solve(iterations=20)))
    assert image.provenance["method"] == "tv"
    assert any("20 views are few" in note for note in image.notes)
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
        with pytest.raises(recon.ReconError, match="do not rise in equal steps"):
            recon.read(tmp_path / "p.h5")


def test_weights_are_the_inverse_standard_deviations_of_repeated_scans() -> None:
    scan = replace(BEAMS["curved"], views=4, photons=5e3, electronic=8)
    many, _ = ct_scan.of_phantom(32, scan, slices=600)
    data = prepare.projected(many, 0, 600)
    bright = data.p.mean(0) < 2.5
    ratio = data.p.std(0) * data.weights.mean(0)
    assert float(ratio[bright].mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("beam", [BEAMS["flat"], ct_scan.Scan(beam="cone")])
def test_what_is_written_reads_back_and_is_the_same_file_again(beam: ct_scan.Scan, tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(16, replace(beam, views=20), slices=2)
    for name in ("a.h5", "b.h5"):
        ct_projections.write(scan, tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    back = recon.read(tmp_path / "a.h5")
    for name, value in vars(scan).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(back, name), value), name
        elif name not in ("source", "header", "notes"):
            assert getattr(back, name) == value, name


def _edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return edit


def _replace(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        data, attrs = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = value(data)
        file[name].attrs.update(attrs)

    return _edit(change)


def _nan(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flat[7] = np.nan
    return a


def _say(where: str, **values: object) -> Callable[[Path], None]:
    """Change attributes of an entry; None takes one away."""

    def change(file: h5py.File) -> None:
        for name, value in values.items():
            if value is None:
                del file[where].attrs[name]
            else:
                file[where].attrs[name] = value

    return _edit(change)


BAD = {
    "NaN": (_replace("projections", _nan), "1 values of projections are NaN"),
    "no photons": (_replace("projections", lambda a: 0 * a), "100% of the rays hold no photon"),
    "negative counts": (_replace("projections", lambda a: -a), "100% of the rays hold no photon"),
    "no light": (_replace("flat", lambda a: 0 * a), "count nothing without a body"),
    "brighter than air": (_replace("flat", lambda a: a / 50), "brighter behind the body"),
    "flat of other size": (_replace("flat", lambda a: a[:-3]), "flat has the shape"),
    "no flat": (_edit(lambda f: f.__delitem__("flat")), "counts need the data set flat"),
    "no angles": (_edit(lambda f: f.__delitem__("angles")), "lacks the data set angles"),
    "angles of other views": (_replace("angles", lambda a: a[1:]), "19 angles for 20 views"),
    "no kind": (_say("projections", kind=None), "kind ''"),
    "counts as integrals": (
        _say("projections", kind="line integrals"),
        "line integrals run",
    ),
    "no beam": (_say("geometry", beam="pencil"), "beam 'pencil'"),
    "no distance": (_say("geometry", source_to_axis_mm=None), "lacks source_to_axis_mm"),
    "source in the body": (
        _say("geometry", source_to_axis_mm=90.0),
        "within the image",
    ),
    "no spacing": (_say("geometry", detector_spacing_mm=0.0), "not all above 0"),
    "electronic noise": (
        _say("projections", electronic_noise=-1.0),
        "electronic noise",
    ),
    "cut short": (lambda p: p.write_bytes(p.read_bytes()[:-2000]), "cut short"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_makes_no_scan_ends_with_a_sentence_and_nothing_written(kind: str, tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(32, replace(BEAMS["flat"], views=20, photons=1e5))
    ct_projections.write(scan, tmp_path / "p.h5")
    change, says = BAD[kind]
    change(tmp_path / "p.h5")
    end = command.recon("run", tmp_path / "p.h5", "-o", tmp_path / "o.nii.gz", "-o", tmp_path / "d", "--method", "fbp")
    assert says in command.refused(end, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


def test_methods_for_mri_are_refused_and_those_for_ct_by_mri(tmp_path: Path) -> None:
    scan, _ = ct_scan.of_phantom(32, replace(BEAMS["flat"], views=20))
    with pytest.raises(ReconError, match="sense reconstructs scans of MRI"):
        recon.reconstruct(scan, Recipe(solve=Solve(method="sense")))
    raw = command.scan_file(tmp_path / "scan.h5")
    said = command.refused(command.recon("run", raw, "-o", tmp_path / "o.nii.gz", "--method", "fbp"), 1)
    assert "fbp reconstructs projections of CT" in said


def test_the_verb_simulates_a_volume_that_run_gives_back(tmp_path: Path) -> None:
    hu = ct_files.body((3, 96, 96), noise=0)
    ct_files.write(tmp_path / "in", hu, change=lambda d, k: setattr(d, "PixelSpacing", [3, 3]))
    low, out = tmp_path / "low.h5", tmp_path / "o.nii.gz"
    options = ("--views", 300, "--photons", 1e6, "--slices", "2:3")
    end = command.recon("simulate-ct", tmp_path / "in", "-o", low, *options, "--seed", 4)
    assert end.code == 0, end.err
    assert command.recon("run", low, "-o", out, "-q").code == 0
    found = nib.load(out).get_fdata().T
    assert found.shape == (2, 96, 96)
    for value in (40, 800):
        where = hu[1:] == value
        assert found[where].mean() == pytest.approx(value, abs=0.06 * (1000 + value))
    # The bone is at the upper left: rows and columns are where they were.
    assert found[0, 34, 34] > 600 > found[0, 34, 62]
    # Slices 2 and 3 of a series are one and two steps from its first.
    assert recon.read(low).positions == pytest.approx((2.5, 5.0))  # type: ignore[union-attr]
    again, other = tmp_path / "again.h5", tmp_path / "other.h5"
    command.recon("simulate-ct", tmp_path / "in", "-o", again, *options, "--seed", 4)
    command.recon("simulate-ct", tmp_path / "in", "-o", other, *options, "--seed", 5)
    assert low.read_bytes() == again.read_bytes() != other.read_bytes()


def test_a_share_of_the_dose_adds_the_noise_that_the_source_lacks(tmp_path: Path) -> None:
    y, x = np.mgrid[:128, :128] - 63.5
    hu = np.where(x**2 + y**2 < 50**2, 0.0, -1000.0)[None].astype(np.float32)
    source = hu + 10 * np.random.default_rng(0).standard_normal(hu.shape).astype(np.float32)
    scan = ct_scan.Scan(dose=0.25, views=400, electronic=0)
    made = ct_scan.of_volume(source, 2.5, (0.0,), 2.5, scan)
    image = recon.reconstruct(made, Recipe(ct=CT(filter="hann")))
    inside = (x**2 + y**2 < 40**2) & (x**2 + y**2 > 5**2)
    # 4 times the variance, of which the source's own white noise loses some to the filter.
    assert 14 < float(image.data[0][inside].std()) < 23


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--photons", 0), "--photons takes a number above 0"),
        (("--photons", -3), "--photons takes a number above 0"),
        (("--dose", 2), "--dose takes a share"),
        (("--dose", 0.5, "--photons", 5), "say the same thing twice"),
        (("--dose", 0.5), "no noise and so no dose"),
        (("--beam", "helix"), "--beam takes"),
        (("--electronic", -1), "electronic noise"),
        (("--bow-tie", 3), "bow-tie"),
        (("--source-distance", 100), "within the body"),
        (("--source-distance", 1e9), "--source-distance takes up to"),
        (("--detector-distance", 1e9), "--detector-distance takes up to"),
        (("--arc", 1000), "--arc takes up to 360 degrees"),
        (("--arc", -5), "--arc takes up to 360 degrees"),
        (("--arc", "nan"), "--arc takes up to 360 degrees"),
        (("--elements", 1), "--elements takes at least 8"),
        (("--views", 1), "--views takes at least 2"),
        (("--rows", 5), "--rows are those of a cone beam"),
        (("--beam", "cone", "--dose", 0.5), "no noise and so no dose"),
        (("--beam", "cone", "--source-distance", 90), "within the body"),
        (("--photons", "nan"), "--photons takes a number above 0"),
        (("--electronic", "inf"), "electronic noise"),
        (("--slices", "1:3"), "the phantom is one slice"),
    ],
)
def test_a_scan_that_cannot_be_simulated_is_refused(options: tuple[object, ...], says: str, tmp_path: Path) -> None:
    end = command.recon("simulate-ct", "phantom", "-o", tmp_path / "p.h5", "--matrix", 32, "--views", 10, *options)
    assert says in command.refused(end)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("beam", "degrees"), [("parallel", 180), ("flat", 360), ("curved, short scan", 230)])
def test_what_the_views_cover_is_told_with_the_last_one_counted(beam: str, degrees: float) -> None:
    (told,) = report.describe(exact(BEAMS[beam])).items
    assert told["covered_degrees"] == pytest.approx(degrees, abs=1)
    if beam != "curved, short scan":
        assert told["covered_degrees"] == pytest.approx(degrees, abs=1e-3)


def test_rays_lost_in_noise_are_told_where_they_bias_soft_tissue_and_nowhere_else() -> None:
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


@pytest.mark.parametrize(("rays", "told"), [(0, None), (1, "1 ray starved"), (500, "3.31% of the rays starved")])
def test_rays_without_a_photon_are_counted_however_few(rays: int, told: str | None) -> None:
    made, _ = ct_scan.of_phantom(64, ct_scan.Scan(1e9, electronic=0, views=180))
    values = made.values.copy()
    assert values.size == 180 * 84
    values.reshape(-1)[:rays] = -5
    notes = prepare.projected(replace(made, values=values), 0, 1).notes
    assert [n.split(":")[0] for n in notes] == ([told] if told else [])


def test_total_variation_of_few_views_leaves_no_streaks_in_water() -> None:
    scan, truth = ct_scan.of_phantom(96, ct_scan.Scan(1e5, views=40))
    hu = recon.reconstruct(scan, Recipe(solve=Solve(method="tv"))).data
    at = (np.arange(96) - 47.5) * 380 / 96
    water = np.hypot(at[:, None] + 70, at) < 14
    assert float((hu - truth)[0][water].std()) < 12
    assert abs(float((hu - truth)[0][water].mean())) < 10
