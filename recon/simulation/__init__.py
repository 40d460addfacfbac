"""Raw scans of an analytic head with the features of real ones, and the images that they should give."""

from recon.simulation.receiver import FALL, Receiver
from recon.simulation.reference import truth, truth_maps
from recon.simulation.scan import noise_factor, preset, simulate, simulate_to
from recon.simulation.settings import Epi, Settings

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
