"""What is kept of simulated scans for later tests is what would be computed again."""

from __future__ import annotations

import numpy as np
import pytest

from recon.simulation import coil_array, scan, settings
from tests.simulated import kept


def test_kept_k_space_is_that_which_is_computed_and_belongs_to_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def received(*given: np.ndarray) -> np.ndarray:
        counted.append(1)
        return coil_array.received(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(scan, "received", received)
    one = settings.Settings(matrix=(24, 24, 1), coils=2, noise_lines=0, sigma=0.0)
    others = [settings.Settings(matrix=(24, 24, 1), coils=n, noise_lines=0, sigma=0.0) for n in (3, 4)]
    rows = np.arange(24)
    before = [scan.simulate(s).samples.read(rows) for s in (one, *others)]
    counted.clear()
    with kept():
        scan.simulate(one).samples.read(rows)[:] = 0
        after = [scan.simulate(s).samples.read(rows) for s in (one, *others)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(counted) == 3
