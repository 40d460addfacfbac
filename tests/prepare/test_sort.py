from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.data import LINE, DataError, Flag, Limit, Samples, flag_bits, imaging
from recon.io.samples import in_memory, join, lines_from_array
from recon.prepare import sort
from tests.prepare.lines import BOTH, CALIBRATION, NOISE, encoding, noise, scan_of


def some(n: int, flags: int = 0, channels: int = 2) -> tuple[np.ndarray, Samples]:
    lines, samples = lines_from_array(noise(1, channels, 1, n, 16), flags=flags)
    return lines, samples


# Kinds


def test_kinds_are_distinguished_by_their_flags() -> None:
    flags = [0, NOISE, CALIBRATION, BOTH, *(flag_bits(f) for f in Flag if 22 <= f <= 31)]
    lines = np.zeros(len(flags), LINE)
    lines["flags"], lines["active_channels"], lines["number_of_samples"] = flags, 2, 16
    kinds = sort.kinds(scan_of(lines, in_memory(noise(len(flags), 2, 16))))
    # 22 REVERSE and 25 LAST_IN_MEASUREMENT are properties of imaging lines.
    assert kinds.imaging.tolist() == [0, 3, 4, 7]
    assert kinds.calibration.tolist() == [2, 3]
    assert kinds.noise.tolist() == [1]
    assert kinds.phasecorr.tolist() == [6]
    assert sum(kinds.ignored.values()) == 7
    assert kinds.ignored["navigation"] == 1


def test_a_line_that_carries_flags_of_order_too_stays_what_it_is() -> None:
    lines, samples = some(6)
    lines["flags"] |= np.uint64((1 << 18) - 1)  # FIRST and LAST of everything
    assert len(sort.kinds(scan_of(lines, samples)).imaging) == 6


def test_noise_that_is_flagged_as_calibration_as_well_is_noise() -> None:
    kinds = sort.kinds(scan_of(*join(some(12), some(1, NOISE | CALIBRATION))))
    assert (len(kinds.noise), len(kinds.calibration)) == (1, 0)


def test_a_navigator_that_is_flagged_as_calibration_as_well_calibrates_nothing() -> None:
    kinds = sort.kinds(
        scan_of(*join(some(12), some(2, CALIBRATION), some(1, CALIBRATION | flag_bits(Flag.NAVIGATION))))
    )
    assert (len(kinds.imaging), kinds.calibration.tolist()) == (12, [12, 13])


def test_the_number_of_channels_of_most_imaging_lines_decides() -> None:
    scan = scan_of(*join(some(2, NOISE, channels=4), some(12), some(1, channels=1), some(3, CALIBRATION, channels=5)))
    kinds = sort.kinds(scan)
    assert (len(kinds.imaging), len(kinds.noise), len(kinds.calibration)) == (12, 0, 0)
    assert "1 of 13 imaging lines have 1 channels where the image has 2" in kinds.notes[0]
    assert len(kinds.notes) == 3


def test_a_scan_without_imaging_lines_is_refused() -> None:
    with pytest.raises(DataError, match="none of the 3 lines is an imaging line"):
        sort.kinds(scan_of(*some(3, NOISE)))


def test_the_encoding_of_most_imaging_lines_is_chosen() -> None:
    parts = join(some(12), some(5))
    parts[0]["encoding_space_ref"][:12] = 1
    scan = scan_of(*parts, encoding(16, 12), encoding(16, 12))
    assert sort.choose_encoding(scan) == 1
    with pytest.raises(DataError, match="use encoding 1, but the header describes 1"):
        sort.choose_encoding(replace(scan, encodings=scan.encodings[:1]))
    kinds = sort.kinds(scan)
    assert kinds.imaging.tolist() == list(range(12))
    assert kinds.ignored == {"imaging lines of another encoding": 5}
    assert "5 of 17 imaging lines belong to another encoding than encoding[1]" in kinds.notes[0]


# Rows


@pytest.mark.parametrize(("e", "centre", "count", "first"), [(140, 28, 84, 42), (128, 64, 128, 0), (127, 63, 127, 0)])
def test_rows_follow_from_the_centre_of_the_limits(e: int, centre: int, count: int, first: int) -> None:
    """140 lines with the centre at 28 of 84 lie on rows 42 to 125: the example of the ISMRMRD specification."""
    lines = np.zeros(count, LINE)
    lines["kspace_encode_step_1"] = np.arange(count)
    space = encoding(16, e, limits={"kspace_encoding_step_1": Limit(0, count - 1, centre)})
    ky, kz, valid = sort.row_index(lines, space)
    assert (ky[0], ky[-1]) == (first, first + count - 1)
    assert valid.all()
    assert not kz.any()


def test_rows_outside_the_grid_are_invalid_and_never_wrap() -> None:
    lines = np.zeros(5, LINE)
    lines["kspace_encode_step_1"] = [0, 3, 10, 15, 65535]
    ky, _, valid = sort.row_index(lines, encoding(16, 12, limits={"kspace_encoding_step_1": Limit(0, 11, 9)}))
    assert valid.tolist() == [False, True, True, False, False]
    assert ky.tolist() == [-3, 0, 7, 12, 65532]


@pytest.mark.parametrize("n", [11, 12])
def test_missing_limits_need_all_lines(n: int) -> None:
    lines, _ = lines_from_array(noise(1, 1, 1, n, 4))
    ky, _, _ = sort.row_index(lines, encoding(4, n, limits={}))
    assert ky.tolist() == list(range(n))
    with pytest.raises(DataError, match=f"no encodingLimits/kspace_encoding_step_1 and only {n - 1} of {n}"):
        sort.row_index(lines[1:], encoding(4, n, limits={}))
    lines["kspace_encode_step_1"][0] = n + 5
    with pytest.raises(DataError, match=f"only {n - 1} of {n}"):
        sort.row_index(lines, encoding(4, n, limits={}))


# Frames


def dynamic(slices: int = 2, repetitions: int = 3) -> tuple[np.ndarray, Samples]:
    return join(
        *(lines_from_array(noise(slices, 1, 1, 6, 4), counters={"repetition": r}) for r in range(repetitions))
    )  # fmt: skip


def test_frames_are_each_state_of_the_counters_in_order() -> None:
    lines, samples = dynamic()
    lines["contrast"] = 5
    order = np.random.default_rng(0).permutation(len(lines))
    scan = scan_of(lines[order], samples)
    frames = sort.frames(scan, np.arange(len(order)))
    assert [(f.repetition, f.slice) for f in frames] == [(r, s) for r in range(3) for s in range(2)]
    assert all(f.contrast == 5 and f.complete and len(f.rows) == 6 for f in frames)
    for f in frames:
        assert (scan.lines["slice"][f.rows] == f.slice).all()
        assert (np.diff(f.rows) > 0).all()
    assert sort.frames(scan, np.arange(0)) == []


def test_a_frame_that_was_cut_short_is_incomplete_whatever_its_flags_say() -> None:
    lines, samples = dynamic()
    lines["flags"] = 0
    lines["flags"][-3] = 1 << 7  # LAST_IN_SLICE, far too early
    frames = sort.frames(scan_of(lines[:-2], samples), np.arange(len(lines) - 2))
    assert [f.complete for f in frames] == [True] * 5 + [False]


def test_averages_do_not_make_up_for_missing_lines() -> None:
    lines, samples = dynamic(1, 2)
    lines["kspace_encode_step_1"][6:] = [0, 1, 2, 0, 1, 2]
    assert [f.complete for f in sort.frames(scan_of(lines, samples), np.arange(12))] == [True, False]


def test_a_frame_without_the_acs_lines_of_the_first_is_complete() -> None:
    lines, samples = dynamic(1, 2)
    lines["flags"][[1, 3]] = BOTH
    rows = np.array([0, 1, 2, 3, 4, 6, 8, 10])
    assert [f.complete for f in sort.frames(scan_of(lines, samples), rows)] == [True, True]


def test_frames_with_patterns_of_their_own_are_complete() -> None:
    lines, samples = dynamic(1, 3)
    rows = np.array([0, 2, 4, 7, 9, 11, 12, 13, 17])
    assert all(f.complete for f in sort.frames(scan_of(lines, samples), rows))


def test_only_calibration_lines_flagged_for_imaging_belong_to_the_image() -> None:
    lines = np.zeros(5, LINE)
    both = (Flag.CALIBRATION, Flag.CALIBRATION_AND_IMAGING)
    lines["flags"] = [0, flag_bits(both[0]), flag_bits(both[1]), flag_bits(*both), flag_bits(*both, Flag.NOISE)]
    assert imaging(lines).tolist() == [True, False, True, True, False]
