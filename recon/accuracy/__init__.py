"""Acceleration factors against fully sampled references: undersample, reconstruct, compare, show."""
