"""Raw scans of an analytic head with everything that real ones have, and the images that they should give."""

from recon.simulation.scan import (
    FALL,
    Epi,
    Receiver,
    Settings,
    noise_factor,
    preset,
    simulate,
    simulate_to,
    truth,
    truth_maps,
)

__all__ = [
    "FALL",
    "Epi",
    "Receiver",
    "Settings",
    "noise_factor",
    "preset",
    "simulate",
    "simulate_to",
    "truth",
    "truth_maps",
]
