"""The head's k-space against integrals done by quadrature, and its coil maps against the law they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recon.simulation import phantom
from recon.simulation.coil_array import (
    coil_modes,
    in_plane,
    loop_fields,
    maps,
    phase_mode,
    product,
    received,
    received_at,
)
from recon.simulation.phantom import HEAD_MM, LETTER_MM, TISSUES, Ellipsoid, head, plane, volume

AXES = np.eye(3)
OBLIQUE = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [-0.1, 1.0, 0.4], [0.5, -0.2, 1.0]]))[0].T
POTATO = Ellipsoid((12.0, -7.0, 5.0), (31.0, 18.0, 44.0), 0.7 - 0.4j, turn_deg=25.0, tilt_deg=-40.0)


def disc_points(centre, form, nodes=80):
    """Points and weights that integrate over an ellipse: Gauss–Legendre in radius, equal steps in angle."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    r, w = (x + 1) / 2, w / 2
    angle = np.arange(2 * nodes) * np.pi / nodes
    unit = np.stack(np.broadcast_arrays(r[:, None] * np.cos(angle), r[:, None] * np.sin(angle)), -1).reshape(-1, 2)
    weight = np.repeat(w * r, 2 * nodes) * np.pi / nodes
    root = np.linalg.cholesky(form)
    return centre + unit @ root.T, weight * np.linalg.det(root)


def ball_points(ellipsoid, nodes=48):
    """Points and weights that integrate over an ellipsoid, turned and tilted point by point."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    r, wr = (x + 1) / 2, w / 2
    angle = np.arange(2 * nodes) * np.pi / nodes
    R, C, A = np.meshgrid(r, x, angle, indexing="ij")
    s = np.sqrt(1 - C**2)
    a, b, c = ellipsoid.semi_axes
    p = np.stack([a * R * s * np.cos(A), b * R * s * np.sin(A), c * R * C], -1).reshape(-1, 3)
    weight = a * b * c * (wr[:, None, None] * w[None, :, None] * R**2 * np.pi / nodes).ravel()
    t, u = math.radians(ellipsoid.turn_deg), math.radians(ellipsoid.tilt_deg)
    x, y, z = p[:, 0] * math.cos(t) - p[:, 1] * math.sin(t), p[:, 0] * math.sin(t) + p[:, 1] * math.cos(t), p[:, 2]
    y, z = y * math.cos(u) - z * math.sin(u), y * math.sin(u) + z * math.cos(u)
    return np.stack([x, y, z], -1) + ellipsoid.centre, weight


def transform(points, weight, k, values=1.0):
    return np.exp(-2j * np.pi * k @ points.T) @ (weight * values)


def test_spectrum_of_an_ellipsoid_is_its_fourier_integral() -> None:
    points, weight = ball_points(POTATO)
    k = np.random.default_rng(0).uniform(-0.06, 0.06, (40, 3))
    shapes = volume([POTATO], (0, 0, 0), AXES)
    expected = POTATO.signal * transform(points, weight, k)
    assert np.abs(phantom.spectrum(shapes, k) - expected).max() < 1e-10 * abs(shapes.content[0])


def test_spectrum_in_the_coordinates_of_an_oblique_scan_is_the_same_integral() -> None:
    points, weight = ball_points(POTATO)
    origin = np.array([4.0, -9.0, 20.0])
    k = np.random.default_rng(1).uniform(-0.06, 0.06, (40, 3))
    shapes = volume([POTATO], origin, OBLIQUE)
    expected = POTATO.signal * transform((points - origin) @ OBLIQUE.T, weight, k)
    assert np.abs(phantom.spectrum(shapes, k) - expected).max() < 1e-10 * abs(shapes.content[0])


def test_spectrum_of_a_cut_is_the_fourier_integral_over_the_ellipse() -> None:
    shapes = plane([POTATO], (5.0, 2.0, -3.0), OBLIQUE)
    points, weight = disc_points(shapes.centre[0], shapes.form[0])
    k = np.random.default_rng(2).uniform(-0.2, 0.2, (60, 2))
    expected = POTATO.signal * transform(points, weight, k)
    assert np.abs(phantom.spectrum(shapes, k) - expected).max() < 1e-11 * shapes.content[0]


def test_the_cut_of_a_plane_holds_the_points_of_the_volume() -> None:
    origin = np.array([5.0, 2.0, -3.0])
    u = np.random.default_rng(3).uniform(-110, 110, (20000, 2))
    flat = phantom.image(plane(head(), origin, OBLIQUE), u)
    solid = phantom.image(volume(head(), (0, 0, 0), AXES), origin + u @ OBLIQUE[:2])
    assert np.array_equal(np.round(flat, 9), np.round(solid, 9))
    assert np.ptp(np.abs(flat)) > 0.5


def test_cuts_of_a_sphere_have_the_area_of_the_section() -> None:
    ball = Ellipsoid((1.0, 2.0, 3.0), (20.0, 20.0, 20.0))
    for distance in (0.0, 7.0, 19.9):
        origin = np.array(ball.centre) + distance * OBLIQUE[2]
        assert plane([ball], origin, OBLIQUE).content == pytest.approx([np.pi * (400 - distance**2)])
    assert len(plane([ball], np.array(ball.centre) + 20.1 * OBLIQUE[2], OBLIQUE).content) == 0


@pytest.mark.parametrize("kappa", [0.0, 1e-9, 0.0499, 0.0501, 1.0])
def test_small_arguments_do_not_cancel(kappa: float) -> None:
    ball = [Ellipsoid((0, 0, 0), (1.0, 1.0, 1.0))]
    k = kappa / (2 * np.pi)
    solid = phantom.spectrum(volume(ball, (0, 0, 0), AXES), np.array([0.0, k, 0.0]))
    disc = phantom.spectrum(plane(ball, (0, 0, 0), AXES), np.array([0.0, k]))
    assert solid == pytest.approx(4 / 3 * np.pi * (1 - kappa**2 / 10 + kappa**4 / 280 - kappa**6 / 15120), rel=1e-4)
    assert disc == pytest.approx(np.pi * (1 - kappa**2 / 8 + kappa**4 / 192 - kappa**6 / 9216), rel=1e-4)
    if kappa < 0.06:
        assert solid == pytest.approx(4 / 3 * np.pi * (1 - kappa**2 / 10 + kappa**4 / 280), rel=1e-11)


def test_the_value_at_zero_is_volume_times_signal() -> None:
    total = sum(4 / 3 * np.pi * math.prod(e.semi_axes) * e.signal for e in head())
    assert phantom.spectrum(volume(head(), (9, 8, 7), OBLIQUE), np.zeros(3)) == pytest.approx(total)


def test_energy_in_k_space_is_energy_in_space() -> None:
    ellipse = Ellipsoid((10.0, -20.0, 0.0), (60.0, 35.0, 9.0), 0.8j, turn_deg=30)
    shapes = plane([ellipse], (0, 0, 0), AXES)
    k = np.arange(-1500, 1500) / 200.0
    energy = np.sum(np.abs(phantom.grid_spectrum(shapes, k, k)) ** 2) / 200.0**2
    assert energy == pytest.approx(0.64 * np.pi * 60 * 35, rel=2e-3)


@pytest.mark.parametrize("solid", [True, False])
def test_the_fast_grid_agrees_with_the_exact_spectrum_to_single_precision(solid: bool) -> None:
    kx, ky, kz = np.arange(-40, 41) / 150.0, np.linspace(-0.31, 0.4, 37), np.array([-0.2, 0.0, 0.033])
    if solid:
        shapes, axes = volume(head(), (3, 4, 5), OBLIQUE), (kx, ky, kz)
    else:
        shapes, axes = plane(head(), (3, 4, 5), OBLIQUE), (kx, ky)
    k = np.stack(np.meshgrid(*axes, indexing="ij"), -1).T
    exact = phantom.spectrum(shapes, np.moveaxis(k, 0, -1))
    fast = phantom.grid_spectrum(shapes, *axes)
    assert fast.shape == exact.shape
    assert np.linalg.norm(fast - exact) < 1e-7 * np.linalg.norm(exact)
    far = np.abs(kx) > 0.2
    assert np.linalg.norm((fast - exact)[..., far]) < 2e-6 * np.linalg.norm(exact[..., far])


@pytest.mark.parametrize("te", [0.0, 30.0])
def test_every_point_of_the_head_is_of_one_tissue(te: float) -> None:
    points = np.random.default_rng(4).uniform(-1.05, 1.05, (200000, 3)) * HEAD_MM
    values = phantom.image(volume(head(te), (0, 0, 0), AXES), points)
    known = np.array([t.signal * (1 + t.pulse) * np.exp(-te / t.t2star_ms) for t in TISSUES.values()])
    assert np.abs(values[:, None] - known).min(axis=1).max() < 1e-12


def test_the_letter_lies_only_left_and_anterior() -> None:
    x, y, z = LETTER_MM
    assert x > 0
    assert y < 0
    shapes = volume(head(), (0, 0, 0), AXES)
    letter = TISSUES["letter"].signal
    assert phantom.image(shapes, np.array([x, y, z])) == pytest.approx(letter)
    for mirrored in ([-x, y, z], [x, -y, z], [x, y, -z - 20], [-x, -y, z], [x - 5, y, z]):
        assert abs(phantom.image(shapes, np.array(mirrored, float)) - letter) > 0.1
    # F, not a mirrored one: its arms run to the left of the patient, the upper of the two is anterior and longer.
    assert phantom.image(shapes, np.array([x + 13.5, y - 7, z])) == pytest.approx(letter)
    assert phantom.image(shapes, np.array([x + 11.5, y + 1, z])) == pytest.approx(letter)
    assert abs(phantom.image(shapes, np.array([x + 8, y + 8, z])) - letter) > 0.1


def test_echoes_sets_and_heartbeat_change_the_tissues_as_stated() -> None:
    white, blood = np.array([31.0, -60.0, 9.0]), np.array([0.0, 74.0, 12.0])

    def at(point, **state):
        return phantom.image(volume(head(**state), (0, 0, 0), AXES), point)

    assert at(white, te_ms=25.0) / at(white) == pytest.approx(np.exp(-25 / TISSUES["white"].t2star_ms))
    assert at(blood, set_=1) / at(blood) == pytest.approx(np.exp(1j * TISSUES["blood"].flow))
    assert at(blood, phase=0.5) / at(blood) == pytest.approx(0.7 / 1.3)
    assert at(white, set_=1, phase=0.5) == pytest.approx(at(white))


def test_voxel_means_keep_the_area_and_find_half_filled_voxels() -> None:
    disc = plane([Ellipsoid((3.0, -4.0, 0.0), (20.0, 10.0, 5.0), 2j, turn_deg=30.0)], (0, 0, 0), AXES)
    axis = (np.arange(64) - 32) * 1.5
    means = phantom.voxel_means(disc, (axis, axis), (1.5, 1.5), supersample=8)
    assert means.shape == (64, 64)
    assert means.sum() * 1.5**2 == pytest.approx(2j * np.pi * 200, rel=2e-3)
    column, row = np.argmin(abs(axis - 3)), np.argmin(abs(axis + 4))
    assert means[row, column] == 2j
    edge = np.abs(means) / 2
    assert ((edge > 0.2) & (edge < 0.8)).any()


def test_voxel_means_of_a_volume_are_those_of_its_points() -> None:
    ball = volume([Ellipsoid((0.123, 5.345, -0.777), (20.0, 10.0, 15.0))], (0, 0, 0), AXES)
    x, y, z = ((np.arange(n) - n // 2) * d for n, d in ((24, 2.0), (20, 2.5), (16, 3.0)))
    means = phantom.voxel_means(ball, (x, y, z), (2.0, 2.5, 3.0), supersample=1)
    points = np.stack(np.meshgrid(x, y, z, indexing="ij"), -1)
    assert np.array_equal(means, phantom.image(ball, points).T)


def test_coil_k_space_is_the_fourier_integral_of_map_times_object() -> None:
    potato = plane([POTATO], (5.0, 2.0, -3.0), OBLIQUE)
    modes = product(coil_modes(5, (5.0, 2.0, -3.0), OBLIQUE, (400, 420, 480)), phase_mode(0.6, (400, 420, 480)))
    cut = in_plane(modes, 0.0)
    points, weight = disc_points(potato.centre[0], potato.form[0])
    k = np.random.default_rng(5).uniform(-0.15, 0.15, (3, 12, 2))
    values = maps(cut, points)
    expected = np.stack([POTATO.signal * transform(points, weight, k, v) for v in values], axis=1)
    computed = received_at(potato, cut, k)
    assert computed.dtype == np.complex64
    assert np.abs(computed - expected).max() < 3e-7 * np.abs(expected).max()


@pytest.mark.parametrize("solid", [True, False])
def test_cartesian_lines_are_the_points_of_the_general_formula(solid: bool) -> None:
    period = (480.0, 480.0, 480.0)
    modes = product(coil_modes(3, (0, 0, 4), AXES, period, order=2), phase_mode(0.5, period))
    rng = np.random.default_rng(6)
    kx = np.concatenate([np.arange(-10, 10) / 240.0, [0.01234]])
    ky, kz = rng.integers(-9, 9, 7) / 240.0, rng.integers(-9, 9, 7) / 120.0
    if solid:
        shapes, lines = volume(head(), (0, 0, 4), AXES), (ky, kz)
    else:
        shapes, lines, modes = plane(head(), (0, 0, 4), AXES), (ky,), in_plane(modes, 0.0)
    k = np.stack([np.broadcast_to(a, (7, 21)) for a in (kx, *(line[:, None] for line in lines))], -1)
    a, b = received(shapes, modes, kx, *lines), received_at(shapes, modes, k)
    assert a.shape == (7, 3, 21)
    assert np.linalg.norm(a - b) < 1e-6 * np.linalg.norm(b)


def test_a_slice_of_the_maps_is_the_maps_at_the_slice() -> None:
    modes = coil_modes(4, (0, 0, 0), AXES, (480, 480, 480))
    u = np.random.default_rng(7).uniform(-80, 80, (50, 2))
    solid = maps(modes, np.concatenate([u, np.full((50, 1), 23.0)], 1))
    assert np.allclose(maps(in_plane(modes, 23.0), u), solid)


@pytest.mark.parametrize(("coils", "limit"), [(4, 0.03), (8, 0.05), (16, 0.05), (32, 0.05)])
def test_coil_maps_follow_biot_savart_inside_the_head(coils: int, limit: float) -> None:
    points = np.random.default_rng(8).uniform(-1, 1, (4000, 3))
    points = points[(points**2).sum(1) < 1] * HEAD_MM
    fitted = maps(coil_modes(coils, (0, 0, 10), OBLIQUE, (480, 480, 480)), (points - [0, 0, 10]) @ OBLIQUE.T)
    fields = loop_fields(coils, points)
    fields *= np.linalg.norm(fitted) / np.linalg.norm(fields)
    assert np.linalg.norm(fitted - fields) < limit * np.linalg.norm(fields)
    assert np.mean(np.sum(np.abs(fitted) ** 2, 0)) == pytest.approx(1, abs=0.03)
    assert np.linalg.matrix_rank(fitted, tol=1e-3 * np.linalg.norm(fitted)) == coils


def test_a_loop_has_the_known_field_on_its_axis() -> None:
    # The first of four loops sits on the +x side and faces −x: B = μ₀/2 · R²/(R² + d²)^1.5 along the axis.
    distance = np.array([20.0, 60.0, 120.0])
    points = np.stack([HEAD_MM[0] + 45 - distance, 0 * distance, 0 * distance], 1)
    field = loop_fields(4, points)[0]
    radius = 0.75 * math.pi * (HEAD_MM[0] + HEAD_MM[1] + 90) / 2 / 4
    expected = radius**2 / (radius**2 + distance**2) ** 1.5
    assert np.allclose(field / field[0], expected / expected[0], rtol=1e-6)
    assert np.abs(field.imag / field.real).max() < 1e-9
