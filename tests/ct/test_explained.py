"""Images of projections are held against what was measured, ray by ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import recon
from recon.ct import learned
from recon.ct.explained import misfit
from recon.hounsfield import WATER
from recon.nets import denoiser
from recon.prepare import ct as prepare
from recon.recipe import CT, Recipe, Solve, Trust
from recon.simulation import ct_phantom, ct_scan

N = 96
SCAN = ct_scan.Scan(beam="parallel", views=240, photons=3e4, fineness=0.8)
PLAN = Recipe(solve=Solve(method="unrolled", weights="ct-small"), ct=CT(strength=1.0, coarse=0.0, filter="shepp-logan"))


def test_the_truth_of_an_analytic_scan_leaves_the_noise_and_nothing_more() -> None:
    # Fine pixels: the integrals are those of ellipses, not of the picture.
    made, truth = ct_scan.of_phantom(384, replace(SCAN, photons=5e3, views=90))
    data, A = prepare.projected(made, 0, 1), prepare.operator(made)
    good = float(misfit(torch.from_numpy(truth), data, A, WATER))
    assert good == pytest.approx(1, abs=0.1)
    # The same by the definition, with the operator taken as it is.
    p = A(torch.from_numpy((truth / 1000 + 1) * np.float32(WATER)))
    assert good == pytest.approx(float(((p - data.p) / (1 / data.weights)).square().mean()), rel=1e-4)
    wrong = truth.copy()
    wrong[:, 150:250, 150:250] += 100
    assert float(misfit(torch.from_numpy(wrong), data, A, WATER)) > good + 0.2


def test_every_image_of_projections_says_how_it_explains_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "denoised", lambda network, image, *told: image)
    made, _ = ct_scan.of_phantom(N, SCAN, slices=2)
    image = recon.reconstruct(made, PLAN)
    plain = recon.reconstruct(made, replace(PLAN, solve=Solve(method="fbp")))
    assert image.trust["fallbacks"] == 0
    assert np.array_equal(image.data, plain.data)
    for k, item in enumerate(image.trust["items"]):
        rays, A = prepare.projected(made, k, k + 1), prepare.operator(made)
        expected = float(misfit(torch.from_numpy(plain.data[k : k + 1]), rays, A, made.water))
        assert item["residual"] == item["classical_residual"] == pytest.approx(expected, rel=1e-4)


def test_a_network_image_that_contradicts_the_projections_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    invented = torch.from_numpy(ct_phantom.picture(ct_phantom.BODY, N, 380 / N).float().numpy())
    invented = torch.where(invented > -900, 150.0, 0.0)
    monkeypatch.setattr(denoiser, "denoised", lambda network, image, *told: image + invented)
    # The evidence on the image alone is not tested here.
    monkeypatch.setattr(learned, "evidence", lambda *a: {n: 0.0 for n in ("removed", "blur", "patch")} | {
        "noise": 20.0, "share": 1.0, "reasons": ()
    })  # fmt: skip
    made, _ = ct_scan.of_phantom(N, SCAN)
    plain = recon.reconstruct(made, replace(PLAN, solve=Solve(method="fbp")))
    image = recon.reconstruct(made, PLAN)
    assert np.array_equal(image.data, plain.data)
    assert image.trust["fallbacks"] == 1
    assert "residual of the learned image in the projections" in image.trust["reasons"][0]
    assert any("1 of 1 slice shows the filtered backprojection" in n for n in image.notes)
    kept = recon.reconstruct(made, replace(PLAN, trust=Trust(fallback=False)))
    assert np.abs(kept.data - plain.data).max() > 100
    assert kept.trust["items"][0]["residual"] > 1.25 * kept.trust["items"][0]["classical_residual"]


def test_a_network_is_given_edges_that_hann_would_take_and_a_window_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(denoiser, "denoised", lambda network, image, *told: image)
    made, _ = ct_scan.of_phantom(N, SCAN)

    def run(method: str, window: str) -> np.ndarray:
        solve = Solve(method=method, weights="ct-small")  # type: ignore[arg-type]
        return recon.reconstruct(made, Recipe(solve=solve, ct=CT(strength=1.0, filter=window))).data  # type: ignore[arg-type]

    assert np.array_equal(run("unrolled", "auto"), run("fbp", "shepp-logan"))
    assert np.array_equal(run("fbp", "auto"), run("fbp", "hann"))
    assert np.array_equal(run("unrolled", "hann"), run("fbp", "hann"))
