"""Which lines, columns and samples were measured, and which were filled with zeros or almost zeros by the scanner."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def measured(lines: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Lines and columns (n, coil, nx) that hold measured samples, their mask (n, nx), and notes on the rest."""
    notes: tuple[str, ...] = ()
    mask = (lines != 0).any(1)
    rows = mask.any(1)
    columns = mask.any(0)
    energy = lines.abs().square().sum(1)
    for axis, keep in ((1, rows), (0, columns)):
        profile = energy.sum(axis) / mask.sum(axis).clamp_min(1)
        void = _void(profile[keep])
        if bool(void.any()):
            keep[keep.nonzero()[:, 0][void]] = False
            share = float(void.double().mean())
            what = "lines" if axis == 1 else "readout columns"
            notes += (
                f"{share:.0%} of the {what} are far below the rest: they were zero-filled by the scanner and "
                "are left out",
            )
    zeros = 1 - float(mask[rows].double().mean())
    kept = columns.nonzero()[:, 0]
    span = slice(int(kept[0]), int(kept[-1]) + 1)
    mask = mask[rows][:, span]
    kept_lines = lines[rows][:, :, span]
    if float(mask.double().mean()) > 0.98 or _coarse(kept_lines):
        # A receiver with few bits records a zero now and then: that is a measured sample.
        return kept_lines, torch.ones_like(mask), notes
    if zeros > 0.02:
        notes += (f"{zeros:.0%} of the samples of the measured lines are exactly zero and were left out",)
    return kept_lines, mask, notes


def _coarse(lines: Tensor) -> bool:
    """Whether zeros come from a receiver with few bits: then more samples have one zero part than two.

    If a part is zero with probability p, a share of 2p(1 − p) of the samples has one zero part and p² has two. The
    second is smaller up to p = 2/3, a quantisation step of 1.9 σ. Samples that were not measured have two zero parts.
    """
    zero = torch.view_as_real(lines) == 0
    both = int(zero.all(-1).sum())
    return int(zero.any(-1).sum()) - both >= both


def _void(profile: Tensor) -> Tensor:
    """Entries of an energy profile below a gap of over 9 dB, with a twentieth of all below it and a third above."""
    ordered = profile.sort().values.log()
    n = len(ordered)
    low, high = max(1, n // 20), max(2, n - n // 3)
    steps = ordered[low:high] - ordered[low - 1 : high - 1]
    if len(steps) == 0 or float(steps.max()) < math.log(8):
        return torch.zeros_like(profile, dtype=torch.bool)
    return profile < ordered[low + int(steps.argmax())].exp() * 0.999
