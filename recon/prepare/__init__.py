"""From sorted lines to a Measurement: noise, readout, coil compression, sensitivity maps."""

from recon.starting import submodules

__getattr__ = submodules(__name__)
