"""X-ray projection against line integrals that are known exactly, and against the words of its geometries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.data import DataError
from recon.operators import Fan, Parallel, Xray
from tests.operators.rays import BODY, integrals, picture

ANGLES = torch.arange(48, dtype=torch.float64) * (2 * math.pi / 48)
GEOMETRIES = {
    "parallel": Parallel(ANGLES, 140, 0.9, 0.2),
    "flat": Fan(ANGLES, 140, 1.6, 200.0, 150.0, False, -0.3),
    "curved": Fan(ANGLES, 140, 1.6, 200.0, 150.0, True, 0.4),
}
each = pytest.mark.parametrize("name", GEOMETRIES)


@each
def test_projections_of_ellipses_converge_to_their_line_integrals(name) -> None:
    g = GEOMETRIES[name]
    exact = integrals(BODY, g)
    errors = []
    for n in (64, 128, 256):
        x = picture(BODY, n, 120 / n).float()
        errors.append(float((Xray(g, (n, n), 120 / n)(x) - exact).norm() / exact.norm()))
    assert errors[0] < 0.012
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


@each
def test_a_line_integral_has_no_unit_and_does_not_change_with_the_unit_of_length(name) -> None:
    g = GEOMETRIES[name]
    lengths = ("spacing", "offset", "source_distance", "detector_distance")
    given = {k: v * 10 if k in lengths else v for k, v in vars(g).items()}
    x = picture(BODY, 32, 4.0)
    small, large = Xray(g, (32, 32), 4.0), Xray(type(g)(**given), (32, 32), 40.0)
    assert torch.allclose(large(x / 10), small(x), rtol=0, atol=1e-12)


def centre(y: torch.Tensor) -> float:
    return float((y * torch.arange(y.shape[-1])).sum() / y.sum())


def test_a_point_is_seen_where_the_geometry_says() -> None:
    # One pixel at x = 12, y = -7 mm: its row comes first in memory.
    n, angle = 41, torch.tensor([0.0, math.pi / 2, 0.7])
    x = torch.zeros(n, n, dtype=torch.float64)
    x[20 - 7, 20 + 12] = 1
    c, s = math.cos(0.7), math.sin(0.7)
    y = Xray(Parallel(angle, 201, 0.25, 1.5), (n, n), 1.0)(x)
    across = (12, -7, 12 * c - 7 * s)
    for row, e in zip(y, across):
        assert centre(row) == pytest.approx(100 + (e - 1.5) / 0.25, abs=0.05)
    depth = (50 - 7, 50 - 12, 50 - 12 * s - 7 * c)
    for curved in (False, True):
        y = Xray(Fan(angle, 401, 0.25, 50.0, 30.0, curved, 1.5), (n, n), 1.0)(x)
        for row, e, d in zip(y, across, depth):
            s_ = 80 * (math.atan(e / d) if curved else e / d)
            assert centre(row) == pytest.approx(200 + (s_ - 1.5) / 0.25, abs=0.25)


def test_a_source_far_off_gives_a_parallel_beam() -> None:
    x = picture(BODY, 64, 2.0)
    g = GEOMETRIES["parallel"]
    expected = Xray(g, (64, 64), 2.0)(x)
    for curved in (False, True):
        fan = Fan(g.angles, g.detectors, g.spacing, 1e7, 0.0, curved, g.offset)
        assert torch.allclose(Xray(fan, (64, 64), 2.0)(x), expected, rtol=0, atol=1e-4)


@each
def test_slices_are_batched_over_any_leading_axes(name) -> None:
    A = Xray(GEOMETRIES[name], (20, 31), 2.0)
    x = torch.randn(2, 0, 3, 20, 31)
    assert A(x).shape == (2, 0, 3, 48, 140)
    x = torch.randn(2, 3, 31, 20).transpose(-1, -2)
    y = A(x)
    assert y.shape == (2, 3, 48, 140)
    assert torch.equal(y[1, 2], A(x[1, 2].contiguous()))
    assert torch.equal(A.adjoint(y)[1, 2], A.adjoint(y[1, 2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_result_has_the_precision_of_what_was_given(dtype) -> None:
    A = Xray(GEOMETRIES["flat"], (20, 31), 2.0)
    y = A(torch.ones(20, 31, dtype=dtype))
    assert y.dtype == A.adjoint(y).dtype == dtype


def test_gradients_of_a_misfit_are_the_backprojected_residual() -> None:
    A = Xray(GEOMETRIES["curved"], (20, 31), 2.0)
    x, y = torch.randn(20, 31, requires_grad=True), torch.randn(48, 140)
    (A(x) - y).square().sum().backward()
    assert torch.allclose(x.grad, 2 * A.adjoint(A(x.detach()) - y), rtol=1e-4, atol=1e-2)
    z = torch.randn(48, 140, requires_grad=True)
    A.adjoint(z).sum().backward()
    assert torch.allclose(z.grad, A(torch.ones(20, 31)), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Parallel(torch.zeros(2, 3), 5, 1.0), "angles"),
        (lambda: Parallel(torch.tensor([0.0, math.nan]), 5, 1.0), "angles"),
        (lambda: Parallel(torch.zeros(0), 5, 1.0), "angles"),
        (lambda: Parallel(ANGLES, 0, 1.0), "detector elements"),
        (lambda: Parallel(ANGLES, 5, -1.0), "detector elements"),
        (lambda: Parallel(ANGLES, 5, math.inf), "detector elements"),
        (lambda: Parallel(ANGLES, 5, 1.0, math.nan), "offset"),
        (lambda: Fan(ANGLES, 5, 1.0, math.inf, 1.0), "source_distance"),
        (lambda: Fan(ANGLES, 5, 1.0, 10.0, math.nan), "detector_distance"),
        (lambda: Xray(Parallel(ANGLES, 5, 1.0), (20, 20), math.inf), "empty"),
        (lambda: Fan(ANGLES, 5, 1.0, 0.0, 1.0), "source_distance"),
        (lambda: Fan(ANGLES, 5, 1.0, 10.0, -1.0), "detector_distance"),
        (lambda: Fan(ANGLES, 50, 1.0, 10.0, 5.0, True), "90°"),
        (lambda: Xray(Fan(ANGLES, 50, 1.0, 14.0, 5.0), (20, 20), 1.0), "within the image"),
        (lambda: Xray(Parallel(ANGLES, 5, 1.0), (0, 20), 1.0), "empty"),
        (lambda: Xray(Parallel(ANGLES, 5, 1.0), (20, 20), 0.0), "empty"),
        (lambda: Xray(Parallel(ANGLES, 5, 1.0), (20, 20), 1.0)(torch.zeros(20, 21)), "image is"),
        (lambda: Xray(Parallel(ANGLES, 5, 1.0), (20, 20), 1.0)(torch.zeros(20, 20, dtype=torch.int16)), "image is"),
        (lambda: Xray(Parallel(ANGLES, 5, 1.0), (20, 20), 1.0).adjoint(torch.zeros(5, 48)), "sinogram is"),
    ],
)
def test_what_makes_no_scan_is_refused_with_a_cure(make, says) -> None:
    with pytest.raises(DataError, match=says):
        make()


@pytest.mark.parametrize("name", ["flat", "curved"])
def test_the_rays_of_a_fan_pass_the_axis_as_far_off_as_lines_from_source_to_element_do(name: str) -> None:
    g = GEOMETRIES[name]
    assert isinstance(g, Fan)
    reach = g.source_distance + g.detector_distance
    s = (np.arange(g.detectors) - (g.detectors - 1) / 2) * g.spacing + g.offset
    arc = [reach * np.sin(s / reach), reach * np.cos(s / reach)]
    element = np.stack(arc if g.curved else [s, np.full_like(s, reach)])
    # The axis lies source_distance along the central ray: its distance from a line is a cross product.
    passes = g.source_distance * element[0] / np.hypot(*element)
    np.testing.assert_allclose(g.distances.numpy(), passes, rtol=1e-6, atol=1e-6)
