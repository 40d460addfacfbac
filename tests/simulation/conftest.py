"""Here the simulation itself is tested: it computes everything each time."""

from __future__ import annotations

import pytest

from recon.simulation import coil_array
from tests.simulated import CALLED


@pytest.fixture(autouse=True)
def _computed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in CALLED:
        monkeypatch.setattr(module, name, getattr(coil_array, name))
