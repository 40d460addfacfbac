"""Rays that have a say in a network's image: A = Weight(w) @ Xray in the network of every other scan."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import recon
from recon.ct import projections
from recon.data import CTImages, Measurement, ReconError
from recon.nets import denoiser
from recon.nets.unrolled import TRUST, Shape, Unrolled
from recon.operators import Weight, Xray
from recon.operators.xray import Parallel
from recon.recipe import CT, Recipe, Solve
from recon.simulation import ct_scan
from tests.io import ct_files

SHAPE = Shape(cascades=2, channels=(6, 8), condition=6, iterations=1, real=True, texture=3, expected=(0, 1, 0))
PLAN = Recipe(solve=Solve(method="unrolled", weights="ct-small"), ct=CT(strength=1.0))


def test_each_cascade_solves_for_what_rays_and_network_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "ITERATIONS", 300)
    g = torch.Generator().manual_seed(0)
    angles = torch.arange(9, dtype=torch.float64) * math.pi / 9
    A = Weight(1 + torch.rand(1, 9, 17, generator=g)) @ Xray(Parallel(angles, 17, 0.8), (9, 11), 1.0)
    image, y = 100 * torch.randn(1, 9, 11, generator=g), 10 * torch.randn(1, 9, 17, generator=g)
    level = torch.tensor([50.0])
    # Untrained, the network changes nothing: each of two cascades is its own A = I, then the normal equations of rays.
    found = denoiser.denoised(Unrolled(SHAPE), image, level, torch.zeros(1, 3), Measurement(y, A))
    unit = torch.eye(99, dtype=torch.float64).reshape(99, 9, 11)
    matrix = torch.stack([A(e[None]).flatten() for e in unit.float()], 1).double()
    lam = (denoiser.ERROR * 0.05) ** -2
    own = 0.05 * math.exp(TRUST) + 1e-5
    first = x = 1 + image.double().flatten() / 1000
    for _ in range(2):
        x = (first + own * x) / (1 + own)
        right = matrix.T @ y.double().flatten() + lam * x
        x = torch.linalg.solve(matrix.T @ matrix + lam * torch.eye(99, dtype=torch.float64), right)
    expected = 1000 * (x.reshape(9, 11) - 1)
    assert float((expected - image).abs().max()) > 100
    assert float((found[0] - expected).abs().max()) < 1


def test_rays_bring_back_what_a_coarse_filtered_backprojection_lost() -> None:
    made, truth = ct_scan.of_phantom(96, ct_scan.Scan(views=240, photons=2e5))
    plain = recon.reconstruct(made, PLAN)
    held = recon.reconstruct(made, replace(PLAN, ct=replace(PLAN.ct, consistency="rays")))
    error = [float(np.square((i.data - truth)[truth > -900]).mean()) for i in (plain, held)]
    assert error[1] < 0.9 * error[0]
    assert held.trust["residual"] < 0.5 * plain.trust["residual"]
    assert any("measured rays" in note for note in held.notes)
    assert not any("measured rays" in note for note in plain.notes)
    assert not any("in tests" in note for note in held.notes)


def test_images_have_no_rays_to_ask(tmp_path: Path) -> None:
    ct_files.write(tmp_path, ct_files.body((2, 32, 32), noise=0))
    scan = recon.read(tmp_path)
    assert isinstance(scan, CTImages)
    with pytest.raises(ReconError, match="needs projections"):
        recon.reconstruct(scan, replace(PLAN, ct=CT(consistency="rays")))


@pytest.mark.parametrize(("side", "views", "said"), [(512, 480, 1), (512, 90, 0), (160, 480, 0)])
def test_rays_are_doubted_where_they_were_measured_to_cost_quality(side: int, views: int, said: int) -> None:
    angles = torch.arange(views, dtype=torch.float64) * math.pi / views
    notes = projections.costly(Xray(Parallel(angles, side, 1.0), (side, side), 1.0))
    assert len(notes) == said
    assert all('ct.consistency = "none"' in note for note in notes)
