"""Positions of a readout's samples in k-space, as pure functions.

Two-dimensional positions are (kx, ky), three-dimensional ones (kx, ky, kz), along the read, phase and slice directions.
They are in cycles per sample of the encoded grid: −0.5 to 0.5 covers it, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Conjugate golden ratio: successive angles of π times this fill the half circle evenly after any number of spokes.
GOLDEN = (math.sqrt(5) - 1) / 2


def spoke(samples: int) -> Floats:
    """Positions along a straight readout, (n − samples//2)/samples: the axis of a centred FFT."""
    return (np.arange(samples) - samples // 2) / samples


def radial(spokes: int, samples: int, *, golden: bool = False) -> Floats:
    """Spokes through the centre, (spoke, sample, 2): angle π·i/spokes, or π·GOLDEN·i (111.25°·i)."""
    angle = np.arange(spokes) * (math.pi * GOLDEN if golden else math.pi / spokes)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.asarray(spoke(samples)[None, :, None] * direction[:, None, :])


def kooshball(spokes: int, samples: int) -> Floats:
    """Spokes through the centre of 3D k-space, (spoke, sample, 3), evenly spread over the half sphere.

    Height (i + ½)/spokes, azimuth 2π·GOLDEN·i: a Fibonacci lattice.
    """
    i = np.arange(spokes)
    height = (i + 0.5) / spokes
    azimuth = 2 * math.pi * GOLDEN * i
    across = np.sqrt(1 - height**2)
    direction = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), height], -1)
    return np.asarray(spoke(samples)[None, :, None] * direction[:, None, :])


def spiral(arms: int, samples: int, matrix: int) -> Floats:
    """Archimedean spirals from the centre outwards, (arm, sample, 2).

        k = ½·τ·exp(i(2π·turns·τ + 2π·arm/arms)),   turns = matrix/(2·arms),
        τ(t) = (√(1 + b·t) − 1)/(√(1 + b) − 1)

    With this number of turns, adjacent turns of all arms together are one sample of the grid apart. τ starts linearly
    (constant angular velocity) and changes to √t (constant linear velocity); b is the number of turns squared.
    """
    turns = matrix / (2 * arms)
    b = max(turns**2, 1.0)
    tau = (np.sqrt(1 + b * np.linspace(0, 1, samples)) - 1) / (math.sqrt(1 + b) - 1)
    angle = 2 * math.pi * (turns * tau[None, :] + np.arange(arms)[:, None] / arms)
    return np.stack([0.5 * tau * np.cos(angle), 0.5 * tau * np.sin(angle)], -1)


def epi_readout(parameters: Mapping[str, float], columns: int) -> tuple[Floats, Floats]:
    """Positions of the samples of ramp-sampled EPI, for lines of positive and negative gradient, in order of time.

    With times in µs and t = (n + 1)·dwellTime + acqDelayTime, the trapezoid's area up to t is t²/(2·up) on the ramp up,
    up/2 + (t − up) on the flat top, and A − (up + flat + down − t)²/(2·down) on the ramp down, with A = up/2 + flat +
    down/2. Then k = ±s·(area(t) − A/2) in steps of the encoded grid; s makes the area of the sampled window
    (numSamples·dwellTime long) equal to the grid's `columns`. Parameter names are those of the trajectory description
    "ConventionalEPI".
    """
    up, flat, down = (float(parameters[n]) for n in ("rampUpTime", "flatTopTime", "rampDownTime"))
    delay, dwell, samples = (float(parameters[n]) for n in ("acqDelayTime", "dwellTime", "numSamples"))
    whole = up / 2 + flat + down / 2

    def area(t: NDArray[np.floating[Any]]) -> Floats:
        late = up + flat + down - t
        ramp_up = t**2 / (2 * up) if up > 0 else 0 * t
        ramp_down = late**2 / (2 * down) if down > 0 else 0 * t
        return np.where(t < up, ramp_up, np.where(late > down, up / 2 + t - up, whole - ramp_down))

    window = area(np.array([delay, delay + samples * dwell]))
    scale = columns / (window[1] - window[0])
    k = scale * (area((np.arange(round(samples)) + 1) * dwell + delay) - whole / 2)
    return k, -k
