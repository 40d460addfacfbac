"""Which scans count as whole: lines against the header, whatever the pattern in which they were measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon import masks, simulation
from recon.data import RawScan
from recon.io.samples import SomeRows
from recon.serve.counting import count
from recon.simulation import Settings

_N = 128
_FULL = simulation.simulate(Settings(matrix=(16, _N, 1), coils=1, noise_lines=0))


def measured(steps: np.ndarray, acceleration: int, *, flagged: bool = True) -> RawScan:
    """A scan of these phase encodes, whose header states the acceleration; the last one says so where `flagged`."""
    rows = np.sort(np.nonzero(np.isin(_FULL.lines["kspace_encode_step_1"], steps))[0])
    lines = _FULL.lines[rows].copy()
    lines["flags"] = 0
    lines["flags"][-1] = np.uint64(1 << 7 if flagged else 0)
    encoding = replace(_FULL.encodings[0], acceleration=(acceleration, 1))
    return replace(_FULL, lines=lines, samples=SomeRows(_FULL.samples, rows), encodings=(encoding,))


def drawn(kind: str, acceleration: int, seed: int, acs: int = 12) -> np.ndarray:
    return np.nonzero(np.asarray(getattr(masks, kind)((_N,), acceleration, acs, seed=seed)).reshape(-1))[0]


@pytest.mark.parametrize("acceleration", [2, 3, 4])
@pytest.mark.parametrize("kind", ["equispaced", "equispaced_fraction", "random", "variable_density"])
def test_a_scan_is_whole_when_all_its_lines_have_come(kind: str, acceleration: int) -> None:
    patterns = [drawn(kind, acceleration, seed) for seed in range(10)]
    assert [count(measured(p, acceleration)).complete for p in patterns] == [True] * 10
    # A tenth of them are missing: wherever that is, no pattern has as many as the header announces.
    short = [p[: int(0.9 * len(p))] for p in patterns] + [p[len(p) // 10 :] for p in patterns]
    assert not any(count(measured(p, acceleration)).complete for p in short)


@pytest.mark.parametrize("acceleration", [2, 3, 4])
def test_f09_a_few_lines_missing_from_a_regular_pattern_are_missed_wherever_they_are(acceleration: int) -> None:
    """ACS lines beside it make up for the number, and a hole in them hides no hole elsewhere."""
    rng = np.random.default_rng(0)
    for seed in range(12):
        pattern = drawn("equispaced", acceleration, seed, acs=24)
        inner = pattern[1:-1]
        assert count(measured(pattern, acceleration)).complete
        assert not count(measured(np.setdiff1d(pattern, rng.choice(inner, 6, replace=False)), acceleration)).complete
        alone = inner[(np.diff(pattern)[:-1] > 1) & (np.diff(pattern)[1:] > 1)]
        assert not count(measured(np.setdiff1d(pattern, rng.choice(alone, 1)), acceleration)).complete


def test_lines_that_thin_out_towards_an_end_are_whole_at_the_scanner_s_word_alone() -> None:
    far = next(p for p in (drawn("variable_density", 4, s) for s in range(20)) if p[-1] < _N - 2 * np.diff(p).max())
    assert count(measured(far, 4)).complete
    assert not count(measured(far, 4, flagged=False)).complete
    assert len(far) == _N // 4


@pytest.mark.parametrize("acceleration", [2, 3, 4])
def test_f09_the_first_and_the_last_line_of_a_regular_pattern_are_missed(acceleration: int) -> None:
    """ACS lines make up for the number here too: the ends alone tell."""
    for seed in range(4):
        pattern = drawn("equispaced", acceleration, seed, acs=24)
        assert not count(measured(pattern[1:], acceleration)).complete
        assert not count(measured(pattern[:-1], acceleration)).complete


def test_a_counter_without_limits_announces_one_value() -> None:
    full = measured(np.arange(_N), 1)
    encoding = full.encodings[0]
    step = {name: limit for name, limit in encoding.limits.items() if name.startswith("kspace")}
    found = count(replace(full, encodings=(replace(encoding, limits=step),)))
    assert found.complete
    assert (found.received, found.expected) == (_N, _N)
