"""The records of a training: a log, and pictures of the validation set."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recon.io.atomic import atomic_file, write_error


def picture(rows: Sequence[tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """Full scan, start, network, and the errors of both five times as bright, one row per scan."""
    from PIL import Image

    made = []
    for full, begun, x in rows:
        top = full.abs().max()
        parts = [full.abs(), begun.abs(), x.abs(), *(5 * (v.abs() - full.abs()).abs() for v in (begun, x))]
        made.append(torch.cat([(p / top).clamp(0, 1) for p in parts], 1))
    width = max(r.shape[1] for r in made)
    page = torch.cat([nn.functional.pad(r, (0, width - r.shape[1])) for r in made])
    with atomic_file(path) as temporary:
        Image.fromarray((page * 255).byte().numpy()).save(temporary, format="PNG")


class Log:
    """JSON lines in log.jsonl, and TensorBoard event files beside it if that package is installed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder))
        except ImportError:
            self._board = None

    def write(self, **values: float) -> None:
        """Add the measurements of a step; NaN and infinity become null, because JSON has no such numbers.

        Raises ReconError if it cannot be written.
        """
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(plain, allow_nan=False) + "\n")
        except OSError as e:
            raise write_error(self._path, e) from e
        if self._board is not None:
            for name, value in values.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(values["step"]))
            # A training that is killed keeps what was logged.
            self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's writer and its thread; later writes go only to log.jsonl."""
        if self._board is not None:
            self._board.close()
            self._board = None
