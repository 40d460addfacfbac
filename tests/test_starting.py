"""What a start imports is left alone by the collector of garbage, and everything else is collected as before."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from recon.starting import staying

PROGRAM = """
import gc, sys
from recon import cli
seen = []
gc.callbacks.append(lambda phase, info: seen.append(info["generation"]) if "torch" in sys.modules else None)
with cli.staying():
    from recon import pipeline
assert sys.modules["torch"].arange(3).sum() == 3
print(len(seen), gc.get_freeze_count() > 50_000, gc.isenabled(), [m for m in sys.modules if m.startswith("recon.ct.")])
"""


def test_nothing_is_collected_while_torch_is_imported_nor_looked_at_afterwards_and_ct_waits() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "True", "[]"]


def test_garbage_is_collected_again_after_a_start_that_failed() -> None:
    class Node:
        pass

    with pytest.raises(ImportError), staying():
        raise ImportError
    assert gc.isenabled()
    node = Node()
    node.itself = node  # type: ignore[attr-defined]
    seen = weakref.ref(node)
    del node
    gc.collect()
    assert seen() is None
    gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with staying():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
