"""Samples on their columns and lines on their rows, whatever their order, number and direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import LINE, DataError, Limit, RawScan
from recon.io.samples import in_memory, lines_from_array
from recon.prepare import hybrid, place, sort
from recon.prepare.noise import Whitening
from tests.prepare.lines import REVERSE, encoding, noise, scan_of


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


@pytest.mark.parametrize("n", [16, 17])
def test_a_centre_that_was_not_set_is_the_middle(n: int) -> None:
    samples = noise(2, 1, n)
    for flags in (0, REVERSE):
        columns, _ = readouts_of(samples, readouts(2, n, 0, flags=flags), n)
        np.testing.assert_array_equal(columns, samples[:, :, ::-1] if flags else samples)


def test_a_reversed_full_readout_with_its_centre_counted_after_the_flip_stays_whole() -> None:
    samples = noise(2, 1, 16)
    columns, sampled = readouts_of(samples, readouts(2, 16, 8, flags=REVERSE), 16)
    np.testing.assert_array_equal(columns, samples[:, :, ::-1])
    assert sampled.all()


def test_forward_and_reversed_lines_in_one_block_are_placed_by_direction() -> None:
    k = noise(6, 2, 16)
    acquired = k.copy()
    acquired[1::2] = k[1::2, :, ::-1]
    lines = readouts(6, 16, 8)
    lines["flags"][1::2], lines["center_sample"][1::2] = REVERSE, 7
    np.testing.assert_array_equal(readouts_of(acquired, lines, 16)[0], k)


def test_a_readout_longer_than_the_grid_is_refused() -> None:
    with pytest.raises(DataError, match="encodedSpace/matrixSize/x"):
        readouts_of(noise(1, 1, 20), readouts(1, 20, 10), 16)


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


def test_averages_that_overflow_are_distinguished_from_damaged_samples() -> None:
    values = np.full((2, 1, 8), 3e38, np.complex64)
    lines, _ = lines_from_array(values.transpose(1, 0, 2)[None, :, None])
    lines["kspace_encode_step_1"] = 0
    scan = scan_of(lines, in_memory(values), encoding(8, 2))
    unit = Whitening(torch.eye(1, dtype=torch.complex64), "test")
    with pytest.raises(DataError, match="average of some lines overflows"):
        hybrid.slab(hybrid.Lines(scan, scan.encodings[0], unit, 8), np.arange(2))


def test_rows_outside_are_refused() -> None:
    for ky in (-1, 6):
        with pytest.raises(DataError, match="outside the grid"):
            grid_of(noise(1, 1, 4), np.array([ky]), np.array([0]), (1, 6))


@pytest.mark.parametrize("shape", [(12, 1), (11, 7), (13, 10)])
def test_the_calibration_block_is_the_middle_of_k_space(shape: tuple[int, int]) -> None:
    """At most 6 samples along each axis, with index N // 2 of k-space at index n // 2 of the block."""
    ny, nz = shape
    k = noise(1, 3, nz, ny, 16)
    scan = scan_of(*lines_from_array(k), encoding(16, ny, nz))
    eye = Whitening(torch.eye(3, dtype=torch.complex64), "test")
    block = hybrid.calibration(hybrid.Lines(scan, scan.encodings[0], eye, 16), np.arange(len(scan.lines)), 6).numpy()
    z, y = (slice(n // 2 - min(n, 6) // 2, n // 2 - min(n, 6) // 2 + min(n, 6)) for n in (nz, ny))
    np.testing.assert_allclose(block, k[0][:, z, y, 5:11], rtol=0, atol=1e-5)
