"""Scans of a tiny recipe, and a folder of data for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recon.learn import pool, synth
from recon.learn.volumes import Sources
from tests.learn.tiny import DATA


@pytest.fixture(scope="module")
def items() -> list[pool.Item]:
    return [pool.prepared(synth.example(i, Sources(), DATA), 8) for i in range(12)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    g = np.random.default_rng(0)
    for which in ("train", "validation"):
        (tmp_path / which).mkdir()
        np.savez(tmp_path / which / "v.npz", image=g.integers(0, 500, (3, 40, 40)).astype(np.int16))
    return tmp_path
