"""Means over repeated measurements, and how far they would vary with other slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t, x̄ ± t·s/√n; ± infinity for a single value."""
    x = np.asarray(values, float)
    if len(x) < 2:
        return float(x.mean()), -math.inf, math.inf
    half = float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def said(values: Sequence[float], digits: int = 2, sign: bool = False) -> str:
    """The mean with its 95 % interval in brackets, as shown on a page."""
    shown = [f"{v:{'+' if sign else ''}.{digits}f}".replace("-", "−") for v in interval(values)]
    return shown[0] if len(values) < 2 else f"{shown[0]} ({shown[1]} to {shown[2]})"
