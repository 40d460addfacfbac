"""Which scans count as whole: lines against the header, whatever the pattern in which they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from recon import masks, simulation
from recon.data import Limit, RawScan
from recon.io.samples import SomeRows
from recon.serve.counting import Count, count, only_repetitions, refuse, unbroken, whole_frame
from recon.simulation import Settings

_N = 128
_FULL = {n: simulation.simulate(Settings(matrix=(16, n, 1), coils=1, noise_lines=0)) for n in (32, 64, _N)}
_FRAME = (0, 0, 0, 0, 0)


def measured(steps: np.ndarray, acceleration: int, *, flagged: bool = True, n: int = _N) -> RawScan:
    """A scan of these phase encodes, whose header states the acceleration; the last one says so where `flagged`."""
    full = _FULL[n]
    rows = np.sort(np.nonzero(np.isin(full.lines["kspace_encode_step_1"], steps))[0])
    lines = full.lines[rows].copy()
    lines["flags"] = 0
    lines["flags"][-1] = np.uint64(1 << 7 if flagged else 0)
    encoding = replace(full.encodings[0], acceleration=(acceleration, 1))
    return replace(full, lines=lines, samples=SomeRows(full.samples, rows), encodings=(encoding,))


def drawn(kind: str, acceleration: int, seed: int, acs: int = 12, n: int = _N) -> np.ndarray:
    return np.nonzero(np.asarray(getattr(masks, kind)((n,), acceleration, acs, seed=seed)).reshape(-1))[0]


def without(pattern: np.ndarray, lost: list[int], acceleration: int, n: int) -> bool:
    """Whether a scan of the pattern without some of its lines counts as whole, of lines that a scanner has numbered."""
    kept = np.delete(np.arange(len(pattern)), lost)
    scan = measured(pattern[kept], acceleration, flagged=len(pattern) - 1 in kept, n=n)
    return count(scan, unbroken(np.append(0, 1 + kept), {_FRAME: range(1, len(kept) + 1)})).complete


@pytest.mark.parametrize("acceleration", [2, 3, 4])
@pytest.mark.parametrize("kind", ["equispaced", "equispaced_fraction", "random", "variable_density"])
def test_a_scan_is_whole_when_all_its_lines_have_come(kind: str, acceleration: int) -> None:
    patterns = [drawn(kind, acceleration, seed) for seed in range(10)]
    assert [count(measured(p, acceleration)).complete for p in patterns] == [True] * 10
    # A tenth of them are missing: wherever that is, no pattern has as many as the header announces.
    short = [p[: int(0.9 * len(p))] for p in patterns] + [p[len(p) // 10 :] for p in patterns]
    assert not any(count(measured(p, acceleration)).complete for p in short)


@pytest.mark.parametrize("acceleration", [2, 3, 4])
def test_f09_a_few_lines_missing_from_a_regular_pattern_are_noticed_at_any_place(acceleration: int) -> None:
    """ACS lines beside it make up for the number, and a hole in them hides no hole elsewhere."""
    rng = np.random.default_rng(0)
    for seed in range(12):
        pattern = drawn("equispaced", acceleration, seed, acs=24)
        inner = pattern[1:-1]
        assert count(measured(pattern, acceleration)).complete
        assert not count(measured(np.setdiff1d(pattern, rng.choice(inner, 6, replace=False)), acceleration)).complete
        alone = inner[(np.diff(pattern)[:-1] > 1) & (np.diff(pattern)[1:] > 1)]
        assert not count(measured(np.setdiff1d(pattern, rng.choice(alone, 1)), acceleration)).complete


def test_lines_that_thin_out_towards_an_end_are_complete_only_if_the_scanner_marks_the_end() -> None:
    far = next(p for p in (drawn("variable_density", 4, s) for s in range(20)) if p[-1] < _N - 2 * np.diff(p).max())
    assert count(measured(far, 4)).complete
    assert not count(measured(far, 4, flagged=False)).complete
    assert len(far) == _N // 4


@pytest.mark.parametrize("acceleration", [2, 3, 4])
def test_f09_the_first_and_the_last_line_of_a_regular_pattern_are_missed(acceleration: int) -> None:
    """ACS lines make up for the number here, too: only the ends show it."""
    for seed in range(4):
        pattern = drawn("equispaced", acceleration, seed, acs=24)
        assert not count(measured(pattern[1:], acceleration)).complete
        assert not count(measured(pattern[:-1], acceleration)).complete


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_f09_few_lines_above_the_announced_number_count_as_a_regular_pattern_without_gaps(
    lost: int,
) -> None:
    """Twelve ACS lines make seventeen of eight, and the word of the last line makes no random pattern of them."""
    for seed in range(4):
        pattern = drawn("equispaced", 4, seed, 12, 32)
        assert count(measured(pattern, 4, n=32)).complete
        assert not count(measured(np.delete(pattern, lost), 4, n=32)).complete


def test_a_counter_without_limits_announces_one_value() -> None:
    full = measured(np.arange(_N), 1)
    encoding = full.encodings[0]
    step = {name: limit for name, limit in encoding.limits.items() if name.startswith("kspace")}
    found = count(replace(full, encodings=(replace(encoding, limits=step),)))
    assert found.complete
    assert (found.received, found.expected) == (_N, _N)


@pytest.mark.parametrize("kind", ["random", "variable_density"])
@pytest.mark.parametrize(("n", "acceleration", "acs"), [(32, 2, 8), (32, 4, 4), (32, 4, 8), (64, 2, 16), (64, 3, 8)])
def test_scans_of_few_lines_drawn_at_random_are_whole(kind: str, n: int, acceleration: int, acs: int) -> None:
    patterns = [drawn(kind, acceleration, seed, acs, n) for seed in range(20)]
    whole = [count(measured(p, acceleration, n=n)).complete for p in patterns]
    assert whole.count(True) >= 19, "single lines that lie on a comb by chance are told from no comb with holes"
    assert [without(p, [], acceleration, n) for p in patterns] == [True] * 20, "their numbers do tell"


@pytest.mark.parametrize("kind", ["random", "variable_density", "equispaced"])
@pytest.mark.parametrize(("n", "acceleration", "acs"), [(32, 2, 8), (64, 3, 8), (128, 2, 24), (128, 4, 12)])
def test_f09_lines_that_are_numbered_leave_nothing_to_spare(kind: str, n: int, acceleration: int, acs: int) -> None:
    for seed in range(8):
        pattern = drawn(kind, acceleration, seed, acs, n)
        assert without(pattern, [], acceleration, n)
        for lost in ([0], [3], [len(pattern) // 2], [len(pattern) - 1], [1, len(pattern) - 2]):
            assert not without(pattern, lost, acceleration, n), (seed, lost)


@pytest.mark.parametrize("kind", ["random", "variable_density"])
@pytest.mark.parametrize(("n", "acceleration", "acs"), [(32, 2, 8), (32, 3, 4), (64, 3, 8), (128, 2, 24), (128, 4, 12)])
def test_f09_without_numbers_no_random_line_may_be_missing(kind: str, n: int, acceleration: int, acs: int) -> None:
    rng = np.random.default_rng(0)
    for seed in range(8):
        pattern = drawn(kind, acceleration, seed, acs, n)
        short = np.delete(pattern, rng.integers(len(pattern) - 1))  # its last line, which is flagged, has come
        assert not count(measured(short, acceleration, n=n)).complete, seed


def test_numbers_are_unbroken_from_the_line_before_a_frame_to_the_one_after_it() -> None:
    a, b = (0, 0, 0, 0, 0), (1, 0, 0, 0, 0)
    frames = {a: [1, 3], b: [2, 4, 5]}
    assert unbroken(np.array([7, 8, 9, 10, 11, 12, 13]), frames) == {a: True, b: True}
    assert unbroken(np.array([7, 8, 9, 10, 11, 12, 15]), frames) == {a: True, b: False}, "one came after b, and is lost"
    assert unbroken(np.array([7, 9, 10, 11, 12, 13, 14]), frames) == {a: False, b: True}
    assert unbroken(np.array([7, 8, 9, 11, 12, 13, 14]), frames) == {a: False, b: False}
    assert unbroken(np.zeros(7, np.uint32), frames) is None
    assert unbroken(np.array([5, 6]), {a: [0, 1]}) == {a: False}, "what came before the first line nobody knows"
    assert unbroken(np.array([0, 1]), {a: [0, 1]}) == unbroken(np.array([1, 2]), {a: [0, 1]}) == {a: True}


def test_a_repetition_of_fewer_random_lines_is_complete_if_numbers_show_no_loss() -> None:
    parts = [measured(drawn("random", 4, seed)[2 * seed :], 4) for seed in range(2)]
    more, fewer = (len(part.lines) for part in parts)
    assert fewer < more
    lines = np.concatenate([part.lines for part in parts])
    lines["repetition"][more:] = 1
    encoding = replace(parts[0].encodings[0], limits={**parts[0].encodings[0].limits, "repetition": Limit(0, 1, 0)})
    scan = replace(parts[0], lines=lines, encodings=(encoding,))
    rows = {_FRAME: range(1, more + 1), (0, 0, 0, 1, 0): range(more + 1, more + fewer + 1)}
    numbers = np.arange(more + fewer + 1)
    assert count(scan, unbroken(numbers, rows)).whole == (0, 1)
    assert count(scan, unbroken(np.where(numbers > more + 2, numbers + 1, numbers), rows)).whole == (0,)
    assert count(scan).whole == (0,)


def test_a_volume_with_fewer_lines_than_announced_is_complete_only_if_the_scanner_marks_the_end() -> None:
    full = simulation.simulate(Settings(matrix=(8, 24, 24), fov=(240, 240, 240), coils=1, noise_lines=0))
    y, z = (full.lines[f"kspace_encode_step_{i}"].astype(int) - 12 for i in (1, 2))
    rows = np.nonzero((y % 2 == 0) & (y**2 + z**2 <= 12.5**2))[0]
    lines = full.lines[rows].copy()
    encoding = replace(full.encodings[0], acceleration=(2, 1))
    for flag, whole in ((0, False), (1 << 7, True)):
        lines["flags"] = 0
        lines["flags"][-1] = np.uint64(flag)
        scan = replace(full, lines=lines, samples=SomeRows(full.samples, rows), encodings=(encoding,))
        assert count(scan).complete == whole


@pytest.mark.parametrize("lost", [0, 1, _N // 2, _N - 2, _N - 1])
def test_without_acceleration_one_missing_line_is_noticed_despite_end_flags(lost: int) -> None:
    scan = measured(np.delete(np.arange(_N), lost), 1)
    assert not count(scan).complete
    assert not count(scan, {_FRAME: True}).complete


@pytest.mark.parametrize(
    ("steps", "whole"),
    [
        (range(96), True),
        (range(32, _N), True),
        (range(72), True),
        (range(71), False),  # behind the centre there is too little to tell the phase
        ([*range(20), *range(21, 96)], False),
        (range(4, 96), False),
    ],
)
def test_partial_fourier_within_wider_limits_is_whole_where_the_scanner_says_that_nothing_is_missing(
    steps: Sequence[int], whole: bool
) -> None:
    scan = measured(np.array(steps), 1)
    assert not count(scan, {_FRAME: True}).complete  # more may have been to come
    scan.lines["flags"][-1] |= np.uint64(1 << 24)
    assert count(scan, {_FRAME: True}).complete == whole
    assert not count(scan, {_FRAME: False}).complete
    assert not count(scan).complete


@pytest.mark.parametrize(("flag", "hole", "whole"), [(0, 0, False), (8, 0, False), (25, 0, True), (25, 1, False)])
def test_corners_of_a_volume_may_be_missing_where_the_measurement_has_ended(flag: int, hole: int, whole: bool) -> None:
    full = simulation.simulate(Settings(matrix=(8, 24, 24), fov=(240, 240, 240), coils=1, noise_lines=0))
    y, z = (full.lines[f"kspace_encode_step_{i}"].astype(int) - 12 for i in (1, 2))
    inside = (y**2 + z**2 <= 12.5**2) & ~((y == 3) & (z == -2) & bool(hole))
    lines = full.lines[inside].copy()
    lines["flags"] = 0
    lines["flags"][-1] = np.uint64(1 << (flag - 1) if flag else 0)
    assert count(replace(full, lines=lines, samples=SomeRows(full.samples, np.nonzero(inside)[0]))).complete == whole


def test_a_repetition_is_whole_when_all_its_slices_have_come() -> None:
    scan = measured(np.arange(_N), 1)
    e = scan.encodings[0]
    two = replace(scan, encodings=(replace(e, limits={**e.limits, "slice": Limit(0, 1, 0)}),))
    assert count(scan).whole == (0,)
    assert (count(two).whole, count(two).complete, count(two).expected) == ((), False, 2 * _N)


def test_limits_that_begin_beyond_zero_are_counted_from_where_they_begin() -> None:
    for pattern, whole in ((np.arange(0, _N, 2), True), (np.arange(4, _N, 2), False), (np.arange(0, _N - 4, 2), False)):
        scan = measured(pattern, 2, flagged=False)
        lines, e = scan.lines.copy(), scan.encodings[0]
        lines["kspace_encode_step_1"] += 100
        lines["average"] = 1
        limits = {**e.limits, "kspace_encoding_step_1": Limit(100, 99 + _N, 100 + _N // 2), "average": Limit(1, 1, 1)}
        assert count(replace(scan, lines=lines, encodings=(replace(e, limits=limits),))).complete == whole


def test_numbers_that_repeat_or_go_back_are_broken() -> None:
    for numbers in ([1, 2, 2, 3, 4], [1, 2, 3, 2, 3]):
        found = unbroken(np.array(numbers), {_FRAME: range(5)})
        assert found == {_FRAME: False}
    assert unbroken(np.array([1, 2, 3, 4, 5]), {_FRAME: range(5)}) == {_FRAME: True}


def repeated(n: int) -> RawScan:
    """A whole scan measured n times, whose header announces one repetition."""
    scan = measured(np.arange(32), 1, n=32)
    lines, rows = np.tile(scan.lines, n), np.tile(np.arange(32), n)
    lines["repetition"] = np.repeat(np.arange(n), 32)
    return replace(scan, lines=lines, samples=SomeRows(scan.samples, rows))


def test_additional_repetitions_are_expected_and_can_be_selected() -> None:
    scan = repeated(3)
    found = count(scan)
    assert (found.expected, found.whole, found.complete) == (96, (0, 1, 2), True)
    some = only_repetitions(scan, (0, 2))
    assert some.lines["repetition"].tolist() == [0] * 32 + [2] * 32
    assert np.array_equal(some.samples.read(np.array([40])), scan.samples.read(np.array([72])))


def test_a_frame_without_numbers_is_not_certainly_complete() -> None:
    pattern = np.delete(drawn("random", 4, 0), 7)
    scan = measured(pattern, 4)
    assert count(scan, {_FRAME: True}).complete
    assert not count(scan, {}).complete
    assert not whole_frame(scan)


@pytest.mark.parametrize(("received", "said"), [(127, "127/128: lines"), (128, "128/128 or more: lines")])
def test_missing_lines_are_reported_even_if_additional_ones_make_up_the_number(received: int, said: str) -> None:
    assert str(refuse(Count(received, 128, (), 1))).startswith(f"incomplete {said}")
