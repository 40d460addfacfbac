"""A method of one's own inside of the one path: what it is given, where its images go, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import recon
from recon import simulation
from recon.check import check
from recon.data import CTProjections, Measurement, RawScan, ReconError
from recon.operators import Gradient, Sense, Stack, fft
from recon.recipe import Prepare, Recipe, Solve, Trust
from recon.simulation import Settings
from recon.solve import cg, pdhg

#: Enough that spokes of all volumes, whose steps are as long as the shortest of them, reach the result of each alone.
TV = Recipe(solve=Solve(method="tv", tv=0.3, iterations=150))
SCANS = {
    "slices and repetitions": Settings(
        (40, 32, 1), slices=2, repetitions=2, acceleration=(2, 1), acs=12, coils=4, sigma=0.02, averages=1
    ),
    "a volume, averaged, with part of k-space": Settings(
        (24, 20, 16), acceleration=(2, 1), acs=8, coils=4, sigma=0.02, averages=2, partial_fourier=(0.7, 1.0)
    ),
    "spokes of two echoes": Settings(
        (32, 32, 1), trajectory="radial", coils=3, sigma=0.02, te_ms=(4.0, 20.0), acceleration=(2, 1)
    ),
}


@pytest.fixture(scope="module", params=list(SCANS))
def scan(request: pytest.FixtureRequest) -> RawScan:
    return simulation.simulate(SCANS[request.param])


def total_variation(m: Measurement) -> Tensor:
    return pdhg.tv(m, lam=0.3, iterations=150).x


def gridded(m: Measurement) -> Tensor:
    return m.A.H(m.y)


def test_the_solver_of_a_method_gives_the_image_of_that_method(scan: RawScan) -> None:
    """Prepared, completed, cropped and placed as usual."""
    recipe = replace(TV, prepare=Prepare(partial_fourier="pocs"))
    want = recon.reconstruct(scan, recipe, device="cpu")
    got = recon.reconstruct(scan, replace(recipe, solve=Solve()), device="cpu", solver=total_variation)
    np.testing.assert_allclose(got.data, want.data, rtol=0, atol=3e-3 * abs(want.data).max())
    assert (got.geometry, got.axes) == (want.geometry, want.axes)
    assert set(want.notes) - {"tv: asked for"} <= set(got.notes)


def test_a_solver_sees_all_volumes_of_one_slice_at_a_time(scan: RawScan) -> None:
    seen: list[tuple[int, ...]] = []

    def still(m: Measurement) -> Tensor:
        x = gridded(m)
        seen.append(tuple(x.shape))
        return x.mean(0, keepdim=True).expand_as(x)

    image = recon.reconstruct(scan, device="cpu", solver=still)
    count = image.data.shape[0] if image.axes else 1
    assert all(s[0] == count for s in seen)
    assert len(seen) == (2 if "repetition" in image.axes else 1)
    if image.axes:
        np.testing.assert_array_equal(image.data[0], image.data[1])


def test_measurements_are_what_a_solver_is_given(scan: RawScan) -> None:
    given: list[Measurement] = []

    def look(m: Measurement) -> Tensor:
        given.append(m)
        return gridded(m)

    recon.reconstruct(scan, device="cpu", solver=look)
    found = recon.measurements(scan, device="cpu")
    assert len(found) == len(given)
    for a, b in zip(found, given, strict=True):
        assert isinstance(a.A, Sense | Stack)
        assert a.sigma == b.sigma
        torch.testing.assert_close(a.y, b.y, rtol=0, atol=0)
        torch.testing.assert_close(gridded(a), gridded(b), rtol=0, atol=0)


def test_noise_of_measurements_is_white_and_of_the_size_that_they_state() -> None:
    """In the corners of k-space nothing else is measured; coils were mixed, of unequal gain and correlated."""
    s = Settings((64, 64, 1), coils=6, sigma=0.5, noise_lines=64, correlation=0.6)
    (m,) = recon.measurements(simulation.simulate(s), device="cpu")
    k = fft(m.y, (-1,))[0, :, 0]
    corners = torch.cat(
        [k[:, y, x].flatten(1) for y in (slice(0, 12), slice(52, 64)) for x in (slice(0, 12), slice(52, 64))], 1
    )
    assert m.sigma == 1
    covariance = (corners @ corners.mH / corners.shape[1]).numpy()
    np.testing.assert_allclose(covariance, 2 * np.eye(6), atol=0.3)


def test_a_joint_solver_of_frames_is_better_than_separate_frames() -> None:
    """Total variation over time, of a head that stands still: lines that were measured again are averaged."""
    s = Settings((48, 48, 1), repetitions=4, acceleration=(2, 1), acs=16, coils=6, sigma=0.25)
    frames = simulation.simulate(s)
    truth = recon.reconstruct(simulation.simulate(replace(s, acceleration=(1, 1), sigma=1e-3)), device="cpu").data

    def along_time(m: Measurement) -> Tensor:
        K, limit = Gradient((-4,)), 2.0
        b = m.A.H(m.y)
        return pdhg.pdhg(
            m.A.normal(), b, K, lambda p, _: p * (limit / p.abs().clamp_min(limit)), bound=1.0, K_bound=K.squared_norm,
            iterations=60, balance=0.1, x0=b, ndim=4,
        ).x  # fmt: skip

    def alone(m: Measurement) -> Tensor:
        return cg.sense(m).x

    def error(solver: recon.job.Solver) -> float:
        x = abs(recon.reconstruct(frames, device="cpu", solver=solver).data)
        t = abs(truth)
        return float(np.linalg.norm(x * (x * t).sum() / (x * x).sum() - t) / np.linalg.norm(t))

    assert error(along_time) < 0.8 * error(alone)


def test_noise_of_a_solver_of_ones_own_is_measured_by_replicas() -> None:
    s = Settings((40, 40, 1), acceleration=(2, 1), acs=12, coils=4, sigma=0.05)
    scan, recipe = simulation.simulate(s), Recipe(trust=Trust(replicas=8), solve=Solve(method="sense"))

    def halved(m: Measurement) -> Tensor:
        return 0.5 * cg.sense(m, lam=0.0, iterations=10).x

    def whole(m: Measurement) -> Tensor:
        return cg.sense(m, lam=0.0, iterations=10).x

    half, full = (recon.reconstruct(scan, recipe, device="cpu", solver=f).uncertainty for f in (halved, whole))
    assert half is not None
    assert full is not None
    np.testing.assert_allclose(half, 0.5 * full, rtol=1e-3, atol=1e-4)


def test_an_output_says_that_no_recipe_makes_it_again(tmp_path: Path) -> None:
    scan = simulation.simulate(Settings((32, 32, 1), coils=2, sigma=0.02))
    image = recon.reconstruct(scan, device="cpu", solver=gridded)
    assert image.provenance["method"] == "own"
    recon.write(image, [tmp_path / "x.nii.gz"])
    told = check(tmp_path / "x.nii.gz")
    assert "own: the function gridded, given by the caller" in told.record["notes"]
    assert any("which a recipe cannot hold" in d for d in told.differences)


@pytest.mark.parametrize(
    ("solver", "said"),
    [
        (lambda m: m.A.H(m.y)[0], r"shape \(1, 32, 32\) where \(1, 1, 32, 32\) is needed"),
        (lambda m: m.A.H(m.y).numpy(), "returned a ndarray"),
        (lambda m: cg.sense(m), r"return the \.x"),
        (lambda m: m.A.H(m.y) * float("nan"), "NaN or infinite"),
    ],
)
def test_what_is_no_image_of_the_scan_is_refused(solver: recon.job.Solver, said: str) -> None:
    scan = simulation.simulate(Settings((32, 32, 1), coils=2, sigma=0.02))
    with pytest.raises(ReconError, match=said):
        recon.reconstruct(scan, device="cpu", solver=solver)


def test_a_solver_is_never_given_a_part_of_the_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little memory for all of them it is not called."""
    monkeypatch.setattr("recon.plan._base", lambda: 0)
    scan = simulation.simulate(Settings((64, 64, 1), repetitions=8, coils=8, sigma=0.02))
    one = 10 * 2**20
    recon.reconstruct(scan, Recipe(solve=Solve(method="tv", iterations=1)), device="cpu", memory=one)
    with pytest.raises(ReconError, match="all 8 volumes of a slice at once"):
        recon.reconstruct(scan, device="cpu", memory=one, solver=gridded)


def test_projections_of_ct_take_no_solver_of_mri() -> None:
    ct = CTProjections(np.zeros((1, 2, 3), np.float32), "line integrals", np.zeros(2), "parallel", 1.0)
    with pytest.raises(ReconError, match="works on raw MRI scans only"):
        recon.reconstruct(ct, solver=gridded)
