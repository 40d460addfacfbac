"""Training: synthetic scans, losses, the training loop."""

from recon.starting import submodules

__getattr__ = submodules(__name__)
