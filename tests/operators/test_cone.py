"""Cone-beam projection against line integrals that are known exactly, and against the words of its geometry."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from recon.data import DataError
from recon.operators import Cone, ConeXray, Fan, Xray
from tests.operators.cones import BODY, integrals, picture

ANGLES = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12) + 0.1
CONE = Cone(ANGLES, 61, 70, 2.6, 2.8, 200.0, 150.0, 3.0, -2.0)


def test_projections_of_ellipsoids_converge_to_their_line_integrals() -> None:
    exact = integrals(BODY, CONE)
    errors = []
    for n in (16, 32, 64):
        x = picture(BODY, (3 * n // 4, n, n), 120 / n, 108 / n).float()
        A = ConeXray(CONE, tuple(x.shape), 120 / n, 108 / n)
        errors.append(float((A(x) - exact).norm() / exact.norm()))
    assert errors[0] < 0.09
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_the_row_in_the_plane_of_the_source_is_a_fan() -> None:
    g = replace(CONE, rows=1, row_offset=0.0)
    x = torch.randn(3, 20, 31, dtype=torch.float64)
    fan = Xray(Fan(ANGLES, 70, 2.8, 200.0, 150.0, False, -2.0), (20, 31), 2.0)
    A = ConeXray(g, (3, 20, 31), 2.0, 1.5)
    assert torch.allclose(A(x)[0], fan(x[1]), rtol=0, atol=1e-12)
    y = torch.randn(1, 12, 70, dtype=torch.float64)
    assert torch.allclose(A.adjoint(y)[1], fan.adjoint(y[0]), rtol=0, atol=1e-12)
    assert torch.allclose(A.smear(y)[1], fan.smear(y[0]), rtol=0, atol=1e-12)


def test_a_point_is_seen_where_the_geometry_says() -> None:
    """One voxel at x = 12, y = −7 and z = 5 mm, in a volume whose middle is 9 mm above the source."""
    n, angles = 41, torch.tensor([0.0, math.pi / 2, 0.7])
    x = torch.zeros(9, n, n, dtype=torch.float64)
    x[4 - 2, 20 - 7, 20 + 12] = 1
    g = Cone(angles, 121, 201, 0.25, 0.5, 50.0, 30.0, 1.5, 2.0)
    y = ConeXray(g, (9, n, n), 1.0, 2.0, 9.0)(x)
    for view, angle in enumerate(angles.tolist()):
        across = 12 * math.cos(angle) - 7 * math.sin(angle)
        depth = 50 - 12 * math.sin(angle) - 7 * math.cos(angle)
        seen = y[:, view]
        row = float((seen.sum(1) * torch.arange(121)).sum() / seen.sum())
        column = float((seen.sum(0) * torch.arange(201)).sum() / seen.sum())
        assert row == pytest.approx(60 + (80 * 5 / depth - 1.5) / 0.25, abs=0.3)
        assert column == pytest.approx(100 + (80 * across / depth - 2.0) / 0.5, abs=0.2)


def test_a_volume_may_be_cut_into_slabs() -> None:
    """What slabs at their heights project adds up, and each slab of a backprojection is that of the whole."""
    x, y = torch.randn(8, 20, 24, dtype=torch.float64), torch.randn(61, 12, 70, dtype=torch.float64)
    whole = ConeXray(CONE, (8, 20, 24), 2.0, 3.0, 1.0)
    parts = [ConeXray(CONE, (4, 20, 24), 2.0, 3.0, 1.0 + 3.0 * k) for k in (-2, 2)]
    assert torch.allclose(sum(p(v) for p, v in zip(parts, x.split(4))), whole(x), rtol=0, atol=1e-11)  # type: ignore[arg-type]
    for f in ("adjoint", "smear"):
        assert torch.allclose(torch.cat([getattr(p, f)(y) for p in parts]), getattr(whole, f)(y), rtol=0, atol=1e-11)


def test_volumes_are_batched_over_any_leading_axes() -> None:
    A = ConeXray(CONE, (5, 20, 31), 2.0, 2.0)
    assert A(torch.randn(2, 0, 5, 20, 31)).shape == (2, 0, 61, 12, 70)
    x = torch.randn(2, 5, 31, 20).transpose(-1, -2)
    y = A(x)
    assert torch.equal(y[1], A(x[1].contiguous()))
    assert torch.equal(A.adjoint(y)[1], A.adjoint(y[1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_result_has_the_precision_of_what_was_given(dtype) -> None:
    A = ConeXray(CONE, (5, 20, 31), 2.0, 2.0)
    y = A(torch.ones(5, 20, 31, dtype=dtype))
    assert y.dtype == A.adjoint(y).dtype == dtype


def make(**changes: object) -> Cone:
    return replace(CONE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: make(angles=torch.zeros(2, 3)), "angles"),
        (lambda: make(rows=0), "detector rows"),
        (lambda: make(row_spacing=-1.0), "detector rows"),
        (lambda: make(row_offset=math.nan), "detector rows"),
        (lambda: make(columns=0), "detector elements"),
        (lambda: make(row_spacing=math.inf), "detector rows"),
        (lambda: make(offset=math.nan), "offset"),
        (lambda: make(spacing=math.inf), "detector elements"),
        (lambda: ConeXray(CONE, (5, 5, 5), 1.0, math.inf), "empty"),
        (lambda: make(source_distance=0.0), "source_distance"),
        (lambda: make(row_spacing=10.0), "41° above the plane"),
        (lambda: ConeXray(CONE, (5, 0, 5), 1.0, 1.0), "empty"),
        (lambda: ConeXray(CONE, (5, 5, 5), 1.0, 0.0), "empty"),
        (lambda: ConeXray(CONE, (5, 50, 50), 9.0, 1.0), "within the image"),
        (lambda: ConeXray(CONE, (5, 5, 5), 1.0, 1.0)(torch.zeros(5, 5, 6)), "volume is"),
        (lambda: ConeXray(CONE, (5, 5, 5), 1.0, 1.0).adjoint(torch.zeros(12, 61, 70)), "sinogram is"),
    ],
)
def test_what_makes_no_scan_is_refused_with_a_cure(wrong, says) -> None:
    with pytest.raises(DataError, match=says):
        wrong()
