from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import Encoding
from recon.prepare.sampling import disagreements, sampling


def lattice(ny: int, nz: int, ry: int, rz: int, shift: int = 0, start: int = 0) -> np.ndarray:
    mask = np.zeros((nz, ny), bool)
    for turn, z in enumerate(range(0, nz, rz)):
        mask[z, (start + turn * shift) % ry :: ry] = True
    return mask


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (9, 1), (8, 11)])
def test_a_full_scan_is_full(shape: tuple[int, int]) -> None:
    s = sampling(np.full(shape, 3))
    assert s.full
    assert (s.acceleration, s.effective, s.partial_fourier, s.missing) == ((1, 1), 1.0, (1.0, 1.0), ("", ""))
    assert s.acs == ((0, shape[1]), (0, shape[0]))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_lattice_is_found_with_and_without_acs_lines(data: st.DataObject) -> None:
    ry, rz = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    ny, nz = data.draw(st.integers(8 * ry, 40)), data.draw(st.integers(6 * rz, 24))
    shift, start = data.draw(st.integers(0, ry - 1)), data.draw(st.integers(0, ry - 1))
    mask = lattice(ny, nz, ry, rz, shift, start)
    acs = data.draw(st.integers(2, 4)) if data.draw(st.booleans()) else 0
    mask[nz // 2 - acs // 2 : nz // 2 + acs - acs // 2, ny // 2 - acs // 2 : ny // 2 + acs - acs // 2] |= acs > 0
    s = sampling(mask)
    assert s.acceleration == (ry, rz)
    assert s.caipi == shift
    assert s.effective == pytest.approx(mask.size / mask.sum())
    assert s.missing == ("", "")
    if acs:
        assert s.acs is not None
        (y0, y1), (z0, z1) = s.acs
        assert (y1 - y0) * (z1 - z0) >= acs * acs


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("along", ["y", "z"])
def test_one_dimensional_patterns_are_found_along_either_axis(factor: int, along: str) -> None:
    line = np.zeros(64, bool)
    line[::factor] = line[24:40] = True
    s = sampling(line if along == "y" else line[:, None])
    assert s.acceleration == ((factor, 1) if along == "y" else (1, factor))
    assert s.acs is not None
    y0, y1 = s.acs[0 if along == "y" else 1]
    assert line[y0:y1].all()
    assert y0 <= 24
    assert y1 >= 40


@pytest.mark.parametrize(("ry", "rz", "shift", "start"), [(2, 2, 1, 0), (3, 1, 0, 1), (4, 2, 0, 2)])
def test_an_elliptical_acs_region_does_not_hide_the_lattice(ry: int, rz: int, shift: int, start: int) -> None:
    y, z = np.meshgrid(np.arange(-20, 20), np.arange(-16, 16))
    mask = lattice(40, 32, ry, rz, shift, start) & (y**2 / 400 + z**2 / 256 <= 1)
    mask |= y**2 + z**2 <= 36
    s = sampling(mask)
    assert (s.acceleration, s.caipi) == ((ry, rz), shift)


@pytest.mark.parametrize("n", [64, 65, 128])
@pytest.mark.parametrize("share", [5 / 8, 6 / 8, 7 / 8])
@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("factor", [1, 2])
def test_partial_fourier_is_found_on_either_side(n: int, share: float, side: str, factor: int) -> None:
    kept = round(n * share)
    line = np.zeros(n, bool)
    line[::factor] = True
    line[: n - kept if side == "low" else 0] = False
    line[kept if side == "high" else n :] = False
    s = sampling(line)
    assert s.missing == (side, "")
    assert s.partial_fourier[0] == pytest.approx(share, abs=(factor + 0.5) / n)
    assert s.acceleration == (factor, 1)


def test_zero_filling_on_both_sides_is_no_partial_fourier() -> None:
    line = np.zeros(128, bool)
    line[32:96] = True
    s = sampling(line)
    assert (s.missing, s.acceleration, s.full) == (("", ""), (1, 1), False)


def test_partial_fourier_is_a_share_of_what_was_to_be_acquired_not_of_the_zero_filled_grid() -> None:
    for side, line in (("low", np.arange(128) >= 56), ("high", np.arange(128) < 72)):
        line = line & (np.arange(128) >= 32) & (np.arange(128) < 96)
        s = sampling(line)
        assert s.missing[0] == side
        assert s.partial_fourier[0] == pytest.approx(5 / 8, abs=0.01)


def test_random_patterns_are_not_regular_and_keep_their_block() -> None:
    mask = np.random.default_rng(0).random((32, 48)) < 0.25
    mask[11:21, 18:30] = True
    s = sampling(mask)
    assert not s.regular
    assert s.acs == ((18, 30), (11, 21))


def test_two_separate_blocks_are_no_full_scan() -> None:
    line = np.zeros(64, bool)
    line[4:12] = line[28:36] = True
    assert not sampling(line).regular


def test_no_block_where_the_centre_was_not_sampled() -> None:
    line = np.zeros(64, bool)
    line[1::2] = True
    assert sampling(line).acs is None
    assert sampling(np.zeros(8)).rows == 0


def test_a_wrong_acceleration_in_the_header_is_noted() -> None:
    space = Encoding((8, 24, 1), (8, 24, 1), (8, 24, 1), (8, 24, 1), acceleration=(1, 1))
    found = sampling(lattice(24, 1, 3, 1))
    assert "is 1×1, but the lines are 3×1 undersampled" in disagreements(found, space)[0]
    honest = Encoding((8, 24, 1), (8, 24, 1), (8, 24, 1), (8, 24, 1), acceleration=(3, 1))
    assert disagreements(found, honest) == ()
    assert "3×1, but the lines are 1×1" in disagreements(sampling(np.ones(24)), honest)[0]
