"""Cone beams to slices: balls whose line integrals are exact keep their HU and place, whatever the path and spot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import recon
from recon.data import CTViews, DataError, Image
from recon.prepare import helical, rays
from recon.recipe import CT, Recipe, Solve
from tests.io import ct_pd_files
from tests.io.ct_pd_files import WATER, Ball, Scanner

SMALL = Scanner(columns=64, column_mm=6.6, centre=(33.0, 6.5), rows=12, views=90)
TINY = replace(SMALL, columns=16, column_mm=26.4, centre=(8.5, 6.5), views=30)
#: Off the axis in every direction, of several sizes, so that nothing mirrored or shifted passes.
BALLS = (Ball((50, 30, 5), 13, 200), Ball((-58, -20, -4), 10, -300), Ball((12, -66, 6), 9, 400))
#: A spot that moves in the plane and along z by more than a scanner's, so that each of its signs shows.
FLYING = ((0.0, 0.0, 0.0), (0.004, -1.2, 8.0))


@dataclass(frozen=True)
class Case:
    """A scanner, the way of its table, the patient's position, and the gantry's axes in the patient's (LPS)."""

    scanner: Scanner
    z: tuple[float, float] = (-23.0, 27.0)
    position: str = "HFS"
    lps: tuple[tuple[int, int, int], ...] = ((1, 0, 0), (0, -1, 0), (0, 0, 1))


CASES = {
    "helix": Case(SMALL),
    "flying spot": Case(replace(SMALL, spots=FLYING, views=130)),
    "fast, table back, gantry the other way, feet first": Case(
        replace(SMALL, pitch=1.2, sense=-1), (30.0, -27.0), "FFS", ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
    ),
    "flat detector, on the left side": Case(
        replace(SMALL, flat=True, circles=(0.0,)), position="HFDL", lps=((0, -1, 0), (-1, 0, 0), (0, 0, 1))
    ),
    "circles side by side, flying spot": Case(replace(SMALL, circles=(-9.0, 9.0), spots=FLYING)),
    "part of a circle": Case(replace(SMALL, circles=(1.0,), arc=230)),
}


def image_of(case: Case, folder: Path, matrix: int = 80) -> Image:
    ct_pd_files.write(folder, BALLS, case.scanner, case.z, position=case.position)
    scan = recon.read(folder)
    recipe = Recipe(ct=CT(matrix=matrix, filter="ramp"), solve=Solve(method="fbp"))
    return recon.reconstruct(scan, recipe, device="cpu")


def found(image: Image, at: np.ndarray, radius: float) -> tuple[np.ndarray, float, float]:
    """How far a ball's centre of contrast lies from the true ball's on the same voxels (mm), its inner HU and blur.

    Blur: by how much the mean square distance from the ball's axis exceeds the true ball's, in mm². A wrong centre
    of the detector shifts nothing in a whole turn, but spreads every point to a ring.
    """
    g = image.geometry
    axes = [g.position[i] + np.arange(g.shape[2 - i]) * g.voxel[i] for i in range(3)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    away = np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2)
    near, core, around = away < 1.5 * radius, away < 0.5 * radius, (away > 1.7 * radius) & (away < 2.2 * radius)
    fine = (np.arange(4) - 1.5) / 4
    inside = np.zeros(int(near.sum()))
    for dz in fine * g.thickness:
        for dy in fine * g.voxel[1]:
            for dx in fine * g.voxel[0]:
                point = (x[near] + dx - at[0]) ** 2 + (y[near] + dy - at[1]) ** 2 + (z[near] + dz - at[2]) ** 2
                inside += point < radius**2
    contrast = image.data[near] - np.median(image.data[around])
    centres = [[(w * q[near]).sum() / w.sum() for q in (x, y, z)] for w in (contrast, inside)]
    square = ((x - at[0]) ** 2 + (y - at[1]) ** 2)[near]
    blur = float(np.subtract(*[(w * square).sum() / w.sum() for w in (contrast, inside)]))
    return np.subtract(*centres), float(image.data[core].mean()), blur


def water(image: Image, case: Case) -> np.ndarray:
    """HU of the cylinder, away from the balls and from its rim."""
    g = image.geometry
    axes = [g.position[i] + np.arange(g.shape[2 - i]) * g.voxel[i] for i in range(3)]
    z, y, x = np.meshgrid(*axes[::-1], indexing="ij")
    middles = [np.array(case.lps).T @ b.middle for b in BALLS]
    away = [
        np.sqrt((x - m[0]) ** 2 + (y - m[1]) ** 2 + (z - m[2]) ** 2) / b.radius
        for m, b in zip(middles, BALLS, strict=True)
    ]
    return np.asarray(image.data[(np.hypot(x, y) < 85) & (np.min(away, axis=0) > 1.6)])


@pytest.mark.parametrize("name", CASES)
def test_balls_keep_their_hu_and_their_place_in_the_patient(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    image = image_of(case, tmp_path)
    assert image.geometry.known
    assert image.units == "HU"
    for ball in BALLS:
        off, hu, blur = found(image, np.array(case.lps).T @ ball.middle, ball.radius)
        assert blur < 7
        assert np.abs(off[:2]).max() < 0.15
        assert abs(off[2]) < 0.2
        assert abs(hu - ball.hu) < 3 + 0.015 * abs(ball.hu)
    assert water(image, case).std() < 8
    assert abs(water(image, case).mean()) < 1


def test_thick_slices_are_means_and_thin_ones_lie_closer(tmp_path: Path) -> None:
    case = Case(TINY)
    ct_pd_files.write(tmp_path, BALLS, case.scanner, case.z)
    scan = recon.read(tmp_path)
    assert isinstance(scan, CTViews)
    thin, thick = helical.fans(scan, case.scanner.row), helical.fans(scan, 5 * case.scanner.row)
    assert np.diff(thick.positions) == pytest.approx(5 * case.scanner.row)
    middle = int(np.argmin(np.abs(np.array(thin.positions) - thick.positions[1])))
    shifted = replace(thin.values, plan=replace(thin.values.plan, positions=np.array(thick.positions)[1:2]))
    parts = [
        replace(shifted, plan=replace(shifted.plan, positions=shifted.plan.positions + k * case.scanner.row))[0:1]
        for k in range(-2, 3)
    ]
    assert np.abs(np.mean(parts, axis=0) - thick.values[1:2]).max() < 1e-5
    assert abs(thin.positions[middle] - thick.positions[1]) <= case.scanner.row / 2 + 1e-9


def test_each_file_is_read_once_for_slices_in_their_order(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path, BALLS, TINY, (-23.0, 27.0), position="FFS")
    scan = recon.read(tmp_path)
    assert isinstance(scan, CTViews)
    files, count = scan.views, np.zeros(len(scan.angles), int)

    class Counting:
        def stored(self, first: int, last: int) -> np.ndarray:
            count[first:last] += 1
            return files.stored(first, last)

        def sha256(self) -> str:
            return files.sha256()

    made = helical.fans(replace(scan, views=Counting()))
    for k in range(len(made.values)):
        made.values[k : k + 1]
    assert count.max() == 1


def test_slanted_rays_count_as_long_as_they_are_within_the_slice(tmp_path: Path) -> None:
    tall = replace(TINY, rows=24, row_mm=12.0, centre=(8.5, 12.5), circles=(0.0,))
    ct_pd_files.write(tmp_path, (), tall, (0.0, 0.0))
    scan = recon.read(tmp_path)
    assert isinstance(scan, CTViews)
    made = helical.fans(scan, 8.0)
    across = tall.radius * np.sin((np.arange(tall.columns) - 7.5) * tall.column_mm / tall.distance)
    chord = 2 * np.sqrt(np.maximum(0, tall.body**2 - across**2)) * WATER
    # The outer slices are seen at 7°, where rays are 0.7 % longer than their way through the slice.
    assert max(abs(z) for z in made.positions) > 0.12 * tall.radius
    assert np.abs(np.asarray(made.values) - chord).max() < 1e-3 * chord.max()


def test_a_table_too_fast_for_the_detector_is_refused(tmp_path: Path) -> None:
    fast = replace(TINY, pitch=2.6)
    ct_pd_files.write(tmp_path, BALLS, fast, (-60.0, 60.0))
    with pytest.raises(DataError, match=r"moves 51\.3 mm per turn, but the detector covers only 19\.7 mm"):
        recon.reconstruct(recon.read(tmp_path))


def test_less_than_a_turn_of_a_helix_is_refused(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path, BALLS, TINY, (0.0, 10.0))
    with pytest.raises(DataError, match="less than one turn"):
        recon.reconstruct(recon.read(tmp_path))


def test_too_short_an_arc_is_refused(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path, BALLS, replace(TINY, circles=(0.0,), arc=150, views=60))
    with pytest.raises(DataError, match=r"a circle covers 15\d° where the fan needs 20\d°"):
        recon.reconstruct(recon.read(tmp_path))


def test_circles_far_apart_give_one_slice_each(tmp_path: Path) -> None:
    apart = replace(TINY, circles=(-40.0, 0.0, 40.0), columns=32, column_mm=13.75, centre=(16.5, 6.5))
    ct_pd_files.write(tmp_path, (Ball((0, 0, 40), 30, 100),), apart)
    image = recon.reconstruct(recon.read(tmp_path), Recipe(ct=CT(matrix=32), solve=Solve(method="fbp")), device="cpu")
    assert [round(image.geometry.position[2] + k * image.geometry.voxel[2]) for k in range(3)] == [-40, 0, 40]
    assert image.data[:, 15:17, 15:17].mean((1, 2)) == pytest.approx([0, 0, 100], abs=4)


def test_the_iterative_methods_take_the_fans_as_they_are(tmp_path: Path) -> None:
    ball = Ball((30, 20, 1), 25, 200)
    one = replace(SMALL, circles=(1.0,), rows=2, centre=(33.0, 1.5))
    ct_pd_files.write(tmp_path, (ball,), one)
    scan = recon.read(tmp_path)
    for method in ("sirt", "cgls", "tv"):
        recipe = Recipe(ct=CT(matrix=48), solve=Solve(method=method, iterations=25))  # type: ignore[arg-type]
        image = recon.reconstruct(scan, recipe, device="cpu")
        g = image.geometry
        x, y = (g.position[i] + np.arange(48) * g.voxel[i] for i in range(2))
        core = (x[None] - 30) ** 2 + (y[:, None] + 20) ** 2 < 12**2
        assert image.data[0][core].mean() == pytest.approx(200, abs=8)


def test_the_fingerprint_distinguishes_scans_and_ignores_file_names(tmp_path: Path) -> None:
    tiny = replace(TINY, circles=(0.0,))
    marks = []
    for folder, balls in (("a", BALLS), ("b", BALLS), ("c", BALLS[:1])):
        paths = ct_pd_files.write(tmp_path / folder, balls, tiny)
        if folder == "b":
            for k, path in enumerate(paths):
                path.rename(path.with_name(f"other-{k}.ima"))
        scan = recon.read(tmp_path / folder)
        assert isinstance(scan, CTViews)
        marks.append(scan.views.sha256())
    assert marks[0] == marks[1] != marks[2]


def test_spots_that_differ_by_rounding_are_one() -> None:
    shifts = np.array([[3.33e-4, 0, 0], [3.36e-4, -0.66, 5.45], [3.34e-4, 0, 0], [3.35e-4, -0.66, 5.45]])
    places, which = rays.spots(shifts)
    assert len(places) == 2
    assert which.tolist() == [which[0], which[1]] * 2
