"""Attenuation in 1/mm inside recon, HU in all inputs and outputs: the one place for conversion."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T", bound=Any)

#: Attenuation of water in 1/mm at 70 keV, near the mean energy of a 120 kV beam (NIST XCOM: 0.1929 cm²/g, times 1
#: g/cm³): the reference of HU if a scan does not state its own.
WATER = 0.01929


def attenuation(hu: T, water: float = WATER) -> T:
    """μ = μ_water · (1 + HU / 1000) in 1/mm, of an array or tensor; below zero where HU are below −1000."""
    mu: T = (hu / 1000 + 1) * water
    return mu


def hounsfield(mu: T, water: float = WATER) -> T:
    """HU = 1000 · (μ − μ_water) / μ_water, of an array or tensor of attenuations in 1/mm; air is −1000."""
    hu: T = (mu / water - 1) * 1000
    return hu
