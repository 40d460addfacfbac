"""Acceleration factors against fully sampled references: undersample, reconstruct, compare, show."""

from recon.starting import submodules

__getattr__ = submodules(__name__)
