from __future__ import annotations

import pytest

from tests.kernels.emulation import Emulator
from tests.tools import need


@pytest.fixture(scope="session")
def emulator(tmp_path_factory) -> Emulator:
    """CUDA sources compiled for the CPU, each once."""
    need("g++")
    return Emulator(tmp_path_factory.mktemp("emulated"))
