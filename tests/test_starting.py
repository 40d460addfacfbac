"""The heaviest import, made quicker, leaves everything as it is otherwise."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import inspect, sys
usual, found, read = inspect.getframeinfo, inspect.findsource, []
inspect.findsource = lambda thing: read.append(thing) or found(thing)
if sys.argv[1] == "quick":
    from recon.starting import import_torch
    import_torch()
import torch
assert inspect.getframeinfo is usual
x = torch.arange(6.0).reshape(2, 3)
print(len(read), torch.fft.fft(x).abs().sum().item(), len(dir(torch.ops.aten)))
"""


def test_torch_is_imported_without_reading_its_sources_and_computes_the_same() -> None:
    usual, quick = (
        subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout.split()
        for how in ("usual", "quick")
    )
    assert usual[1:] == quick[1:]
    assert int(quick[0]) < int(usual[0]) / 2
