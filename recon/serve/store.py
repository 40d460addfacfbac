"""The lines of a scan that is still being sent: they accumulate in memory, and any part of them is a RawScan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Encoding, Header, RawScan
from recon.io.mrd_lines import HEAD, assemble, line_table
from recon.serve.wire import Acquisition


@dataclass(frozen=True, eq=False)
class Held:
    """Samples of lines held one by one: row i is line rows[i] of `lines`, which may continue to grow."""

    lines: Sequence[Acquisition]
    rows: NDArray[np.intp]

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        parts = [self.lines[i].data for i in self.rows[rows]]
        return _stacked(parts) if parts else np.zeros((0, 0, 0), np.complex64)

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        parts = [self.lines[i].trajectory for i in self.rows[rows]]
        return _stacked(parts) if parts else np.zeros((0, 0, 0), np.float32)


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if any(p.shape != parts[0].shape for p in parts):
        raise DataError(
            "lines of different numbers of channels or samples cannot be read together; read each kind by itself"
        )
    # Lines start at any byte of the received data: copying bytes is fast, and the copy is aligned.
    dtype = parts[0].dtype
    return np.stack([p.view(np.uint8) for p in parts]).view(dtype)


def heads(lines: Sequence[Acquisition]) -> NDArray[np.void]:
    """The acquisition headers of lines, an array of HEAD."""
    return np.frombuffer(b"".join(line.head for line in lines), HEAD)


def scan(
    lines: Sequence[Acquisition],
    parsed: tuple[Header, tuple[Encoding, ...], tuple[str, ...]],
    waveforms: int = 0,
    rows: NDArray[np.intp] | None = None,
) -> RawScan:
    """The scan of all lines or only of `rows`; equal to a file with the same lines.

    Raises DataError as `recon.io.mrd_lines.assemble` does, and if there are no lines.
    """
    rows = np.arange(len(lines)) if rows is None else rows
    if not len(rows):
        raise DataError("no raw data were sent; send the acquisitions between the header and CLOSE")
    table = line_table(heads([lines[i] for i in rows]))
    return assemble(table, parsed, waveforms, lambda keep: Held(lines, rows[keep]))
