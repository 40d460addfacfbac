"""Places of voxels in millimetres, checked against sums written out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import recon.geometry as geometry_module
from recon.geometry import (
    Geometry,
    GeometryError,
    affine_lps,
    affine_ras,
    centre_index,
    check_directions,
    flip,
    from_centre,
    stack,
)

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def turned(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q[:, 0], q[:, 1], np.cross(q[:, 0], q[:, 1])


def slices(n: int, step: float, hand: int = 1, seed: int = 0, start: float = 0.0) -> list[Geometry]:
    r, c, s = turned(seed)
    s = hand * s
    return [from_centre(start * s + k * step * s, r, c, s, (60, 44, 3), (12, 11, 1)) for k in range(n)]


@pytest.mark.parametrize(("n", "fft", "centre"), [(1, 0, 0), (2, 1, 0.5), (7, 3, 3), (8, 4, 3.5)])
def test_the_stated_position_lies_at_the_middle_index_of_either_convention(n: int, fft: float, centre: float) -> None:
    assert centre_index(n, "fft") == fft
    assert centre_index(n, "centre") == centre
    assert centre_index(n) == fft


@pytest.mark.parametrize("convention", ["fft", "centre"])
@pytest.mark.parametrize("matrix", [(8, 6, 4), (7, 5, 3), (8, 5, 1)])
def test_a_dot_at_the_stated_position_is_found_there(
    convention: str, matrix: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry_module, "CENTRE", convention)
    r, c, s = turned(3)
    g = from_centre((10, -20, 30), r, c, s, (80, 90, 20), matrix)
    shift = 0.0 if convention == "fft" else 0.5
    index = [n // 2 - (shift if n % 2 == 0 else 0) for n in matrix]
    assert np.allclose(affine_lps(g) @ [*index, 1], [10, -20, 30, 1], atol=1e-9)


def test_the_centred_transform_has_zero_phase_where_the_geometry_puts_the_position() -> None:
    # A constant in k-space is a dot at index N // 2 of each axis: the voxel at the stated position.
    for ny, nx in ((6, 8), (7, 5)):
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(np.ones((ny, nx)))))
        j, i = np.unravel_index(np.argmax(np.abs(image)), image.shape)
        g = from_centre((1, 2, 3), X, Y, Z, (10, 12, 4), (nx, ny, 1))
        assert np.allclose(affine_lps(g) @ [i, j, 0, 1], [1, 2, 3, 1])


def test_even_sizes_put_the_first_voxel_half_a_field_of_view_away() -> None:
    g = from_centre((0, 0, 0), X, Y, Z, (200, 100, 40), (100, 50, 10))
    assert g.position == (-100.0, -50.0, -20.0)
    assert g.voxel == (2.0, 2.0, 4.0)
    assert g.shape == (10, 50, 100)
    odd = from_centre((0, 0, 0), X, Y, Z, (101, 51, 9), (101, 51, 9))
    assert odd.position == (-50.0, -25.0, -4.0)


@pytest.mark.parametrize("nz", [4, 5])
@pytest.mark.parametrize("hand", [1, -1])
def test_a_volume_and_the_same_as_a_stack_of_slices_have_equal_affines(nz: int, hand: int) -> None:
    r, c, s = turned(1)
    s = hand * s
    volume = from_centre((4, 5, 6), r, c, s, (60, 44, 3 * nz), (12, 11, nz))
    single = [
        from_centre(np.array((4, 5, 6)) + (k - nz // 2) * 3 * s, r, c, s, (60, 44, 3), (12, 11, 1)) for k in range(nz)
    ]
    stacked, order = stack(single)
    assert order == list(range(nz))
    assert np.allclose(affine_lps(stacked), affine_lps(volume), atol=1e-9)
    assert stacked.shape == volume.shape


@pytest.mark.parametrize("hand", [1, -1])
def test_slices_are_sorted_by_place_and_not_by_number(hand: int) -> None:
    ordered = slices(6, 4.5, hand)
    shuffled = [3, 0, 5, 1, 4, 2]
    stacked, order = stack([ordered[i] for i in shuffled])
    assert [shuffled[i] for i in order] == [0, 1, 2, 3, 4, 5]
    assert stacked.position == ordered[0].position
    assert stacked.slice_dir == ordered[0].slice_dir
    assert stacked.voxel[2] == pytest.approx(4.5)
    assert stacked.thickness == 3
    for k in range(6):
        assert np.allclose((affine_lps(stacked) @ [0, 0, k, 1])[:3], ordered[k].position)


def test_slices_that_run_against_their_direction_are_turned_to_run_with_it() -> None:
    backwards = slices(4, 5.0)[::-1]
    stacked, order = stack(backwards)
    assert order == [3, 2, 1, 0]
    assert np.allclose((affine_lps(stacked) @ [0, 0, 3, 1])[:3], backwards[0].position)


def test_one_slice_is_its_own_stack() -> None:
    g = slices(1, 1.0)
    assert stack(g) == (g[0], [0])


def test_an_unknown_geometry_stays_unknown_in_a_stack() -> None:
    assert not stack([replace(g, known=False) for g in slices(3, 4.0)])[0].known


def test_stacks_that_have_no_place_are_refused() -> None:
    good = slices(4, 5.0)
    along = np.asarray(good[0].slice_dir)

    def moved(g: Geometry, by: np.ndarray) -> Geometry:
        x, y, z = (float(v) for v in np.asarray(g.position) + by)
        return replace(g, position=(x, y, z))

    cases = {
        "not equally spaced": [good[0], good[1], good[3]],
        "repeats a position": [good[0], good[1], good[1], good[2]],
        "shifted against each other": [good[0], moved(good[1], 2 * np.asarray(good[0].read_dir)), good[2]],
        "not parallel": [good[0], slices(1, 5.0, seed=9)[0]],
        "differ in matrix or field of view": [good[0], replace(good[1], voxel=(9.0, 4.0, 3.0))],
    }
    for sentence, wrong in cases.items():
        with pytest.raises(GeometryError, match=sentence):
            stack(wrong)
    # Slices that drift apart by as little as 0.1 mm, either way, are not one grid.
    for by in (0.1, -0.1):
        with pytest.raises(GeometryError, match="not equally spaced"):
            stack([good[0], good[1], moved(good[2], by * along), moved(good[3], by * along)])
    # What scanners round away is no fault.
    assert stack([good[0], moved(good[1], 0.01 * along), good[2]])[0].voxel[2] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("r", "c", "s", "sentence"),
    [
        ((2, 0, 0), Y, Z, "not unit vectors"),
        ((0, 0, 0), Y, Z, "not unit vectors"),
        ((np.nan, 0, 0), Y, Z, "not unit vectors"),
        (X, (0.6, 0.8, 0), Z, "not orthogonal"),
        (X, Y, (0, 0.6, 0.8), "not orthogonal"),
        (X, Y, X, "not orthogonal"),
    ],
)
def test_directions_that_are_not_orthogonal_unit_vectors_are_refused(
    r: tuple[float, float, float], c: tuple[float, float, float], s: tuple[float, float, float], sentence: str
) -> None:
    with pytest.raises(GeometryError, match=sentence):
        check_directions(r, c, s)
    with pytest.raises(GeometryError, match=sentence):
        from_centre((0, 0, 0), r, c, s, (10, 10, 10), (5, 5, 5))


def test_a_left_handed_slice_direction_is_legal_and_kept() -> None:
    g = from_centre((0, 0, 0), X, Y, (0, 0, -1), (10, 10, 10), (5, 5, 5))
    assert np.linalg.det(affine_lps(g)) < 0
    assert g.normal == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("fov", [(0, 10, 10), (10, -1, 10), (10, 10, float("nan")), (10, 10, float("inf"))])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_sizes_that_are_not_positive_are_refused(fov: tuple[float, float, float]) -> None:
    with pytest.raises(GeometryError, match="not positive"):
        from_centre((0, 0, 0), X, Y, Z, fov, (5, 5, 5))


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(GeometryError, match="5×0×5 voxels is empty"):
        from_centre((0, 0, 0), X, Y, Z, (10, 10, 10), (5, 0, 5))


def test_ras_is_lps_with_x_and_y_turned() -> None:
    g = from_centre((1, 2, 3), X, Y, Z, (10, 20, 30), (5, 5, 5))
    assert np.allclose(affine_lps(g) @ [1, 2, 3, 1], [-1, 2, 9, 1])
    assert np.allclose(affine_ras(g) @ [1, 2, 3, 1], [1, -2, 9, 1])


def test_a_shear_moves_each_slice_along_the_rows_and_the_columns() -> None:
    g = replace(from_centre((0, 0, 0), X, Y, Z, (10, 20, 30), (5, 5, 5)), shear=(0.5, -2.0))
    first, third = g.slice_position(0), g.slice_position(2)
    assert np.allclose(third - first, (1.0, -4.0, 12.0))


def test_slices_of_uneven_steps_lie_behind_the_steps_before_them() -> None:
    g = replace(from_centre((0, 0, 0), X, Y, Z, (10, 20, 20), (5, 5, 4)), steps=(5.0, 10.0, 5.0), shear=(0.5, 0.0))
    away = [g.slice_position(k) - g.slice_position(0) for k in range(4)]
    # The gantry is as oblique everywhere: 0.5 mm for each 5 mm.
    assert np.allclose(away, [(0, 0, 0), (0.5, 0, 5), (1.5, 0, 15), (2.0, 0, 20)])


def test_uneven_steps_turn_with_their_slices() -> None:
    g = replace(from_centre((0, 0, 0), X, Y, Z, (10, 20, 20), (5, 5, 4)), steps=(5.0, 10.0, 2.5), shear=(0.5, 0.0))
    back = flip(g, "z")
    assert np.allclose([back.slice_position(k) for k in range(4)], [g.slice_position(3 - k) for k in range(4)])
    assert flip(g, "x").steps == g.steps


@pytest.mark.parametrize("steps", [(5.0, 10.0), (5.0,) * 4, (5.0, 0.0, 5.0), (5.0, -5.0, 5.0)])
def test_steps_that_do_not_lead_from_slice_to_slice_are_refused(steps: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="do not fit 4 slices"):
        replace(from_centre((0, 0, 0), X, Y, Z, (10, 20, 20), (5, 5, 4)), steps=steps)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("matrix", [(4, 6, 8), (5, 7, 3)])
@pytest.mark.parametrize("shear", [(0.0, 0.0), (0.7, -1.1)])
def test_a_flipped_array_keeps_every_voxel_at_its_place(
    axis: str, matrix: tuple[int, int, int], shear: tuple[float, float]
) -> None:
    r, c, s = turned(5)
    g = replace(from_centre((3, 1, 4), r, c, s, (40, 50, 60), matrix), shear=shear)
    data = np.arange(np.prod(matrix)).reshape(g.shape)
    turned_data = np.flip(data, 2 - "xyz".index(axis))
    turned_g = flip(g, axis)  # type: ignore[arg-type]
    for value in (0, 7, int(data.max())):
        place = [
            affine_lps(h) @ [*np.argwhere(d == value)[0][::-1], 1] for h, d in ((g, data), (turned_g, turned_data))
        ]
        assert np.allclose(*place)
    assert flip(turned_g, axis).read_dir == g.read_dir  # type: ignore[arg-type]
    assert np.allclose(affine_lps(flip(turned_g, axis)), affine_lps(g))  # type: ignore[arg-type]
