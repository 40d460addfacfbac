from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import DataError
from recon.geometry import from_centre
from recon.io.samples import in_memory, join, lines_from_array


def noise(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 19), max_size=30))
def test_rows_of_several_groups_come_in_the_order_asked_for(rows: list[int]) -> None:
    values = noise(20, 2, 6)
    samples = in_memory(values[:7], values[7:9], values[9:])
    np.testing.assert_array_equal(samples.read(np.array(rows, int)), values[rows])
    assert samples.trajectory(np.array(rows, int)).shape == (len(rows), 6, 0)


def test_what_is_read_is_a_copy() -> None:
    values = noise(4, 2, 6)
    in_memory(values).read(np.arange(4))[:] = 0
    k = noise(1, 2, 1, 4, 6)
    lines_from_array(k)[1].read(np.arange(4))[:] = 0
    assert values.all()
    assert k.all()


def test_lines_of_different_shapes_cannot_be_read_together() -> None:
    samples = in_memory(noise(2, 1, 6), noise(2, 1, 8))
    with pytest.raises(DataError, match="cannot be read together"):
        samples.read(np.array([0, 2]))
    with pytest.raises(ValueError, match="2 axes"):
        in_memory(noise(2, 6))


def test_trajectories_belong_to_their_group() -> None:
    k = np.random.default_rng(0).random((3, 6, 2)).astype(np.float32)
    samples = in_memory(noise(2, 1, 6), noise(3, 1, 6), trajectories=(None, k))
    np.testing.assert_array_equal(samples.trajectory(np.array([4, 2])), k[[2, 0]])
    assert samples.trajectory(np.array([1])).shape == (1, 6, 0)


def test_each_line_of_an_array_is_its_row() -> None:
    k = noise(2, 3, 4, 5, 6)
    mask = np.random.default_rng(1).random((2, 4, 5)) < 0.6
    lines, samples = lines_from_array(k, mask, counters={"contrast": 2}, sample_time_us=3.5)
    assert len(lines) == mask.sum()
    values = samples.read(np.arange(len(lines)))
    for line, value in zip(lines, values, strict=True):
        at = line["slice"], line["kspace_encode_step_2"], line["kspace_encode_step_1"]
        assert mask[at]
        np.testing.assert_array_equal(value, k[at[0], :, at[1], at[2]])
    assert set(lines["center_sample"]) == {3}
    assert set(lines["contrast"]) == {2}


def test_the_array_is_not_copied() -> None:
    k = noise(1, 2, 1, 4, 6)
    _, samples = lines_from_array(k)
    k[:] = 7
    assert (samples.read(np.array([3])) == 7).all()


def test_parts_are_joined_one_after_the_other() -> None:
    a, b = noise(1, 2, 1, 3, 6), 2 * noise(1, 2, 1, 4, 6)
    lines, samples = join(lines_from_array(a), lines_from_array(b, counters={"set": 1}))
    assert lines["set"].tolist() == [0] * 3 + [1] * 4
    np.testing.assert_array_equal(samples.read(np.array([5, 1])), np.stack([b[0, :, 0, 2], a[0, :, 0, 1]]))


def test_positions_are_those_that_a_scanner_states() -> None:
    directions = (0.6, 0.8, 0.0), (0.0, 0.0, 1.0), (0.8, -0.6, 0.0)
    slab = from_centre((3.0, -5.0, 7.0), *directions, (120.0, 90.0, 32.0), (60, 45, 8))
    lines, _ = lines_from_array(noise(1, 1, 10, 12, 16), geometry=slab)
    np.testing.assert_allclose(lines["position"], np.tile([3.0, -5.0, 7.0], (120, 1)), atol=1e-5)
    np.testing.assert_allclose(lines["slice_dir"][0], directions[2], atol=1e-6)
    lines, _ = lines_from_array(noise(8, 1, 1, 3, 16), geometry=slab)
    along = (lines["position"] - np.array([3.0, -5.0, 7.0])) @ np.array(directions[2])
    np.testing.assert_allclose(along.reshape(8, 3)[:, 0], (np.arange(8) - 4) * 4.0, atol=1e-4)
    with pytest.raises(ValueError, match="8 planes"):
        lines_from_array(noise(3, 1, 1, 3, 16), geometry=slab)


def test_axes_that_are_too_long_or_too_few_are_refused() -> None:
    with pytest.raises(DataError, match="65535"):
        lines_from_array(np.zeros((1, 1, 1, 1, 70000), np.complex64))
    with pytest.raises(ValueError, match="4 axes"):
        lines_from_array(noise(1, 1, 1, 4))  # type: ignore[arg-type]
