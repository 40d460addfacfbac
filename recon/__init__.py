"""recon: raw MRI data in, images out that say how far they can be trusted."""

__version__ = "0.1.0"
