from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# As in `recon`: beside other programs, threads that spin while waiting take most of the processor.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes share the cores: one thread each, also in child processes, set before anything reads the number of
    # cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scans; see the README for where they are looked for."""
    path = Path(os.environ.get("RECON_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real scans at {path}; set RECON_DATA to the folder that holds them")
    return path


@pytest.fixture(scope="session", autouse=True)
def _simulated_once() -> Iterator[None]:
    from tests import simulated

    with simulated.kept():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
