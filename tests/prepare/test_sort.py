from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import LINE, DataError, Encoding, Flag, Limit, RawScan, Samples, flag_bits
from recon.io.samples import in_memory, join, lines_from_array
from recon.prepare import hybrid, place, sort
from recon.prepare.noise import Whitening

NOISE, CALIBRATION, BOTH, REVERSE = (
    flag_bits(f) for f in (Flag.NOISE, Flag.CALIBRATION, Flag.CALIBRATION_AND_IMAGING, Flag.REVERSE)
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def encoding(nx: int, ny: int, nz: int = 1, **more: object) -> Encoding:
    limits = {
        "kspace_encoding_step_1": Limit(0, ny - 1, ny // 2),
        "kspace_encoding_step_2": Limit(0, nz - 1, nz // 2),
    }
    fov = (float(nx), float(ny), float(nz))
    return replace(Encoding((nx, ny, nz), fov, (nx, ny, nz), fov, limits=limits), **more)


def scan_of(lines: np.ndarray, samples: Samples, *encodings: Encoding) -> RawScan:
    return RawScan(lines, samples, encodings or (encoding(16, 12),))


def some(n: int, flags: int = 0, channels: int = 2) -> tuple[np.ndarray, Samples]:
    lines, samples = lines_from_array(noise(1, channels, 1, n, 16), flags=flags)
    return lines, samples


def readouts_of(samples: np.ndarray, lines: np.ndarray, nx: int) -> tuple[np.ndarray, np.ndarray]:
    columns, sampled = place.readouts(torch.from_numpy(samples), lines, nx)
    return columns.numpy(), sampled


def grid_of(
    values: np.ndarray, ky: np.ndarray, kz: np.ndarray, shape: tuple[int, int], size: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """The lines on the grid, given in blocks of `size`."""
    at = [np.arange(i, min(i + size, len(ky))) for i in range(0, len(ky), size)]
    data, counts = place.grid(((a, torch.from_numpy(values[a])) for a in at), ky, kz, shape)
    return data.numpy(), counts


def gridded(scan: RawScan) -> np.ndarray:
    """k-space (coil, kz, ky, kx) of all imaging lines of the first encoding."""
    e = scan.encodings[0]
    rows = sort.kinds(scan).imaging
    columns, _ = readouts_of(scan.samples.read(rows), scan.lines[rows], e.encoded_matrix[0])
    ky, kz, valid = sort.row_index(scan.lines[rows], e)
    return grid_of(columns[valid], ky[valid], kz[valid], (e.encoded_matrix[2], e.encoded_matrix[1]))[0]


# Kinds


def test_kinds_are_told_apart_by_their_flags() -> None:
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


# Readouts


def readouts(n: int, ns: int, centre: int, pre: int = 0, post: int = 0, flags: int = 0) -> np.ndarray:
    lines = np.zeros(n, LINE)
    lines["number_of_samples"], lines["center_sample"], lines["flags"] = ns, centre, flags
    lines["discard_pre"], lines["discard_post"] = pre, post
    return lines


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_each_sample_lies_at_its_distance_from_the_centre(data: st.DataObject) -> None:
    nx = data.draw(st.integers(2, 40))
    ns = data.draw(st.integers(1, nx))
    centre = data.draw(st.integers(0, ns - 1))
    pre = data.draw(st.integers(0, ns - 1))
    post = data.draw(st.integers(0, ns - 1 - pre))
    reverse = data.draw(st.booleans())
    samples, lines = noise(3, 2, ns), readouts(3, ns, centre, pre, post, REVERSE * reverse)
    c = int(sort.centre_samples(lines, nx)[0])
    if not (ns == nx and (centre == 0 or (reverse and centre == nx // 2))):
        assert c == centre
    at = {n: nx // 2 + (c - n if reverse else n - c) for n in range(pre, ns - post)}
    if min(at.values()) < 0 or max(at.values()) >= nx:
        with pytest.raises(DataError, match="reach columns"):
            readouts_of(samples, lines, nx)
        return
    columns, sampled = readouts_of(samples, lines, nx)
    expected = np.zeros((3, 2, nx), np.complex64)
    for n, column in at.items():
        expected[:, :, column] = samples[:, :, n]
    np.testing.assert_array_equal(columns, expected)
    assert np.nonzero(sampled)[0].tolist() == sorted(at.values())
    assert columns.strides[-1] > 0


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_point_in_the_middle_gives_a_real_image(n: int, reverse: bool) -> None:
    """k-space of a point at the isocentre is constant; where a line is placed off by one, the image gets a ramp."""
    k = np.exp(-0.05 * (np.arange(n) - n // 2) ** 2).astype(np.complex64)
    acquired = k[::-1] if reverse else k
    lines = readouts(1, n, n - 1 - n // 2 if reverse else n // 2, flags=REVERSE * reverse)
    columns, _ = readouts_of(acquired[None, None].copy(), lines, n)
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(columns[0, 0])))
    assert np.abs(image.imag).max() < 1e-6 * np.abs(image).max()


def test_an_asymmetric_echo_lies_against_one_edge() -> None:
    samples = noise(4, 2, 224)
    columns, sampled = readouts_of(samples, readouts(4, 224, 96), 256)  # 32 samples cut before the echo
    assert np.nonzero(sampled)[0].tolist() == list(range(32, 256))
    np.testing.assert_array_equal(columns[:, :, 32:], samples)
    with pytest.raises(DataError, match=r"center_sample 96 reach columns 32 to 287 of a grid of 256"):
        readouts_of(noise(4, 2, 256), readouts(4, 256, 96), 256)


def test_a_centre_that_nobody_set_is_the_middle() -> None:
    samples = noise(2, 1, 16)
    for flags in (0, REVERSE):
        columns, _ = readouts_of(samples, readouts(2, 16, 0, flags=flags), 16)
        np.testing.assert_array_equal(columns, samples[:, :, ::-1] if flags else samples)


def test_a_reversed_full_readout_with_its_centre_counted_after_the_flip_stays_whole() -> None:
    samples = noise(2, 1, 16)
    columns, sampled = readouts_of(samples, readouts(2, 16, 8, flags=REVERSE), 16)
    np.testing.assert_array_equal(columns, samples[:, :, ::-1])
    assert sampled.all()


def test_forward_and_reversed_lines_in_one_block_are_placed_each_its_way() -> None:
    k = noise(6, 2, 16)
    acquired = k.copy()
    acquired[1::2] = k[1::2, :, ::-1]
    lines = readouts(6, 16, 8)
    lines["flags"][1::2], lines["center_sample"][1::2] = REVERSE, 7
    np.testing.assert_array_equal(readouts_of(acquired, lines, 16)[0], k)


def test_a_readout_longer_than_the_grid_is_refused() -> None:
    with pytest.raises(DataError, match="encodedSpace/matrixSize/x"):
        readouts_of(noise(1, 1, 20), readouts(1, 20, 10), 16)


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


def test_rows_beside_the_grid_are_invalid_and_never_wrap() -> None:
    lines = np.zeros(3, LINE)
    lines["kspace_encode_step_1"] = [0, 10, 65535]
    ky, _, valid = sort.row_index(lines, encoding(16, 12, limits={"kspace_encoding_step_1": Limit(0, 11, 9)}))
    assert valid.tolist() == [False, True, False]
    assert ky.tolist() == [-3, 7, 65532]


@pytest.mark.parametrize("n", [11, 12])
def test_missing_limits_need_all_lines(n: int) -> None:
    lines, _ = lines_from_array(noise(1, 1, 1, n, 4))
    ky, _, _ = sort.row_index(lines, encoding(4, n, limits={}))
    assert ky.tolist() == list(range(n))
    with pytest.raises(DataError, match=f"no encodingLimits/kspace_encoding_step_1 and only {n - 1} of {n}"):
        sort.row_index(lines[1:], encoding(4, n, limits={}))


# The grid: what the order, the number and the direction of lines may not change


@pytest.mark.parametrize("shape", [(12, 1), (11, 7), (6, 4)])
def test_the_grid_holds_every_line_at_its_row(shape: tuple[int, int]) -> None:
    ny, nz = shape
    k = noise(1, 3, nz, ny, 16)
    scan = scan_of(*lines_from_array(k), encoding(16, ny, nz))
    np.testing.assert_array_equal(gridded(scan), k[0])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_permuted_duplicated_dropped_and_reversed_lines_give_the_ordered_scan(data: st.DataObject) -> None:
    ny, nz = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 4))
    k = noise(1, 2, nz, ny, 8, seed=data.draw(st.integers(0, 99)))
    lines, samples = lines_from_array(k)
    order = np.array(data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=40)))
    reverse = np.array(data.draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order))))
    lines, values = lines[order].copy(), samples.read(order)
    lines["flags"] = np.where(reverse, np.uint64(REVERSE), np.uint64(0))
    lines["center_sample"] = np.where(reverse, 8 - 1 - 4, 4)
    values = np.where(reverse[:, None, None], values[:, :, ::-1], values)
    lines["average"] = np.arange(len(lines)) % 3
    lines["segment"] = np.arange(len(lines)) % 2
    result = gridded(scan_of(lines, in_memory(values), encoding(8, ny, nz)))
    present = np.zeros(nz * ny, bool)
    present[order] = True
    expected = np.where(present.reshape(nz, ny, 1), k[0], 0)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 40), st.integers(0, 20), st.sampled_from(["low", "high"]), st.integers(1, 3))
def test_every_partial_fourier_side_lies_where_the_full_scan_has_it(n: int, cut: int, side: str, axis: int) -> None:
    cut = min(cut, n // 2 - 1)
    ny, nz = (n, 1) if axis == 1 else (2, n) if axis == 2 else (n, 3)
    k = noise(1, 1, nz, ny, 4)
    lines, samples = lines_from_array(k)
    name = f"kspace_encode_step_{2 if axis == 2 else 1}"
    step = lines[name].astype(int)
    keep = step >= cut if side == "low" else step < n - cut
    lines, values = lines[keep].copy(), samples.read(np.nonzero(keep)[0])
    shift = cut if side == "low" else 0  # scanners count from the first line that is acquired
    lines[name] -= shift
    limits = dict(encoding(4, ny, nz).limits)
    limits[name.replace("encode", "encoding")] = Limit(0, n - 1 - cut, n // 2 - shift)
    result = gridded(scan_of(lines, in_memory(values), encoding(4, ny, nz, limits=limits)))
    expected = k[0].copy()
    expected.reshape(1, nz * ny, 4)[:, ~keep] = 0
    np.testing.assert_array_equal(result, expected)


def test_averages_are_the_mean_whatever_their_number() -> None:
    values, ky = noise(9, 2, 8), np.array([3, 1, 3, 3, 0, 1, 5, 3, 3])
    data, counts = grid_of(values, ky, np.zeros(9, int), (1, 6), size=4)
    for row in range(6):
        expected = values[ky == row].mean(0) if (ky == row).any() else 0
        np.testing.assert_allclose(data[:, 0, row], expected, rtol=1e-5)
    assert counts.tolist() == [[1, 2, 0, 5, 0, 1]]


def test_the_lines_given_are_not_changed() -> None:
    values = noise(4, 2, 8)
    before = values.copy()
    for rows in ([0, 1, 2, 3], [0, 0, 1, 1]):
        data, _ = grid_of(values, np.array(rows), np.zeros(4, int), (1, 4))
        data[:] = 0
    np.testing.assert_array_equal(values, before)


def whitened(values: np.ndarray, matrix: np.ndarray) -> hybrid.Lines:
    """Lines (line, coil, sample) of one slice with a whitening matrix."""
    lines, _ = lines_from_array(np.ascontiguousarray(values.transpose(1, 0, 2)[None, :, None]))
    scan = scan_of(lines, in_memory(values), encoding(values.shape[2], len(values)))
    return hybrid.Lines(scan, scan.encodings[0], Whitening(torch.from_numpy(matrix), "test"), values.shape[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, complex(0, np.nan)])
def test_nan_and_infinity_are_refused_naming_lines_and_channels_of_the_file(bad: complex) -> None:
    values = noise(6, 3, 8)
    values[2, 1, 5] = bad
    mixing = noise(3, 3, seed=1)  # which spreads it over all coils
    with pytest.raises(DataError, match="1 of 6 lines hold NaN or infinite samples, in 1 channel \\(1\\);"):
        hybrid.slab(whitened(values, mixing), np.arange(6))
    assert sort.finite(values).tolist() == [True, True, False, True, True, True]


def test_what_a_dead_coil_recorded_never_spreads() -> None:
    values, matrix = noise(6, 3, 8), noise(2, 3, seed=1)
    matrix[:, 1] = 0
    clean = hybrid.slab(whitened(values, matrix), np.arange(6)).y
    values[:, 1] = np.nan
    assert torch.equal(hybrid.slab(whitened(values, matrix), np.arange(6)).y, clean)


def test_averages_that_overflow_are_told_from_damaged_samples() -> None:
    values = np.full((2, 1, 8), 3e38, np.complex64)
    lines, _ = lines_from_array(values.transpose(1, 0, 2)[None, :, None])
    lines["kspace_encode_step_1"] = 0
    scan = scan_of(lines, in_memory(values), encoding(8, 2))
    unit = Whitening(torch.eye(1, dtype=torch.complex64), "test")
    with pytest.raises(DataError, match="averages of some lines overflow"):
        hybrid.slab(hybrid.Lines(scan, scan.encodings[0], unit, 8), np.arange(2))


def test_rows_outside_are_refused() -> None:
    for ky in (-1, 6):
        with pytest.raises(DataError, match="outside the grid"):
            grid_of(noise(1, 1, 4), np.array([ky]), np.array([0]), (1, 6))


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
