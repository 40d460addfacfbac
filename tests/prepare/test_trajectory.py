"""Positions in k-space: units, order, standard trajectories, and the place of the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.data import LINE, DataError, Encoding, Flag, Limit, RawScan, flag_bits
from recon.io.samples import in_memory
from recon.operators.nufft import Nufft
from recon.prepare import trajectory
from recon.prepare.density import ramp

#: 256² over 300 mm with the readout oversampled twice.
ENCODING = Encoding(
    (512, 256, 1), (600.0, 300.0, 8.0), (256, 256, 1), (300.0, 300.0, 8.0), "radial",
    {"kspace_encoding_step_1": Limit(0, 63, 32)},
)  # fmt: skip
SPOKES = trajectory.radial(64, 512, 256, golden=True)
XY = SPOKES[..., ::-1]


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (1 / 256, "fractions"),
        (2 * np.pi / 256, "radians"),
        (1.0, "cycles per field of view of the image"),
        (np.array([2.0, 1.0]), "encoded"),
        (1 / 0.3, "cycles per metre"),
    ],
)
def test_every_unit_found_in_files_gives_the_same_points(scale: float | NDArray[np.float64], said: str) -> None:
    points, notes = trajectory.normalise((XY * scale).astype(np.float32), ENCODING)
    np.testing.assert_allclose(points, SPOKES, atol=1e-4)
    assert said in notes[0]


def test_the_unit_is_found_where_a_spiral_stops_short_of_the_edge() -> None:
    k = 0.7 * trajectory.spiral(16, 400, 256)[..., ::-1] / 256
    points, notes = trajectory.normalise(k, ENCODING)
    np.testing.assert_allclose(points, 0.7 * trajectory.spiral(16, 400, 256), atol=1e-6)
    assert any("70%" in n for n in notes)


def test_a_unit_that_was_stated_is_not_guessed() -> None:
    k = XY / 20
    with pytest.raises(DataError, match="no known unit"):
        trajectory.normalise(k, ENCODING)
    points, notes = trajectory.normalise(k, ENCODING, "cycles")
    np.testing.assert_allclose(points, SPOKES / 20)
    assert "as asked" in notes[0]


def test_positions_of_three_dimensions_are_turned_to_z_y_x() -> None:
    volume = Encoding((32, 48, 64), (200.0, 240.0, 320.0), (32, 48, 64), (200.0, 240.0, 320.0), "other")
    stored = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 40, 3))
    points, _ = trajectory.normalise(stored, volume)
    np.testing.assert_allclose(points, stored[..., ::-1] * [64, 48, 32])


def test_a_third_component_of_a_flat_scan_is_left_out_with_a_note() -> None:
    weighted = np.concatenate([XY, np.ones_like(XY[..., :1])], -1)
    points, notes = trajectory.normalise(weighted, ENCODING)
    np.testing.assert_allclose(points, SPOKES)
    assert any("ignored" in n for n in notes)
    assert not any("ignored" in n for n in trajectory.normalise(XY, ENCODING)[1])


def test_positions_that_are_not_numbers_are_refused() -> None:
    broken = XY.copy()
    broken[3, 4, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        trajectory.normalise(broken, ENCODING)


def scan(positions: NDArray[np.float32] | None, **columns: object) -> RawScan:
    lines = np.zeros(64, LINE)
    lines["number_of_samples"], lines["center_sample"], lines["active_channels"] = 512, 256, 1
    lines["kspace_encode_step_1"] = np.arange(64)
    for name, values in columns.items():
        lines[name] = values
    samples = in_memory(np.zeros((64, 1, 512), np.complex64), trajectories=(positions,))
    return RawScan(lines, samples, (ENCODING,))


def test_stored_positions_are_read() -> None:
    points, _ = trajectory.of_scan(scan((XY / 256).astype(np.float32)), np.arange(0, 64, 2), ENCODING)
    np.testing.assert_allclose(points, SPOKES[::2], atol=1e-4)


@pytest.mark.parametrize("positions", [None, np.zeros((64, 512, 2), np.float32)])
def test_a_scan_without_positions_names_the_three_cures(positions: NDArray[np.float32] | None) -> None:
    with pytest.raises(DataError) as error:
        trajectory.of_scan(scan(positions), np.arange(64), ENCODING)
    for cure in ("in the file", "positions.npy", "golden"):
        assert cure in str(error.value)


def test_a_standard_trajectory_is_numbered_by_the_counter_of_each_line() -> None:
    rows = np.random.default_rng(0).permutation(64)[:40]
    golden, notes = trajectory.of_scan(scan(None), rows, ENCODING, standard="golden")
    np.testing.assert_allclose(golden, SPOKES[rows], atol=1e-9)
    uniform, _ = trajectory.of_scan(scan(None), rows, ENCODING, standard="radial")
    np.testing.assert_allclose(uniform, trajectory.radial(64, 512, 256)[rows], atol=1e-9)
    assert "assumed" in notes[0]


@pytest.mark.parametrize("limit", [Limit(1, 64, 33), None])
def test_lines_that_count_from_one_share_the_half_turn_all_the_same(limit: Limit | None) -> None:
    """64 lines from 1 to 64 are 64 angles; without a limit the highest counter tells how many there are."""
    from_one = scan(None)
    from_one.lines["kspace_encode_step_1"] += 1 if limit else 0
    limits = {"kspace_encoding_step_1": limit} if limit else {}
    points, notes = trajectory.of_scan(from_one, np.arange(64), replace(ENCODING, limits=limits), standard="radial")
    expected = trajectory.radial(64, 512, 256)
    np.testing.assert_allclose(points[: 63 if limit else 64], expected[1:] if limit else expected, atol=1e-9)
    assert "of 64 lines" in notes[0]


def test_a_standard_trajectory_follows_the_centre_and_direction_of_each_line() -> None:
    reverse = np.zeros(64, np.uint64)
    reverse[5] = flag_bits(Flag.REVERSE)
    centre = np.full(64, 256)
    centre[7] = 200
    points, _ = trajectory.of_scan(
        scan(None, flags=reverse, center_sample=centre), np.arange(64), ENCODING, standard="golden"
    )
    np.testing.assert_allclose(points[5], -SPOKES[5], atol=1e-9)
    np.testing.assert_allclose(points[7, 200], [0, 0], atol=1e-9)
    np.testing.assert_allclose(points[7, :400], SPOKES[7, 56:456], atol=1e-9)


def test_spokes_run_from_edge_to_edge_at_their_angles() -> None:
    k = trajectory.radial(4, 8, 16)
    np.testing.assert_allclose(k[0], np.stack([np.zeros(8), np.arange(-8, 8, 2)], -1), atol=1e-12)
    np.testing.assert_allclose(k[2, :, 0], np.arange(-8, 8, 2), atol=1e-12)
    golden = np.degrees(np.arctan2(*trajectory.radial(3, 8, 16, golden=True)[:, -1].T)) % 180
    np.testing.assert_allclose(golden, [0, 111.246, 42.492], atol=1e-3)


def test_spiral_turns_are_one_cycle_apart_and_its_steps_are_equal() -> None:
    k = trajectory.spiral(16, 2000, 128)
    steps = np.linalg.norm(np.diff(k[0], axis=0), axis=-1)
    assert steps.std() < 1e-3 * steps.mean()
    along_x = np.sort(np.concatenate([_crossings(arm) for arm in k]))
    np.testing.assert_allclose(np.diff(along_x)[2:-2], 1.0, atol=0.02)
    assert np.linalg.norm(k, axis=-1).max() == pytest.approx(64)


def _crossings(arm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radii at which a spiral crosses the positive kx axis."""
    at = np.flatnonzero((arm[:-1, 0] < 0) & (arm[1:, 0] >= 0))
    part = (arm[at, 0] / (arm[at, 0] - arm[at + 1, 0]))[:, None]
    return np.linalg.norm(arm[at] * (1 - part) + arm[at + 1] * part, axis=-1)


def test_the_kooshball_fills_the_sphere_evenly() -> None:
    k = trajectory.kooshball(500, 8, 16)
    tips = k[:, 0] / np.linalg.norm(k[:, 0], axis=-1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(k[:, 0], axis=-1), 8)
    both = np.concatenate([tips, -tips])
    np.testing.assert_allclose(both.T @ both / len(both), np.eye(3) / 3, atol=0.02)
    anywhere = np.random.default_rng(0).standard_normal((4000, 3))
    anywhere /= np.linalg.norm(anywhere, axis=-1, keepdims=True)
    assert np.degrees(np.arccos((anywhere @ both.T).max(axis=1))).max() < 7  # random directions leave holes of 11°


def test_points_beyond_the_grid_are_found() -> None:
    points = np.array([[0, 0], [8, -4], [-8.1, 0], [0, 4.2]])
    np.testing.assert_array_equal(trajectory.inside(points, (16, 8)), [True, True, False, False])


def test_the_phase_of_a_shift_moves_the_picture() -> None:
    k = trajectory.radial(80, 96, 48)
    points = torch.from_numpy(k)
    op, w = Nufft(points, (48, 48)), ramp(points)
    blob = torch.zeros(1, 48, 48, dtype=torch.complex128)
    blob[0, 20, 30] = 1
    phase = torch.from_numpy(trajectory.offcentre_phase(k, (5, -11), (48, 48)))
    moved = op.H(w * phase * op(blob))[0].abs()
    assert divmod(int(moved.argmax()), 48) == (25, 19)


def test_a_scan_around_the_isocentre_is_moved_to_its_position() -> None:
    # What lies at the stated position, 20 mm left and 10 mm posterior, comes to the middle of the picture.
    read, phase, position, voxel = (1, 0, 0), (0, 1, 0), (20.0, 10.0, 55.0), (2.5, 2.0)
    k = trajectory.radial(80, 96, 48)
    points = torch.from_numpy(k)
    op, w = Nufft(points, (48, 48)), ramp(points)
    y = torch.from_numpy(np.exp(-2j * np.pi * (k / 48) @ np.array([10 / 2.5, 20 / 2.0])))[None]
    shift = trajectory.isocentre_shift(position, (phase, read), voxel)
    assert shift == (-4.0, -10.0)
    moved = op.H(w * y * torch.from_numpy(trajectory.offcentre_phase(k, shift, (48, 48))))[0].abs()
    assert divmod(int(moved.argmax()), 48) == (24, 24)
