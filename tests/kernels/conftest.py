from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.emulation import Emulator
from tests.tools import need


@pytest.fixture(scope="session")
def emulator(tmp_path_factory) -> Emulator:
    """CUDA sources compiled for the CPU, each once."""
    need("g++")
    return Emulator(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Two threads where the tests have one each: how the kernels share their work is part of what is tested."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(2, before))
    yield
    torch.set_num_threads(before)
