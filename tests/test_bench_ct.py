"""What the benches of CT put together from slices, against what is known."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def test_an_interval_is_that_of_student(bench: Any) -> None:
    spread = bench("spread")
    # t of 3 degrees of freedom is 3.1824 at 97.5 %.
    assert spread.interval([1, 2, 3, 4]) == pytest.approx((2.5, 2.5 - 2.0541, 2.5 + 2.0541), abs=1e-3)
    assert spread.interval([7]) == (7, -math.inf, math.inf)
    assert spread.said([-1.0, -1.0, -1.0], 1, sign=True) == "−1.0 (−1.0 to −1.0)"


def test_neighbours_take_noise_where_they_agree_and_nothing_where_they_differ(bench: Any) -> None:
    noise = torch.from_numpy(20 * np.random.default_rng(0).standard_normal((3, 160, 160)).astype(np.float32))
    y = 40 + noise
    y[0, 60:100, 100:130] += 600
    y[2, 60:100, 100:130] += 600
    found = bench("ct_neighbours").wiener(y, 1)
    agree, differ = (slice(10, 150), slice(10, 70)), (slice(64, 96), slice(104, 126))
    # (1 − ⅓)² + ½ (⅓)² of the variance is ½; local powers that scatter leave some more.
    assert float((found[agree] - 40).std() / noise[1][agree].std()) == pytest.approx(0.73, abs=0.04)
    assert float((found[differ] - y[1][differ]).mean()) < 10
